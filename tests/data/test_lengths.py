"""Rows in lots of a length: none is lost, and few places are padding."""

import itertools

import numpy as np
import pytest

from gmdistill.data import lengths


def masks(lengths_N, full):
  return np.arange(full) < np.asarray(lengths_N)[:, None]


def places(lots):
  return sum(
    -(-len(rows) // lengths.ROWS) * lengths.ROWS * x for x, rows in lots
  )


CASES = {
  "spread": (np.random.default_rng(0).integers(3, 65, 900), 64),
  "short": (np.random.default_rng(1).integers(2, 9, 300), 64),
  "odd": (np.random.default_rng(2).integers(0, 38, 500), 37),
  "equal": (np.full(200, 16), 16),
  "one row": (np.array([0]), 5),
  "one place": (np.array([1, 1, 0]), 1),
}


@pytest.mark.parametrize("name", CASES)
def test_every_row_is_in_one_lot_with_all_its_tokens(name):
  lengths_N, full = CASES[name]
  lots = list(lengths.lots(masks(lengths_N, full)))
  rows = np.sort(np.concatenate([x for _, x in lots]))
  np.testing.assert_array_equal(rows, np.arange(len(lengths_N)))
  cuts = [cut for cut, _ in lots]
  assert cuts == sorted(set(cuts)) and len(cuts) <= 3 and cuts[-1] <= full
  assert all(lengths_N[x].max() <= cut for cut, x in lots)


@pytest.mark.parametrize("name", CASES)
def test_no_three_lengths_of_sixteenths_have_fewer_places(name):
  lengths_N, full = CASES[name]
  step = -(-full // 16)
  grid = [*range(step, full, step), full]
  best = np.inf
  for cuts in itertools.combinations_with_replacement(grid, 3):
    edges = [-1, *cuts]
    lots = [
      (cut, np.flatnonzero((lengths_N > floor) & (lengths_N <= cut)))
      for floor, cut in itertools.pairwise(edges)
    ]
    if sum(len(x) for _, x in lots) == len(lengths_N):
      best = min(best, places(lots))
  assert places(list(lengths.lots(masks(lengths_N, full)))) == best
