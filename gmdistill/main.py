"""The command line: `gmdistill VERB --config=... --workdir=...`."""

import contextlib
import shlex
import sys
from collections.abc import Callable
from typing import Any

import gmdistill
from gmdistill import errors
from gmdistill.runs.commands import verbs
from gmdistill.system import console, interrupts


def entry_point() -> None:
  """Runs the command line and exits with its status."""
  with interrupts.watched():
    status = main(sys.argv)
    interrupts.leave(status)


def main(argv: list[str]) -> int:
  """Runs one command; returns its exit status: 0, 1, 2, or 130 by Ctrl-C."""
  with console.tolerant(), contextlib.closing(interrupts.Signals()):
    return _main(argv)


def _main(argv):
  asked = _help(argv[1:])
  if asked is not None:
    console.show(asked)
    return 0
  verb = argv[1]
  try:
    if verb not in verbs.VERBS:
      errors.not_one_of(f"the verb {verb!r}", verb, verbs.VERBS)
    # Slow imports wait until there is something to do.
    from gmdistill.runs.config import flags as flag_values

    flags, rest = flag_values.parse([argv[0], *argv[2:]])
    flag_values.require_taken(verb, flags)
    command = shlex.join(["gmdistill", *argv[1:]])
    if flags.coordinator and not flags.distributed:
      raise errors.InputError(
        "--coordinator is of several processes that are one run; give "
        "--distributed too, or leave it out."
      )
    if flags.distributed and verb not in verbs.DISTRIBUTED:
      raise errors.InputError(
        f"--distributed goes with {', '.join(verbs.DISTRIBUTED)}, and {verb} "
        "is no work for several processes as one; start it in a single one. "
        "(Sweep may be started in several with the same --workdir.)"
      )
    if flags.distributed:
      from gmdistill.runs.commands import several

      several.run(flags, lambda: _run(verb, flags, rest, command), _say)
    else:
      _run(verb, flags, rest, command)
  except BaseException as error:
    status = _say(error)
    if status is None:
      raise
    return status
  return 0


def _help(words: list[str]) -> str | None:
  """Returns what a command line asks to be told, of all or of one verb."""
  if words and words[0] in ("version", "--version"):
    return f"gmdistill {gmdistill.__version__}"
  if words and not ({"-h", "--help"} & set(words) or words[0] == "help"):
    return None
  named = [word for word in words[:2] if word in verbs.VERBS]
  return verbs.help_of(named[0]) if named else verbs.overview()


def _say(error: BaseException) -> int | None:
  """Prints the line of what ended a command; returns the exit status.

  None, and nothing is printed: it is a defect of ours, and wants a traceback.
  """
  if isinstance(error, errors.InputError):
    return _refuse(str(error))
  if isinstance(error, errors.Stopped | errors.NotFinite):
    console.complain(f"gmdistill: {error}")
    return error.status if isinstance(error, errors.Stopped) else 1
  if isinstance(error, OSError):
    where = f"{error.filename}: " if error.filename else ""
    return _refuse(
      f"{where}{error.strerror or error}; free some room, or use a folder that "
      "can be written."
    )
  if isinstance(error, KeyboardInterrupt):
    console.complain(f"gmdistill: {interrupts.UNSAVED}")
    return 130
  return None


def _run(verb: str, flags: Any, rest: list[str], command: str) -> None:
  from gmdistill.runs.commands import (
    auditing,
    choosing,
    distilling,
    looking,
    sharing,
    teaching,
    using,
  )
  from gmdistill.runs.config import settings
  from gmdistill.system import costs

  if flags.config is not None and verb not in ("sweep", "pipeline"):
    settings.require_one_run(flags.config)
  _keep_programs()
  commands: dict[str, Callable[[Any, list[str], str], None]] = {
    "distill": distilling.distill,
    "plan": distilling.plan,
    "sweep": distilling.sweep,
    "dedup": choosing.dedup,
    "select": choosing.select,
    "write": choosing.write,
    "pipeline": choosing.pipeline,
    "append": distilling.append,
    "bank": distilling.bank,
    "teach": teaching.teach,
    "train": using.train,
    "relabel": teaching.relabel,
    "update": teaching.update,
    "evaluate": using.evaluate,
    "audit": auditing.audit,
    "report": using.report,
    "fields": looking.fields,
    "pack": sharing.pack,
    "publish": sharing.publish,
  }
  with costs.memory_errors_named():
    commands[verb](flags, rest, command)


def _keep_programs() -> None:
  """Keeps compiled programs in the user's cache folder: a second start of the
  same run compiles nothing. JAX's own setting goes before."""
  import jax

  from gmdistill.system import paths

  if not jax.config.values["jax_compilation_cache_dir"]:
    jax.config.update(
      "jax_compilation_cache_dir", str(paths.cache_folder() / "programs")
    )


def _refuse(message: str) -> int:
  console.complain(f"gmdistill: {' '.join(message.split())}")
  return 2
