"""The one exception that means: the user can fix this."""


class InputError(ValueError):
  """Something the user gave is wrong; the message says what would be right.

  The command line prints the message as one line and exits with status 2.
  Every other exception is a defect of the program and keeps its traceback.
  """
