"""Copies among rows whose copies are known."""

import numpy as np
import pytest

from gmdistill import errors
from gmdistill.data import loading, sources
from gmdistill.selection import deduplication

each_method = pytest.mark.parametrize("method", deduplication.METHODS)


def bag_of_words(texts):
  """Features of which words a text has, whatever their order."""
  found = np.zeros((len(texts), 4096), np.float32)
  for row, text in enumerate(texts):
    for word in deduplication.normalised(text).split():
      found[row, hash_of(word)] += 1.0
  return found


def hash_of(word):
  return sum(ord(c) * 31**i for i, c in enumerate(word)) % 4096


def copies_of(method, texts, front=0, are_fixed=True, **options):
  rows = deduplication.Rows(
    texts, lambda: bag_of_words(texts), front, are_fixed
  )
  chosen = deduplication.Options(**options)
  return deduplication.METHODS[method](rows, chosen)


@pytest.fixture(scope="module")
def texts():
  """Texts of the embedded corpus, none of which is a copy of another."""
  source = loading.opened(loading.Options("docstrings"))
  texts = list(sources.read(source, "train").texts)[::20]
  texts = [x for x in texts if len(x.split()) > 12]
  for method in deduplication.METHODS:
    of = copies_of(method, texts, clusters=1).of
    texts = [text for text, copy in zip(texts, of, strict=True) if copy < 0]
  assert len(texts) > 100
  return texts


def planted(kind, text):
  words = text.split()
  if kind == "exact":
    return f"  {text.upper()} !"
  if kind == "minhash":  # one word is another
    return " ".join([*words[:-1], "elsewhere"])
  return " ".join(reversed(words))  # semantic: of features that are of words


# What each method finds of what is planted, by how a row was changed.
FINDS = {
  "exact": {"exact"},
  "minhash": {"exact", "minhash"},
  "semantic": {"exact", "semantic"},
}


@each_method
def test_planted_copies_are_recalled_and_nothing_else(method, texts):
  rng = np.random.default_rng(0)
  for kind in deduplication.METHODS:
    chosen = rng.choice(len(texts), 40, replace=False)
    copies = [planted(kind, texts[i]) for i in chosen]
    # The later of two is the copy, but of what lies farther from a centroid.
    of = copies_of(
      method, [*texts, *copies], len(texts), are_fixed=True, clusters=1
    ).of
    assert (of[: len(texts)] < 0).all()  # precision 1: no row is made a copy
    right = of[len(texts) :] == chosen
    assert ((of[len(texts) :] < 0) | right).all()
    if kind in FINDS[method]:
      assert right.mean() >= (1.0 if kind == "exact" else 0.9), kind


@each_method
def test_each_dropped_row_has_a_kept_one_that_stands_for_it(method):
  texts = ["a b c d e f g", "A b c d e f g!", "one two three", "a b c d e f g"]
  found = copies_of(method, texts)
  dropped = np.flatnonzero(found.of >= 0)
  assert len(dropped) == 2 and 2 not in dropped
  assert (found.of[found.of[dropped]] < 0).all()
  assert (found.similarity[dropped] > 0.9).all()


@each_method
def test_rows_that_are_reported_on_stay_and_their_copies_go(method):
  texts = ["the same text", "the same text", "the same text", "another one"]
  fixed = copies_of(method, texts, front=2, are_fixed=True).of
  assert (fixed[:2] < 0).all() and fixed[2] in (0, 1) and fixed[3] < 0
  free = copies_of(method, texts, front=2, are_fixed=False).of
  assert (free[:2] >= 0).sum() == 1 and 0 <= free[2] < 2


def test_a_text_of_signs_alone_is_no_copy_of_another():
  assert copies_of("exact", ["!!", "??", "", "!!"]).of.tolist() == [
    -1,
    -1,
    -1,
    0,
  ]
  assert deduplication.normalised(("A b.", "c")) == "a b\nc"


def test_vowels_that_are_marks_tell_texts_apart_and_glyph_choices_do_not():
  texts = ["की", "का", "की!", "good ❤", "good ❤\ufe0f"]
  assert copies_of("exact", texts).of.tolist() == [-1, -1, 0, -1, 3]


def test_a_similarity_of_one_is_an_equal_set_of_n_grams():
  texts = ["a text of words", "a text of words", "a text of word"]
  found = copies_of("minhash", texts, similarity=1.0).of
  assert found.tolist() == [-1, 0, -1]


def test_every_seed_hashes():
  for seed in (0, 2**32 - 1):  # the first and the last of `fields.Seed`
    found = copies_of("minhash", ["a text", "a text"], seed=seed)
    assert found.of.tolist() == [-1, 0]


def test_a_cosine_of_one_is_an_equal_feature_whatever_its_rounding():
  features = np.random.default_rng(0).normal(size=(60, 384)).astype(np.float32)
  twice = np.concatenate([features, features])
  rows = deduplication.Rows(["a"] * 120, lambda: twice, 0, False)
  options = deduplication.Options(cosine=1.0, clusters=1)
  found = deduplication.semantic(rows, options).of
  assert (found >= 0).sum() == 60


def test_too_few_permutations_are_refused():
  with pytest.raises(errors.InputError, match="dedup.permutations=1 .*more"):
    copies_of("minhash", ["a"], permutations=1)
