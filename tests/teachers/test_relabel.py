"""Labelling sets after the fact, and distilling on for newer teachers."""

import json
import pathlib
import re
import shutil

import numpy as np
import pytest
import tiny_config
from command_line import CONFIG, command

from gmdistill import errors
from gmdistill.runs import first_set
from gmdistill.runs.config import assembly, settings
from gmdistill.sets import set_files
from gmdistill.teachers import relabelling, trained

HERE = pathlib.Path(__file__).parents[1]
POLISH = f"{CONFIG}:polish"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  return tmp_path_factory.mktemp("relabel")


@pytest.fixture(scope="module")
def taught(folder):
  """Two teachers of the run's space."""
  made = []
  for seed in (0, 1):
    made.append(folder / f"teacher{seed}")
    assert not command(
      "teach", CONFIG, f"--workdir={made[-1]}", f"--config.seed={seed}"
    )
  return made


def relabelled(workdir, source, named, *fields):
  flags = [f"--teacher={name}" for name in named]
  assert not command("relabel", source, *flags, f"--workdir={workdir}", *fields)
  return set_files.load(workdir / "set")


@pytest.fixture(scope="module")
def source(folder, taught):
  """A set of embeddings that both teachers can read."""
  flags = ["--row=random", "--config.teachers.alpha=0.0"]
  relabelled(folder / "source", POLISH, taught, *flags)
  return folder / "source" / "set"


def test_a_set_gets_what_its_teacher_says(folder, taught, source):
  before, _ = set_files.load(source)
  flags = [f"--set={source}", "--config.teachers.alpha=1.0"]
  syn, card = relabelled(folder / "one", POLISH, taught[:1], *flags)
  teacher = trained.load(str(taught[0]))
  said = teacher.problem.apply(teacher.params, before.batch).logits
  np.testing.assert_allclose(syn.batch.teachers.logits[:, 0], said, atol=1e-5)
  total = np.exp(said - said.max(axis=1, keepdims=True))
  total /= total.sum(axis=1, keepdims=True)
  np.testing.assert_allclose(syn.batch.labels, total, atol=1e-5)
  np.testing.assert_array_equal(syn.batch.inputs, before.batch.inputs)
  assert card["teachers"] == [{"name": "teacher0", "id": teacher.id}]
  assert card["rows"] == "random"  # as of the set that it was
  assert "relabel" in card["provenance"]["command"]
  assert "--row=random" in card["made_from"]["command"]


def test_students_train_on_a_relabelled_set_by_any_loss(folder, taught, capsys):
  fields = [
    "--config.kd.features=cosine",
    "--config.teachers.alpha=0.0",
  ]
  syn, card = relabelled(
    folder / "coreset", POLISH, taught[:1], "--row=k_centers", *fields
  )
  assert card["rows"] == "k_centers"
  assert "--row=k_centers" in card["provenance"]["command"]
  assert syn.batch.teachers.features.shape == (8, 1, 16)
  np.testing.assert_array_equal(syn.batch.labels.sum(axis=1), 1.0)
  assert syn.batch.labels.max(axis=1).min() == 1.0  # alpha=0: their own
  given = f"--set={folder / 'coreset' / 'set'}"
  # What is printed next works: projections of features want an optimiser.
  out = capsys.readouterr().out
  assert "8 examples keep their labels (teachers.alpha=0)" in out
  assert f"evaluate {given} --protocol=scratch" in out
  said = refused(capsys, "evaluate", given, "--protocol=replay")
  assert "kd.features=cosine is learned with a student" in said
  assert "use finetune or scratch" in said
  found = []
  for kd in ("", "reverse_kl"):
    assert not command(
      "evaluate",
      POLISH,
      given,
      "--protocol=scratch",
      f"--config.kd.loss={kd}",
      "--config.kd.features=mse",
      "--config.kd.teaching=none",
      "--json",
    )
    row = json.loads(capsys.readouterr().out)["scratch"]
    assert row["row"] == "k_centers"
    found.append(row["mean"])
  assert all(0 < x < 1 for x in found)


def test_several_teachers_are_joined_and_all_kept(folder, taught):
  syn, card = relabelled(
    folder / "two", POLISH, taught, "--row=random", "--config.seed=3"
  )
  assert syn.batch.teachers.logits.shape == (8, 2, 4)
  assert [one["name"] for one in card["teachers"]] == ["teacher0", "teacher1"]
  probs = np.exp(syn.batch.teachers.logits)
  probs /= probs.sum(axis=-1, keepdims=True)
  np.testing.assert_allclose(syn.batch.labels, probs.mean(axis=1), atol=1e-5)


