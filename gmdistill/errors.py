"""The exceptions that end a command without a traceback."""


class InputError(ValueError):
  """Something the user gave is wrong; the message says what would be right.

  The command line prints the message as one line and exits with status 2.
  """


class Busy(InputError):
  """Another process is working in the folder."""


class NotFinite(ArithmeticError):
  """A number of the run became NaN or infinite; the message says where."""


class Stopped(Exception):
  """A signal ended the run after a save; the message says how to go on."""

  def __init__(self, message: str, status: int):
    """Carries the exit status of the process."""
    super().__init__(message)
    self.status = status
