"""Folders that runs write to, and what identifies the machine."""

import contextlib
import fcntl
import importlib.metadata
import json
import os
import pathlib
import platform
import subprocess
import time
from collections.abc import Iterator, Mapping
from typing import Any

import jax
from etils import epath

from gmdistill import errors
from gmdistill.system import paths, processes

SHARED_WITHIN = 10  # seconds until a shared folder shows a new file everywhere


def write_json(path: epath.Path, content: Any) -> None:
  """Writes a JSON file, whole or not at all."""
  paths.write_text(path, json.dumps(content, indent=2) + "\n")


def writable(workdir: str) -> epath.Path:
  """Returns the folder's absolute path, which may not exist yet.

  Raises:
    InputError: it cannot be written.
  """
  folder = paths.absolute(workdir)
  if not paths.is_local(folder):
    if not workdir.startswith("gs://"):
      raise errors.InputError(
        f"workdir {workdir}: checkpoints can be kept in a folder of this "
        "machine or at gs://BUCKET/FOLDER; give such a --workdir."
      )
    return folder  # whether it can be written shows when it is
  # os.path.exists is False, and no error, below a folder that is closed to us.
  existing = next(p for p in (folder, *folder.parents) if os.path.exists(p))
  if not (existing.is_dir() and os.access(existing, os.W_OK | os.X_OK)):
    raise errors.InputError(
      f"workdir {folder} cannot be written: {existing} is not a writable "
      "folder; give another --workdir."
    )
  return folder


def require_shared(folder: epath.Path) -> None:
  """Checks that a run's processes all see the folder that the first one has.

  Raises:
    InputError: in this process, it is another one.
  """
  path = folder / "environment.json"
  first = processes.of_first(path.read_text() if processes.is_first() else "")
  deadline = time.monotonic() + SHARED_WITHIN
  while not path.is_file() or path.read_text() != first:
    if time.monotonic() > deadline:
      raise errors.InputError(
        f"workdir {folder} is not the first process's; give a --workdir in a "
        "folder that all machines share, the same to all."
      )
    time.sleep(0.2)


@contextlib.contextmanager
def held(folder: epath.Path) -> Iterator[None]:
  """Keeps other runs out of a folder that exists, until the block ends.

  The system lets go of a killed run's folder by itself. A bucket has no locks:
  there, nothing keeps another run out.

  Raises:
    Busy: another run holds it.
  """
  if not paths.is_local(folder):
    yield
    return
  with (folder / ".lock").open("a") as file:
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
      raise errors.Busy(
        f"another run is working in {folder}; wait for it, stop it, or give "
        "another --workdir."
      ) from error
    yield


def environment(command: str) -> dict[str, Any]:
  """Returns versions, devices, commit and command line of this process."""
  packages = ("gmdistill", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint")
  return {
    **{name: _version(name) for name in packages},
    "python": platform.python_version(),
    "platform": platform.platform(),
    "devices": [str(device) for device in jax.devices()],
    "cpu_count": os.cpu_count(),
    "git_commit": _git_commit(),
    "command": command,
  }


def _version(package: str) -> str | None:
  try:
    return importlib.metadata.version(package)
  except importlib.metadata.PackageNotFoundError:
    return None  # read from a folder on PYTHONPATH, never installed


def _git_commit() -> str | None:
  try:
    done = subprocess.run(
      ["git", "rev-parse", "HEAD"],
      cwd=pathlib.Path(__file__).parent,
      capture_output=True,
      text=True,
      check=True,
    )
  except (OSError, subprocess.CalledProcessError):
    return None  # installed without its repository
  return done.stdout.strip()


def differences(
  earlier: Mapping[str, Any], ours: Mapping[str, Any], prefix: str = ""
) -> list[str]:
  """Returns a phrase for each field in which two nested dicts differ."""
  phrases = []
  for name in sorted({*earlier, *ours}):
    a, b = earlier.get(name), ours.get(name)
    if isinstance(a, dict) and isinstance(b, dict):
      phrases += differences(a, b, f"{prefix}{name}.")
    elif a != b:
      phrases.append(f"{prefix}{name} is {a!r} there, {b!r} here")
  return phrases
