"""A data set in files of rows: its columns, splits, classes and remarks."""

import functools
import hashlib
import os
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as arrow_parquet

from gmdistill import errors
from gmdistill.data import (
  labels,
  split_rows,
  table_columns,
  table_files,
  table_hub,
  table_reading,
  table_rows,
)
from gmdistill.system import paths


class Table:
  """A data set in files, whose columns are known; its rows are read when asked
  for, once."""

  def __init__(self, name: str, wanted: table_columns.Columns):
    """Finds the files and their columns.

    Raises:
      errors.InputError: no file, or columns that do not tell.
    """
    self.name = name
    on_the_hub = name.startswith(table_files.ON_THE_HUB)
    find = table_hub.files if on_the_hub else table_files.find
    self.files = find(name)
    head = self.files[0]
    names = table_rows.columns(head)
    chunks = table_rows.chunks(head, names)
    sample: dict[str, Any] = next(
      (x.columns for x in chunks), dict.fromkeys(names, ())
    )
    if not any(map(len, sample.values())):
      raise errors.InputError(
        f"{head.path} has names of columns, but no row; add rows"
      )
    self.columns = table_columns.choose(str(head.path), sample, wanted)
    self._all = names
    for file in self.files[1:]:
      missing = [
        x for x in self.columns.names if x not in table_rows.columns(file)
      ]
      if missing:
        raise errors.InputError(
          f"{file.path} has no column {missing[0]!r}, which {head.path} has; "
          "give files of the same columns"
        )

  def identity(self) -> dict[str, Any]:
    """Returns what decides the rows."""
    return table_files.identity(self.files)

  def splits(self) -> list[str]:
    """Returns the names of the splits that have rows or files."""
    if self.columns.split:
      return list(self._read.parts)
    named = {file.split or "train" for file in self.files}
    return [
      split for split in ("train", "validation", "test") if split in named
    ]

  def classes(self) -> tuple[str, ...]:
    """Returns the classes: those that a file names, or the training labels.

    Whole numbers are in their order, words in the alphabet's.
    """
    if "train" not in self.splits():
      raise errors.InputError(
        f"{self.name} has no rows to train on, only those of "
        f"{', '.join(self.splits())}; give a file or rows of 'train' too"
      )
    found, wanted = self._sorted_classes(), self.columns.classes
    if wanted and sorted(wanted) != sorted(found):
      raise errors.InputError(
        f"config.data.classes={','.join(wanted)} are not the classes of "
        f"{self.name}, which are {', '.join(found)}; give these, in their order"
      )
    return wanted or found

  def _sorted_classes(self) -> tuple[str, ...]:
    given = self._given_names
    if given:
      return given
    read, where = self._read, f"{self.columns.label!r} of {self.name}"
    used = np.unique(read.parts["train"].names)
    names = [read.names[x] for x in used if x >= 0]
    if len(names) == 1:
      raise errors.InputError(
        f"{where}: every training row has the label {names[0]!r}; a data set "
        "has two classes or more: add rows of another, or name another column "
        "in config.data.label_key"
      )
    found = [table_reading.number(name) for name in names]
    numbers = [x for x in found if x is not None]
    if len(numbers) == len(names):
      fraction = [n for n, x in zip(names, numbers, strict=True) if x % 1]
      if fraction:
        place = read.first[f"label {fraction[0]}"]
        raise errors.InputError(
          f"{place}: the label {fraction[0]} of {self.columns.label!r} is no "
          "class; classes are words or whole numbers: name another column in "
          "config.data.label_key"
        )
      return tuple(str(x) for x in labels.classes(map(int, numbers), where))
    return labels.classes(names, where)

  def part(self, split: str) -> split_rows.Rows:
    """Returns a split's labelled rows."""
    part, read = self._read.parts[split], self._read
    numbers = {name: number for number, name in enumerate(self.classes())}
    whole = bool(numbers) and all(
      table_reading.number(x) is not None for x in numbers
    )
    of_name = [
      numbers.get(_whole(name) if whole else name, -1) for name in read.names
    ]
    if given := self._given_names:
      of_name = [
        numbers[given[int(name)]] if _is_index(name, given) else number
        for name, number in zip(read.names, of_name, strict=True)
      ]
    label_N = np.array([*of_name, -1], np.int32)[part.names]
    known = np.flatnonzero(label_N >= 0)
    unseen = 0
    if not self._given_names:
      unseen = int(((label_N < 0) & (part.names >= 0)).sum())
    return split_rows.Rows(
      part.texts.take(known),
      label_N[known],
      len(label_N) - len(known),
      unseen,
      [part.rationales[x] for x in known] if part.rationales else [],
      None if part.groups is None else part.groups[known],
      [part.topics[x] for x in known] if part.topics else [],
      read.group_names,
    )

  def notes(self) -> list[str]:
    """Returns lines of what was chosen, and of what is unusual."""
    texts = " and ".join(map(repr, self.columns.texts))
    line = f"{self.name}: the text is {texts}, "
    line += f"the label {self.columns.label!r}, "
    if self.columns.split:
      line += f"the split {self.columns.split!r}, "
    lines = [f"{line}of the columns {', '.join(map(repr, self._all))}"]
    for what, count in self._read.counts.items():
      lines.append(f"{count} {what}, the first at {self._read.first[what]}")
    return lines + self._of_copies() + self._of_rare()

  def _of_copies(self):
    parts = self._read.parts
    if "train" not in parts:
      return []
    lines = []
    train = parts["train"]
    copies = len(train.hashes) - len(np.unique(train.hashes))
    if copies:
      both = np.stack([train.hashes, train.names.astype(np.int64)], axis=1)
      other = len(np.unique(both, axis=0)) - len(np.unique(train.hashes))
      said = f", {other} of them with another label" if other else ""
      lines.append(f"{copies} training rows repeat the text of another{said}")
    for split, part in parts.items():
      same = int(np.isin(part.hashes, train.hashes).sum())
      if split != "train" and same:
        lines.append(f"{same} rows of {split} have the text of a training row")
    return lines

  def _of_rare(self):
    names = self.classes()
    counts = np.bincount(self.part("train")[1], minlength=len(names))
    rare = [name for name, n in zip(names, counts, strict=True) if n == 1]
    if not rare:
      return []
    said = ", ".join(rare[:5]) + ", ..." * (len(rare) > 5)
    return [
      f"{len(rare)} classes have one training row each ({said}), which is "
      "trained on and never chosen on"
    ]

  @functools.cached_property
  def _given_names(self):
    return table_rows.class_names(self.files[0], self.columns.label)

  @functools.cached_property
  def _read(self) -> table_reading.Read:
    return table_reading.read(self.files, self.columns)


