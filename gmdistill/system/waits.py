"""How far some work has come, for who waits: counts, and what time is left."""

import contextlib
import threading
import time
from collections.abc import Iterable, Iterator
from typing import Any

import rich.progress

from gmdistill.system import logs, units


class Count:
  """Says how far a count has come, while a block of it works.

  A terminal has a line that lives; elsewhere a line is printed now and then.
  What ends within `AFTER` seconds says nothing.
  """

  AFTER = 2.0  # seconds before the first line
  EVERY = 10.0  # seconds between two lines, and longer in a long work

  def __init__(self, label: str, total: int, unit: str):
    """Starts at 0 of `total`; of 0 it says nothing."""
    self._label, self._total, self._unit = label, total, unit
    self._done, self._began = 0, time.monotonic()
    self._next = self._began + self.AFTER
    self._each: float | None = None  # seconds, as they were reckoned
    self._since, self._doing = self._began, ""
    self._number, self._reached = 0, 0.0  # of the block, and done in it
    self._bar: rich.progress.Progress | None = None

  @contextlib.contextmanager
  def working(self, number: int) -> Iterator[None]:
    """Counts `number` more at the end of the block, and speaks during it."""
    self._since, self._number, self._reached = time.monotonic(), number, 0.0
    over = threading.Event()
    teller = threading.Thread(target=self._tell, args=(over,), daemon=True)
    teller.start()
    whole = False
    try:
      yield
      whole = True
    finally:
      over.set()
      teller.join()
      self._done, self._reached = self._done + number, 0.0
      self._each = (time.monotonic() - self._since) / max(number, 1)
      if not whole or self._done >= self._total:
        self.close()

  @contextlib.contextmanager
  def preparing(self, doing: str) -> Iterator[None]:
    """Says in a block of `working` that it is not at its work yet."""
    self._doing, began = doing, time.monotonic()
    try:
      yield
    finally:
      self._doing = ""
      self._since += time.monotonic() - began

  def reckon(self, seconds: float | None) -> None:
    """Takes the block to last so long, where none was measured before it."""
    if self._number and not self._done and seconds is not None:
      self._each = seconds / self._number

  def reach(self, number: float) -> None:
    """Says in a block how many of its number are done."""
    self._reached = number

  def close(self) -> None:
    """Leaves the terminal as it was."""
    if self._bar is not None:
      self._bar.stop()
      logs.leave(self._bar.console)
      self._bar = None

  def said(self) -> str:
    """Returns how far it has come, and what time is left."""
    now = time.monotonic()
    words, done = self._label, self._done + int(self._reached)
    if self._total > 1:
      words += f": {done} of {self._total} {self._unit}"
    each, spent = self._each, now - self._since
    if self._reached:
      each = spent / self._reached
    # What was reckoned and has passed was wrong; the time so far is known.
    passed = not done and each is not None and spent > each * self._number
    if self._doing or each is None or passed:
      doing = f", {self._doing}" if self._doing else ""
      return f"{words}{doing}, {units.seconds(now - self._began)} so far"
    here = each * self._number - spent
    left = max(here, 0.0) + each * (self._total - self._done - self._number)
    about = "" if done else "about "
    return f"{words}, {about}{units.seconds(max(left, 0.0))} left"

  def _tell(self, over):
    while self._total and not over.wait(
      max(0.0, self._next - time.monotonic())
    ):
      now = time.monotonic()
      self._next = now + logs.pause(self.EVERY, now - self._began)
      if self._bar is not None or logs.is_taken():
        continue
      to = logs.console_now()
      if not to.is_terminal:
        to.print(self.said(), highlight=False, markup=False, soft_wrap=True)
        continue
      self._bar = rich.progress.Progress(
        rich.progress.SpinnerColumn(), _Said(self), console=to, transient=True
      )
      self._bar.add_task("")
      logs.take(to)
      self._bar.start()


@contextlib.contextmanager
def during(label: str) -> Iterator[None]:
  """Says for how long a block, or a function that it decorates, has worked."""
  with Count(label, 1, "").working(1):
    yield


def over(
  items: Iterable[Any], label: str, total: int, unit: str, step: int = 1
) -> Iterator[Any]:
  """Yields the items, each of which is `step` of a total, and counts them."""
  count = Count(label, total, unit)
  with count.working(total):
    for number, item in enumerate(items):
      count.reach(min(number * step, total))
      yield item


class _Said(rich.progress.ProgressColumn):
  """The words of a count, as they are at each look."""

  def __init__(self, count: Count):
    """Of this count."""
    super().__init__()
    self._count = count

  def render(self, task: Any) -> Any:
    """Returns them."""
    del task
    return rich.text.Text(self._count.said())