def test_texts_are_read_by_each_teachers_own_tokenizer(folder, taught):
  path = folder / "texts.jsonl"
  lines = [
    {"text": "Return the sum of an array over an axis.", "label": 1},
    {"text": "Draw a line in the plot."},
  ]
  path.write_text("\n".join(map(json.dumps, lines)))
  syn, _ = relabelled(
    folder / "texts",
    f"--set={path}",
    taught[:1],
    POLISH,
    "--config.teachers.alpha=0.5",
  )
  assert syn.batch.inputs.shape == (2, 12, 16)
  half = 0.5 * np.eye(4)[1] + 0.5 * softmax(syn.batch.teachers.logits[0, 0])
  np.testing.assert_allclose(syn.batch.labels[0], half, atol=1e-5)
  even = 0.125 + 0.5 * softmax(syn.batch.teachers.logits[1, 0])
  np.testing.assert_allclose(syn.batch.labels[1], even, atol=1e-5)


def softmax(x):
  found = np.exp(x - np.max(x))
  return found / found.sum()


@pytest.mark.parametrize(
  "line, said",
  [
    ("no json", "line 1 is no"),
    ('{"words": "a"}', "line 1 is no"),
    ('{"text": 3}', "text must be a string or two"),
    ('{"text": "a", "label": "blue"}', "label 'blue' is none of"),
    ('{"text": "a", "label": true}', "label True is none of"),
    ('{"text": "\\ud800"}', "of whole characters"),
    ("", "has no line"),
    ('{"text": " "}', "line 1: the text is empty"),
    (100_000 * "[", "line 1 is no"),
  ],
)
def test_lines_that_are_no_texts_are_refused(tmp_path, line, said):
  path = tmp_path / "texts.jsonl"
  path.write_text(line)
  config = tiny_config.get_config()
  setup, read = (
    assembly.setup(settings.recipe(config)),
    settings.recipe(config).data,
  )
  with pytest.raises(errors.InputError, match=said):
    relabelling.of_texts(setup, path, read)


def test_a_line_ends_where_the_file_says_so(tmp_path):
  path = tmp_path / "texts.jsonl"
  config = tiny_config.get_config()
  setup, read = (
    assembly.setup(settings.recipe(config)),
    settings.recipe(config).data,
  )
  # A mark of the byte order in front, as some editors write it.
  path.write_text('\ufeff{"text": "one\u2028two"}\r\n{"text": "three"}\n')
  assert len(relabelling.of_texts(setup, path, read).syn.batch.labels) == 2
  path.write_bytes('{"text": "caf\u00e9"}'.encode("latin-1"))
  with pytest.raises(errors.InputError, match="is not UTF-8"):
    relabelling.of_texts(setup, path, read)


def refused(capsys, *words):
  assert command(*words) == 2
  return capsys.readouterr().err


def test_what_cannot_be_labelled_is_refused_in_one_line(
  folder, taught, source, capsys
):
  to = f"--workdir={folder / 'never'}"
  teacher = f"--teacher={taught[0]}"
  said = refused(capsys, "relabel", f"--set={source}", to)
  assert "relabel needs --teacher=DIR" in said
  said = refused(
    capsys, "relabel", f"--set={source}", to, f"--teacher={HERE}/tiny_bert"
  )
  assert "no classification head" in said
  said = refused(capsys, "relabel", to, teacher, "--row=k_centers")
  assert "needs --config" in said
  said = refused(capsys, "relabel", POLISH, to, teacher, "--row=best")
  assert "--row=best is none of distilled, random" in said
  said = refused(capsys, "relabel", to, teacher, "--set=no.jsonl", POLISH)
  assert "there is no file no.jsonl" in said
  texts = folder / "texts.jsonl"
  texts.write_text('{"text": "Opens a file.", "label": "xml"}\n')
  words = ("--config=sst2_words:tiny", f"--set={texts}")
  said = refused(capsys, "relabel", to, teacher, *words)
  assert "task.kind=classes, not label_words" in said
  into = f"--workdir={taught[0]}"
  said = refused(capsys, "relabel", POLISH, into, teacher, "--row=random")
  assert "holds a student" in said
  two = [teacher, f"--teacher={taught[1]}", "--config.kd.features=mse"]
  said = refused(capsys, "relabel", POLISH, to, "--row=random", *two)
  assert "takes the features of one teacher, not of 2" in said
  odd = "--config.stored_as=uint8"
  said = refused(capsys, "relabel", POLISH, to, teacher, "--row=random", odd)
  assert "stored_as=uint8 is none of float32" in said
  assert not (folder / "never").exists()


