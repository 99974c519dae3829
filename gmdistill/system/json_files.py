"""JSON that others may have touched, read in one way; it needs no JAX."""

import json
from typing import Any

from etils import epath

from gmdistill import errors


def parse(text: str | bytes) -> dict[str, Any]:
  """Returns the JSON object that a text says.

  Raises:
    ValueError: it says none: it is cut off, no Unicode, nested too deeply, or
      another thing than an object.
  """
  try:
    content = json.loads(text)
  except UnicodeDecodeError as error:
    raise ValueError(f"no UTF-8 at byte {error.start}") from error
  except RecursionError as error:
    raise ValueError("nested too deeply") from error
  if not isinstance(content, dict):
    raise ValueError("no JSON object")
  return content


def read(path: epath.Path, mend: str) -> dict[str, Any]:
  """Returns the JSON object in a file.

  Args:
    path: The file.
    mend: What to do where it cannot be read, for the message.

  Raises:
    InputError: it is absent, or holds no JSON object.
  """
  try:
    return parse(path.read_bytes())
  except OSError as error:
    why = error.strerror or type(error).__name__
    raise errors.InputError(f"{path} cannot be read ({why}); {mend}") from error
  except ValueError as error:
    raise errors.InputError(f"{path} is damaged ({error}); {mend}") from error
