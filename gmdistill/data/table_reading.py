"""Rows of files, read once in bounded memory: what is checked and mended.

Texts go to an Arrow file that is mapped, not held; labels, and eight bytes a
row that tell copies, are held.
"""

import contextlib
import math
import os
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from gmdistill import errors
from gmdistill.data import (
  labels,
  table_chunks,
  table_columns,
  table_files,
  table_rows,
)
from gmdistill.system import paths


class Texts(Sequence[Any]):
  """Texts, or pairs of them, that lie in a mapped file.

  A slice is a list; `take` chooses rows and reads none.
  """

  def __init__(self, batches: Sequence[Any], rows: np.ndarray, width: int):
    """Takes Arrow batches, the rows of them that count, and texts a row."""
    self._batches, self._rows, self._width = batches, rows, width
    self._starts = np.cumsum([0, *map(len, batches)])

  def __len__(self) -> int:
    """Returns the number of rows."""
    return len(self._rows)

  def __getitem__(self, key: Any) -> Any:
    """Returns a row, or a list of rows."""
    if isinstance(key, slice):
      return self._read(self._rows[key])
    return self._read(self._rows[[key]])[0]

  def __iter__(self) -> Iterator[Any]:
    """Yields every row, some thousand read at a time."""
    for start in range(0, len(self), table_chunks.ROWS):
      yield from self[start : start + table_chunks.ROWS]

  def take(self, chosen: np.ndarray) -> "Texts":
    """Returns the chosen rows."""
    return Texts(self._batches, self._rows[chosen], self._width)

  def _read(self, rows):
    found: list[Any] = [None] * len(rows)
    batch_of = np.searchsorted(self._starts, rows, side="right") - 1
    for batch in np.unique(batch_of):
      at = np.flatnonzero(batch_of == batch)
      part = self._batches[batch].take(pa.array(rows[at] - self._starts[batch]))
      columns = [x.to_pylist() for x in part.columns[: self._width]]
      values = columns[0] if self._width == 1 else zip(*columns, strict=True)
      for place, value in zip(at, values, strict=True):
        found[place] = value
    return found


class Part(NamedTuple):
  """The rows of one split, in their order; label -1: of no known class."""

  texts: Texts
  names: np.ndarray  # [N] int32, into `Read.names`; -1: no label
  rationales: list[str]
  groups: np.ndarray | None
  hashes: np.ndarray  # [N] int64; equal where the texts are


class Read(NamedTuple):
  """All rows of the files."""

  parts: dict[str, Part]
  names: list[str]  # the labels, as they came
  counts: Counter[str]  # of what was mended on the way
  first: dict[str, str]  # where each of these was met first


def read(
  files: Iterable[table_files.TableFile], columns: table_columns.Columns
) -> Read:
  """Returns all rows of the files.

  Raises:
    errors.InputError: one cannot be read; names file and line.
  """
  reading = _Reading(columns)
  with _spool(len(columns.texts)) as spool:
    for file in files:
      for chunk in table_rows.chunks(file, columns.names):
        reading.add(file, chunk, spool)
  return reading.end(spool.batches())


def number(name: str) -> float | None:
  """Returns the number that a label is; None: it is a word."""
  try:
    value = float(name)
  except ValueError:
    return None
  return value if math.isfinite(value) and "_" not in name else None


class _Spool:
  """Writes texts to a file of the disk, and maps it."""

  def __init__(self, path, width):
    self._path = path
    fields = [(str(number), pa.string()) for number in range(width)]
    self._schema = pa.schema(fields)
    self._writer = pa.ipc.new_file(path, self._schema)

  def write(self, columns):
    arrays = [pa.array(column, pa.string()) for column in columns]
    self._writer.write_batch(pa.record_batch(arrays, schema=self._schema))

  def close(self):
    self._writer.close()
    self._map = pa.memory_map(self._path)

  def batches(self):
    reader = pa.ipc.open_file(self._map)
    return [reader.get_batch(x) for x in range(reader.num_record_batches)]


@contextlib.contextmanager
def _spool(width):
  """Opens a file for texts, which leaves no name behind."""
  folder = paths.cache_folder()
  # A bucket is no place to map.
  base = os.fspath(folder) if paths.is_local(folder) else None
  try:
    if base:
      os.makedirs(base, exist_ok=True)
    number, path = tempfile.mkstemp(".arrow", "rows-", base)
    os.close(number)
  except OSError as error:
    raise errors.InputError(
      f"Cannot write to the cache folder {folder} ({error.strerror}); set "
      "$GMDISTILL_CACHE to a folder you can write to"
    ) from error
  spool = _Spool(path, width)
  try:
    yield spool
  finally:
    spool.close()
    os.unlink(path)


