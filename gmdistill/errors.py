"""The exceptions that end a command without a traceback."""

from collections.abc import Callable
from typing import Any


class InputError(ValueError):
  """Something the user gave is wrong; the message says what would be right.

  The command line prints the message as one line and exits with status 2.
  """


class Busy(InputError):
  """Another process is working in the folder."""


class RefusedByAll(InputError):
  """The same in every process of a run, so that none waits for another."""


class NotFinite(ArithmeticError):
  """A number of the run became NaN or infinite; the message says where."""


class Stopped(Exception):
  """A signal ended the run after a save; the message says how to go on.

  `status` is the process's exit status; `alone`: the run's other processes
  are still at work, and wait for this one.
  """

  def __init__(self, message: str, status: int, alone: bool = False):
    """Says how to go on, and how to end."""
    super().__init__(message)
    self.status = status
    self.alone = alone


def named(field: str, build: Callable[[], Any]) -> Any:
  """Turns a library's refusal of a value into a line that names the field."""
  try:
    return build()
  except InputError:
    raise  # which names its own
  except ValueError as error:
    raise InputError(f"config.{field}: {error}") from error
