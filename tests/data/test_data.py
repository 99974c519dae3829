import pathlib
import shlex
import subprocess
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds

from gmdistill import errors
from gmdistill.data import batches as row_batches
from gmdistill.data import (
  corpus_files,
  loading,
  overlap,
  records,
  samplers,
  sources,
  tokenizing,
  vocabularies,
)
from gmdistill.data import splits as row_splits
from gmdistill.data import texts as row_texts
from gmdistill.system import cache, paths

SHARED = pathlib.Path(__file__).resolve().parents[3] / "shared/data/tfds"
WORDS = "red green blue black white grey pink brown gold teal lime navy".split()


def sentence(number):
  generator = np.random.default_rng(number)
  return f"{number} " + " ".join(generator.choice(WORDS, size=6))


class Fixture(tfds.core.GeneratorBasedBuilder, skip_registration=True):
  """A data set of the tests' own; `rows` holds what each split yields."""

  VERSION = tfds.core.Version("1.0.0")
  texts = ("text",)
  labels = ("label",)
  rows: dict[str, list[dict]] = {}

  def _info(self):
    features = {key: tfds.features.Text() for key in self.texts}
    for key in self.labels:
      features[key] = tfds.features.ClassLabel(names=["bad", "fair", "good"])
    return tfds.core.DatasetInfo(
      builder=self, features=tfds.features.FeaturesDict(features)
    )

  def _split_generators(self, dl_manager):
    return {split: self._generate_examples(split) for split in self.rows}

  def _generate_examples(self, split):
    yield from enumerate(self.rows[split])


def build(folder, name="tiny", **attributes):
  attributes = {"name": name, "rows": labelled(), **attributes}
  cls = type("Built", (Fixture,), attributes, skip_registration=True)
  cls(data_dir=folder).download_and_prepare(
    file_format=attributes.get("file_format", "array_record"),
    download_dir=folder.parent / "downloads",
  )


def labelled(train=100, test=20):
  return {
    "train": [{"text": sentence(i), "label": i % 3} for i in range(train)],
    "test": [{"text": sentence(1000 + i), "label": i % 3} for i in range(test)],
  }


@pytest.fixture
def folder(tmp_path, monkeypatch):
  monkeypatch.setenv("GMDISTILL_CACHE", str(tmp_path / "cache"))
  (tmp_path / "tfds").mkdir()
  return tmp_path / "tfds"


def options(folder, **fields):
  fields = {"name": "tiny", "vocab_size": 128, "max_length": 12} | fields
  return loading.Options(dir=str(folder), **fields)


def cache_files(folder):
  return sorted((folder.parent / "cache" / "corpora").iterdir())


def assert_same(first, second):
  assert first.fingerprint == second.fingerprint
  for part in ("train", "selection", "reported"):
    for one, other in zip(
      getattr(first, part)[:3], getattr(second, part)[:3], strict=True
    ):
      np.testing.assert_array_equal(one, other)
      assert one.dtype == other.dtype
  assert first.tokenizer.tokens == second.tokenizer.tokens
  for field in ("label_names", "text_keys", "label_key", "dropped"):
    assert getattr(first, field) == getattr(second, field)


def one_line(error):
  return "\n" not in str(error.value)


# Loading.


def test_a_data_set_becomes_three_parts_of_fixed_length(folder):
  build(folder)
  corpus = loading.load(options(folder, train_length=6))
  assert corpus.train.token_ids.shape == (95, 6)
  assert corpus.selection.token_ids.shape == (5, 12)
  assert corpus.reported.token_ids.shape == (20, 12)
  assert corpus.train.token_ids.dtype == np.int32
  assert corpus.train.mask.dtype == np.bool_
  assert corpus.train.labels.dtype == np.int32
  assert corpus.label_names == ("bad", "fair", "good")
  assert (corpus.text_keys, corpus.label_key) == (("text",), "label")


def test_the_mask_is_false_exactly_at_the_padding(folder):
  build(folder)
  corpus = loading.load(options(folder))
  pads = corpus.train.token_ids == corpus.tokenizer.pad_id
  assert pads.any()
  np.testing.assert_array_equal(corpus.train.mask, ~pads)


def test_train_bytes_count_the_training_part_alone(folder):
  rows = labelled()
  rows["train"] = [{"text": "né", "label": i % 3} for i in range(100)]
  build(folder, rows=rows)
  assert loading.load(options(folder)).train_bytes == 3 * 95


