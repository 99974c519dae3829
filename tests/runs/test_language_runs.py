"""A language model is distilled from config to report, as any student is."""

import dataclasses
import json

import jax
import numpy as np
import pytest
import tiny_language
from etils import epath

from gmdistill import errors
from gmdistill import main as command_line
from gmdistill.data import batches
from gmdistill.data import texts as row_texts
from gmdistill.objectives import bank, bank_building
from gmdistill.reports import finished, markdown, page, tables
from gmdistill.runs import distill, jobs, word_students
from gmdistill.runs.commands import shared
from gmdistill.runs.config import assembly, settings
from gmdistill.sets import set_files, spaces
from gmdistill.students import adapters


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  folder = tmp_path_factory.mktemp("language")
  config = tiny_language.get_config(folder)
  distill.run(config, str(folder / "run"), "the command")
  return folder / "run", config


def test_a_run_ends_with_nats_that_fall_and_rows_of_equal_size(run):
  summary = json.loads((run[0] / "summary.json").read_text())
  rows = summary["protocols"]["replay"]
  assert rows["unit"] == "nats"
  assert [x for x in rows if x != "length_matched"] == [
    *("unit", "zero_shot", "random", "k_centers", "distilled", "full")
  ]
  assert rows["zero_shot"]["n"] == 1 and rows["distilled"]["n"] == 2
  assert rows["full"]["mean"] < rows["zero_shot"]["mean"]
  assert rows["distilled"]["mean"] < rows["zero_shot"]["mean"]
  assert summary["num_sequences"] == 2
  assert 0 < summary["selection"]["nats"] < rows["zero_shot"]["mean"] + 1


def test_the_best_step_is_the_one_of_fewest_nats(run):
  read = finished.load_run(run[0])
  steps, values = finished.series(read, "selection/nats")
  chosen = read.summary["selection"]
  assert chosen["nats"] == pytest.approx(values.min(), abs=1e-6)
  assert chosen["step"] in steps[values == values.min()]


def test_tokens_travel_with_the_set_bit_for_bit(run):
  syn, card = set_files.load(run[0] / "set")
  job = jobs.prepare(settings.recipe(run[1]))
  first = job.finished.decode(job.params).batch
  tokens = syn.batch.tokens
  for name in ("targets", "weights"):
    np.testing.assert_array_equal(
      getattr(tokens, name), getattr(first.tokens, name)
    )
  np.testing.assert_array_equal(syn.batch.mask, first.mask)
  assert tokens.targets.dtype == np.int32 and tokens.targets.shape == (2, 16)
  assert np.abs(np.asarray(syn.batch.inputs - first.inputs)).max() > 1e-3
  assert card["num_sequences"] == 2 and "data_per_class" not in card
  moved = card["reader"]["steps"]["moved"]
  assert len(moved) == syn.tensor_shares.shape[1]
  assert moved[0] == (
    "base_model.model.model.layers.0.self_attn.k_proj.lora_A.weight"
  )
  set_files.save(run[0] / "again", syn, card)
  again = (run[0] / "again" / "set.safetensors").read_bytes()
  assert again == (run[0] / "set" / "set.safetensors").read_bytes()


def test_reports_say_nats_and_read_recovery_from_zero_shot(run):
  rows = {
    row["row"]: row for row in tables.results_table(finished.load_run(run[0]))
  }
  zero, full = rows["zero-shot"]["mean"], rows["full"]["mean"]
  own = rows["distilled"]
  assert rows["zero-shot"]["recovery"] == 0 and rows["full"]["recovery"] == 1
  assert own["recovery"] == pytest.approx((zero - own["mean"]) / (zero - full))
  text = markdown.table("results", [run[0]])
  assert "nats" in text and "accuracy" not in text
  assert f"{own['mean']:.3f}" in text
  shown = page.write([run[0]], run[0] / "page.html").read_text()
  assert "the less the better" in shown and "says" in shown
  assert "Nats by step" in shown and "accuracy, %" not in shown
  assert "bring a student to" in shown


