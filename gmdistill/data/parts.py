"""The three parts of a data set: to train on, to choose on, to report on."""

from typing import NamedTuple

import numpy as np

from gmdistill import errors
from gmdistill.data import sources, split_rows, splits, tables


class Whole(NamedTuple):
  """The labelled rows of a source, before a selection split is cut."""

  train: split_rows.Rows
  reported: split_rows.Rows
  is_cut: bool  # whether the reported rows are cut from the training split
  train_at: np.ndarray  # [N] places among the labelled rows of the split
  reported_at: np.ndarray
  dropped: int
  notes: tuple[str, ...]


def read(
  source: sources.Source, wanted: str = ""
) -> tuple[dict[str, split_rows.Rows], int, tuple[str, ...]]:
  """Reads a source with classes and parts its rows.

  Returns:
    The rows of `train`, `selection` and `reported`; how many were dropped; and
    a line for whatever of it is unusual.

  Raises:
    errors.InputError: a part would be empty.
  """
  found = whole(source, wanted)
  notes = list(found.notes)
  kept, chosen = splits.selection_split(found.train.labels)
  if np.array_equal(kept, chosen):
    notes.append(
      "no class has a training row to spare: choices are made on the training "
      "rows themselves, and say nothing of others"
    )
  rows = {"train": kept, "selection": chosen}
  taken = {part: found.train.take(of_part) for part, of_part in rows.items()}
  if isinstance(source.builder, tables.Table):
    notes = source.builder.notes() + notes
  return {**taken, "reported": found.reported}, found.dropped, tuple(notes)


def whole(source: sources.Source, wanted: str = "") -> Whole:
  """Reads a source with classes: its training rows, and those to report on.

  Raises:
    errors.InputError: a part would be empty.
  """
  notes = []
  train = sources.read(source, "train")
  is_cut, train_at = False, np.arange(len(train.labels))
  dropped, unseen = train.dropped, 0
  if not len(train.labels):
    raise errors.InputError(
      f"No row of the 'train' split of {source.name} has a label"
    )
  if sources.reported_candidates(source, wanted):
    _, reported = sources.read_reported(source, wanted)
    dropped, unseen = dropped + reported.dropped, reported.unseen
    reported_at = np.arange(len(reported.labels))
  else:
    train_at, reported_at = splits.reported_split(train.labels)
    if not len(reported_at):
      raise errors.InputError(
        f"{source.name} has a 'train' split alone, of which no class has a row "
        "to spare; give it more rows, or a 'test' split"
      )
    is_cut = True
    notes.append(
      f"{source.name} has a 'train' split alone: "
      f"{len(reported_at)} of "
      f"its {len(train.labels)} rows are cut as the reported split (seed "
      f"{splits.REPORTED_SEED})"
    )
    train, reported = train.take(train_at), train.take(reported_at)
  if unseen:
    notes.append(
      f"{unseen} rows of the reported split have labels that no training row "
      "has, and are left out"
    )
  return Whole(
    train, reported, is_cut, train_at, reported_at, dropped, tuple(notes)
  )
