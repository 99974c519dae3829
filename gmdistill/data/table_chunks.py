"""Some rows of a file at a time, and what is asked of a file's letters."""

from collections.abc import Callable
from typing import Any, NamedTuple

from gmdistill import errors
from gmdistill.data import table_files

ROWS = 4096  # at a time


class Chunk(NamedTuple):
  """Some rows, column by column."""

  columns: dict[str, list[Any]]
  where: Callable[[int], str]  # "FILE, line 7" of a row of the chunk
  place: int = 0  # bytes of the file up to where it ends, or nearly


def require_utf8(file: table_files.TableFile, probe: bytes) -> None:
  """Refuses what is packed, and UTF-16, whose every other byte is zero in most
  languages."""
  if probe.startswith((b"PK\x03\x04", b"\x1f\x8b")):
    raise errors.InputError(
      f"{file.path}, line 1: the file is packed, as .zip, .gz and .xlsx are, "
      "and no text; unpack it, or save the sheet as CSV in UTF-8"
    )
  marked = probe.startswith((b"\xff\xfe", b"\xfe\xff"))
  if marked or probe[:4096].count(0) > len(probe[:4096]) // 4:
    raise errors.InputError(
      f"{file.path}, line 1: the file is UTF-16, not UTF-8; convert it: iconv "
      f"-f UTF-16 -t UTF-8 {file.path.name} > utf8-{file.path.name}"
    )


def decoded(value: bytes, where: Callable[[int], str], row: int) -> str:
  """Returns the text that bytes are.

  Raises:
    errors.InputError: they are no UTF-8; says how to convert the file.
  """
  try:
    return value.decode()
  except UnicodeDecodeError as error:
    place = where(row)
    wrong = f"{place}: the byte 0x{value[error.start]:02x} is not UTF-8"
    path, line, _ = place.rpartition(", line ")
    if not line:  # a row of a file that is no text
      raise errors.InputError(
        f"{wrong}; write the file anew, with its texts in UTF-8"
      ) from None
    name = path.rsplit("/", 1)[-1]
    raise errors.InputError(
      f"{wrong}; if the file is Windows' (cp1252), convert it: iconv -f cp1252 "
      f"-t UTF-8 {name} > utf8-{name}"
    ) from None