def test_a_teacher_of_another_space_cannot_read_a_set(
  folder, taught, source, tmp_path, capsys
):
  other = tmp_path / "other"
  assert not command(
    "teach", CONFIG, f"--workdir={other}", "--config.data.vocab_size=200"
  )
  capsys.readouterr()
  said = refused(
    capsys,
    "relabel",
    f"--set={source}",
    f"--teacher={other}",
    f"--workdir={tmp_path / 'never'}",
  )
  sizes = re.findall(r"(\d+) tokens, 16 wide", said)
  assert "reads embedding space" in said and "the set lives in" in said
  assert len(set(sizes)) == 2
  # It reads text, though: a coreset of the same data.
  syn, _ = relabelled(tmp_path / "read", POLISH, [other], "--row=random")
  assert np.isfinite(syn.batch.labels).all()


def test_a_newer_teacher_makes_a_set_stale_and_update_starts_from_it(
  folder, taught, tmp_path, capsys
):
  first = tmp_path / "first"
  fields = [
    "--config.num_steps=4",
    "--config.eval_every=2",
    "--config.sequence_length=12",
    "--config.protocols=('replay',)",
  ]
  syn, card = relabelled(first, POLISH, taught[:1], "--row=random", *fields)
  assert card["teachers"][0]["id"] == trained.identity(taught[0])
  same = refused(
    capsys,
    "update",
    f"--set={first / 'set'}",
    f"--teacher={taught[0]}",
    f"--workdir={tmp_path / 'same'}",
  )
  assert "has the labels of these teachers already" in same
  again = tmp_path / "second"
  assert not command(
    "update",
    f"--set={first / 'set'}",
    f"--teacher={taught[1]}",
    f"--workdir={again}",
  )
  config = json.loads((again / "config.json").read_text())
  assert config["num_steps"] == 2
  assert config["start"] == str(first / "set")
  updated, card = set_files.load(again / "set")
  assert card["teachers"][0]["id"] == trained.identity(taught[1])
  # Two steps from where it was, and not from real rows.
  near = np.abs(np.asarray(updated.batch.inputs - syn.batch.inputs)).max()
  assert 0 < near < 0.05
  # Its teacher is trained anew: whoever uses the set is told.
  weights = taught[1] / "model.safetensors"
  kept = weights.read_bytes()
  weights.write_bytes((taught[0] / "model.safetensors").read_bytes())
  capsys.readouterr()
  for config in ([], [POLISH, "--config.sequence_length=12"]):
    given = ["evaluate", f"--set={again / 'set'}", "--protocol=scratch"]
    assert not command(*given, *config)
    said = capsys.readouterr().err
    assert "is stale: its teacher teacher1 has changed" in said
  weights.write_bytes(kept)


def test_teachers_of_one_name_are_told_apart(folder, taught, capsys):
  named = [folder / "one" / "teacher", folder / "two" / "teacher"]
  for path, teacher in zip(named, taught, strict=True):
    shutil.copytree(teacher, path)
  relabelled(folder / "same", POLISH, named, "--row=random")
  capsys.readouterr()
  given = f"--set={folder / 'same' / 'set'}"
  assert not command("evaluate", given, "--protocol=scratch")
  assert "is stale" not in capsys.readouterr().err


def test_a_start_sharper_than_smoothed_labels_is_refused(source, capsys):
  said = refused(
    capsys,
    "distill",
    POLISH,
    f"--workdir={HERE / 'never'}",
    f"--config.start={source}",
    "--config.sequence_length=12",
    "--config.labels=hard",
    "--config.label_smoothing=0.2",
  )
  assert "has labels below 0.05, which label_smoothing=0.2 leaves" in said


def test_rows_that_had_ended_go_on_with_their_own_tokens(source, tmp_path):
  syn, card = set_files.load(source)
  short = syn.batch.mask.at[0, 5:].set(False)
  batch = syn.batch.replace(mask=short)
  set_files.save(tmp_path / "set", syn.replace(batch=batch), card)
  config = tiny_config.get_config("polish")
  config.start, config.sequence_length = str(tmp_path / "set"), 12
  found = first_set.starting_set(
    assembly.setup(settings.recipe(config)), settings.recipe(config)
  ).batch
  assert found.mask.all()
  own = np.asarray(syn.batch.inputs)
  np.testing.assert_array_equal(found.inputs[0], own[0, np.arange(12) % 5])
  np.testing.assert_array_equal(found.inputs[1:], own[1:])