def test_a_pair_is_one_row_with_two_separators(folder):
  rows = {
    split: [
      {"hypothesis": "teal", "premise": "red green", "label": i % 3}
      for i in range(count)
    ]
    for split, count in (("train", 40), ("test", 4))
  }
  build(folder, texts=("hypothesis", "premise"), rows=rows)
  corpus = loading.load(options(folder))
  assert corpus.text_keys == ("premise", "hypothesis")
  row = [corpus.tokenizer.tokens[i] for i in corpus.reported.token_ids[0]]
  assert row[:7] == ["[CLS]", "red", "green", "[SEP]", "teal", "[SEP]", "[PAD]"]
  one = loading.load(options(folder, text_keys=["hypothesis"]))
  row = [one.tokenizer.tokens[i] for i in one.reported.token_ids[0]]
  assert row[:4] == ["[CLS]", "teal", "[SEP]", "[PAD]"]


def test_unlabelled_rows_are_dropped_and_counted(folder):
  rows = labelled(train=60)
  rows["train"] += [{"text": "lime", "label": -1}] * 7
  rows["test"] += [{"text": "lime", "label": -1}] * 2
  build(folder, rows=rows)
  corpus = loading.load(options(folder))
  assert corpus.dropped == 9
  assert len(corpus.train.labels) + len(corpus.selection.labels) == 60
  assert len(corpus.reported.labels) == 20


def test_an_unlabelled_test_split_gives_way_to_validation(folder):
  rows = labelled(test=9)
  rows["validation"] = rows.pop("test")
  rows["test"] = [{"text": "lime", "label": -1}] * 5
  build(folder, rows=rows)
  corpus = loading.load(options(folder))
  assert len(corpus.reported.labels) == 9
  assert corpus.dropped == 0


def test_the_reported_split_can_be_named(folder):
  rows = labelled(test=9)
  rows["extra"] = rows["test"][:4]
  build(folder, rows=rows)
  corpus = loading.load(options(folder, reported_split="extra"))
  assert len(corpus.reported.labels) == 4


def test_reported_rows_are_a_fixed_share_of_each_class_and_cost_no_choice(
  folder,
):
  rows = labelled(test=9)
  build(folder, rows=rows)
  whole = loading.load(options(folder))
  corpus = loading.load(options(folder, reported_rows=6))
  assert len(corpus.reported.labels) == 6
  before = np.bincount(whole.reported.labels, minlength=3)
  after = np.bincount(corpus.reported.labels, minlength=3)
  assert (np.abs(after - before * 6 / 9) < 1).all()
  texts = {row.tobytes() for row in whole.reported.token_ids}
  assert {row.tobytes() for row in corpus.reported.token_ids} <= texts
  for part in ("train", "selection"):
    np.testing.assert_array_equal(
      getattr(corpus, part).token_ids, getattr(whole, part).token_ids
    )
  assert corpus.fingerprint == whole.fingerprint
  assert any("6 of 9 rows" in note for note in corpus.notes)
  again = loading.load(options(folder, reported_rows=6))
  np.testing.assert_array_equal(
    again.reported.token_ids, corpus.reported.token_ids
  )
  more = loading.load(options(folder, reported_rows=10))
  assert len(more.reported.labels) == 9 and more.notes == whole.notes


def test_the_texts_of_few_reported_rows_are_these_rows(folder):
  build(folder, rows=labelled(test=9))
  few = options(folder, reported_rows=6)
  corpus = loading.load(few)
  texts = row_texts.by_part(few, corpus)["reported"]
  ids, _ = corpus.tokenizer.encode(texts, corpus.reported.mask.shape[1])
  np.testing.assert_array_equal(ids, corpus.reported.token_ids)


def test_an_empty_text_is_a_row_of_special_tokens(folder):
  rows = labelled()
  rows["test"][0] = {"text": "", "label": 0}
  build(folder, rows=rows)
  corpus = loading.load(options(folder))
  assert corpus.reported.mask.sum(axis=1).min() == 2
  row = corpus.reported.token_ids[corpus.reported.mask.sum(axis=1).argmin()]
  assert corpus.tokenizer.tokens[row[1]] == "[SEP]"


# The cache.


def test_a_cache_hit_reads_no_rows_and_equals_a_cold_load(folder, monkeypatch):
  build(folder)
  cold = loading.load(options(folder))
  monkeypatch.setattr(sources, "read", None)
  assert_same(cold, loading.load(options(folder)))


