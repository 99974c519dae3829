"""Text sets: files of texts, labels and weights, for any student."""

import json

import jax
import numpy as np
import pytest
import tiny_config
from command_line import CONFIG, command
from conftest import make_examples, make_problem

import gmdistill as gd
from gmdistill import errors
from gmdistill.data import batches
from gmdistill.data import texts as row_texts
from gmdistill.runs.config import assembly, outputs, settings
from gmdistill.selection import coresets
from gmdistill.sets import text_sets
from gmdistill.system import paths

NAMES = ["bad", "good"]


def read(tmp_path, *rows):
  path = tmp_path / "set.jsonl"
  path.write_text(
    "\n".join(x if isinstance(x, str) else json.dumps(x) for x in rows)
  )
  return text_sets.read(paths.path(path), NAMES)


@pytest.mark.parametrize(
  "row, words",
  [
    ({"text": "a"}, ["has no label", "bad, good"]),
    ({"text": "a", "label": "blue"}, ["label 'blue' is none of bad, good"]),
    ({"text": "a", "label": 2}, ["label 2 is none of"]),
    ({"text": " ", "label": 0}, ["the text is empty"]),
    ({"texts": ["a", "b", "c"], "label": 0}, ["a string or two"]),
    ({"text": "a", "labels": [0.5, 0.4]}, ["sum to 1, not to 0.9"]),
    ({"text": "a", "labels": [1.5, -0.5]}, ["at least 0 each"]),
    ({"text": "a", "labels": [1.0]}, ["must be 2 probabilities"]),
    ({"text": "a", "label": 0, "weight": -1}, ["weight=-1", "at least 0"]),
    ({"text": "a", "label": 0, "weight": "x"}, ["weight='x'", "a number"]),
    ({"text": "a", "label": 0, "weight": 1e39}, ["weight=1e+39", "a number"]),
    ({"text": "a", "labels": [10**400, 0]}, ["must be 2 probabilities"]),
    ("{", ["is no {"]),
    ({"sentence": "a", "score": 1.0}, ["is no {", "texts/set.jsonl beside it"]),
  ],
)
def test_a_bad_line_is_named_with_its_file(tmp_path, row, words):
  with pytest.raises(errors.InputError) as refusal:
    read(tmp_path, {"text": "fine", "label": "good"}, row)
  for word in [f"{tmp_path}/set.jsonl, line 2", *words]:
    assert word in str(refusal.value)


def test_weights_that_are_all_zero_are_refused(tmp_path):
  with pytest.raises(errors.InputError, match="every weight is 0"):
    read(tmp_path, {"text": "a", "label": 0, "weight": 0})


def test_a_text_set_is_read_as_it_was_written(tmp_path):
  texts = ["it was good", ("a dull", "and slow film"), "a fine film"]
  labels = np.array([[0.0, 1.0], [0.9, 0.1], [1 / 3, 2 / 3]], np.float32)
  written = text_sets.of_rows([2, 0, 1], texts, labels, [1.0, 2.0, 0.5])
  rows = text_sets.lines(written, NAMES, texts)
  text_sets.save(paths.path(tmp_path), rows, {"label_names": NAMES})
  again = text_sets.read(paths.path(tmp_path / "set.jsonl"), NAMES)
  assert again.texts == written.texts and again.sources == written.sources
  np.testing.assert_allclose(again.labels, labels, atol=1e-6)
  np.testing.assert_allclose(again.weights, written.weights, atol=1e-3)
  # Every row is a training row: the nearest is itself.
  assert [row["nearest_real"] for row in rows] == [2, 0, 1]
  assert all(row["overlap"] == 1 for row in rows)
  card = json.loads((tmp_path / "card.json").read_text())
  assert card["format"] == text_sets.FORMAT and card["texts"]["rows"] == 3


def test_the_nearest_row_shares_the_most_words():
  real = ["a dull and slow film", "i loved the score", "the movie was great"]
  rows, overlap = row_texts.nearest(["the movie was dull"], real)
  assert rows.tolist() == [2]
  assert overlap == pytest.approx(3 / 5)  # of five words that either has


