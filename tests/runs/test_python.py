"""The functions that scripts call: what a run left, opened and used."""

import pathlib
import re
import shutil

import numpy as np
import pytest
import tiny_config

import gmdistill as gd
from gmdistill.sets import set_files

ROOT = pathlib.Path(__file__).parents[2]
TINY = str(pathlib.Path(tiny_config.__file__))


@pytest.fixture(scope="module")
def opened(finished_run):
  return gd.load_set(finished_run[0])


@pytest.fixture(scope="module")
def student(opened):
  return gd.train(opened, protocol="replay", seed=1)


def test_a_set_says_its_shape_and_its_steps(opened):
  assert len(opened) == 8
  assert repr(opened).startswith(
    "8 examples x 6 x 16, pooling first, replay 2 steps, "
  )
  assert re.search(r"\d\d\.\d ± \d+\.\d % \(replay\)", repr(opened))


def test_batches_are_what_each_step_reads(opened):
  steps = list(opened.batches())
  assert len(steps) == 2
  for step, rate in zip(steps, opened.examples.learning_rates, strict=True):
    assert step["inputs_embeds"].shape == (8, 6, 16)
    assert step["attention_mask"].all()
    assert step["labels"].shape == (8, 4)
    np.testing.assert_array_equal(step["learning_rate"], rate)
    assert all(isinstance(x, np.ndarray) for x in step.values())


def test_a_set_in_turn_gives_each_step_its_rows(opened):
  order = np.array([[0, 2], [1, 3]])
  other = gd.load_set(opened.folder)
  other.examples = opened.examples.replace(order=order)
  for rows, step in zip(order, other.batches(), strict=True):
    expected = np.asarray(opened.examples.batch.inputs)[rows]
    np.testing.assert_array_equal(step["inputs_embeds"], expected)


def test_a_student_is_the_same_after_it_was_saved(student, opened, tmp_path):
  texts = ["Return the mean.", "", "Plot a line " * 20]
  again = gd.load_student(student.save_pretrained(tmp_path / "student"))
  np.testing.assert_allclose(
    again.logits(texts), student.logits(texts), atol=1e-6
  )
  assert set(again.predict(texts)) <= set(opened.label_names)
  np.testing.assert_allclose(student.probabilities(texts).sum(axis=1), 1)
  assert student.predict([]) == []


def test_a_student_predicts_the_same_among_other_texts(student):
  texts = [f"Return {n} rows of the array." for n in range(70)]
  alone = student.logits(texts[69:])
  np.testing.assert_allclose(student.logits(texts)[69:], alone, atol=1e-5)


def test_a_student_is_measured_on_the_data_of_its_run_or_on_data_given(
  student, tmp_path
):
  known = gd.evaluate(student)
  student.save_pretrained(tmp_path)
  data = gd.load_data(
    "docstrings",
    max_length=12,
    tokenizer_file=tmp_path / "tokenizer.json",
  )
  loaded = gd.load_student(tmp_path)
  assert gd.evaluate(loaded, data).mean == pytest.approx(known.mean, abs=2e-3)
  assert repr(known) == f"{100 * known.mean:.1f} % (1 student)"
  with pytest.raises(gd.InputError, match="tokenizer_file"):
    gd.evaluate(loaded)
  other = gd.load_data("docstrings", max_length=12, vocab_size=200)
  with pytest.raises(gd.InputError, match="another tokenizer"):
    gd.evaluate(loaded, other)


def test_a_set_is_measured_as_its_run_measured_it(opened, finished_run):
  found = gd.evaluate(opened, protocol="replay")
  rows = gd.load_run(finished_run[0]).summary["protocols"]["replay"]
  assert (found.mean, found.num_students) == (
    rows["distilled"]["mean"],
    rows["distilled"]["n"],
  )


def test_distill_leaves_a_run_that_opens_as_a_table(finished_run, tmp_path):
  shutil.copytree(finished_run[0], tmp_path / "run")
  run = gd.distill(TINY, tmp_path / "run")  # has ended: it is opened
  assert str(run.table()) == str(gd.compare([finished_run[0]]))
  shown = run._repr_html_()
  assert "<th>protocol</th>" in shown and "<td>K-centers</td>" in shown
  assert "docstrings, 2 examples a class" in repr(run)
  assert run.report().is_file()
  before = set_files.load(finished_run[0] / "set")[0]
  after = set_files.load(run.workdir / "set")[0]
  np.testing.assert_array_equal(before.batch.inputs, after.batch.inputs)


def test_fields_are_changed_in_a_copy_of_the_config():
  config = tiny_config.get_config()
  changed = gd.load_config(config, seed=3, replay={"num_students": 9})
  assert (changed.seed, changed.replay.num_students) == (3, 9)
  assert (config.seed, config.replay.num_students) == (0, 3)
  assert changed.replay.rates == config.replay.rates
  assert gd.load_config("quickstart").num_steps == 450
  assert gd.load_config(f"{TINY}:polish").objective == "look_ahead"


@pytest.mark.parametrize(
  "call, said",
  [
    (lambda: gd.load_config(TINY, sed=1), "did you mean seed"),
    (lambda: gd.load_config(TINY, seed="one"), "seed='one' is no int"),
    (lambda: gd.load_config(TINY, replay=3), "replay is a group"),
    (lambda: gd.load_config(TINY, replay={"rate": 1}), "replay.rate"),
    (lambda: gd.load_config(f"{TINY}:none"), "none"),
    (lambda: gd.load_config("no_such"), "no config no_such"),
    (lambda: gd.load_data("docstrings", length=3), "max_length"),
    (lambda: gd.load_set(ROOT), "set/ folder"),
    (lambda: gd.load_run(ROOT), "no finished run"),
  ],
)
def test_what_is_wrong_is_refused_in_one_line(call, said):
  with pytest.raises(gd.InputError, match=re.escape(said)) as refusal:
    call()
  assert "\n" not in str(refusal.value)


def test_texts_are_strings_or_pairs(student):
  for texts in ("Return the mean.", [3], [("a", "b", "c")]):
    with pytest.raises(gd.InputError, match="give"):
      student.predict(texts)
  assert len(student.predict([("a", "b")])) == 1


def test_the_page_says_what_works(finished_run, tmp_path, monkeypatch):
  """The second script of the page, on a run that is there."""
  page = (ROOT / "docs" / "reference" / "python.md").read_text()
  imports, _, script = re.findall(r"```python\n(.*?)```", page, re.S)
  monkeypatch.chdir(tmp_path)
  shutil.copytree(finished_run[0], tmp_path / "runs" / "quickstart")
  exec(compile(imports + script, "python.md", "exec"), {})
  assert (tmp_path / "runs" / "student" / "model.safetensors").is_file()