def test_a_cold_load_leaves_one_file(folder):
  build(folder)
  loading.load(options(folder))
  (path,) = cache_files(folder)
  assert path.name.startswith("tiny-")


def test_a_kept_corpus_that_lacks_or_changed_something_is_rebuilt(folder):
  build(folder)
  cold = loading.load(options(folder))
  (path,) = cache_files(folder)
  whole = cache.read_arrays(path)
  lacking = {k: v for k, v in whole.items() if k != "train/mask"}
  changed = {**whole, "train/labels": 1 - whole["train/labels"]}
  for arrays in (lacking, changed, {"facts": np.array("[" * 100_000)}):
    cache.write_arrays(path, arrays)
    assert_same(cold, loading.load(options(folder)))
    assert_same(cold, corpus_files.of_arrays(cache.read_arrays(path)))


def test_every_option_that_decides_the_arrays_changes_the_hash(folder):
  rows = labelled()
  rows["extra"] = rows["test"][:4]
  texts, labels = ("text", "other"), ("label", "mood")
  for row in (row for split in rows.values() for row in split):
    row |= {"other": row["text"][::-1], "mood": 2 - row["label"]}
  build(folder, rows=rows, texts=texts, labels=labels)
  base = {"text_keys": ("text",)}
  changes = [
    {},
    {"text_keys": ("other",)},
    {"label_key": "mood"},
    {"reported_split": "extra"},
    {"vocab_size": 90},
    {"max_length": 9},
    {"train_length": 9},
  ]
  found = {
    loading.load(options(folder, **(base | change))).fingerprint
    for change in changes
  }
  assert len(found) == len(cache_files(folder)) == len(changes)


def test_other_rows_under_the_same_name_are_not_taken_from_the_cache(folder):
  build(folder)
  first = loading.load(options(folder))
  other = folder.parent / "other"
  rows = labelled()
  rows["train"][3]["label"] = 1
  build(other, rows=rows)
  assert loading.load(options(other)).fingerprint != first.fingerprint


def test_the_same_rows_in_another_folder_have_the_same_hash(folder):
  build(folder)
  first = loading.load(options(folder))
  moved = folder.rename(folder.parent / "moved")
  assert_same(first, loading.load(options(moved)))


def test_the_cache_folder_is_the_option_then_the_environment(monkeypatch):
  monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
  monkeypatch.delenv("GMDISTILL_CACHE", raising=False)
  assert paths.cache_folder() == pathlib.Path("/xdg/gmdistill")
  monkeypatch.setenv("GMDISTILL_CACHE", "/own")
  assert paths.cache_folder() == pathlib.Path("/own")
  monkeypatch.delenv("GMDISTILL_CACHE")
  monkeypatch.delenv("XDG_CACHE_HOME")
  assert paths.cache_folder() == pathlib.Path.home() / ".cache/gmdistill"


def test_a_cache_folder_that_is_a_file_is_an_input_error(folder, monkeypatch):
  build(folder)
  (folder.parent / "file").write_text("")
  monkeypatch.setenv("GMDISTILL_CACHE", str(folder.parent / "file"))
  with pytest.raises(errors.InputError, match="GMDISTILL_CACHE") as error:
    loading.load(options(folder))
  assert one_line(error)


# What a user can get wrong.


def test_an_unknown_name_suggests_one_on_disk(folder):
  build(folder)
  with pytest.raises(errors.InputError, match="did you mean tiny") as error:
    loading.load(options(folder, name="tinny"))
  assert one_line(error)
  with pytest.raises(errors.InputError, match="prepared there: tiny"):
    loading.load(options(folder, name="qqqqqq"))
  with pytest.raises(
    errors.InputError, match=r"give a file of rows \(FILE.csv"
  ):
    loading.load(options(folder, name="my rows"))


# One of TFDS's own search, one that it does not come to without TensorFlow.
@pytest.mark.parametrize("name", ["imdb_reviews", "glue/sst2"])
def test_an_unprepared_set_says_how_to_prepare_it(folder, name):
  message = "set config.data.dir to .*download_and_prepare"
  with pytest.raises(errors.InputError, match=message) as error:
    loading.load(options(folder, name=name))
  assert one_line(error)
  assert str(folder) in str(error.value)
  assert not list(folder.iterdir())


