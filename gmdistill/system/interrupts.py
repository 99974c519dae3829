"""Ctrl-C and preemption: asked for now, obeyed once everything is saved."""

import signal
import types
from typing import Any

from gmdistill import errors


def status(received: int) -> int:
  """Returns the exit status that a signal asks for."""
  # An asked-for preemption is a success; Ctrl-C is a shell's 128 + 2.
  return 0 if received == signal.SIGTERM else 130


class Signals:
  """Remembers SIGINT and SIGTERM until the run has saved."""

  def __init__(self) -> None:
    """Takes the two signals over, where this is the main thread."""
    self.received = 0
    self._saved = ""
    self._before: dict[int, Any] = {}
    for number in (signal.SIGINT, signal.SIGTERM):
      try:
        self._before[number] = signal.signal(number, self._remember)
      except ValueError:  # not the main thread: a notebook's, say
        pass

  def obey_at_once(self, message: str) -> None:
    """From here on, where all is saved, a signal ends the run where it is.

    Raises:
      Stopped: so does one that came before.
    """
    self._saved = message
    if self.received:
      raise errors.Stopped(message, status(self.received), alone=True)

  def close(self) -> None:
    """Puts back what handled the signals before."""
    for number, handler in self._before.items():
      signal.signal(number, handler)

  def _remember(self, number: int, frame: types.FrameType | None) -> None:
    if self.received == number == signal.SIGINT:
      self.close()
      raise KeyboardInterrupt  # a second Ctrl-C does not wait for the step
    self.received = number
    if self._saved:
      raise errors.Stopped(self._saved, status(number), alone=True)
