"""What can be computed again, kept in the user's cache folder.

An entry is named by a hash of all that decides its content. It appears whole or
not at all, so that processes may share the folder; a damaged one counts as
absent, and is computed anew.
"""

import hashlib
import io
import json
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


def read_arrays(path: epath.Path) -> dict[str, np.ndarray] | None:
  """Returns an entry's arrays; None where there is none, or a damaged one."""
  try:
    content = io.BytesIO(path.read_bytes())
    with zipfile.ZipFile(content) as archive:
      if archive.testzip():  # Checksums first: numpy parses before it checks.
        return None
    content.seek(0)
    with np.load(content) as arrays:
      return {name: arrays[name] for name in arrays}
  except (OSError, EOFError, ValueError, KeyError, TypeError):
    return None
  except (zipfile.BadZipFile, zlib.error, NotImplementedError):
    return None


def write_arrays(path: epath.Path, arrays: Mapping[str, Any]) -> None:
  """Writes an entry of arrays by their names.

  Raises:
    InputError: the cache folder cannot be written.
  """
  content = io.BytesIO()
  np.savez(content, **arrays)
  _write(path, content.getvalue())


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
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    paths.write_bytes(path, content)
  except OSError as error:
    raise errors.InputError(
      f"Cannot write to the cache folder {path.parent} ({error.strerror}); "
      "set $GMDISTILL_CACHE to a folder you can write to"
    ) from error
