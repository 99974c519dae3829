"""Sets as people bring them: rare classes, labels of all kinds, one split."""

import json
import pathlib

import numpy as np
import pytest
import tensorflow_datasets as tfds
import tiny_sets
from array_record.python import array_record_module

from gmdistill import errors
from gmdistill.data import batches, loading, splits
from gmdistill.data import labels as row_labels

CASES = pathlib.Path(__file__).resolve().parents[3] / "shared/cases"


@pytest.fixture
def folder(tmp_path, monkeypatch):
  monkeypatch.setenv("GMDISTILL_CACHE", str(tmp_path / "cache"))
  (tmp_path / "tfds").mkdir()
  return tmp_path / "tfds"


def load(folder, **fields):
  fields = {"name": "tiny", "vocab_size": 128, "max_length": 12} | fields
  return loading.load(loading.Options(dir=str(folder), **fields))


def refusal(folder, **fields):
  with pytest.raises(errors.InputError) as caught:
    load(folder, **fields)
  assert "\n" not in str(caught.value)
  return str(caught.value)


# Every class keeps a training row.


@pytest.mark.parametrize(
  "counts",
  [[1000] + 30 * [1], [40, 1, 1], [3, 2], [1, 1, 30], [2] * 50, [5000, 2, 1]],
)
@pytest.mark.parametrize("cut", [splits.selection_split, splits.reported_split])
def test_every_class_keeps_a_row_to_train_on(counts, cut):
  labels = np.random.default_rng(0).permutation(
    np.repeat(np.arange(len(counts)), counts)
  )
  kept, chosen = cut(labels)
  assert set(labels[kept]) == set(range(len(counts)))
  assert sorted([*kept, *chosen]) == list(range(len(labels)))
  assert len(chosen) > 0
  again = cut(labels)
  np.testing.assert_array_equal(kept, again[0])


def test_where_no_class_has_a_row_to_spare_choices_are_on_all_rows():
  kept, chosen = splits.selection_split(np.arange(20))
  assert kept.tolist() == chosen.tolist() == list(range(20))
  assert not len(splits.reported_split(np.arange(20))[1])


def test_a_one_shot_set_loads_and_says_what_its_choices_are_worth(folder):
  rows = {
    "train": tiny_sets.rows_of(range(12)),
    "test": tiny_sets.rows_of(range(12), 100),
  }
  tiny_sets.build(folder, rows, tiny_sets.names(12))
  corpus = load(folder)
  assert len(corpus.train.labels) == len(corpus.selection.labels) == 12
  assert "no class has a training row to spare" in "".join(corpus.notes)


@pytest.mark.skipif(not CASES.is_dir(), reason=f"no cases at {CASES}")
def test_a_long_tail_of_single_rows_loads_whole(folder):
  lines = (CASES / "long_tail.jsonl").read_text().splitlines()
  rows = {"train": [json.loads(line) for line in lines]}
  tiny_sets.build(folder, rows, tfds.features.Text())
  corpus = load(folder)
  assert len(corpus.label_names) == 31
  assert set(corpus.train.labels) == set(range(31))
  parts = (corpus.train, corpus.selection, corpus.reported)
  assert sum(len(part.labels) for part in parts) == len(lines)


def test_a_class_without_a_row_is_named_with_what_would_do(folder):
  rows = {"train": tiny_sets.rows_of([0, 1] * 20)}
  tiny_sets.build(folder, rows, tiny_sets.names(3))
  corpus = load(folder)
  with pytest.raises(errors.InputError, match="'class2' has no training row"):
    batches.require_rows(corpus.train, 1, corpus.label_names)
  whole = tiny_sets.build(folder.parent, rows, tiny_sets.names(2))
  assert whole.is_prepared()
  corpus = load(folder.parent)
  batches.require_rows(corpus.train, 1, corpus.label_names)


# A set with a training split alone.


def test_a_reported_split_is_cut_where_there_is_none_and_said(folder):
  tiny_sets.build(
    folder, {"train": tiny_sets.rows_of([0, 1, 2] * 40)}, tiny_sets.names(3)
  )
  corpus = load(folder)
  assert len(corpus.reported.labels) == 24
  assert len(corpus.train.labels) + len(corpus.selection.labels) == 96
  (note,) = corpus.notes
  assert "24 of its 120 rows are cut as the reported split (seed" in note
  tokens = {
    part: {tuple(row) for row in getattr(corpus, part).token_ids.tolist()}
    for part in ("train", "selection", "reported")
  }
  assert not tokens["reported"] & (tokens["train"] | tokens["selection"])
  assert load(folder).notes == corpus.notes  # from the cache too
  assert "leave it empty" in refusal(folder, reported_split="test")


