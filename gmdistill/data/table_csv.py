"""CSV and TSV, as pyarrow reads them, and the line of whatever is wrong."""

import contextlib
import csv
import io
import itertools
import re
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.csv as arrow_csv

from gmdistill import errors
from gmdistill.data import table_chunks, table_files

_BLOCK = 16 << 20  # bytes of a file at a time; no row is longer

_PROBE = 1 << 20  # bytes that tell the delimiter and the quotes


class Dialect(NamedTuple):
  """How a file is written."""

  names: list[str]
  delimiter: str
  quote: str  # "": quotes are letters


def dialect_of(file: table_files.TableFile) -> Dialect:
  """Returns the names of a file's columns, and how its values are parted.

  Raises:
    errors.InputError: it is empty, or no UTF-8.
  """
  with file.path.open("rb") as stream:
    probe = stream.read(_PROBE)
  table_chunks.require_utf8(file, probe)
  text = probe.decode("utf-8-sig", errors="replace")
  if not text.strip():
    raise errors.InputError(
      f"{file.path} is empty; give a file with a line of names, such as "
      "text,label, and rows"
    )
  header = text.lstrip("\r\n").splitlines()[0]
  marks = "\t" if file.kind == "tsv" else ",;\t|"
  delimiter = max(marks, key=header.count)
  quote = '"' if file.kind == "csv" or _has_quotes(text, delimiter) else ""
  row = next(
    csv.reader(
      io.StringIO(header),
      delimiter=delimiter,
      quoting=csv.QUOTE_MINIMAL if quote else csv.QUOTE_NONE,
    )
  )
  return Dialect(row, delimiter, quote)


def _has_quotes(text, delimiter):
  """Whether quotes of TSV frame values: each does, or rows need them."""
  rows = [line.split(delimiter) for line in text.splitlines() if line]
  if len(text) * 2 > _PROBE:
    rows = rows[:-1]  # which the probe may have cut
  quoted = [x for row in rows for x in row if x.startswith('"')]
  if any(len(row) != len(rows[0]) for row in rows):
    return bool(quoted)
  return all(len(x) > 1 and x.endswith('"') for x in quoted)


def chunks(
  file: table_files.TableFile, wanted: tuple[str, ...]
) -> Iterator[table_chunks.Chunk]:
  """Yields the rows of a file; arguments and errors as `table_rows.chunks`'."""
  dialect = dialect_of(file)
  bad: list[Any] = []
  first = 0
  try:
    for batch, place in _batches(file, dialect, wanted, bad):
      if bad:
        break
      for start in range(0, len(batch), table_chunks.ROWS):
        rows = batch.slice(start, table_chunks.ROWS)
        yield _chunk(file, dialect, rows, first + start)._replace(place=place)
      first += len(batch)
  except pa.ArrowInvalid as error:
    if ragged := re.search(r"Row #(\d+): Expected", str(error)):
      _refuse_letters(file, dialect, int(ragged[1]))
    if "straddling" not in str(error):
      raise
    raise errors.InputError(
      f"{_place(file, dialect, first)}: a row hereafter is longer than "
      f"{_BLOCK >> 20} MB; close the quote that it opens"
    ) from error
  if bad:
    _refuse_ragged(file, dialect, bad[0])


def _batches(file, dialect, wanted, bad):
  """Yields what pyarrow reads, and how far in the file; rows of too few or many
  values go to `bad`."""

  def note(row):
    bad.append(row)
    return "skip"

  with file.path.open("rb") as stream, _unsaid_letters():
    reader = arrow_csv.open_csv(
      stream,
      # Rows are numbered where one thread reads.
      read_options=arrow_csv.ReadOptions(use_threads=False, block_size=_BLOCK),
      parse_options=arrow_csv.ParseOptions(
        delimiter=dialect.delimiter,
        quote_char=dialect.quote or False,
        newlines_in_values=bool(dialect.quote),
        invalid_row_handler=note,
      ),
      convert_options=arrow_csv.ConvertOptions(
        include_columns=list(wanted),
        column_types={name: pa.binary() for name in wanted},
        strings_can_be_null=False,
      ),
    )
    for batch in reader:
      yield batch, stream.tell()


@contextlib.contextmanager
def _unsaid_letters():
  """Keeps pyarrow from printing what it cannot decode of a row for `note`."""
  hook = sys.unraisablehook

  def other(told):
    if not issubclass(told.exc_type, UnicodeDecodeError):
      hook(told)

  sys.unraisablehook = other
  try:
    yield
  finally:
    sys.unraisablehook = hook


def _chunk(file, dialect, rows, first):
  def where(row):
    return _place(file, dialect, first + row)

  found = {}
  for name, column in zip(rows.schema.names, rows.columns, strict=True):
    try:
      found[name] = column.cast(pa.string()).to_pylist()
    except pa.ArrowInvalid:
      for row, value in enumerate(column.to_pylist()):
        table_chunks.decoded(value, where, row)
      raise
  return table_chunks.Chunk(found, where)


def _refuse_letters(file, dialect, number):
  """Refuses a row of too few or many values whose letters are no UTF-8."""
  place = _place(file, dialect, number - 2)
  first = int(place.rpartition(" ")[2]) - 1
  with file.path.open("rb") as stream:
    for line in itertools.islice(stream, first, None):
      table_chunks.decoded(line, lambda _: place, 0)


def _refuse_ragged(file, dialect, row):
  place = _place(file, dialect, row.number - 2)
  if "\n" in row.text and dialect.quote:
    raise errors.InputError(
      f"{place}: a quote opens here and is not closed in its row; close it, or "
      'write "" for a quote within a quoted text'
    )
  raise errors.InputError(
    f"{place}: {row.actual_columns} values, where the line of names has "
    f"{row.expected_columns}; put a text with {dialect.delimiter!r} in it in "
    "double quotes"
  )


def _place(file, dialect, row):
  """Returns the line at which a row of data begins, by reading up to it."""
  with file.path.open("rb") as raw:
    stream = io.TextIOWrapper(
      raw, encoding="utf-8-sig", errors="replace", newline=""
    )
    reader = csv.reader(
      stream,
      delimiter=dialect.delimiter,
      quoting=csv.QUOTE_MINIMAL if dialect.quote else csv.QUOTE_NONE,
    )
    seen, line = -2, 1
    try:
      for values in reader:
        seen += bool(values)
        if seen == row and values:
          return f"{file.path}, line {line}"
        line = reader.line_num + 1
    except csv.Error:
      pass  # a value too long for this reader: the row begins where it stands
  return f"{file.path}, line {line}"
