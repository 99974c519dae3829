"""The commands that give a set to others: pack, publish."""

import tempfile
from typing import Any

from gmdistill import errors
from gmdistill.reports import words
from gmdistill.runs import packing
from gmdistill.runs.commands import shared
from gmdistill.sets import hub
from gmdistill.system import console, json_files, paths


def pack(flags: Any, rest: list[str], command: str) -> None:
  """Writes a folder or zip of a set and all that its reader needs."""
  del command
  shared.nothing_else(rest)
  if not flags.set or not flags.to:
    raise errors.InputError("pack needs --set=DIR and --to=DIR or FILE.zip.")
  place = packing.pack(flags.set, flags.to)
  console.show(f"packed: {place}")


def publish(flags: Any, rest: list[str], command: str) -> None:
  """Puts a packed set on the Hugging Face hub, as a data set."""
  del command
  shared.nothing_else(rest)
  if not flags.set or not flags.repo:
    raise errors.InputError("publish needs --set=DIR and --repo=ORG/NAME.")
  with tempfile.TemporaryDirectory() as folder:
    place = packing.pack(flags.set, f"{folder}/pack", f"{hub.HERE}{flags.repo}")
    address = hub.publish(paths.path(place), flags.repo, private=flags.private)
    following = _next(place, f"--set={hub.HERE}{flags.repo}")
  console.show(f"published: {address}; next, anywhere: gmdistill {following}")


def _next(pack, named):
  """Returns a command that reads a packed set, and would not be refused."""
  file = pack / "config.json"
  if not file.is_file():  # texts that no run stands behind
    return f"evaluate {named} --config=NAME --protocol=finetune"
  config = json_files.read(file, "pack the set again.")
  if config["student"]["kind"] in words.UNSAVED:
    return f"evaluate {named}"
  return f"train {named} --workdir=student"