@pytest.mark.parametrize("name", ["imdb_reviews", "glue/sst2"])
def test_the_command_that_prepares_a_set_is_one(folder, monkeypatch, name):
  """It is run here, but for the download."""
  with pytest.raises(errors.InputError) as error:
    loading.load(options(folder, name=name))
  command = shlex.split(str(error.value).split("run: ", 1)[1])
  assert command[:2] == ["python", "-c"] and len(command) == 3
  asked = []
  monkeypatch.setattr(
    tfds.core.DatasetBuilder,
    "download_and_prepare",
    lambda self, **fields: asked.append((self.data_path, fields)),
  )
  exec(command[2], {})
  ((where, fields),) = asked
  assert fields == {"file_format": "array_record"}
  assert str(where).startswith(f"{folder}/{name}/")


def test_a_set_in_files_of_another_kind_is_refused(folder, monkeypatch):
  build(folder)
  monkeypatch.setattr(records, "READABLE", ())
  with pytest.raises(errors.InputError, match="prepare it anew as one of"):
    loading.load(options(folder))


@pytest.mark.parametrize(
  "attributes, fields, message",
  [
    ({"labels": ()}, {}, "label: .*text .Text.*config.data.label_key"),
    ({"labels": ("a", "b")}, {}, "a .ClassLabel.*config.data.label_key"),
    ({"texts": ()}, {}, "label .ClassLabel.*config.data.text_keys"),
    ({"texts": ("x", "y", "z")}, {}, "x .Text.*config.data.text_keys"),
    ({}, {"text_keys": ("txet",)}, "'txet', which is no text.*text .Text"),
    ({}, {"label_key": "txet"}, "'txet', which is no class label"),
    ({}, {"label_key": "text"}, "config.data.text_keys"),
    ({}, {"reported_split": "dev"}, "reported_split='dev'.*: test"),
    ({}, {"reported_split": "train"}, "reported_split='train'.*: test"),
  ],
)
def test_features_that_do_not_fit_are_listed(
  folder, attributes, fields, message
):
  keys = (*attributes.get("texts", Fixture.texts),)
  keys += (*attributes.get("labels", Fixture.labels),)
  rows = {split: [dict.fromkeys(keys, 0)] for split in ("train", "test")}
  for row in (row for split in rows.values() for row in split):
    row |= dict.fromkeys(attributes.get("texts", Fixture.texts), "red")
  build(folder, rows=rows, **attributes)
  with pytest.raises(errors.InputError, match=message) as error:
    loading.load(options(folder, **fields))
  assert one_line(error)


@pytest.mark.parametrize(
  "splits, message",
  [
    ({"test": 0}, "no 'train' split"),
    ({"train": 0, "extra": 0}, "config.data.reported_split"),
    ({"train": -1, "test": 0}, "No row of the 'train' split"),
    ({"train": 0, "test": -1}, "labelled split"),
  ],
)
def test_splits_that_cannot_serve_are_refused(folder, splits, message):
  rows = {
    split: [{"text": "red", "label": label}] * 5
    for split, label in splits.items()
  }
  build(folder, rows=rows)
  with pytest.raises(errors.InputError, match=message) as error:
    loading.load(options(folder))
  assert one_line(error)


@pytest.mark.parametrize(
  "fields", [{"max_length": 2}, {"vocab_size": 3}, {"train_length": -1}]
)
def test_lengths_and_sizes_are_checked(fields):
  with pytest.raises(errors.InputError, match=next(iter(fields))):
    loading.Options(**fields)


def test_too_few_rows_name_the_class_and_what_would_do():
  rows = examples([5, 2, 4])
  row_batches.require_rows(rows, 2, ("bad", "fair", "good"))
  with pytest.raises(errors.InputError, match="'fair'; use at most 2"):
    row_batches.require_rows(rows, 3, ("bad", "fair", "good"))


# The tokenizer.


def test_training_a_tokenizer_is_the_same_in_every_process():
  program = (
    "import sys; from gmdistill.data import vocabularies; "
    "print(vocabularies.train(sys.argv[1].split('|'), 200).fingerprint)"
  )
  texts = [sentence(number) for number in range(200)]
  found = subprocess.run(
    [sys.executable, "-c", program, "|".join(texts)],
    capture_output=True,
    text=True,
    check=True,
  )
  expected = vocabularies.train(texts, 200).fingerprint
  assert found.stdout.strip() == expected


