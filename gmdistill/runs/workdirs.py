"""A run's folder: who may write there, and what identifies the run."""

import hashlib
import json
from typing import Any

from etils import epath

from gmdistill import errors
from gmdistill.runs.config import recipe as recipes
from gmdistill.runs.config import settings
from gmdistill.system import folders, json_files


def digest(config: recipes.Recipe) -> str:
  """Returns a hash of every field of a config."""
  text = json.dumps(config.to_dict(), sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()


def check(workdir: str, config: recipes.Recipe) -> epath.Path:
  """Checks, and writes nothing, that a run of `config` may use `workdir`.

  Raises:
    InputError: it cannot be written, or it holds a run of another config.
  """
  folder = folders.writable(workdir)
  path = folder / "config.json"
  if path.is_file():
    earlier = settings.earlier(_earlier(path), str(path))
    earlier = recipes.changed(earlier, log_to=config.log_to)  # of no number
    differing = folders.differences(earlier.to_dict(), config.to_dict())
    if differing:
      raise errors.InputError(
        f"workdir {folder} holds a run of another config: "
        + "; ".join(differing)
        + ". Use that config, or another --workdir."
      )
  return folder


def require_sources(folder: epath.Path, sources: dict[str, Any]) -> None:
  """Checks that a run goes on with what it began with, which it writes down.

  Args:
    folder: The run's.
    sources: Ids of the data, the embedding space, the student's weights and
      the teachers.

  Raises:
    InputError: an id has changed.
  """
  path = folder / "sources.json"
  earlier = _earlier(path) if path.is_file() else sources
  changed = [
    name for name, now in sources.items() if earlier.get(name, now) != now
  ]
  if changed:
    raise errors.InputError(
      f"workdir {folder} holds a run of other {' and '.join(changed)}, of the "
      "same name; put back what it read, or give another --workdir."
    )
  folders.write_json(path, sources)


def _earlier(path: epath.Path) -> dict[str, Any]:
  """Returns what a run wrote before it was stopped."""
  return json_files.read(path, "give a new --workdir.")


def claim(folder: epath.Path, config: recipes.Recipe, command: str) -> None:
  """Makes the folder and writes `config.json` and `environment.json`.

  Raises:
    InputError: the disk is full, or the folder cannot be written after all.
  """
  try:
    folder.mkdir(parents=True, exist_ok=True)
    folders.write_json(folder / "config.json", config.to_dict())
    folders.write_json(
      folder / "environment.json", folders.environment(command)
    )
  except OSError as error:
    raise errors.InputError(
      f"workdir {folder} cannot be written ({error.strerror}); free some room "
      "or give another --workdir."
    ) from error