def test_a_student_is_a_whole_decoder_on_disk_and_a_peft_adapter(run, capsys):
  folder, student = run[0], run[0].parent / "student"
  flags = [f"--set={folder / 'set'}", f"--workdir={student}"]
  assert command_line.main(["gmdistill", "train", *flags]) == 0
  assert "nats on the reported split" in capsys.readouterr().out
  before = assembly.setup(settings.recipe(run[1]))
  own = run[1].copy_and_resolve_references()
  own.student.adapter = "none"
  own.student.pretrained = str(student)
  whole = assembly.setup(settings.recipe(own))
  own.student.pretrained = run[1].student.pretrained
  own.student.peft = str(student / "adapter")
  changed = assembly.setup(settings.recipe(own))
  rows = batches.as_batch(batches.take(before.corpus.train, range(3)), 0)

  def said(problem):
    params = problem.init(jax.random.key(0))
    return problem.apply(params, rows).logits.queries

  np.testing.assert_allclose(
    said(whole.problem), said(changed.problem), atol=1e-5
  )
  gap = np.abs(said(whole.problem) - said(before.problem)).max()
  assert gap > 1e-3  # it has learned something
  own.student.pretrained = str(student)
  with pytest.raises(errors.InputError, match="an adapter of another base"):
    assembly.setup(settings.recipe(own))
  # LoRA over a base that was changed before: no directory has that base.
  own.student.update(pretrained=run[1].student.pretrained, adapter="lora")
  over = settings.recipe(own)
  setup = assembly.setup(over)
  params = setup.problem.init(jax.random.key(0))
  shared.save_of_run(epath.Path(student), setup, params, over)
  assert not list((student / "adapter").iterdir())
  # Nor has one a part of its layers.
  for layers, is_there in ((2, True), (1, False)):
    own.student.update(peft="", num_layers=layers)
    part = settings.recipe(own)
    setup = assembly.setup(part)
    params = setup.problem.init(jax.random.key(0))
    shared.save_of_run(epath.Path(student), setup, params, part)
    assert (student / "adapter/adapter_config.json").is_file() == is_there


def test_going_on_from_a_set_starts_at_what_it_says(run):
  config = run[1].copy_and_resolve_references()
  config.start = str(run[0] / "set")
  job = jobs.prepare(settings.recipe(config))
  syn, _ = set_files.load(run[0] / "set")
  again = job.finished.decode(job.params).batch
  np.testing.assert_allclose(again.inputs, syn.batch.inputs, rtol=1e-6)
  np.testing.assert_array_equal(again.tokens.targets, syn.batch.tokens.targets)


def test_soft_targets_start_sure_of_the_tokens_and_are_learned(tmp_path):
  config = tiny_language.get_config(tmp_path)
  hard = jobs.prepare(settings.recipe(config))
  config.task.targets = "soft"
  soft = jobs.prepare(settings.recipe(config))
  queries = soft.finished.decode(soft.params).batch.tokens.targets
  problem = soft.setup.problem
  table = problem.frozen.get("unembedding", problem.embeddings)
  said = np.asarray(jax.nn.softmax(queries @ table.T)).argmax(-1)
  tokens = hard.finished.decode(hard.params).batch.tokens.targets
  assert queries.shape == (2, 16, 16)
  # Some rows of a random table say others' tokens louder than their own.
  assert (said == np.asarray(tokens)).mean() > 0.7


@pytest.mark.parametrize("kind", ["answers", "messages"])
def test_prompts_count_nothing_and_answers_do(tmp_path, kind):
  config = tiny_language.get_config(tmp_path, kind)
  config.data.max_length = 60
  setup = assembly.setup(settings.recipe(config))
  corpus = setup.corpus
  tokens, mask = corpus.train.tokens, corpus.train.mask
  weights = np.asarray(tokens.weights)
  assert set(np.unique(weights)) == {0.0, 1.0}
  first = int(weights[0].argmax())
  said = corpus.tokenizer.decode(np.asarray(tokens.targets)[0][weights[0] > 0])
  assert said.strip().startswith("no ") and first > 5
  read = corpus.tokenizer.decode(corpus.train.token_ids[0][mask[0]])
  assert tiny_language.text(5000, 12) in read


def test_a_bank_holds_adapters_alone_and_their_gradients(tmp_path):
  config = settings.recipe(tiny_language.get_config(tmp_path))
  setup = assembly.setup(config)
  options = bank.Options(
    num_trajectories=1,
    ages=(0, 2),
    rows_per_class=4,
    batch_rows_per_class=4,
    learning_rate=1e-2,
  )
  bank_building.build(tmp_path / "bank", setup, options)
  opened = bank.Bank(tmp_path / "bank", setup)
  young, older = (opened.expert(0, i, ("params", "targets")) for i in (0, 1))
  shapes = jax.eval_shape(setup.problem.init, jax.random.key(0))
  assert jax.tree.structure(young.params) == jax.tree.structure(shapes)
  numbers = adapters.num_parameters(shapes)
  assert bank.num_bytes(setup, options) == 2 * (2 * 2 * numbers + 4)
  for expert, moved in ((young, False), (older, True)):
    of_down = adapters.pairs(expert.targets["layers"])["down"]["A"]
    assert np.any(np.asarray(of_down, np.float32) != 0) == moved
  many = dataclasses.replace(options, rows_per_class=10**5)
  with pytest.raises(errors.InputError, match="rows of the class 'text'; use"):
    bank_building.build(tmp_path / "larger", setup, many)


def test_label_words_tell_classes_by_the_word_that_follows(tmp_path):
  config = tiny_language.get_config(tmp_path, "classes")
  config.num_steps = 4
  distill.run(config, str(tmp_path / "run"), "the command")
  rows = json.loads((tmp_path / "run" / "summary.json").read_text())
  found = rows["protocols"]["replay"]
  assert found["unit"] == "accuracy" and 0 <= found["zero_shot"]["mean"] <= 1
  syn, card = set_files.load(tmp_path / "run" / "set")
  assert syn.batch.labels.shape == (4, 2)
  assert len(card["reader"]["head"]["words"]) == 2


