"""Ctrl-C and preemption: obeyed at once, or when what is under way is saved.

A handler of Python's runs in the main thread, between two of its steps: there
it raises `Stopped`, or, in the outer loop, leaves a mark that the loop sees
when it can save. Two things come in its way. What is raised inside a callback
of the collector, Python prints and forgets: the handler is called once more.
And while a program of XLA compiles or runs, no handler does: so the command
line has a thread too, which ends the process when its time is over.
"""

import contextlib
import os
import select
import signal
import socket
import sys
import threading
import time
import types
from collections.abc import Iterator
from typing import Any, NoReturn

from gmdistill import errors
from gmdistill.system import console

NUMBERS = (signal.SIGINT, signal.SIGTERM)

GRACE = 7.0  # seconds from a signal to the end of a process that has not ended
# The same in the outer loop, which a preemption lets save what it has.
GRACE_OF_LOOP = {signal.SIGINT: GRACE, signal.SIGTERM: 25.0}
WRITING = 2.0  # seconds more, for files that are being written

UNSAVED = (
  "interrupted; nothing is left half-written, and the same command may be "
  "started again"
)

_stack: list["Signals"] = []  # the last one decides
_shields = 0  # files that the main thread is just writing
_echoes = 0  # signals that are no new ones


def status(received: int) -> int:
  """Returns the exit status that a signal asks for, where all is saved."""
  # An asked-for preemption is a success; Ctrl-C is a shell's 128 + 2.
  return 0 if received == signal.SIGTERM else 130


class Signals:
  """Takes SIGINT and SIGTERM over, until it is closed: obeyed at once."""

  def __init__(self) -> None:
    """Takes the two signals over, where this is the main thread."""
    self.received: int = _stack[-1].received if _stack else 0
    self._message, self._saved, self._held = UNSAVED, False, False
    self._before: dict[int, Any] = {}
    for number in NUMBERS:
      try:
        self._before[number] = signal.signal(number, self._remember)
      except ValueError:  # not the main thread: a notebook's, say
        pass
    self._hook = sys.unraisablehook
    if self._before:
      _stack.append(self)
      sys.unraisablehook = self._again

  def hold(self, message: str) -> None:
    """From here on, a signal leaves a mark in `received`, and no more.

    Args:
      message: What is said where the process must end before it was seen.

    Raises:
      Stopped: one came before.
    """
    if not self._held:
      self.obey()
    self._message, self._held = message, True

  def obey_at_once(self, message: str) -> None:
    """From here on, where all is saved, a signal ends the run where it is.

    Raises:
      Stopped: so does one that came before.
    """
    self._message, self._saved, self._held = message, True, False
    self.obey()

  def obey(self) -> None:
    """Ends the run, where a signal asked for it and nothing is in its way.

    Raises:
      Stopped: a signal came before.
    """
    if self.received and not self._held and not _shields:
      number = self.received
      ends = status(number) if self._saved else 128 + number
      raise errors.Stopped(self._message, ends, alone=True)

  def close(self) -> None:
    """Puts back what handled the signals before."""
    for number, handler in self._before.items():
      signal.signal(number, handler)
    if self in _stack:
      _stack.remove(self)
    if sys.unraisablehook == self._again:
      sys.unraisablehook = self._hook

  def _remember(self, number: int, frame: types.FrameType | None) -> None:
    if self.received == number == signal.SIGINT and self._held:
      self.close()
      raise KeyboardInterrupt  # a second Ctrl-C does not wait for the step
    self.received = self.received or number
    self.obey()

  def _again(self, unraisable: Any) -> None:
    """Where Python drops a `Stopped`, has the handler called once more."""
    if not isinstance(unraisable.exc_value, errors.Stopped):
      self._hook(unraisable)
      return
    threading.Timer(0.1, _echo, [self.received]).start()


def _echo(number):
  global _echoes
  _echoes += 1
  # To that thread, and no flag alone: it may be waiting for something.
  signal.pthread_kill(threading.main_thread().ident or 0, number)


def obey() -> None:
  """A place where a signal may end the run, if one has come.

  Raises:
    Stopped: one has.
  """
  if _stack and threading.current_thread() is threading.main_thread():
    _stack[-1].obey()


@contextlib.contextmanager
def shielded() -> Iterator[None]:
  """Keeps a signal from ending the block, which writes files: it comes after.

  Raises:
    Stopped: one came; the block is done.
  """
  global _shields
  if threading.current_thread() is not threading.main_thread():
    yield  # no signal is raised there
    return
  _shields += 1
  try:
    yield
  finally:
    _shields -= 1
  obey()


@contextlib.contextmanager
def watched() -> Iterator[None]:
  """Ends the process in time, whatever it is at: for the command line alone.

  After a signal it may take `GRACE` seconds; a second Ctrl-C ends it at once.
  """
  reader, writer = socket.socketpair()
  writer.setblocking(False)
  before = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
  for number in NUMBERS:  # before and after the command, which has its own
    signal.signal(number, lambda *_: _asked.set())
  threading.Thread(target=_watch, args=[reader], daemon=True).start()
  try:
    yield
  finally:
    signal.set_wakeup_fd(before)


def leave(status: int) -> NoReturn:
  """Ends the process with a status; after a signal, without delay.

  A program that still runs would be waited for.
  """
  if _asked.is_set():
    console.flush()
    os._exit(status)
  sys.exit(status)


def leave_as_others_do() -> None:
  """Has `leave` end the process as any: others hear it from JAX's own end."""
  _asked.clear()


_asked = threading.Event()  # whether a signal has come


def _watch(reader: socket.socket) -> None:
  """Reads the signals as they come, even while no handler can run."""
  global _echoes
  begun, first = 0.0, 0
  while True:
    left = None
    if first:
      left = max(begun + _patience(first) - time.monotonic(), 0.0)
    if not select.select([reader], [], [], left)[0]:
      _end(first)
    for number in reader.recv(64):
      if _echoes:
        _echoes -= 1
      elif number in NUMBERS and not first:
        begun, first = time.monotonic(), number
        _asked.set()
      elif number == signal.SIGINT:
        _end(number)


def _patience(number):
  held = bool(_stack) and _stack[-1]._held
  return GRACE_OF_LOOP[number] if held else GRACE


def _end(number: int) -> NoReturn:
  deadline = time.monotonic() + WRITING
  while _shields and time.monotonic() < deadline:
    time.sleep(0.01)
  message = _stack[-1]._message if _stack else UNSAVED
  with contextlib.suppress(OSError):
    os.write(2, f"\ngmdistill: {message}\n".encode(errors="backslashreplace"))
  os._exit(128 + number)
