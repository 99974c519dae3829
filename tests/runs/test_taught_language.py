"""Language models with teachers, and answers beside nats: config to set."""

import json
import types

import jax
import numpy as np
import pytest
import tiny_language

from gmdistill import errors
from gmdistill.data import batches
from gmdistill.reports import finished, tables
from gmdistill.runs import distill
from gmdistill.runs.commands import teaching, using
from gmdistill.runs.config import (
  assembly,
  outputs,
  settings,
  teacher_fields,
)
from gmdistill.selection import coresets
from gmdistill.sets import set_files
from gmdistill.students import adapters, peft_files, problems


def get_config(folder, kind="answers"):
  config = tiny_language.get_config(folder, kind)
  config.data.max_length = 60
  config.sequence_length = 60
  config.num_steps = config.eval_every = config.checkpoint_every = 2
  config.selection.update(num_students=1, rows=4)
  config.replay.update(rates=(0.3,), num_students=1)
  config.full.update(num_steps=2, batch_size=4)
  config.gradient_cosine.num_students = 0
  return config


def write_adapter(folder, config):
  """A teacher: an adapter of the student's base that is not zero."""
  setup = assembly.setup(settings.recipe(config))
  problem = setup.problem
  params = problem.init(jax.random.key(5))
  peft_files.save(
    folder,
    problem.student,
    jax.tree.map(lambda x: x + 0.1, params),
    family="llama",
    base=config.student.pretrained,
    base_id=adapters.identity(problem.frozen),
  )
  return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory):
  """A folder, and the config of a run with a teacher and answers."""
  folder = tmp_path_factory.mktemp("taught")
  config = get_config(folder)
  teacher = write_adapter(folder / "teacher", config)
  config.teachers.dirs = (str(teacher),)
  config.teachers.top_tokens = 5
  config.kd.update(loss="forward_kl", weight=0.5, weight_end=0.5)
  config.exact_match.update(num_rows=6, num_tokens=4)
  return folder, config


@pytest.fixture(scope="module")
def run(made):
  folder, config = made
  distill.run(config, str(folder / "run"), "the command")
  return folder / "run", config


def test_every_row_is_answered_and_the_set_names_its_teacher(run):
  summary = json.loads((run[0] / "summary.json").read_text())
  rows = dict(summary["protocols"]["replay"])
  assert rows.pop("unit") == "nats"
  assert {"zero_shot", "random", "distilled", "full"} <= set(rows)
  for row in rows.values():
    told = row["exact_match"]
    assert told["n"] == 6 and 0 <= told["strict"] <= told["flexible"] <= 1
    assert told["strict_error"] >= 0 and told["nats"] > 0
  shown = tables.as_text(tables.results_table(finished.load_run(run[0])))
  assert "exact match, strict ± s.e." in shown
  page = (run[0] / "report.html").read_text()
  assert "one student generates the row&#39;s own answer" in page
  _, card = set_files.load(run[0] / "set")
  assert [x["name"] for x in card["teachers"]] == ["teacher"]


def test_rows_carry_what_their_teacher_says_and_lose_to_it(made):
  recipe = settings.recipe(made[1])
  setup = teacher_fields.with_teachers(assembly.setup(recipe), recipe)
  rows = setup.rows
  assert rows.tokens.teacher_ids.shape == (*rows.token_ids.shape, 1, 5)
  problem = setup.problem
  params = problem.init(jax.random.key(0))
  batch = batches.as_batch(batches.take(rows, [0, 1]), 0)
  bare = batches.as_batch(batches.take(setup.corpus.train, [0, 1]), 0)
  loss = jax.jit(lambda batch: problem.loss(params, batch))
  kl = 2 * loss(batch) - loss(bare)  # the weight is one half
  logs = [
    jax.nn.log_softmax(
      who.apply(own, bare).logits.queries @ problems.unembedding(problem).T
    )
    for who, own in (
      (problem, params),
      (setup.teachers.opened[0].problem, setup.teachers.opened[0].params),
    )
  ]
  whole = (np.exp(logs[1]) * (logs[1] - logs[0])).sum(-1)
  weights = bare.tokens.weights
  mean = ((whole * weights).sum(1) / weights.sum(1)).mean()
  # Of few outcomes, less than of all.
  assert 0.05 * mean < kl < mean


def flags(config, **values):
  return types.SimpleNamespace(
    **(dict(config=config, row="distilled", protocol="", json=False) | values)
  )


def test_students_of_a_labelled_set_lose_to_its_teacher(run, tmp_path):
  folder, config = run
  labelled = tmp_path / "labelled"
  teaching.relabel(
    flags(
      config,
      set=str(folder / "set"),
      teacher=list(config.teachers.dirs),
      workdir=str(labelled),
    ),
    [],
    "the command",
  )
  before, after = (
    set_files.load(place / "set")[0] for place in (folder, labelled)
  )
  assert before.batch.tokens.teacher_ids is None
  tokens = after.batch.tokens
  assert tokens.teacher_ids.shape == (2, 60, 1, 5)
  assert tokens.teacher_ids.dtype == np.int32
  total = np.exp(np.asarray(tokens.teacher_logs)).sum(-1)
  np.testing.assert_allclose(total[np.asarray(after.batch.mask)], 1, atol=1e-4)
  # The set is the same beside, and students with no such loss hear nothing.
  recipe = settings.recipe(config)
  problem = assembly.setup(recipe).problem
  deaf = problem.replace(criterion=None)
  params = problem.init(jax.random.key(1))
  loss = jax.jit(lambda problem, batch: problem.loss(params, batch))
  np.testing.assert_allclose(
    loss(problem, before.batch), loss(deaf, after.batch), rtol=1e-6
  )
  assert abs(loss(problem, after.batch) - loss(deaf, after.batch)) > 1e-3


