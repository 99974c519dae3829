"""A command that several processes do as one."""

import time
import traceback
from collections.abc import Callable
from typing import Any

import jax

from gmdistill import errors
from gmdistill.system import interrupts, processes


def run(
  flags: Any,
  work: Callable[[], None],
  say: Callable[[BaseException], int | None],
) -> None:
  """Does `work` as one process of several, which end together.

  `say` prints the line of what ended it, and returns the exit status.
  """
  processes.start(flags.coordinator, flags.num_processes, flags.process_id)
  try:
    work()
  except (errors.RefusedByAll, errors.NotFinite):
    processes.leave()
    raise
  except errors.Stopped as error:
    if error.alone:
      say(error)
      saved = error.status in (0, 130)
      processes.abandon(error.status, stopped=saved)
    processes.leave()
    interrupts.leave_as_others_do()
    raise
  except BaseException as error:
    if isinstance(error, jax.errors.JaxRuntimeError):
      # What is left of a process that died: the line that says so is better.
      time.sleep(5)
    status = say(error)
    if status is None:
      traceback.print_exc()
    processes.abandon(1 if status is None else status)
  processes.leave()
