"""The exceptions that end a command without a traceback."""

import difflib
from collections.abc import Callable, Iterable
from typing import Any, NoReturn

_MOST = 1200  # characters of either end of a message


class InputError(ValueError):
  """Something the user gave is wrong; the message says what would be right.

  The command line prints the message as one line and exits with status 2. Of a
  value that is pages long, it shows the ends.
  """

  def __init__(self, message: str = ""):
    """Says what is wrong."""
    if len(message) > 2 * _MOST:
      message = f"{message[:_MOST]} ... {message[-_MOST:]}"
    super().__init__(message)


class Busy(InputError):
  """Another process is working in the folder."""


class NotOneOf(InputError):
  """A value is none of those that are known, by the name its maker gives it."""


class RefusedByAll(InputError):
  """The same in every process of a run, so that none waits for another."""


class NotFinite(ArithmeticError):
  """A number of the run became NaN or infinite; the message says where."""


class Stopped(BaseException):
  """A signal ended the run; the message says what is saved, and how to go on.

  Like Ctrl-C's own, it is no error that a reader of errors may take for one.
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
  except NotOneOf as error:  # in the maker's words
    raise InputError(f"config.{field}: {error}") from error
  except InputError:
    raise  # which names its own
  except ValueError as error:
    raise InputError(f"config.{field}: {error}") from error


def choice(field: str, value: str, known: Iterable[str]) -> str:
  """Returns the value, one of those that are known.

  Raises:
    NotOneOf: it is none of them; names them all, and the nearest first.
  """
  known = tuple(known)
  if value not in known:
    not_one_of(f"{field}={value or repr(value)}", value, known)
  return value


def not_one_of(what: str, value: str, known: Iterable[str]) -> NoReturn:
  """Refuses a value, in the words that all such refusals have."""
  known = tuple(known)
  near = difflib.get_close_matches(str(value), known, n=1)
  meant = f"; did you mean {near[0]}?" if near else "."
  raise NotOneOf(f"{what} is none of {', '.join(known)}{meant}")