def test_a_vocabulary_is_learned_from_so_many_rows_and_no_more(
  folder, monkeypatch
):
  build(folder)
  whole = loading.load(options(folder))
  assert not any("vocabulary" in note for note in whole.notes)
  monkeypatch.setattr(vocabularies, "MOST_ROWS", 3)
  assert list(vocabularies.rows_of(7)) == [0, 3, 6]
  assert list(vocabularies.rows_of(3)) == [0, 1, 2]
  part = loading.load(options(folder, max_length=13))
  rows = len(part.train.labels)
  assert part.notes[-1] == (
    f"the vocabulary is learned from {len(vocabularies.rows_of(rows))} of "
    f"{rows} training rows"
  )
  assert part.tokenizer.vocab_size < whole.tokenizer.vocab_size
  assert np.array_equal(part.train.labels, whole.train.labels)


def test_a_trained_tokenizer_frames_lower_cased_words(tmp_path):
  tokenizer = vocabularies.train([sentence(i) for i in range(50)], 128)
  special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
  assert tokenizer.tokens[:5] == special
  assert tokenizer.vocab_size == len(set(tokenizer.tokens)) <= 128
  ids, mask = tokenizer.encode(["RED Green"], 6)
  tokens = [tokenizer.tokens[index] for index in ids[0]]
  assert tokens == ["[CLS]", "red", "green", "[SEP]", "[PAD]", "[PAD]"]
  assert mask.tolist() == [[True] * 4 + [False] * 2]


def test_a_saved_tokenizer_is_the_same_tokenizer(tmp_path, folder):
  tokenizer = vocabularies.train(WORDS * 5, 100)
  (tmp_path / "tokenizer.json").write_text(tokenizer.to_json())
  found = tokenizing.Tokenizer.from_file(tmp_path / "tokenizer.json")
  assert found.fingerprint == tokenizer.fingerprint
  build(folder)
  corpus = loading.load(options(folder), str(tmp_path / "tokenizer.json"))
  assert corpus.tokenizer.fingerprint == tokenizer.fingerprint
  assert corpus.fingerprint != loading.load(options(folder)).fingerprint


def test_a_pair_loses_tokens_of_its_longer_text():
  tokenizer = vocabularies.train(WORDS * 5, 128)
  ids, mask = tokenizer.encode([("red", " ".join(WORDS))], 8)
  assert mask.all()
  assert tokenizer.tokens[ids[0, 1]] == "red"
  assert (ids[0] == tokenizer.tokens.index("[SEP]")).sum() == 2


def test_a_file_that_is_no_tokenizer_is_an_input_error(tmp_path):
  path = tmp_path / "tokenizer.json"
  with pytest.raises(errors.InputError, match="No tokenizer file"):
    tokenizing.Tokenizer.from_file(path)
  path.write_text("{}")
  with pytest.raises(errors.InputError, match="not a tokenizer.json"):
    tokenizing.Tokenizer.from_file(path)


# Splitting and sampling.


def examples(counts, length=3):
  """Rows whose first token id is their number, shuffled over the classes."""
  labels = np.repeat(np.arange(len(counts)), counts).astype(np.int32)
  labels = np.random.default_rng(0).permutation(labels)
  ids = np.arange(len(labels), dtype=np.int32)[:, None].repeat(length, 1)
  return row_batches.Examples(ids, np.ones(ids.shape, np.bool_), labels)


@pytest.mark.parametrize(
  "counts, wanted",
  [([600, 300, 100], 50), ([50_000, 30_000], 2000), ([2, 1], 1), ([9, 1], 1)],
)
def test_the_selection_split_is_stratified_disjoint_and_capped(counts, wanted):
  labels = examples(counts).labels
  train, selection = row_splits.selection_split(labels)
  assert len(selection) == wanted
  everything = np.sort(np.concatenate([train, selection]))
  np.testing.assert_array_equal(everything, np.arange(len(labels)))
  share = np.array(counts) * wanted / sum(counts)
  found = np.bincount(labels[selection], minlength=len(counts))
  assert (np.abs(found - share) < 1).all()
  np.testing.assert_array_equal(
    selection, row_splits.selection_split(labels)[1]
  )


def test_balanced_batches_come_class_by_class_with_one_hot_labels():
  rows = examples([7, 4, 5])
  sample = samplers.class_balanced_sampler(
    rows, rows_per_class=2, num_classes=3, seed=0
  )
  batch = sample(3)
  assert batch.inputs.shape == batch.mask.shape == (6, 3)
  assert batch.labels.dtype == np.float32
  np.testing.assert_array_equal(batch.labels, np.eye(3)[[0, 0, 1, 1, 2, 2]])
  np.testing.assert_array_equal(
    rows.labels[batch.inputs[:, 0]], [0, 0, 1, 1, 2, 2]
  )