def test_texts_and_fixed_labels_cannot_be_distilled_on(
  folder, taught, tmp_path, capsys
):
  path = tmp_path / "texts.jsonl"
  path.write_text('{"text": "a", "label": 1}\n' * 8)
  to = tmp_path / "texts"
  relabelled(to, POLISH, taught[:1], f"--set={path}")
  own = [f"--set={to / 'set'}", f"--workdir={tmp_path / 'never'}"]
  newer = f"--teacher={taught[1]}"
  longer = "--config.sequence_length=12"
  said = refused(capsys, "update", POLISH, *own, newer, longer)
  assert "are texts of a file, in no order of classes" in said
  said = refused(capsys, "update", POLISH, *own, newer, "--config.labels=hard")
  assert "the labels of this set are fixed (labels=hard)" in said
  both = [POLISH, f"--set={path}", "--row=herding", newer]
  said = refused(capsys, "relabel", *both, f"--workdir={tmp_path / 'never'}")
  assert "are two things to label" in said
  other = ["--row=random", "--config.data.vocab_size=200", f"--workdir={to}"]
  said = refused(capsys, "relabel", POLISH, newer, *other)
  assert f"{to / 'space'} is embedding space" in said
  assert not (tmp_path / "never").exists()


def test_a_relabelled_set_does_not_need_the_run_that_it_came_from(
  taught, source, tmp_path, capsys
):
  first, then = tmp_path / "first", tmp_path / "then"
  shutil.copytree(source.parent, first)
  relabelled(then, f"--set={first / 'set'}", taught[:1])
  shutil.rmtree(first)
  assert not command("evaluate", f"--set={then / 'set'}", "--protocol=scratch")


def test_a_run_goes_on_only_with_its_own_teacher(taught, tmp_path, capsys):
  teacher = tmp_path / "teacher"
  shutil.copytree(taught[0], teacher)
  run = [POLISH, f"--workdir={tmp_path / 'run'}", "--config.num_steps=2"]
  run += [f"--config.teachers.dirs=('{teacher}',)", "--config.eval_every=2"]
  assert not command("distill", *run)
  _, card = set_files.load(tmp_path / "run" / "set")
  assert card["teachers"][0]["id"] == trained.identity(taught[0])
  shutil.copytree(taught[1], teacher, dirs_exist_ok=True)
  said = refused(capsys, "distill", *run)
  assert "holds a run of other teachers, of the same name" in said


def test_a_run_goes_on_only_in_its_own_space(tmp_path, capsys):
  run = [POLISH, f"--workdir={tmp_path / 'run'}", "--config.num_steps=2"]
  run += ["--config.eval_every=2"]
  assert not command("distill", *run)
  path = tmp_path / "run" / "sources.json"
  path.write_text(json.dumps(json.loads(path.read_text()) | {"space": "other"}))
  said = refused(capsys, "distill", *run)
  assert "holds a run of other space, of the same name" in said


def test_the_coreset_that_is_labelled_is_the_tables(folder, taught):
  flags = [POLISH, taught[:1], "--row=k_centers"]
  syn, _ = relabelled(folder / "seed0", *flags)
  other, _ = relabelled(folder / "seed3", *flags, "--config.seed=3")
  np.testing.assert_array_equal(syn.batch.inputs, other.batch.inputs)


def test_what_a_diverged_teacher_says_is_refused(tmp_path, capsys):
  fields = [POLISH, f"--workdir={tmp_path}", "--config.full.rates=(1e30,)"]
  assert command("teach", *fields) == 1
  assert "are not finite; train with smaller" in capsys.readouterr().err
  assert not (tmp_path / "model.safetensors").exists()


def test_a_run_starts_from_a_set_only_of_its_own_shape(source, capsys):
  said = refused(
    capsys,
    "distill",
    POLISH,
    f"--workdir={HERE / 'never'}",
    f"--config.start={source}",
    "--config.sequence_length=5",
  )
  assert "is a set of shape (8, 12, 16)" in said
  assert "use the data_per_class and sequence_length of the set" in said