def test_a_set_of_one_split_without_a_row_to_spare_is_refused(folder):
  tiny_sets.build(
    folder, {"train": tiny_sets.rows_of(range(5))}, tiny_sets.names(5)
  )
  assert "give it more rows, or a 'test' split" in refusal(folder)


# Labels of all kinds.


KINDS = {
  "strings": (tfds.features.Text(), ["bad", "good", "odd"]),
  "integers": (tfds.features.Scalar(np.int64), [-1, 7, 30]),
  "floats": (tfds.features.Scalar(np.float32), [1.0, 2.0, 10.0]),
  "lists": (tfds.features.Sequence(tiny_sets.names(3)), [[0], [1], [2]]),
  "lists of words": (
    tfds.features.Sequence(tfds.features.Text()),
    [["bad"], ["good"], ["odd"]],
  ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_labels_of_any_kind_are_classes_where_they_can_be(folder, kind):
  feature, values = KINDS[kind]
  of_row = [values[i % 3] for i in range(60)]
  rows = {
    "train": tiny_sets.rows_of(of_row),
    "test": tiny_sets.rows_of(of_row[:9], 120),
  }
  tiny_sets.build(folder, rows, feature)
  corpus = load(folder)
  expected = {
    "integers": ("-1", "7", "30"),
    "floats": ("1", "2", "10"),
    "lists": ("class0", "class1", "class2"),
  }
  assert corpus.label_names == expected.get(kind, ("bad", "good", "odd"))
  assert classes_by_word(corpus) == {
    tiny_sets.WORDS[i]: i % 3 for i in range(9)
  }
  assert corpus.text_keys == ("text",)


def classes_by_word(corpus):
  """The class of each reported row by the first word of its text."""
  found = {}
  for ids, label in zip(
    corpus.reported.token_ids, corpus.reported.labels, strict=True
  ):
    text = "".join(corpus.tokenizer.tokens[i] for i in ids[1:])
    (word,) = [
      x for x in tiny_sets.WORDS if text.replace("##", "").startswith(x)
    ]
    found[word] = int(label)
  return found


def test_bools_are_two_classes(folder):
  rows = {
    "train": tiny_sets.rows_of([True, False] * 20),
    "test": tiny_sets.rows_of([True, False]),
  }
  tiny_sets.build(folder, rows, tfds.features.Scalar(np.bool_))
  corpus = load(folder)
  assert corpus.label_names == ("False", "True")
  assert classes_by_word(corpus) == {"red": 1, "green": 0}


def test_rows_without_a_label_or_with_an_unseen_one_are_left_out(folder):
  rows = {
    "train": tiny_sets.rows_of(["a", "b", ""] * 20),
    "test": tiny_sets.rows_of(["a", "b", "c", ""], 100),
  }
  tiny_sets.build(folder, rows, tfds.features.Text())
  corpus = load(folder)
  assert corpus.label_names == ("a", "b")
  assert corpus.dropped == 20 + 2
  assert len(corpus.reported.labels) == 2
  assert "1 rows of the reported split have labels that no" in corpus.notes[0]


@pytest.mark.parametrize(
  "feature, values, told",
  [
    (tfds.features.Scalar(np.float32), [0.5, 1.25], "holds the number 0.5"),
    (
      tfds.features.Sequence(tiny_sets.names(3)),
      [[0, 2]],
      "2 labels in one row (0, 2)",
    ),
    (tfds.features.Text(), ["same"], "has 1 different values in the"),
    (
      tfds.features.Scalar(np.int64),
      range(row_labels.MOST + 1),
      f"has {row_labels.MOST + 1} different values in the training rows (0, 1",
    ),
    (
      tfds.features.Tensor(shape=(2,), dtype=np.float32),
      [[0.0, 1.0]],
      "label (Tensor)",
    ),
  ],
)
def test_what_is_no_class_is_refused_with_what_was_there(
  folder, feature, values, told
):
  rows = {"train": tiny_sets.rows_of(values), "test": tiny_sets.rows_of(values)}
  tiny_sets.build(folder, rows, feature)
  message = refusal(folder)
  assert told in message and "config.data.label_key" in message


def test_the_feature_that_a_refusal_asks_for_is_taken(folder):
  rows = {
    split: [{**row, "mood": "ab"[i % 2]} for i, row in enumerate(of_split)]
    for split, of_split in {
      "train": tiny_sets.rows_of([0.5] * 40),
      "test": tiny_sets.rows_of([0.5] * 4),
    }.items()
  }
  label = tfds.features.Scalar(np.float32)
  tiny_sets.build(folder, rows, label, {"mood": tfds.features.Text()})
  assert "config.data.label_key" in refusal(folder, text_keys="text")
  assert load(folder, label_key="mood").label_names == ("a", "b")
  assert "must not read" in refusal(folder, label_key="mood", text_keys="mood")


# Texts that are not there.


@pytest.mark.parametrize("part", ["train", "test"])
def test_texts_that_are_empty_throughout_are_refused(folder, part):
  rows = {
    "train": tiny_sets.rows_of([0, 1] * 20),
    "test": tiny_sets.rows_of([0, 1]),
  }
  for row in rows[part]:
    row["text"] = " \n"
  tiny_sets.build(folder, rows, tiny_sets.names(2))
  message = refusal(folder)
  where = {"train": "training", "test": "reported"}[part]
  assert f"the text 'text' is empty in every {where} row of tiny" in message


def test_one_text_of_a_pair_that_is_empty_throughout_is_named(folder):
  rows = {
    split: [{**row, "why": ""} for row in tiny_sets.rows_of([0, 1] * 20)]
    for split in ("train", "test")
  }
  tiny_sets.build(
    folder, rows, tiny_sets.names(2), {"why": tfds.features.Text()}
  )
  assert "the text 'why' is empty in every training row" in refusal(folder)
  assert load(folder, text_keys="text").text_keys == ("text",)


def test_a_tokenizer_of_another_language_is_refused(folder, tmp_path):
  tiny_sets.build(
    folder,
    {s: tiny_sets.rows_of([0, 1] * 20) for s in ("train", "test")},
    tiny_sets.names(2),
  )
  path = tmp_path / "tokenizer.json"
  corpus = load(folder)
  path.write_text(corpus.tokenizer.to_json())
  for split in ("train", "test"):
    assert corpus.tokenizer.unknown_id not in corpus.train.token_ids, split
  other = tmp_path / "other"
  other.mkdir()
  rows = tiny_sets.rows_of([0, 1] * 20)
  for row in rows:
    row["text"] = "語" * 4
  tiny_sets.build(other, {"train": rows, "test": rows}, tiny_sets.names(2))
  with pytest.raises(
    errors.InputError, match="a word that the tokenizer knows"
  ):
    loading.load(loading.Options(name="tiny", dir=str(other)), str(path))


# Sets in TFDS's own older files.


def as_tf_records(builder):
  """Writes a prepared set's files as TFRecords; returns those of `train`."""
  root = pathlib.Path(builder.data_path)
  found = []
  for path in sorted(root.glob("*.array_record*")):
    reader = array_record_module.ArrayRecordReader(str(path))
    records = reader.read_all()
    reader.close()
    path.unlink()
    path = path.with_name(path.name.replace(".array_record", ".tfrecord"))
    path.write_bytes(
      b"".join(
        len(record).to_bytes(8, "little") + bytes(4) + record + bytes(4)
        for record in records
      )
    )
    found += [path] if "train" in path.name else []
  about = root / "dataset_info.json"
  content = json.loads(about.read_text())
  content["fileFormat"] = "tfrecord"
  about.write_text(json.dumps(content))
  return found


def test_tf_records_of_ones_own_are_read_without_tensorflow(folder):
  rows = {
    "train": tiny_sets.rows_of([0, 1] * 20),
    "test": tiny_sets.rows_of([0, 1], 100),
  }
  builder = tiny_sets.build(folder, rows, tiny_sets.names(2))
  before = load(folder)
  (path,) = as_tf_records(builder)
  found = load(folder)
  for part in ("train", "selection", "reported"):
    one, other = getattr(before, part), getattr(found, part)
    np.testing.assert_array_equal(one.token_ids, other.token_ids)
    np.testing.assert_array_equal(one.labels, other.labels)
  path.write_bytes(path.read_bytes()[:-7])
  assert "ends within a record" in refusal(folder)
  path.write_bytes(b"\xff" * 40)
  assert "ends within a record" in refusal(folder)


def test_an_empty_folder_is_no_list_of_sets(folder):
  message = refusal(folder, name="qqqqqq")
  assert "nothing is: set config.data.dir" in message
  assert "docstrings or chains" in message