def test_a_sampler_is_pure_in_seed_and_step():
  rows = examples([70, 40])

  def sampler(seed):
    return samplers.class_balanced_sampler(
      rows, rows_per_class=9, num_classes=2, seed=seed
    )

  first, other = sampler(1), sampler(2)
  forward = [first(step).inputs for step in range(30)]
  fresh = sampler(1)
  for step in reversed(range(30)):
    np.testing.assert_array_equal(fresh(step).inputs, forward[step])
  assert (first(0).inputs != other(0).inputs).any()
  assert (first(0).inputs != first(1).inputs).any()


def test_every_row_of_a_class_comes_once_an_epoch():
  rows = examples([12, 8])
  sample = samplers.class_balanced_sampler(
    rows, rows_per_class=4, num_classes=2, seed=5
  )
  batches = np.stack([sample(step).inputs[:, 0] for step in range(6)])
  for epoch in (batches[:3, :4], batches[3:, :4]):
    assert set(epoch.ravel()) == set(np.flatnonzero(rows.labels == 0))
  for epoch in (batches[:2, 4:], batches[2:4, 4:], batches[4:, 4:]):
    assert set(epoch.ravel()) == set(np.flatnonzero(rows.labels == 1))
  assert batches[:3, :4].tolist() != batches[3:, :4].tolist()


def test_a_batch_may_be_larger_than_a_class():
  sample = samplers.class_balanced_sampler(
    examples([2, 3]), rows_per_class=6, num_classes=2, seed=0
  )
  _, counts = np.unique(sample(0).inputs[:, 0], return_counts=True)
  assert sorted(counts) == [2, 2, 2, 3, 3]


def test_samplers_refuse_what_they_cannot_sample():
  with pytest.raises(errors.InputError, match="Class 1 of 2 has no rows"):
    samplers.class_balanced_sampler(
      examples([3, 0]), rows_per_class=1, num_classes=2, seed=0
    )
  with pytest.raises(errors.InputError, match="rows_per_class"):
    samplers.class_balanced_sampler(
      examples([3]), rows_per_class=0, num_classes=1, seed=0
    )


def test_taken_rows_keep_the_order_asked_for():
  taken = row_batches.take(examples([4, 4]), [5, 2, 2])
  assert taken.token_ids[:, 0].tolist() == [5, 2, 2]


# Imports, and real data.


def test_loading_imports_no_tensorflow_and_importing_no_tfds(folder):
  build(folder)
  program = (
    "import sys; from gmdistill.data import batches, loading; "
    "assert 'tensorflow_datasets' not in sys.modules; "
    "loading.load(loading.Options(name='tiny', dir=sys.argv[1])); "
    "assert 'tensorflow' not in sys.modules"
  )
  subprocess.run([sys.executable, "-c", program, str(folder)], check=True)


@pytest.mark.skipif(not SHARED.exists(), reason=f"no real data at {SHARED}")
def test_sst2_and_rte_have_their_published_sizes(folder):
  sst2 = sources.open_source(
    "glue/sst2", data_dir=str(SHARED), embedded_dir=folder
  )
  # Not loaded: reading all of it takes longer than all other tests together.
  assert sst2.builder.info.splits["train"].num_examples == 67_349
  assert sst2.text_keys == ("sentence",)
  assert sst2.label_names == ("negative", "positive")
  assert sources.reported_candidates(sst2) == ("validation",)
  assert len(sources.read(sst2, "validation").labels) == 872
  rte = loading.load(options(SHARED, name="glue/rte", max_length=64))
  assert rte.text_keys == ("sentence1", "sentence2")
  assert len(rte.train.labels) + len(rte.selection.labels) == 2490
  assert len(rte.reported.labels) == 277


def test_rows_that_share_a_phrase_are_found():
  def rows(*texts):
    ids = np.zeros((len(texts), 6), np.int32)
    for i, text in enumerate(texts):
      ids[i, : len(text)] = text
    return row_batches.Examples(ids, ids > 0, np.zeros(len(texts), np.int32))

  whole = rows([5, 6, 7, 8, 9, 4], [1, 2, 3])
  asked = rows(
    [6, 7, 8], [9, 6, 7, 8], [6, 7], [7, 6, 8], [1, 2, 9], [3, 0, 0], [2, 3]
  )
  assert overlap.sharing(asked, whole, 3).tolist() == [True, True] + [False] * 5
  assert overlap.sharing(asked, whole, 2)[[2, 4, 6]].all()
  assert not overlap.sharing(asked, whole, 7).any()
