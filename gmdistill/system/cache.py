"""What can be computed again, kept in the user's cache folder.

An entry is named by a hash of all that decides its content. It appears whole or
not at all, so that processes may share the folder; a damaged one counts as
absent, and is computed anew.
"""

import contextlib
import hashlib
import io
import json
import os
import tempfile
import zipfile
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from etils import epath

from gmdistill import errors
from gmdistill.system import json_files, paths


def entry(kind: str, decisive: Any, label: str = "") -> epath.Path:
  """Returns the file of an entry, which may not exist yet.

  Args:
    kind: The folder of its like.
    decisive: All that decides its content, as JSON says it.
    label: What a reader of the folder may know it by.
  """
  text = json.dumps(decisive, sort_keys=True)
  digest = hashlib.sha256(text.encode()).hexdigest()[:20]
  return paths.cache_folder() / kind / f"{label}{label and '-'}{digest}"


LARGE = 64 << 20  # bytes, from which an array is mapped and not held


def scratch(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
  """Returns an array to be filled: a large one lies on the disk, in a file of
  the cache folder that has no name.

  Raises:
    InputError: the cache folder cannot be written.
  """
  num_bytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
  folder = paths.cache_folder()
  if num_bytes < LARGE or not paths.is_local(folder):
    return np.empty(shape, dtype)
  with _writable(folder):
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder) as file:
      if hasattr(os, "posix_fallocate"):  # a full disk shows now
        os.posix_fallocate(file.fileno(), 0, num_bytes)
      return np.memmap(file, dtype, "r+", shape=shape)


def read_arrays(path: epath.Path) -> dict[str, np.ndarray] | None:
  """Returns an entry's arrays; None where there is none, or a damaged one.

  Large ones are mapped: what is changed of them is not changed on the disk.
  """
  try:
    content: Any = path
    if not paths.is_local(path):
      content = io.BytesIO(path.read_bytes())
    with zipfile.ZipFile(content) as archive:
      if archive.testzip():  # Checksums first: numpy parses before it checks.
        return None
      large = {
        info.filename.removesuffix(".npy"): _mapped(path, archive, info)
        for info in archive.infolist()
        if info.file_size >= LARGE and content is path
      }
    if content is not path:
      content.seek(0)
    with np.load(content) as arrays:
      return {
        name: large[name] if name in large else arrays[name] for name in arrays
      }
  except (OSError, EOFError, ValueError, KeyError, TypeError):
    return None
  except (zipfile.BadZipFile, zlib.error, NotImplementedError):
    return None


def _mapped(path, archive, info):
  """Returns an array as it lies in an archive, which stores it as it is."""
  with archive.open(info) as member:
    version = np.lib.format.read_magic(member)
    read = {1: "read_array_header_1_0", 2: "read_array_header_2_0"}[version[0]]
    shape, _, dtype = getattr(np.lib.format, read)(member)
    header = member.tell()
  with path.open("rb") as file:
    file.seek(info.header_offset + 26)  # lengths of a name and an extra field
    lengths = int.from_bytes(file.read(2), "little")
    lengths += int.from_bytes(file.read(2), "little")
  place = info.header_offset + 30 + lengths + header
  return np.memmap(path, dtype, "c", place, shape)


def write_arrays(path: epath.Path, arrays: Mapping[str, Any]) -> None:
  """Writes an entry of arrays by their names.

  Raises:
    InputError: the cache folder cannot be written.
  """
  if not paths.is_local(path):
    content = io.BytesIO()
    np.savez(content, **arrays)
    _write(path, content.getvalue())
    return
  with _writable(path.parent):
    path.parent.mkdir(parents=True, exist_ok=True)
    with paths.replacing(path) as file:
      np.savez(file, **arrays)


def read_facts(path: epath.Path) -> dict[str, Any] | None:
  """Returns an entry of JSON; None where there is none, or a damaged one."""
  try:
    return json_files.parse(path.read_bytes())
  except (OSError, ValueError):
    return None


def write_facts(path: epath.Path, facts: Mapping[str, Any]) -> None:
  """Writes an entry of JSON.

  Raises:
    InputError: the cache folder cannot be written.
  """
  _write(path, (json.dumps(facts, indent=2) + "\n").encode())


def _write(path: epath.Path, content: bytes) -> None:
  with _writable(path.parent):
    path.parent.mkdir(parents=True, exist_ok=True)
    paths.write_bytes(path, content)


@contextlib.contextmanager
def _writable(folder):
  try:
    yield
  except OSError as error:
    raise errors.InputError(
      f"Cannot write to the cache folder {folder} ({error.strerror}); "
      "set $GMDISTILL_CACHE to a folder you can write to"
    ) from error
