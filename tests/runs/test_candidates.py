"""Written rows are chosen among beside the training rows, and say so."""

import json

import numpy as np
import pytest
import tiny_config

from gmdistill import errors
from gmdistill.data import texts as row_texts
from gmdistill.runs import candidates, finish, jobs, selecting, start_rows
from gmdistill.runs.config import assembly, recipe, settings
from gmdistill.sets import text_sets

NAMES = ("colours", "numbers")
WORDS = dict(
  zip(NAMES, ("red green blue black".split(), "one two three four".split()),
      strict=True)
)  # fmt: skip


def write_rows(path, per_class, seed):
  """Writes rows of both classes, of four to eight words."""
  rng = np.random.default_rng(seed)
  rows = [
    {
      "text": " ".join(rng.choice(WORDS[name], 4 + i % 5)),
      "label": name,
    }
    for name in NAMES
    for i in range(per_class)
  ]
  path.write_text("".join(json.dumps(row) + "\n" for row in rows))
  return rows


@pytest.fixture(scope="module")
def given(tmp_path_factory):
  """A config of rows in files, a file of written ones, and what it says."""
  folder = tmp_path_factory.mktemp("rows")
  write_rows(folder / "train.jsonl", 30, 0)
  write_rows(folder / "test.jsonl", 6, 1)
  written = write_rows(folder / "written.rows", 7, 2)
  config = recipe.changed(
    settings.recipe(tiny_config.get_config()),
    data__name=f"{folder}/*.jsonl",
    readable=True,
    labels="softmax",
    objective="look_ahead",
    sequence_length=12,
    choice__pool=5,
    choice__written=f"{folder}/written.rows",
  )
  return config, assembly.setup(config), written


def test_written_rows_stand_after_the_training_rows(given):
  config, setup, written = given
  none = recipe.changed(config, choice__written="")
  assert candidates.extended(setup, none) is setup
  both = candidates.extended(setup, config)
  train, count = both.corpus.train, len(setup.corpus.train.labels)
  assert len(train.labels) == count + len(written)
  for name in ("token_ids", "mask", "labels"):
    own, before = getattr(train, name), getattr(setup.corpus.train, name)
    np.testing.assert_array_equal(own[:count], before)
  labels = [NAMES[label] for label in train.labels[count:]]
  assert labels == [row["label"] for row in written]
  rows = np.array([count, count + 8])
  chosen = start_rows.Chosen(rows, np.array([0.5, 1.5]))
  batch = start_rows.as_batch(both, config, chosen)
  texts = [written[0]["text"], written[8]["text"]]
  ids, mask = setup.corpus.tokenizer.encode(texts, 12)
  np.testing.assert_array_equal(batch.inputs, ids)
  np.testing.assert_array_equal(batch.mask, mask)
  np.testing.assert_allclose(batch.labels, [[0.5, 0], [0, 1.5]])
  real = candidates.real_rows(both, config)
  np.testing.assert_array_equal(real.labels, setup.corpus.train.labels)


def test_as_many_written_rows_as_real_ones_are_looked_at(given):
  config, setup, _ = given
  both = candidates.extended(setup, config)
  rows, count = candidates.drawn(both, config), len(setup.corpus.train.labels)
  labels = both.corpus.train.labels[rows]
  assert labels.tolist() == sorted(labels.tolist())
  for label in (0, 1):
    own = rows[labels == label]
    assert (own < count).sum() == (own >= count).sum() == 5
  none = recipe.changed(config, choice__written="")
  real = candidates.drawn(setup, none)
  np.testing.assert_array_equal(rows[rows < count], real)


def test_a_set_of_both_says_which_rows_are_written(given):
  config, setup, written = given
  config = recipe.changed(
    config, initialise="matching_pursuit", choice__states=2, choice__sketch=64,
    choice__matched="head", choice__diversity=0.5,
  )  # fmt: skip
  job = jobs.prepare(config)
  count = len(setup.corpus.train.labels)
  assert len(job.rows) == 4 and job.rows.max() < count + len(written)
  rows = np.array([3, count + 2, count + 9, 5])
  job = job._replace(rows=rows)
  syn = job.parameterization.decode(job.params)
  found = finish.texts(job, syn)
  train = row_texts.by_part(config.data, setup.corpus)["train"]
  assert found.sources == (3, text_sets.WRITTEN, text_sets.WRITTEN, 5)
  expected = (train[3], written[2]["text"], written[9]["text"], train[5])
  assert found.texts == expected
  assert "written" in jobs.sources(job)


def test_select_chooses_among_both(given, tmp_path):
  config, setup, written = given
  rows = len(setup.corpus.train.labels) // 2 + len(written) // 2
  config = recipe.changed(
    config,
    choice__diversity=1.0,
    data_per_class=rows - 8,
    subset__num_students=1,
    subset__num_steps=2,
    subset__checkpoints=1,
  )
  selecting.run(config, ["el2n"], str(tmp_path), measured=False)
  text = (tmp_path / "rows.jsonl").read_text()
  chosen = [json.loads(line) for line in text.splitlines()]
  said = {(row["text"], row["label"]) for row in written}
  own = [row for row in chosen if row["row"] == "written"]
  assert own and {(row["text"], row["label"]) for row in own} <= said
  assert all(type(row["row"]) is int for row in chosen if row not in own)
  texts = (tmp_path / "texts" / "set.jsonl").read_text().splitlines()
  for line, row in zip(map(json.loads, texts), chosen, strict=True):
    assert line["text"] == row["text"]
    assert (line["source"] == "written") == (row in own)
    assert ("nearest_real" in line) == (row not in own)
  with np.load(tmp_path / "scores.npz") as arrays:
    assert (arrays["rows"] == -1).sum() == len(written)


@pytest.mark.parametrize("rows, fields, words", [
  (None, {}, "there is no file"),
  ([{"text": "red", "label": "shapes"}], {}, "the label 'shapes' is none of"),
  ([{"texts": ["red", "blue"], "label": "colours"}], {}, "has two texts"),
  ([{"text": "red green", "label": "colours"}], {}, "no row of the class 'num"),
  ([{"text": "red", "label": "colours"}], {"readable": False}, "readable=True"),
])  # fmt: skip
def test_bad_files_are_refused_in_a_line(given, tmp_path, rows, fields, words):
  config, setup, _ = given
  path = tmp_path / "rows.txt"
  if rows is not None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
  fields = {"initialise": "matching_pursuit", **fields}
  config = recipe.changed(config, choice__written=str(path), **fields)
  with pytest.raises(errors.InputError, match=words):
    jobs.prepare(config)
