"""The folder of a command that is no run: claimed, kept, and known again."""

import contextlib
from collections.abc import Iterator
from typing import Any, NamedTuple

from etils import epath

from gmdistill import errors
from gmdistill.runs import workdirs
from gmdistill.runs.config import recipe as recipes
from gmdistill.system import folders, json_files

_OTHERS = {
  "a run": "checkpoints",
  "a set": "set",
  "a student": "model.safetensors",
}


class Work(NamedTuple):
  """A folder that is ours, and what an earlier call left there."""

  folder: epath.Path
  done: dict[str, Any] | None  # the summary; None: there is work to do


@contextlib.contextmanager
def begun(
  verb: str,
  workdir: str,
  config: recipes.Recipe,
  asked: dict[str, Any],
) -> Iterator[Work]:
  """Claims a folder for a verb, which ends by writing `VERB.json` there.

  Args:
    verb: The command's.
    workdir: The folder.
    config: What it reads.
    asked: What else decides the result: flags, and ids of what is read.

  Raises:
    InputError: the folder cannot be written, or holds another's work.
  """
  folder = workdirs.check(workdir, config)
  for held, name in _OTHERS.items():
    if (folder / name).exists():
      raise errors.InputError(
        f"workdir {folder} holds {held}; give {verb} another --workdir."
      )
  path, done = folder / f"{verb}.json", None
  if path.is_file():
    done = json_files.read(path, "give a new --workdir.")
    differing = folders.differences(done.get("asked", {}), asked)
    if differing:
      raise errors.InputError(
        f"workdir {folder} holds another {verb}: {'; '.join(differing)}. Use "
        "that, or another --workdir."
      )
  if done is not None:
    yield Work(folder, done)
    return
  folder.mkdir(parents=True, exist_ok=True)
  with folders.held(folder):
    claimed = folder / "config.json"
    is_new = not claimed.is_file()
    folders.write_json(claimed, config.to_dict())
    try:
      yield Work(folder, None)
    except errors.InputError:
      # What is refused has begun nothing: it is mended in the same folder.
      if is_new:
        claimed.unlink()
      raise
