"""The verbs of the command line that choose rows, real or written ones."""

from typing import Any

from gmdistill import errors
from gmdistill.runs import deduplicating, selecting, writing
from gmdistill.runs import pipeline as pipelines
from gmdistill.runs.commands import shared
from gmdistill.runs.config import settings
from gmdistill.selection import deduplication, methods
from gmdistill.system import console


def dedup(flags: Any, rest: list[str], command: str) -> None:
  """Drops copies from the training rows; writes rows that are read as data."""
  shared.nothing_else(rest)
  config = _config(flags, "dedup", deduplication.METHODS)
  done = deduplicating.run(config, flags.method, flags.workdir, command)
  console.show(deduplicating.what_next(flags.workdir, done))


def select(flags: Any, rest: list[str], command: str) -> None:
  """Chooses real rows by methods, and measures students on them."""
  shared.nothing_else(rest)
  config = _config(flags, "select", [*methods.METHODS, "all"])
  names = [name for name in flags.method.split(",") if name]
  if len(set(names)) < len(names) or not names:
    raise errors.InputError(
      f"--method={flags.method} must name methods, each once."
    )
  done = selecting.run(config, names, flags.workdir, command)
  console.show(selecting.what_next(config, flags.workdir, done))


def write(flags: Any, rest: list[str], command: str) -> None:
  """Has a language model write rows of every class; keeps the good ones."""
  shared.nothing_else(rest)
  if flags.config is None or not flags.workdir:
    raise errors.InputError("write needs --config=NAME and --workdir=DIR.")
  writing.run(settings.recipe(flags.config), flags.workdir, command)


def pipeline(flags: Any, rest: list[str], command: str) -> None:
  """Goes from raw rows to a student, stage by stage."""
  shared.nothing_else(rest)
  if flags.config is None or not flags.workdir:
    raise errors.InputError(
      "pipeline needs --config=NAME, such as pipeline/quickstart, and "
      "--workdir=DIR."
    )
  pipelines.run(flags.config, flags.workdir, command, ablate=flags.ablate)


def _config(flags, verb, methods):
  """Returns the recipe of a verb that must have its three flags."""
  if flags.config is None or not flags.workdir or not flags.method:
    raise errors.InputError(
      f"{verb} needs --config=NAME, --workdir=DIR and --method=NAME, of "
      f"{', '.join(methods)}."
    )
  return settings.recipe(flags.config)
