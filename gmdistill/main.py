"""The command line: `gmdistill VERB --config=... --workdir=...`."""

import contextlib
import shlex
import sys
from collections.abc import Callable
from typing import Any

import gmdistill
from gmdistill.system import console, interrupts

VERBS = {
  "distill": "distil a data set, evaluate the set, write the report",
  "plan": "say what a run needs of a device, without running it",
  "sweep": "run a config of several runs; one report over all",
  "bank": "compute the real gradients that later runs match, once",
  "teach": "train a teacher on the real data; write a Hugging Face directory",
  "train": "train one student on a set; write a Hugging Face directory",
  "relabel": "have teachers label a set, a baseline's rows or texts",
  "update": "distil on from a set whose teacher has changed",
  "evaluate": "measure a set, or a baseline, under a protocol",
  "report": "write one page over one or several workdirs",
}

# Which flags a verb takes, but those of several processes.
TAKES = {
  **dict.fromkeys(VERBS, "config workdir"),
  "train": "config workdir set protocol",
  "relabel": "config workdir set teacher row",
  "update": "config workdir set teacher",
  "evaluate": "config workdir set row protocol",
  "report": "workdir format table",
}

DISTRIBUTED = ("distill", "update", "plan")  # that several processes may share

HELP = """\
usage: gmdistill VERB [--config=NAME[:mode]] [--workdir=DIR] [...]

{verbs}

  --config=NAME[:mode]        a config of gmdistill's, or a file of yours;
                              :tiny after any: a small run for a CPU
  --config.FIELD=VALUE        change one field of it
  --workdir=DIR               where a run leaves everything, and goes on from;
                              evaluate: evaluation.json
  DIR...                      report: finished workdirs
  --format=html|markdown      report: a page, or one --table=NAME of results,
                              rows, costs, provenance, published, printed
  --set=DIR                   train, evaluate, relabel, update: the set/ folder
                              of a run; relabel: or a file of JSON lines
  --teacher=DIR               relabel, update: a teacher; may be given again
  --row=NAME                  evaluate, relabel: distilled (the --set), random,
                              herding or k_centers; evaluate: or full
  --protocol=NAME             train, evaluate: replay, finetune or scratch;
                              evaluate: bayes
  --distributed               distill, update, plan: one process of several;
                              TPU pods and SLURM say by themselves which,
                              elsewhere these do:
                              --coordinator=HOST:PORT, --num_processes=N,
                              --process_id=I (from 0)

  --version                   say which version this is

examples:
  gmdistill distill --config=quickstart --workdir=runs/quickstart
  gmdistill train --set=runs/quickstart/set --workdir=runs/student
  gmdistill report runs/a runs/b --workdir=runs/both
"""


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
  if len(argv) < 2 or argv[1] == "help" or {"-h", "--help"} & set(argv):
    width = max(map(len, VERBS))
    verbs = "\n".join(f"  {v:{width}}  {said}" for v, said in VERBS.items())
    console.show(HELP.format(verbs=verbs))
    return 0
  if argv[1] in ("version", "--version"):
    console.show(f"gmdistill {gmdistill.__version__}")
    return 0
  verb = argv[1]
  if verb not in VERBS:
    return _refuse(f"unknown verb {verb!r}; use one of {', '.join(VERBS)}.")
  # Slow imports wait until there is something to do.
  from gmdistill import errors

  try:
    from gmdistill.runs.config import flags as flag_values

    flags, rest = flag_values.parse([argv[0], *argv[2:]])
    flag_values.require_taken(verb, flags, TAKES[verb].split())
    command = shlex.join(["gmdistill", *argv[1:]])
    if flags.distributed and verb not in DISTRIBUTED:
      raise errors.InputError(
        f"--distributed goes with {', '.join(DISTRIBUTED)}, and {verb} is no "
        "work for several processes as one; start it in a single one. (Sweep "
        "may be started in several with the same --workdir.)"
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


def _say(error: BaseException) -> int | None:
  """Prints the line of what ended a command; returns the exit status.

  None, and nothing is printed: it is a defect of ours, and wants a traceback.
  """
  from gmdistill import errors

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
  from gmdistill.runs.commands import distilling, teaching, using
  from gmdistill.runs.config import settings
  from gmdistill.system import costs

  if flags.config is not None and verb != "sweep":
    settings.require_one_run(flags.config)
  _keep_programs()
  commands: dict[str, Callable[[Any, list[str], str], None]] = {
    "distill": distilling.distill,
    "plan": distilling.plan,
    "sweep": distilling.sweep,
    "bank": distilling.bank,
    "teach": teaching.teach,
    "train": using.train,
    "relabel": teaching.relabel,
    "update": teaching.update,
    "evaluate": using.evaluate,
    "report": using.report,
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
