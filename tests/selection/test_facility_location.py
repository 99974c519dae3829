"""Facility location beside a score: off at 0, greedy near the best, and as far
as it counts, rows that stand for others."""

import itertools

import numpy as np
import pytest
from conftest import make_examples

from gmdistill.selection import diversity, pools, pursuit


def of(units, weight):
  units = np.asarray(units, np.float32)
  units = units / np.linalg.norm(units, axis=1, keepdims=True)
  return diversity.Diversity(weight, units)


def drawn(rows=12, seed=0):
  rng = np.random.default_rng(seed)
  return rng.normal(size=(rows, 3)), rng.random(rows)


def value(chosen, scores, diverse):
  cover = diversity.share(diverse, np.array(chosen))
  return scores[list(chosen)].sum() + diverse.weight * np.std(scores) * cover


def test_a_weight_of_0_is_off_to_the_bit():
  examples = make_examples(rows=40)
  units, _ = drawn(40)
  scores = (
    np.random.default_rng(1).integers(0, 5, 40).astype(float)
  )  # with ties
  scores[3] = np.nan
  pool = pools.Pool(None, examples, examples, 2)
  for tokens in (0, 12):
    before = pools.best(scores, pool, 6, tokens)
    off = pools.best(scores, pool, 6, tokens, of(units, 0.0))
    np.testing.assert_array_equal(before, off)
    on = pools.best(scores, pool, 6, tokens, of(units, 100.0))
    assert before.tolist() != on.tolist() and 3 not in on
  sketches = np.random.default_rng(2).normal(size=(40, 6)) + 1
  before = pursuit.pursue(sketches, examples.labels, 4)
  off = pursuit.pursue(sketches, examples.labels, 4, of(units, 0.0))
  for one, other in zip(before, off, strict=True):
    np.testing.assert_array_equal(one, other)
  on, _ = pursuit.pursue(sketches, examples.labels, 4, of(units, 100.0))
  assert set(on) != set(before[0])


@pytest.mark.parametrize("weight", [0.5, 20.0])
def test_greedy_rows_have_most_of_the_best_rows_value(weight):
  for seed in range(5):
    units, scores = drawn(seed=seed)
    diverse = of(units, weight)
    chosen = list(itertools.islice(diversity.ordered(scores, diverse), 3))
    assert len(set(chosen)) == 3
    best = max(
      value(rows, scores, diverse)
      for rows in itertools.combinations(range(len(scores)), 3)
    )
    assert (
      (1 - 1 / np.e) * best <= value(chosen, scores, diverse) <= best + 1e-6
    )


def test_what_a_row_adds_is_what_the_sum_grows_by():
  units, scores = drawn()
  diverse = of(units, 3.0)
  cover, chosen = diversity.Cover(diverse, scores), []
  for row in (4, 1, 9):
    before = value(chosen, scores, diverse) if chosen else 0.0
    after = value([*chosen, row], scores, diverse)
    gained = cover.gains()[row] + scores[row]
    assert gained == pytest.approx(after - before, abs=1e-5)
    cover.add(row)
    chosen.append(row)


def test_rows_that_are_like_a_chosen_one_come_later():
  # Two groups; the first scores higher throughout.
  units = [[1, 0.01 * i] for i in range(4)] + [[0.01 * i, 1] for i in range(4)]
  scores = np.array([1.0, 0.99, 0.98, 0.97, 0.5, 0.49, 0.48, 0.47])
  plain = list(itertools.islice(diversity.ordered(scores, of(units, 0)), 2))
  diverse = list(itertools.islice(diversity.ordered(scores, of(units, 9)), 2))
  assert plain == [0, 1]
  assert diverse[0] < 4 <= diverse[1]
