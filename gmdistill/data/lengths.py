"""Rows by their lengths, so that short ones have little padding."""

from collections.abc import Iterator

import numpy as np

ROWS = 64  # of a batch, as most splits are read

_PARTS = 16  # of the longest row, to whose multiples rows are cut


def lots(
  mask_NxL: np.ndarray, batch: int = ROWS
) -> Iterator[tuple[int, np.ndarray]]:
  """Parts rows into at most three lots, each of which is cut at one length.

  The lengths are those, of sixteenths of L, at which batches of so many
  rows have the fewest places.

  Args:
    mask_NxL: True at the tokens of each row, which come first.
    batch: Rows that are read at a time; the last ones of a lot are fewer.

  Yields:
    The length that the rows of a lot are cut at, ascending, and their numbers;
    every row is in exactly one lot, and none of its tokens is lost.
  """
  full, floor = mask_NxL.shape[1], -1
  lengths_N = mask_NxL.sum(axis=1)
  for cut in _cuts(lengths_N, full, batch):
    rows = np.flatnonzero((lengths_N > floor) & (lengths_N <= cut))
    floor = cut
    if rows.size:
      yield cut, rows


def _cuts(lengths_N, full, batch):
  """Returns three ascending lengths; no row is longer than the last."""
  step = -(-full // _PARTS)
  grid_G = np.minimum(np.arange(1, -(-full // step) + 1) * step, full)
  up_to_G = np.searchsorted(np.sort(lengths_N), grid_G, side="right")
  last = int(np.argmax(up_to_G == len(lengths_N)))

  def places(rows, cut):
    return -(-rows // batch) * batch * cut

  first_GxG, second_GxG = np.meshgrid(
    np.arange(last + 1), np.arange(last + 1), indexing="ij"
  )
  places_GxG = (
    places(up_to_G[first_GxG], grid_G[first_GxG])
    + places(up_to_G[second_GxG] - up_to_G[first_GxG], grid_G[second_GxG])
    + places(up_to_G[last] - up_to_G[second_GxG], grid_G[last])
  )
  places_GxG = np.where(first_GxG <= second_GxG, places_GxG, np.inf)
  first, second = np.unravel_index(int(places_GxG.argmin()), places_GxG.shape)
  return sorted({int(grid_G[x]) for x in (first, second, last)})