class _Reading:
  """What is gathered while rows go by."""

  def __init__(self, columns):
    self._columns = columns
    self._numbers: dict[str, int] = {}
    self._labels: list[np.ndarray] = []
    self._hashes: list[np.ndarray] = []
    self._splits: list[np.ndarray] = []
    self._groups: list[int] = []
    self._rationales: list[str] = []
    self._split_numbers: dict[str, int] = {}
    self.counts: Counter[str] = Counter()
    self.first: dict[str, str] = {}

  def add(self, file, chunk, spool):
    """Takes the rows of a chunk."""
    columns, keys = chunk.columns, self._columns
    texts = [self._texts(chunk, key) for key in keys.texts]
    spool.write(texts)
    self._hashes.append(
      np.fromiter(map(hash, zip(*texts, strict=True)), np.int64, len(texts[0]))
    )
    found = [
      self._label(value, chunk, row)
      for row, value in enumerate(columns[keys.label])
    ]
    self._labels.append(np.array(found, np.int32))
    splits = [file.split or "train"] * len(found)
    if keys.split and not file.split:
      splits = [
        self._split(value, chunk, row)
        for row, value in enumerate(columns[keys.split])
      ]
    self._splits.append(
      np.array(
        [
          self._split_numbers.setdefault(x, len(self._split_numbers))
          for x in splits
        ],
        np.int8,
      )
    )
    if keys.rationale:
      self._rationales += self._texts(chunk, keys.rationale)
    if keys.group:
      self._groups += [
        self._group(value, chunk, row)
        for row, value in enumerate(columns[keys.group])
      ]

  def end(self, batches) -> Read:
    """Returns all, split by split."""
    split_N = np.concatenate([np.zeros(0, np.int8), *self._splits])
    label_N = np.concatenate([np.zeros(0, np.int32), *self._labels])
    hash_N = np.concatenate([np.zeros(0, np.int64), *self._hashes])
    parts = {}
    for split, number in self._split_numbers.items():
      rows = np.flatnonzero(split_N == number)
      parts[split] = Part(
        Texts(batches, rows, len(self._columns.texts)),
        label_N[rows],
        [self._rationales[x] for x in rows] if self._rationales else [],
        np.array(self._groups, np.int64)[rows] if self._groups else None,
        hash_N[rows],
      )
    return Read(parts, list(self._numbers), self.counts, self.first)

  def _note(self, what, where, row):
    self.counts[what] += 1
    if what not in self.first:
      self.first[what] = where(row)

  def _texts(self, chunk, key):
    values = chunk.columns[key]
    return [self._text(x, key, chunk, row) for row, x in enumerate(values)]

  def _text(self, value, key, chunk, row):
    if value is None:
      return ""
    if isinstance(value, list) and all(isinstance(x, str) for x in value):
      value = " ; ".join(value)
    if not isinstance(value, str):
      raise errors.InputError(
        f"{chunk.where(row)}: {key!r} is {_said(value)}, where a text is read; "
        'write it in quotes, "" for none, or name another column in '
        "config.data.text_keys"
      )
    if "\0" in value:
      self._note(
        "texts hold a zero byte, which is read as is", chunk.where, row
      )
    try:
      value.encode()
    except UnicodeEncodeError:
      what = "texts hold half a character (a lone surrogate), read as \ufffd"
      self._note(what, chunk.where, row)
      halves = value.encode("utf-16", "surrogatepass")
      value = halves.decode("utf-16", "replace")
    return value

  def _label(self, value, chunk, row):
    """Returns the number of a row's label among those that were met."""
    name = self._label_name(value, chunk, row)
    if not name:
      self._note("rows have no label and are left out", chunk.where, row)
      return -1
    if name not in self._numbers:
      self._numbers[name] = len(self._numbers)
      value = number(name)
      if value is not None and value % 1:
        self.first[f"label {name}"] = chunk.where(row)
      if len(self._numbers) > 10 * labels.MOST:
        raise errors.InputError(
          f"{chunk.where(row)}: the column {self._columns.label!r} has more "
          f"than {10 * labels.MOST} different values; classes are 2 to "
          f"{labels.MOST}: name another column in config.data.label_key"
        )
    return self._numbers[name]

  def _label_name(self, value, chunk, row):
    if value is None or value is table_rows.ABSENT:
      return ""
    if isinstance(value, list) and len(value) <= 1:
      return self._label_name(value[0] if value else None, chunk, row)
    if isinstance(value, float) and not math.isnan(value) and not value % 1:
      return str(int(value))
    if isinstance(value, float) and math.isnan(value):
      return ""
    if not isinstance(value, str | bool | int | float):
      raise errors.InputError(
        f"{chunk.where(row)}: the label is {_said(value)}; a row has one "
        "class: a word or a whole number, or name another column in "
        "config.data.label_key"
      )
    name = str(value).strip()
    return name.encode(errors="replace").decode()

  def _split(self, value, chunk, row):
    split = table_files.split_of(value)
    if not split:
      raise errors.InputError(
        f"{chunk.where(row)}: {self._columns.split!r} is {value!r}, which "
        "is no split; write train, validation or test"
      )
    return split

  def _group(self, value, chunk, row):
    try:
      return int(value)
    except (TypeError, ValueError):
      raise errors.InputError(
        f"{chunk.where(row)}: {self._columns.group!r} is {_said(value)}, where "
        "config.data.group_key reads a whole number"
      ) from None


def _said(value):
  kinds = {
    dict: "an object",
    list: "a list",
    bool: "a truth value",
    int: "a number",
    float: "a number",
  }
  if value is table_rows.ABSENT:
    return "missing"
  return f"{kinds.get(type(value), type(value).__name__)} ({value!r:.40})"