def test_a_baselines_rows_are_told_what_follows_too(made, tmp_path, capsys):
  config = made[1].copy_and_resolve_references()
  config.seed = 3
  teaching.relabel(
    flags(
      config,
      set="",
      row="k_centers",
      teacher=list(config.teachers.dirs),
      workdir=str(tmp_path / "labelled"),
    ),
    [],
    "the command",
  )
  assert "have what follows each of their tokens" in capsys.readouterr().out
  recipe = settings.recipe(config)
  table = outputs.table(assembly.setup(recipe), recipe)
  rows = table.coreset_rows("k_centers", coresets.CORESET_SEED)  # its own
  labelled, _ = set_files.load(tmp_path / "labelled" / "set")
  np.testing.assert_array_equal(
    labelled.batch.tokens.targets, rows.tokens.targets
  )
  config.exact_match.num_rows = 0
  using.evaluate(
    flags(
      config,
      set=str(tmp_path / "labelled" / "set"),
      protocol="replay",
      workdir=str(tmp_path / "evaluated"),
    ),
    [],
    "the command",
  )
  found = json.loads((tmp_path / "evaluated/evaluation.json").read_text())
  assert found["replay"]["unit"] == "nats" and found["replay"]["mean"] > 0
  assert "exact_match" not in found["replay"]


REFUSED = {
  "nothing lost": (dict(kd=dict(loss="")), "has no say: students of task.kind"),
  "a gate": (dict(kd=dict(weights="gate")), "kd.weights=gate looks at classes"),
  "joined": (
    dict(teachers=dict(dirs=("a", "b")), kd=dict(join="logits")),
    "kd.join=logits is of teachers that tell the same outcomes",
  ),
  "no features": (dict(kd=dict(features="mse")), "kd.features=mse is of rows"),
  "bild of two": (
    dict(teachers=dict(top_tokens=1), kd=dict(loss="bild")),
    "2 outcomes of a token have one alone",
  ),
  "labels of classes": (
    dict(teachers=dict(temperature=2.0)),
    "teachers.temperature=2.0 is of rows that have classes.*use 1.0",
  ),
  "no room": (
    dict(exact_match=dict(num_tokens=500)),
    "an answer of 500 are more than the student's 512 positions",
  ),
}


@pytest.mark.parametrize("fields, said", REFUSED.values(), ids=REFUSED)
def test_what_teachers_and_answers_cannot_do_is_one_line(made, fields, said):
  config = made[1].copy_and_resolve_references()
  config.update(fields)
  with pytest.raises(errors.InputError, match=said) as refused:
    recipe = settings.recipe(config)
    teacher_fields.with_teachers(assembly.setup(recipe), recipe)
  assert "\n" not in str(refused.value)


def test_differences_of_logits_are_lost_at_tokens_too(made):
  config = made[1].copy_and_resolve_references()
  config.kd.loss = "bild"
  recipe = settings.recipe(config)
  setup = teacher_fields.with_teachers(assembly.setup(recipe), recipe)
  batch = batches.as_batch(batches.take(setup.rows, [0, 1]), 0)
  bare = batches.as_batch(batches.take(setup.corpus.train, [0, 1]), 0)
  params = setup.problem.init(jax.random.key(0))
  loss = jax.jit(lambda batch: setup.problem.loss(params, batch))
  assert 2 * loss(batch) > loss(bare)  # the weight is one half


def test_texts_and_classes_have_no_answers(tmp_path):
  for kind, said in (
    ("text", "these rows are texts without a prompt"),
    ("classes", "asks a language model, and task.kind=label_words has classes"),
  ):
    config = tiny_language.get_config(tmp_path / kind, kind)
    config.exact_match.num_rows = 2
    with pytest.raises(errors.InputError, match=said):
      assembly.setup(settings.recipe(config))


def test_label_words_are_taught_by_a_language_model(tmp_path):
  config = tiny_language.get_config(tmp_path, "classes")
  teacher = write_adapter(tmp_path / "teacher", config)
  config.teachers.update(dirs=(str(teacher),), alpha=1.0)
  recipe = settings.recipe(config)
  setup = teacher_fields.with_teachers(assembly.setup(recipe), recipe)
  # Their template ends a row, and no half of one.
  with pytest.raises(errors.InputError, match="joined_rows=.* a template"):
    teacher_fields.of_joined_rows(setup, recipe)
  (opened,) = setup.teachers.opened
  batch = batches.as_batch(setup.corpus.train, 2)
  logits = jax.jit(opened.problem.apply)(opened.params, batch).logits
  expected = jax.nn.softmax(np.asarray(logits))
  np.testing.assert_allclose(setup.rows.soft, expected, atol=1e-4)
  bare = jax.jit(setup.problem.apply)(
    setup.problem.init(jax.random.key(0)), batch
  )
  assert np.abs(np.asarray(bare.logits - logits)).max() > 1e-2
  # Other words of the same rows, or other products, are other answers.
  config.task.words = config.task.words[::-1]
  turned = settings.recipe(config)
  setup = teacher_fields.with_teachers(assembly.setup(turned), turned)
  np.testing.assert_allclose(setup.rows.soft, expected[:, ::-1], atol=1e-4)
  (before,) = opened.asked[-1:]
  config.student.compute = "bfloat16"
  half = settings.recipe(config)
  setup = teacher_fields.with_teachers(assembly.setup(half), half)
  assert setup.teachers.opened[0].asked[-1] != before
