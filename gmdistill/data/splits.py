"""How rows are parted: the selection split, and rows of a length."""

from collections.abc import Sequence

import numpy as np

from gmdistill import errors
from gmdistill.data import batches, formats

SELECTION_FRACTION = 0.05

SELECTION_ROWS = 2000  # at most

# Of a set that has a training split alone.
REPORTED_FRACTION = 0.2

REPORTED_ROWS = 5000

SPLIT_SEED = 20240229

REPORTED_SEED = 20240301


def selection_split(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Cuts rows into a training part and a selection split, always the same.

  The selection split takes 5 % of the rows, at most 2,000 and where there are
  two rows at least one, in the proportions of the classes; but every class
  keeps a row to train on. Where no class has one to spare, both parts are all
  rows.

  Args:
    labels: [N] integers.

  Returns:
    The rows of the training part and those of the selection split, ascending.
  """
  wanted = max(round(SELECTION_FRACTION * len(labels)), min(len(labels) - 1, 1))
  kept, cut = _cut(labels, min(wanted, SELECTION_ROWS), SPLIT_SEED)
  return (kept, cut) if len(cut) else (kept, kept)


def reported_split(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Cuts a reported split out of a set that has none, always the same.

  It takes 20 % of the rows, at most 5,000, as `selection_split` does; none,
  where no class has a row to spare.

  Args:
    labels: [N] integers.

  Returns:
    The rows of the training part and those of the reported split, ascending.
  """
  wanted = max(round(REPORTED_FRACTION * len(labels)), 1)
  return _cut(labels, min(wanted, REPORTED_ROWS), REPORTED_SEED)


def fewer_reported(corpus: batches.Corpus, at_most: int) -> batches.Corpus:
  """Returns a corpus that reports on a part of its reported split.

  Args:
    corpus: A whole one. Its fingerprint stays: nothing is trained or chosen on
      reported rows.
    at_most: Rows of that part, in the proportions of the classes; 0: all.
  """
  labels = corpus.reported.labels
  chosen = few_of(labels, at_most)
  if len(chosen) == len(labels):
    return corpus
  note = (
    f"reported: {len(chosen)} of {len(labels)} rows, as "
    f"config.data.reported_rows={at_most} asks"
  )
  return corpus._replace(
    reported=batches.take(corpus.reported, chosen), notes=(*corpus.notes, note)
  )


def few_of(labels: np.ndarray, at_most: int) -> np.ndarray:
  """Returns the reported rows that `fewer_reported` leaves, ascending."""
  if not 0 < at_most < len(labels):
    return np.arange(len(labels))
  return _cut(labels, at_most, REPORTED_SEED)[1]


def _cut(
  labels: np.ndarray, wanted: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
  """Returns what is left, and so many rows in the proportions of the classes.

  Every class keeps one.
  """
  classes, counts = np.unique(labels, return_counts=True)
  wanted = min(wanted, len(labels) - len(classes))
  shares = counts * wanted / max(len(labels), 1)
  quotas = np.minimum(shares.astype(int), counts - 1)
  while quotas.sum() < wanted:
    # The rows that rounding down left over go to the largest remainders.
    order = np.argsort(quotas - shares, kind="stable")
    spare = order[quotas[order] < counts[order] - 1]
    quotas[spare[: wanted - quotas.sum()]] += 1
  everything = np.arange(len(labels))
  chosen = [
    np.random.default_rng([seed, int(of_class)]).permutation(
      np.flatnonzero(labels == of_class)
    )[:quota]
    for of_class, quota in zip(classes, quotas, strict=True)
  ]
  cut = np.sort(np.concatenate([everything[:0], *chosen]))
  return np.setdiff1d(everything, cut), cut


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
