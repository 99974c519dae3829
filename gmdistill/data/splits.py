"""How rows are parted: the selection split, and rows of a length."""

from collections.abc import Sequence

import numpy as np

from gmdistill import errors
from gmdistill.data import batches, formats

SELECTION_FRACTION = 0.05

SELECTION_ROWS = 2000  # at most

SPLIT_SEED = 20240229


def selection_split(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Cuts rows into a training part and a selection split, always the same.

  The selection split takes 5 % of the rows, at most 2,000 and where there are
  two rows at least one, in the proportions of the classes.

  Args:
    labels: [N] integers.

  Returns:
    The rows of the training part and those of the selection split, ascending.
  """
  classes, counts = np.unique(labels, return_counts=True)
  wanted = max(round(SELECTION_FRACTION * len(labels)), min(len(labels) - 1, 1))
  wanted = min(wanted, SELECTION_ROWS)
  shares = counts * wanted / len(labels)
  quotas = shares.astype(int)
  # The rows that rounding down left over go to the largest remainders.
  order = np.argsort(quotas - shares, kind="stable")
  quotas[order[: wanted - quotas.sum()]] += 1
  chosen = [
    np.random.default_rng([SPLIT_SEED, int(of_class)]).permutation(
      np.flatnonzero(labels == of_class)
    )[:quota]
    for of_class, quota in zip(classes, quotas, strict=True)
  ]
  selection = np.sort(np.concatenate(chosen))
  return np.setdiff1d(np.arange(len(labels)), selection), selection


def long_rows(
  examples: batches.Examples,
  min_tokens: int,
  field: str,
  label_names: Sequence[str],
) -> batches.Examples:
  """Returns the rows of at least `min_tokens` tokens.

  Raises:
    InputError: a class that has rows has none so long; names the field.
  """
  lengths_N = formats.without_slots(examples).mask.sum(axis=1)
  found = batches.take(examples, np.flatnonzero(lengths_N >= min_tokens))
  counts = np.bincount(found.labels, minlength=len(label_names))
  # A class too rare for the split is no fault of the lengths.
  had = np.bincount(examples.labels, minlength=len(label_names)) > 0
  if not counts[had].all():
    raise errors.InputError(
      f"{field}={min_tokens} leaves no row of class "
      f"{label_names[int(np.where(had, counts, 1).argmin())]}; use a smaller "
      "one."
    )
  return found
