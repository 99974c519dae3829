"""Diversity of texts, against values of other programs."""

import json
import pathlib

import numpy as np
import pytest

from gmdistill.evaluation import diversity

GOLDEN = pathlib.Path(__file__).parents[2].parent / (
  "shared/golden/text_diversity.json"
)


@pytest.fixture(scope="module")
def golden():
  if not GOLDEN.is_file():
    pytest.skip("no golden values beside this checkout")
  return json.loads(GOLDEN.read_text())


def rows_of(golden):
  return [text.split() for text in golden["corpus"]]


def test_distinct_ngrams_are_counted_as_elsewhere(golden):
  for n in (1, 2, 3):
    found = diversity.distinct(rows_of(golden), n)
    assert [*found] == golden["values"][f"distinct_{n}"]


def test_self_bleu_is_nltks(golden):
  values = golden["values"]
  found = [diversity.self_bleu(rows_of(golden), n) for n in (4, 2)]
  theirs = values["self_bleu_4 (NLTK smoothing method1)"]
  assert found == pytest.approx([theirs, values["self_bleu_2"]])


def test_the_vendi_score_is_that_of_the_kernel(golden):
  rows = rows_of(golden)
  words = sorted({word for row in rows for word in row})
  counts = np.array(
    [[row.count(word) for word in words] for row in rows], float
  )
  theirs = golden["values"]["vendi (unigram-count cosine kernel) q=1, q=2"]
  assert [diversity.vendi(counts, q) for q in (1, 2)] == pytest.approx(theirs)
  # More rows than features: the same by the covariance.
  many = np.random.default_rng(0).normal(size=(40, 5))
  unit = many / np.linalg.norm(many, axis=1, keepdims=True)
  shares = np.linalg.eigvalsh(unit @ unit.T / 40).clip(1e-300)
  expected = np.exp(-(shares * np.log(shares)).sum())
  assert diversity.vendi(many) == pytest.approx(expected)


def test_the_vendi_score_counts_equal_rows_once():
  eye = np.eye(3)
  assert diversity.vendi(eye) == pytest.approx(3)
  assert diversity.vendi(eye[[0, 1, 1, 0]]) == pytest.approx(2)


def test_texts_that_repeat_compress_and_say_each_other():
  same = [["a", "dull", "and", "slow", "film"]] * 20
  other = [[f"word{7919 * i % 1000 + j}" for j in range(5)] for i in range(20)]
  assert diversity.self_bleu(same) == pytest.approx(1)
  assert diversity.self_bleu(same) > diversity.self_bleu(other)
  assert diversity.gzip_ratio(same, 90) > diversity.gzip_ratio(other, 90)
