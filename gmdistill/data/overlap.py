"""Rows that have tokens in common."""

import functools

import numpy as np

from gmdistill.data import batches


def sharing(
  examples: batches.Examples, others: batches.Examples, length: int
) -> np.ndarray:
  """Returns whether each row has `length` tokens in a row in common with any.

  Phrases cut from the same sentence are found so. Rows shorter than that share
  nothing.

  Args:
    examples: The rows [N] that are asked about.
    others: The rows that they are compared with.
    length: Consecutive tokens.

  Returns:
    [N] bools.
  """
  # A window is known by a random sum of its ids: equal sums of different
  # windows are as rare as equal hashes.
  factors = np.random.default_rng(0).integers(2**62, size=length)

  def windows(rows):
    ids = rows.token_ids.astype(np.int64)
    if ids.shape[1] < length:
      return np.zeros((len(ids), 0), np.int64), np.zeros((len(ids), 0), bool)
    view = functools.partial(
      np.lib.stride_tricks.sliding_window_view, window_shape=length, axis=1
    )
    return view(ids) @ factors, view(rows.mask).all(axis=-1)

  theirs, whole = windows(others)
  ours, ours_whole = windows(examples)
  found = np.isin(ours, theirs[whole]) & ours_whole
  return found.any(axis=1)
