"""The three parts of a data set: to train on, to choose on, to report on."""

import numpy as np

from gmdistill import errors
from gmdistill.data import sources, split_rows, splits, tables


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
  notes = []
  whole = sources.read(source, "train")
  dropped, unseen = whole.dropped, 0
  if not len(whole.labels):
    raise errors.InputError(
      f"No row of the 'train' split of {source.name} has a label"
    )
  if sources.reported_candidates(source, wanted):
    _, reported = sources.read_reported(source, wanted)
    dropped, unseen = dropped + reported.dropped, reported.unseen
  else:
    kept, cut = splits.reported_split(whole.labels)
    if not len(cut):
      raise errors.InputError(
        f"{source.name} has a 'train' split alone, of which no class has a row "
        "to spare; give it more rows, or a 'test' split"
      )
    notes.append(
      f"{source.name} has a 'train' split alone: {len(cut)} of its "
      f"{len(whole.labels)} rows are cut as the reported split (seed "
      f"{splits.REPORTED_SEED})"
    )
    whole, reported = whole.take(kept), whole.take(cut)
  if unseen:
    notes.append(
      f"{unseen} rows of the reported split have labels that no training row "
      "has, and are left out"
    )
  kept, chosen = splits.selection_split(whole.labels)
  if np.array_equal(kept, chosen):
    notes.append(
      "no class has a training row to spare: choices are made on the training "
      "rows themselves, and say nothing of others"
    )
  rows = {"train": kept, "selection": chosen}
  taken = {part: whole.take(of_part) for part, of_part in rows.items()}
  if isinstance(source.builder, tables.Table):
    notes = source.builder.notes() + notes
  return {**taken, "reported": reported}, dropped, tuple(notes)