def _is_index(name, names):
  value = table_reading.number(name)
  return value is not None and not value % 1 and 0 <= value < len(names)


def _whole(name):
  """Returns a label that is a whole number in its one spelling."""
  value = table_reading.number(name)
  return name if value is None or value % 1 else str(int(value))


def kept(data: Any) -> str:
  """Writes a table from memory to the cache, and returns its file's name.

  Args:
    data: A table of pandas, Arrow or the like, or a list of dicts.

  Raises:
    errors.InputError: it is none of these.
  """
  try:
    if isinstance(data, list | tuple):
      # Of any row: what the first one lacks is a column too.
      names = dict.fromkeys(name for row in data for name in row.keys())
      data = {name: [row.get(name) for row in data] for name in names}
    table = pa.table(data)
  except (pa.ArrowException, TypeError, ValueError, AttributeError) as error:
    raise errors.InputError(
      f"these rows make no table ({' '.join(str(error).split())[:120]}); give "
      "a pandas or Arrow table, or a list of dicts of the same keys"
    ) from error
  sink = pa.BufferOutputStream()
  arrow_parquet.write_table(table, sink)
  content = sink.getvalue().to_pybytes()
  name = f"{hashlib.sha256(content).hexdigest()[:20]}.parquet"
  place = paths.cache_folder() / "tables" / name
  if not place.is_file():
    place.parent.mkdir(parents=True, exist_ok=True)
    paths.write_bytes(place, content)
  return os.fspath(place)