def test_a_row_counts_in_the_loss_with_its_weight():
  problem, examples = make_problem(), make_examples(rows=4)
  batch = batches.as_batch(examples, 2)
  weights = np.array([0.5, 2.0, 1.5, 0.0])
  rows = text_sets.of_rows(range(4), "abcd", batch.labels, weights)
  params = problem.init(jax.random.key(0))
  each = [
    problem.loss(params, batches.take_rows(batch, np.array([i])))
    for i in range(4)
  ]
  weighted = batch.replace(labels=rows.targets)
  expected = (np.array(each) * weights).sum() / weights.sum()
  assert problem.loss(params, weighted) == pytest.approx(expected, rel=1e-5)


@pytest.fixture(scope="module")
def herding(tmp_path_factory):
  """The texts of herding's rows."""
  config = settings.recipe(tiny_config.get_config())
  setup = assembly.setup(config)
  rows = coresets.choose(
    "herding", setup.problem, setup.corpus.train, per_class=2, pool=20
  )
  texts = row_texts.by_part(config.data, setup.corpus)["train"]
  labels = np.eye(4)[setup.corpus.train.labels[rows]]
  chosen = text_sets.of_rows(rows, texts, labels)
  folder = tmp_path_factory.mktemp("herding")
  names = setup.corpus.label_names
  card = outputs.first_card(setup, config, "", "herding")
  told = text_sets.lines(chosen, names, list(texts))
  text_sets.save(paths.path(folder / "set"), told, card)
  return folder / "set" / "set.jsonl"


def test_a_baselines_texts_measure_as_the_baseline_does(herding, capsys):
  found = []
  for given in ("--row=herding", f"--set={herding}"):
    assert not command(
      "evaluate", CONFIG, given, "--protocol=scratch", "--json"
    )
    found.append(json.loads(capsys.readouterr().out)["scratch"])
  assert found[1]["row"] == "herding"  # by the card beside it
  assert found[1]["mean"] == pytest.approx(found[0]["mean"])


def test_a_file_of_texts_is_opened_from_python(herding):
  examples = gd.load_set(herding, config=tiny_config.get_config())
  assert len(examples) == len(examples.texts.texts) == 8
  (batch,) = examples.batches()
  assert batch["input_ids"].dtype == np.int32
  np.testing.assert_allclose(batch["labels"].sum(axis=1), 1)
  with pytest.raises(errors.InputError, match="give the --config"):
    gd.load_set(herding).config  # noqa: B018
  with pytest.raises(errors.InputError, match="with a file of texts"):
    gd.load_set(herding.parents[1] / "absent", config="quickstart")


def test_students_of_another_tokenizer_train_on_the_same_texts(
  herding, tmp_path, capsys
):
  other = ["--config.data.vocab_size=200", "--config.student.width=12"]
  other += ["--config.student.num_layers=1", "--config.data.lower_case=False"]
  given = [CONFIG, *other, f"--set={herding}", "--protocol=scratch"]
  assert not command("train", *given, f"--workdir={tmp_path / 'student'}")
  assert "8 examples" in capsys.readouterr().err
  assert (tmp_path / "student" / "model.safetensors").is_file()


def test_teachers_labels_travel_with_the_texts(herding, tmp_path, capsys):
  teacher, labelled = tmp_path / "teacher", tmp_path / "labelled"
  assert not command("teach", CONFIG, f"--workdir={teacher}")
  given = [CONFIG, f"--set={herding}", f"--teacher={teacher}"]
  assert not command("relabel", *given, f"--workdir={labelled}")
  rows = [
    json.loads(line)
    for line in (labelled / "set" / "set.jsonl").read_text().splitlines()
  ]
  before = [json.loads(line) for line in herding.read_text().splitlines()]
  assert [x["text"] for x in rows] == [x["text"] for x in before]
  assert [x["source"] for x in rows] == [x["source"] for x in before]
  assert all(len(x["labels"]) == 4 for x in rows)
  capsys.readouterr()
  found = []
  for given in (labelled / "set", labelled / "set" / "set.jsonl"):
    assert not command(
      "evaluate", f"--set={given}", "--protocol=scratch", "--json"
    )
    found.append(json.loads(capsys.readouterr().out)["scratch"]["mean"])
  assert found[0] == pytest.approx(found[1])
