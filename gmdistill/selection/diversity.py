"""Rows that score high and stand for others: facility location beside a score.

What is added to the scores of chosen rows S is a weight times the mean over all
rows i of the largest of max(cos(f_i, f_j), 0) over j in S, of features f
(Lin and Bilmes 2011): it grows less with every row that is like a chosen one.
"""

from collections.abc import Iterator
from typing import NamedTuple

import jax
import numpy as np

from gmdistill.data import batches
from gmdistill.selection import coresets
from gmdistill.selection import features as student_features
from gmdistill.students import problems


class Diversity(NamedTuple):
  """How much it counts that rows stand for others, and what is near to what."""

  weight: float  # 0: nothing
  units_NxF: np.ndarray  # features of length 1

  def take(self, rows: np.ndarray) -> "Diversity":
    """Returns the same of some rows."""
    return Diversity(self.weight, self.units_NxF[rows])


def of_features(
  problem: problems.Problem, rows: batches.Examples, weight: float
) -> Diversity:
  """Returns the diversity of rows by a fresh student's features."""
  params = problem.init(jax.random.key(coresets.CORESET_SEED))
  found = student_features.features(problem, params, rows)
  lengths = np.linalg.norm(found, axis=1, keepdims=True)
  return Diversity(weight, found / np.maximum(lengths, 1e-12))


class Cover:
  """What chosen rows stand for, and what each other row would add."""

  def __init__(self, diversity: Diversity, scores_N: np.ndarray):
    """Starts with no row.

    Args:
      diversity: Of the N rows.
      scores_N: Beside which it stands; their standard deviation is its unit.
    """
    self._scale = diversity.weight * (float(np.std(scores_N)) or 1.0)
    units_NxF = diversity.units_NxF
    self._near_NxN = np.maximum(units_NxF @ units_NxF.T, 0)
    self._nearest_N = np.zeros(len(units_NxF), units_NxF.dtype)

  def gains(self) -> np.ndarray:
    """Returns what each row [N] would add to the chosen ones."""
    gap_NxN = np.maximum(self._near_NxN - self._nearest_N[:, None], 0)
    return self._scale * gap_NxN.mean(axis=0)

  def add(self, row: int) -> None:
    """Chooses a row."""
    self._nearest_N = np.maximum(self._nearest_N, self._near_NxN[:, row])


def share(diversity: Diversity, chosen: np.ndarray) -> float:
  """Returns how near all rows are to the nearest of the chosen, from 0 to 1."""
  units_NxF = diversity.units_NxF
  near_NxK = units_NxF @ units_NxF[chosen].T
  return float(np.maximum(near_NxK.max(axis=1), 0).mean())


def ordered(scores_N: np.ndarray, diversity: Diversity | None) -> Iterator[int]:
  """Yields rows greedily: each time what adds most to scores and diversity.

  The sum is submodular, so that the first k rows, of scores of at least 0, have
  at least 1 - 1/e of the best k's (Nemhauser et al. 1978). Without diversity,
  the highest score first; of equal ones the first.
  """
  if diversity is None or not diversity.weight:
    yield from np.argsort(-scores_N, kind="stable").tolist()
    return
  cover = Cover(diversity, scores_N)
  free_N = np.ones(len(scores_N), bool)
  while free_N.any():
    gains_N = np.where(free_N, scores_N + cover.gains(), -np.inf)
    row = int(gains_N.argmax())
    free_N[row] = False
    cover.add(row)
    yield row