def test_a_student_that_says_words_reads_texts_in_their_template(tmp_path):
  config = settings.recipe(tiny_language.get_config(tmp_path, "classes"))
  setup = assembly.setup(config)
  params = setup.problem.init(jax.random.key(0))
  student = word_students.WordStudent(setup, config, params)
  rows = setup.corpus.reported
  texts = row_texts.by_part(config.data, setup.corpus)["reported"]
  batch = batches.as_batch(rows, 2)
  np.testing.assert_allclose(
    student.logits(list(texts)),
    setup.problem.apply(params, batch).logits,
    atol=1e-5,
  )
  with pytest.raises(errors.InputError, match="row 1 of the texts has two"):
    student.predict([("one", "two")])


REFUSED = {
  "a prompt fills": (
    {"prompt": "world " * 60, "completion": "yes"},
    "line 1: the prompt has .* tokens, which fill config.data.max_length=24",
  ),
  "nothing is said": (
    {"prompt": "world", "completion": " "},
    "line 1: the completion is empty",
  ),
  "no column": ({"question": "a", "reply": "b"}, "'question', 'reply': a lang"),
}


@pytest.mark.parametrize("row, said", REFUSED.values(), ids=REFUSED)
def test_a_row_that_cannot_be_learned_is_one_line(tmp_path, row, said):
  config = tiny_language.get_config(tmp_path)
  (tmp_path / "one.jsonl").write_text(json.dumps(row) + "\n")
  config.data.name = str(tmp_path / "one.jsonl")
  with pytest.raises(errors.InputError, match=said) as refused:
    assembly.setup(settings.recipe(config))
  assert "\n" not in str(refused.value)


FIELDS = {
  "a rank above the width": (dict(student=dict(rank=99)), "rank=99, but the"),
  "an encoder": (
    dict(student=dict(pretrained="", kind="transformer", adapter="none")),
    "asks a decoder, and student.kind=transformer is none; use one of gpt2",
  ),
  "nothing to adapt": (
    dict(
      student=dict(pretrained="", kind="llama", num_layers=1, max_positions=32)
    ),
    "student.adapter=lora changes a pretrained decoder",
  ),
  "longer than rows": (dict(sequence_length=30), "than the data.max_length=24"),
  "more than rows": (dict(num_sequences=9999), "num_sequences=9999 is more th"),
  "a label": (dict(label_smoothing=0.1), "label_smoothing=0.1 is of rows that"),
  "hard labels": (dict(labels="hard"), "labels=hard is of rows that have"),
  "written rows": (
    dict(choice=dict(written="rows.jsonl")),
    "choice.written=rows.jsonl is of rows that have classes",
  ),
  "no classes": (
    dict(look_ahead=dict(centred=True)),
    "look_ahead.centred=True is of rows that have classes",
  ),
  "no head": (
    dict(objective="step_matching", step_matching=dict(matched="head")),
    "step_matching.matched=head are no tensors of this student; use step_matc",
  ),
  "no adapter of ours": (
    dict(student=dict(adapter="lore")),
    "did you mean lora",
  ),
}


@pytest.mark.parametrize("name, value, said", [
  ("data.rationale_key", "why", "is of the rows of encoders"),
  ("data.kmer", 3, "is of the rows of encoders"),
  ("kd.shallow_weight", 0.3, "is about layers, and this student tells nothing"),
])  # fmt: skip
def test_label_words_refuse_what_is_of_encoders(tmp_path, name, value, said):
  config = tiny_language.get_config(tmp_path, "classes")
  group, field = name.split(".")
  config[group][field] = value
  with pytest.raises(errors.InputError, match=f"{name}={value} {said}"):
    assembly.setup(settings.recipe(config))


def test_a_table_that_a_decoder_cannot_read_is_one_line(tmp_path):
  config = tiny_language.get_config(tmp_path)
  config.student.update(
    pretrained="", kind="llama", adapter="none", num_layers=1, max_positions=32
  )
  setup = assembly.setup(settings.recipe(config))
  space = tmp_path / "space"
  spaces.write(
    epath.Path(space), setup.problem.embeddings, setup.corpus.tokenizer
  )
  config.student.update(space=str(space), width=32)
  with pytest.raises(errors.InputError, match="use student.width=16"):
    assembly.setup(settings.recipe(config))
  config.student.pretrained = str(tmp_path / "llama")
  with pytest.raises(errors.InputError, match="are two embedding spaces"):
    assembly.setup(settings.recipe(config))


@pytest.mark.parametrize("fields, said", FIELDS.values(), ids=FIELDS)
def test_a_field_that_does_not_fit_is_one_line(tmp_path, fields, said):
  config = tiny_language.get_config(tmp_path)
  config.update(fields)
  with pytest.raises(errors.InputError, match=said):
    assembly.setup(settings.recipe(config))
