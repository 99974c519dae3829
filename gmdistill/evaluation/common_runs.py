"""What rows of tokens have in common with others, word for word."""

from collections.abc import Sequence

import numpy as np


class _Windows:
  """Rows of numbers, laid end to end, whose windows grow by one at a time."""

  def __init__(self, rows: Sequence[Sequence[int]]):
    lengths_M = np.array([len(row) for row in rows], np.int64)
    self.row_T = np.repeat(np.arange(len(rows)), lengths_M)
    self._left_T = np.repeat(np.cumsum(lengths_M), lengths_M) - np.arange(
      lengths_M.sum()
    )
    flat = [np.asarray(row, np.uint64) for row in rows if len(row)]
    self._flat_T = np.concatenate([*flat, np.zeros(0, np.uint64)]) + np.uint64(
      1
    )
    self._hash_T = np.zeros_like(self._flat_T)
    self._length = 0

  def grow(self) -> None:
    """Makes every window one longer; equal hashes of others are rare."""
    last_T = np.roll(self._flat_T, -self._length)
    # Multiplication and sum wrap around, as a hash may.
    self._hash_T = (self._hash_T + last_T) * np.uint64(0x9E3779B97F4A7C15)
    self._hash_T ^= self._hash_T >> np.uint64(29)
    self._length += 1

  def starts(self) -> np.ndarray:
    """Returns where a window of the present length is whole."""
    return np.flatnonzero(self._left_T >= self._length)

  def hashes(self, starts: np.ndarray) -> np.ndarray:
    """Returns the hash of the window at each start."""
    return self._hash_T[starts]


def _in_common(
  ours: _Windows, theirs: _Windows
) -> tuple[np.ndarray, np.ndarray]:
  """Returns where our windows start, and whether others have them too."""
  starts = ours.starts()
  known, place = np.unique(ours.hashes(starts), return_inverse=True)
  if not len(known):
    return starts, np.zeros(0, bool)
  others = theirs.hashes(theirs.starts())
  at = np.minimum(np.searchsorted(known, others), len(known) - 1)
  shared = np.zeros(len(known), bool)
  shared[at[known[at] == others]] = True
  return starts, shared[place]


def longest_runs(
  rows: Sequence[Sequence[int]], others: Sequence[Sequence[int]]
) -> np.ndarray:
  """Returns the most consecutive tokens [M] that a row has with any other."""
  ours, theirs = _Windows(rows), _Windows(others)
  found_M = np.zeros(len(rows), np.int64)
  for length in range(1, max(map(len, rows), default=0) + 1):
    ours.grow()
    theirs.grow()
    starts, shared = _in_common(ours, theirs)
    if not shared.any():
      break
    found_M[ours.row_T[starts[shared]]] = length
  return found_M


def overlap(
  rows: Sequence[Sequence[int]], others: Sequence[Sequence[int]], length: int
) -> float:
  """Returns the share of windows of so many words that others have too."""
  ours, theirs = _Windows(rows), _Windows(others)
  for _ in range(length):
    ours.grow()
    theirs.grow()
  _, shared = _in_common(ours, theirs)
  return float(shared.mean()) if shared.size else 0.0
