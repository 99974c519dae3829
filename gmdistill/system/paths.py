"""Where files lie: in a folder of this machine, or in a bucket (`gs://...`).

A bucket has no appending, no locks and no renaming in place; but a file there
appears whole or not at all. What must differ for it is here, and in
`folders.held` and `checkpoints`.
"""

import contextlib
import errno
import os
import pathlib
import secrets
import tempfile
from collections.abc import Iterator, Mapping
from typing import IO, Any

import numpy as np
import safetensors.numpy
from etils import epath

from gmdistill import errors
from gmdistill.system import interrupts

_SCHEMES = ("gs", "s3", "az", "hf")  # of etils.epath


def path(text: epath.PathLike) -> epath.Path:
  """Returns the path of a folder or file here (`~`: the user's) or in a bucket.

  Every field of a config and every flag that names one comes through here. A
  variable such as `$HOME` is the shell's to replace, and stays as it is.

  Raises:
    InputError: an unknown kind of address, one that a package is missing for,
      a bucket that does not answer, or a name that leads nowhere.
  """
  text = os.fspath(text)
  scheme, separator, _ = text.partition("://")
  if not separator:
    return _local(text)
  if scheme not in _SCHEMES:
    errors.not_one_of(f"{text}: {scheme}://", scheme, _SCHEMES)
  place = epath.Path(text)
  try:
    place.stat()
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
  return place


# What the system refuses of a name, whatever is there.
_NO_NAME = (errno.ELOOP, errno.ENAMETOOLONG, errno.EINVAL)


def _local(text):
  _require_utf8(text)
  try:
    place = pathlib.Path(text).expanduser()
  except RuntimeError as error:  # ~somebody
    raise errors.InputError(
      f"{text}: this machine knows no such user's home; give the path from /."
    ) from error
  broken = [x for x in (place, *place.parents) if _is_broken(text, x)]
  if broken:
    raise errors.InputError(
      f"{text}: {broken[0]} is a link to {os.readlink(broken[0])}, which is "
      "not there or leads in a circle; mend the link, or give another path."
    )
  return epath.Path(place)


def _is_broken(text, place):
  """Whether a path is a link to nothing.

  Raises:
    InputError: the system takes no such name.
  """
  try:
    os.lstat(place)
  except (OSError, ValueError) as error:
    # ValueError: a zero byte. Of what is not there, or closed, its reader says.
    number = error.errno if isinstance(error, OSError) else errno.EINVAL
    if number in _NO_NAME:
      raise errors.InputError(
        f"{text[:80]!r} cannot be a path here ({error}); give another."
      ) from error
    return False
  return os.path.islink(place) and not os.path.exists(place)


def _require_utf8(text):
  try:
    text.encode()
  except UnicodeEncodeError as error:
    raise errors.InputError(
      f"{ascii(text)} is not written in UTF-8, as the libraries that read and "
      "write files here ask; rename it, or link to it by another name."
    ) from error


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
  place = path(text)
  if not is_local(place):
    return place
  place = epath.Path(pathlib.Path(place).absolute())
  _require_utf8(os.fspath(place))  # the working folder too
  return place


def is_local(place: epath.PathLike) -> bool:
  """Whether a path lies on this machine."""
  return "://" not in os.fspath(place)


def write_bytes(place: epath.Path, content: bytes) -> None:
  """Writes a file, whole or not at all, over one that is there."""
  with interrupts.shielded():
    _write_bytes(place, content)


def _write_bytes(place, content):
  if not is_local(place):
    place.write_bytes(content)
    return
  with replacing(place) as file:
    file.write(content)


@contextlib.contextmanager
def replacing(place: epath.Path) -> Iterator[IO[bytes]]:
  """Opens a file of this machine that takes the name of one at the block's end,
  and leaves nothing where the block fails."""
  # Of two processes that write one report, each has a file of its own.
  mark = f"{os.getpid()}.{secrets.token_hex(4)}"  # of two machines, too
  partial = place.with_name(f".{place.name}.{mark}.partial")
  try:
    with partial.open("wb") as file:
      yield file
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
  with interrupts.shielded():
    _write_files(folder, files)


def _write_files(folder, files):
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
  """Returns the arrays of a `.safetensors` file, all of finite numbers.

  Raises:
    SafetensorError, OSError, ValueError: it is damaged, or missing.
    InputError, a ValueError: a number is NaN or infinite; names the tensor.
  """
  import ml_dtypes  # noqa: F401 tells NumPy what bfloat16 is

  if is_local(place):
    return finite(safetensors.numpy.load_file(place))
  # The library reads every precision from files alone, not from bytes.
  with tempfile.TemporaryDirectory() as folder:
    copy = pathlib.Path(folder) / place.name
    copy.write_bytes(place.read_bytes())
    return finite(safetensors.numpy.load_file(copy))


def finite(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Returns the tensors, which hold no number that spoils all it meets.

  Raises:
    InputError: one does; names it.
  """
  for name, x in tensors.items():
    # V: the kinds that NumPy has from ml_dtypes, such as bfloat16.
    if x.dtype.kind in "fV" and not np.isfinite(x).all():
      raise errors.InputError(
        f"the tensor {name} holds {int((~np.isfinite(x)).sum())} numbers that "
        f"are NaN or infinite, of {x.size}"
      )
  return tensors


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
