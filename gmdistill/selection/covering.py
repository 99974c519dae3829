"""Rows that stand for all: greedy facility location."""

import numpy as np


def cover(near_NxN: np.ndarray, count: int) -> list[int]:
  """Returns so many rows that every row has one of near to it, best first.

  Greedy, each time the row that adds most to the sum over all rows of how near
  the nearest chosen one is: within 1 - 1/e of the best rows (Nemhauser et al.
  1978).

  Args:
    near_NxN: How near two rows are, from -1 to 1.
    count: At most N.
  """
  nearest_N = np.full(len(near_NxN), -1.0, near_NxN.dtype)
  chosen: list[int] = []
  for _ in range(count):
    gain_N = np.maximum(near_NxN - nearest_N[:, None], 0).sum(axis=0)
    gain_N[chosen] = -1.0
    row = int(gain_N.argmax())
    nearest_N = np.maximum(nearest_N, near_NxN[:, row])
    chosen.append(row)
  return chosen
