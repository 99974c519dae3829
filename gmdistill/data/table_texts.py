"""Texts of many rows, on the disk: written once, then mapped."""

import contextlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from gmdistill import errors
from gmdistill.data import table_chunks
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


class Spool:
  """Writes texts to a file of the disk, and maps it."""

  def __init__(self, path: str, width: int):
    """Opens the file, of rows of so many texts."""
    self._path = path
    fields = [(str(number), pa.string()) for number in range(width)]
    self._schema = pa.schema(fields)
    self._writer = pa.ipc.new_file(path, self._schema)

  def write(self, columns: Sequence[Sequence[str]]) -> None:
    """Appends rows, column by column."""
    arrays = [pa.array(column, pa.string()) for column in columns]
    self._writer.write_batch(pa.record_batch(arrays, schema=self._schema))

  def close(self) -> None:
    """Ends the file, which is mapped from here on."""
    self._writer.close()
    self._map = pa.memory_map(self._path)

  def batches(self) -> list[Any]:
    """Returns what was written, as Arrow batches."""
    reader = pa.ipc.open_file(self._map)
    return [reader.get_batch(x) for x in range(reader.num_record_batches)]


@contextlib.contextmanager
def spool(width: int) -> Iterator[Spool]:
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
  opened = Spool(path, width)
  try:
    yield opened
  finally:
    opened.close()
    os.unlink(path)
