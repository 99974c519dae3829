"""Where files lie: in a folder of this machine, or in a bucket (`gs://...`).

A bucket has no appending, no locks and no renaming in place; but a file there
appears whole or not at all. What must differ for it is here, and in
`workdirs.held` and `checkpoint`.
"""

import os
import pathlib
import secrets
import tempfile
from collections.abc import Mapping
from typing import IO, Any

import numpy as np
import safetensors.numpy
from etils import epath

from gmdistill import errors

_SCHEMES = ("gs", "s3", "az", "hf")  # of etils.epath


def path(text: epath.PathLike) -> epath.Path:
  """Returns the path of a folder or file here (`~`: the user's) or in a bucket.

  Raises:
    InputError: an unknown kind of address, one that a package is missing for,
      or a bucket that does not answer.
  """
  text = os.fspath(text)
  scheme, separator, _ = text.partition("://")
  if not separator:
    return epath.Path(pathlib.Path(text).expanduser())
  if scheme not in _SCHEMES:
    errors.not_one_of(f"{text}: {scheme}://", scheme, _SCHEMES)
  found = epath.Path(text)
  try:
    found.stat()
  except FileNotFoundError:
    pass  # it can be reached
  except ImportError as error:
    how = "pip install 'gmdistill[gcs]'" if scheme == "gs" else "install it"
    raise errors.InputError(
      f"{text} needs a package that is not here ({error}); {how}, or give a "
      "folder of this machine."
    ) from error
  except Exception as error:  # every provider's client raises its own kinds
    raise errors.InputError(
      f"{text} cannot be reached ({type(error).__name__}: "
      f"{' '.join(str(error).split())[:120]}); check the address and the "
      "credentials."
    ) from error
  return found


def cache_folder() -> epath.Path:
  """Returns the folder for what can be computed again; it may not exist yet.

  $GMDISTILL_CACHE, $XDG_CACHE_HOME/gmdistill or ~/.cache/gmdistill.
  """
  chosen = os.environ.get("GMDISTILL_CACHE", "")
  if chosen:
    return path(chosen)
  base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
  return path(base) / "gmdistill"


def absolute(text: epath.PathLike) -> epath.Path:
  """Returns the same from the root of this machine."""
  found = path(text)
  if not is_local(found):
    return found
  return epath.Path(pathlib.Path(found).absolute())


def is_local(place: epath.PathLike) -> bool:
  """Whether a path lies on this machine."""
  return "://" not in os.fspath(place)


def write_bytes(place: epath.Path, content: bytes) -> None:
  """Writes a file, whole or not at all, over one that is there."""
  if not is_local(place):
    place.write_bytes(content)
    return
  # Of two processes that write one report, each has a file of its own.
  mark = f"{os.getpid()}.{secrets.token_hex(4)}"  # of two machines, too
  partial = place.with_name(f".{place.name}.{mark}.partial")
  try:
    partial.write_bytes(content)
    partial.replace(place)
  finally:
    partial.unlink(missing_ok=True)


def write_text(place: epath.Path, content: str) -> None:
  """Writes a text file, whole or not at all, over one that is there."""
  write_bytes(place, content.encode())


def write_files(folder: epath.Path, files: Mapping[str, bytes]) -> None:
  """Writes files into a folder, made where it is absent, in their order.

  All are written aside first: a full disk leaves no half of them.
  """
  folder.mkdir(parents=True, exist_ok=True)
  if not is_local(folder):
    for name, content in files.items():
      (folder / name).write_bytes(content)
    return
  with tempfile.TemporaryDirectory(dir=folder) as aside:
    partial = epath.Path(aside)
    for name, content in files.items():
      (partial / name).write_bytes(content)
    for name in files:
      (partial / name).replace(folder / name)


def read_tensors(place: epath.Path) -> dict[str, np.ndarray]:
  """Returns the arrays of a `.safetensors` file.

  Raises:
    SafetensorError, OSError, ValueError: it is damaged, or missing.
  """
  import ml_dtypes  # noqa: F401 tells NumPy what bfloat16 is

  if is_local(place):
    return safetensors.numpy.load_file(place)
  # The library reads every precision from files alone, not from bytes.
  with tempfile.TemporaryDirectory() as folder:
    copy = pathlib.Path(folder) / place.name
    copy.write_bytes(place.read_bytes())
    return safetensors.numpy.load_file(copy)


class Lines:
  """A text file that grows by lines."""

  def __init__(self, place: epath.Path, text: str):
    """Writes the file anew with `text`."""
    self._place, self._text = place, text
    self._file: IO[Any] | None = None
    write_text(place, text)
    if is_local(place):
      self._file = place.open("a")

  def append(self, line: str) -> None:
    """Adds a line: on the disk at once, in a bucket at the next `keep`."""
    if self._file is None:
      self._text += line + "\n"
      return
    self._file.write(line + "\n")
    self._file.flush()

  def keep(self) -> None:
    """Writes what waits to be written."""
    if self._file is None:
      write_text(self._place, self._text)

  def close(self) -> None:
    """Writes what waits, and closes the file."""
    self.keep()
    if self._file is not None:
      self._file.close()
