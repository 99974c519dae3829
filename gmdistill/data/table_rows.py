"""The rows of CSV, TSV, JSON lines, Parquet and Arrow, some thousand at a time.

pyarrow reads all of them but JSON, which goes line by line, so that whatever is
wrong can be told with its line. Nothing here holds a whole file.
"""

import contextlib
import json
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as arrow_parquet

from gmdistill import errors
from gmdistill.data import table_chunks, table_csv, table_files
from gmdistill.system import json_files


def columns(file: table_files.TableFile) -> tuple[str, ...]:
  """Returns the names of a file's columns.

  Raises:
    errors.InputError: it has none, or two of one name.
  """
  with _readable(file):
    if file.kind == "json":
      names = _json_columns(file)
    elif file.kind in _SCHEMAS:
      names = _schema(file).names
    else:
      names = table_csv.dialect_of(file).names
  twice = [name for name in dict.fromkeys(names) if names.count(name) > 1]
  if twice:
    raise errors.InputError(
      f"{file.path}, line 1: two columns are called {twice[0]!r}; rename one"
    )
  return tuple(names)


def class_names(file: table_files.TableFile, column: str) -> tuple[str, ...]:
  """Returns the names that a file of `datasets` gives its classes."""
  if file.kind not in _SCHEMAS:
    return ()
  with _readable(file):
    metadata = _schema(file).metadata or {}
  try:
    said = json_files.parse(metadata.get(b"huggingface", b"{}"))
    feature = said["info"]["features"][column]
    return tuple(map(str, feature["names"]))
  except (ValueError, KeyError, TypeError):
    return ()


def chunks(
  file: table_files.TableFile, wanted: tuple[str, ...]
) -> Iterator[table_chunks.Chunk]:
  """Yields the rows of a file: the values of the columns wanted.

  Raises:
    errors.InputError: it is damaged; names file, line and what to do.
  """
  read = {
    "json": _json_chunks,
    "parquet": _parquet_chunks,
    "arrow": _arrow_chunks,
  }
  with _readable(file):
    yield from read.get(file.kind, table_csv.chunks)(file, wanted)


@contextlib.contextmanager
def _readable(file):
  """Says of which file it is that a library refuses."""
  try:
    yield
  except (pa.ArrowException, OSError) as error:
    why = " ".join(str(error).split())[:160]
    raise errors.InputError(
      f"{file.path} cannot be read as {file.kind} ({why}); write it anew"
    ) from error


# JSON lines.


def _json_lines(file):
  """Yields (line number, object, bytes) of every line that is not blank."""
  with file.path.open("rb") as stream:
    for number, line in enumerate(stream, 1):
      if number == 1:
        table_chunks.require_utf8(file, line)
        line = line.removeprefix(b"\xef\xbb\xbf")
        if line.lstrip().startswith(b"["):
          raise errors.InputError(
            f"{file.path}, line 1: a list of rows; write one object a line: jq "
            f"-c '.[]' {file.path.name} > rows.jsonl"
          )
      if line.strip():
        yield number, _json_row(file, number, line), len(line)


def _json_row(file, number, line):
  place = f"{file.path}, line {number}"
  table_chunks.decoded(line, lambda _: place, 0)
  try:
    return json_files.parse(line)
  except json.JSONDecodeError as error:
    raise errors.InputError(
      f"{place}: no JSON ({error.msg} at column {error.colno}); write one "
      'object a line, such as {"text": "...", "label": "..."}'
    ) from None
  except ValueError as error:
    raise errors.InputError(
      f"{place}: {error}; write one object a line, such as "
      '{"text": "...", "label": "..."}'
    ) from None


def _json_columns(file):
  names: dict[str, None] = {}
  for number, (_, row, _) in enumerate(_json_lines(file)):
    names |= dict.fromkeys(row)
    if number == 100:
      break
  if not names:
    raise errors.InputError(
      f"{file.path} has no row; write one object a line, such as "
      '{"text": "...", "label": "..."}'
    )
  return list(names)


def _json_chunks(file, wanted):
  numbers: list[int] = []
  rows: list[Any] = []
  place = 0

  def chunk():
    lines = list(numbers)
    columns = {name: [row.get(name, ABSENT) for row in rows] for name in wanted}
    numbers.clear()
    rows.clear()
    return table_chunks.Chunk(
      columns, lambda row: f"{file.path}, line {lines[row]}", place
    )

  for number, row, length in _json_lines(file):
    place += length
    numbers.append(number)
    rows.append(row)
    if len(rows) == table_chunks.ROWS:
      yield chunk()
  if rows:
    yield chunk()


class _Absent:
  def __repr__(self):
    return "nothing"


ABSENT = _Absent()  # what a row of JSON has of a column that it lacks


# Parquet and Arrow.

_SCHEMAS = ("parquet", "arrow")  # kinds that bring one


def _schema(file):
  with file.path.open("rb") as stream:
    if file.kind == "parquet":
      return arrow_parquet.ParquetFile(stream).schema_arrow
    return _arrow_reader(stream).schema


def _arrow_reader(stream):
  """Opens Arrow's format of files, or of streams, as `datasets` writes it."""
  magic = stream.read(6)
  stream.seek(0)
  if magic == b"ARROW1":
    return pa.ipc.open_file(stream)
  return pa.ipc.open_stream(stream)


def _arrow_batches(reader):
  if not hasattr(reader, "num_record_batches"):
    yield from reader
    return
  for number in range(reader.num_record_batches):
    yield reader.get_batch(number)


def _arrow_chunks(file, wanted):
  first = 0
  with file.path.open("rb") as stream:
    for batch in _arrow_batches(_arrow_reader(stream)):
      place = stream.tell()
      for start in range(0, len(batch), table_chunks.ROWS):
        rows = batch.select(list(wanted)).slice(start, table_chunks.ROWS)

        def where(row, first=first + start):
          return f"{file.path}, row {first + row + 1}"

        yield table_chunks.Chunk(_of_batch(rows, where), where, place)
      first += len(batch)


def _parquet_chunks(file, wanted):
  first = 0
  with file.path.open("rb") as stream:
    reader = arrow_parquet.ParquetFile(stream)
    size, rows = file.path.stat().length, max(reader.metadata.num_rows, 1)
    for batch in reader.iter_batches(table_chunks.ROWS, columns=list(wanted)):

      def where(row, first=first):
        return f"{file.path}, row {first + row + 1}"

      found = _of_batch(batch, where)
      first += len(batch)
      yield table_chunks.Chunk(found, where, size * first // rows)


def _of_batch(batch, where):
  found = {}
  for name, column in zip(batch.schema.names, batch.columns, strict=True):
    try:
      found[name] = column.to_pylist()
    except UnicodeDecodeError:
      as_bytes = column.cast(pa.binary()).to_pylist()
      for row, value in enumerate(as_bytes):
        table_chunks.decoded(value or b"", where, row)
      raise
  return found
