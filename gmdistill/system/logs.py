"""What a run says while it goes: JSON lines, a progress line, a NaN check."""

import json
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import rich.console
import rich.progress
from etils import epath

from gmdistill import errors
from gmdistill.system import (
  console,
  followers,
  interrupts,
  json_files,
  paths,
  processes,
  units,
)


class Writer:
  """Appends one JSON object a step to `metrics.jsonl`, line by line."""

  def __init__(
    self,
    path: epath.Path,
    step: int,
    follow: Callable[[], Sequence[followers.Follower]] = tuple,
  ):
    """Opens the file and drops what a killed run wrote after `step`.

    Of several processes the first writes, and the others only count time.

    Args:
      path: The file.
      step: The last one that is saved.
      follow: Opens what is told every step once it is saved.
    """
    kept = [line for line in _whole_lines(path) if line["step"] <= step]
    self._earlier = kept[-1]["time"] if kept else 0.0
    self._start = time.monotonic()
    self._lines: paths.Lines | None = None
    self._followers: Sequence[followers.Follower] = ()
    self._untold: list[dict[str, Any]] = []
    if processes.is_first():
      text = "".join(json.dumps(line) + "\n" for line in kept)
      self._lines = paths.Lines(path, text)
      self._followers = follow()
      self._untold = list(kept) if self._followers else []
      self.tell()

  @property
  def seconds(self) -> float:
    """Seconds since the run began, those of the killed runs before included."""
    return self._earlier + time.monotonic() - self._start

  def write(self, step: int, values: Mapping[str, Any]) -> None:
    """Writes a flat dict of scalars named `group/name`."""
    if self._lines is None:
      return
    line = {"step": step, "time": round(self.seconds, 3)}
    line |= {name: float(value) for name, value in values.items()}
    self._lines.append(json.dumps(line))
    if self._followers:
      self._untold.append(line)

  def tell(self) -> None:
    """Tells the followers what they have not seen: all steps are saved."""
    for follower in self._followers:
      follower.tell(self._untold)
    self._untold = []

  def keep(self) -> None:
    """Has all lines written, where the file lies in a bucket too."""
    if self._lines is not None:
      self._lines.keep()

  def close(self) -> None:
    """Closes the file, and all that follows it."""
    if self._lines is not None:
      self._lines.close()
    for follower in self._followers:
      follower.close()


def _whole_lines(path: epath.Path) -> list[dict[str, Any]]:
  lines = []
  for text in path.read_text().splitlines() if path.is_file() else []:
    try:
      lines.append(json_files.parse(text))
    except ValueError:
      break  # the line that a kill tore
  return lines


def check_finite(
  first_step: int, losses: np.ndarray, tree: Any, hint: str
) -> None:
  """Stops a run that has gone wrong.

  Args:
    first_step: The step of `losses[0]`.
    losses: The loss of each step of a dispatch [K].
    tree: The state after the dispatch.
    hint: What to change, for the message.

  Raises:
    NotFinite: names the first bad step and the first bad leaf.
  """
  bad_leaves = [
    jax.tree_util.keystr(path, simple=True, separator="/")
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    if jnp.issubdtype(leaf.dtype, jnp.inexact)
    and not bool(jnp.isfinite(leaf).all())
  ]
  bad_steps = np.flatnonzero(~np.isfinite(losses))
  if not len(bad_steps) and not bad_leaves:
    return
  step = first_step + (int(bad_steps[0]) if len(bad_steps) else len(losses) - 1)
  leaf = bad_leaves[0] if bad_leaves else "loss"
  raise errors.NotFinite(
    f"step {step}: {leaf} is not finite; the last good checkpoint is kept. "
    f"{hint}"
  )


class Progress:
  """A live line on a terminal; a printed line now and then elsewhere."""

  SILENT = 30.0  # seconds without a printed line, and longer in a long work

  def __init__(self, total: int, step: int, every: int, unit: str = "accuracy"):
    """Starts at `step` of `total`; off a terminal, prints every `every`, and
    between them where steps are slow.

    `unit`: of what is chosen by.
    """
    self._unit = unit
    self._console = console_now()
    self._every, self._total, self._began = every, total, step
    self._start = self._spoke = time.monotonic()
    self._accuracy = math.nan
    self._bar = rich.progress.Progress(
      rich.progress.TextColumn("step {task.completed}/{task.total}"),
      rich.progress.BarColumn(bar_width=20),
      rich.progress.TextColumn("{task.fields[said]}"),
      rich.progress.TimeRemainingColumn(),
      console=self._console,
      disable=not self._console.is_terminal,
    )
    self._task = self._bar.add_task("", total=total, completed=step, said="")
    take(self._console)
    self._bar.start()

  def update(
    self, step: int, loss: float | None, accuracy: float | None
  ) -> None:
    """Shows the loss at `step`, and how good the latest selection was."""
    if accuracy is not None:
      self._accuracy = accuracy
    said = "" if loss is None else f"loss {loss:.4f}"
    if not math.isnan(self._accuracy):
      said += f"  selection {units.shown(self._accuracy, self._unit)}"
    self._bar.update(self._task, completed=step, said=said)
    now = time.monotonic()
    spent = now - self._start
    late = now - self._spoke > pause(self.SILENT, spent)
    if not self._console.is_terminal and (step % self._every == 0 or late):
      self._spoke = now
      left = spent / max(step - self._began, 1) * (self._total - step)
      self._console.print(
        f"step {step}/{self._total}  {said}  {units.seconds(left)} left",
        highlight=False,
      )

  def close(self) -> None:
    """Leaves the terminal as it was."""
    self._bar.stop()
    leave(self._console)


def pause(least: float, spent: float) -> float:
  """Returns the seconds between two printed lines, of work that took `spent`.

  The longer it has taken, the less there is to say of another minute.
  """
  return max(least, spent / 4)


_taken: list[rich.console.Console] = []  # that have a line which lives


def say(text: str) -> None:
  """Prints one line of what a run is doing to standard error."""
  interrupts.obey()
  console_now().print(text, highlight=False, markup=False, soft_wrap=True)


def console_now() -> rich.console.Console:
  """Returns where lines are said: above a line that lives, if there is one."""
  if _taken:
    return _taken[-1]
  # One process of several speaks for all of them.
  stream: Any = console.Stream("stderr", sys.stderr)
  return rich.console.Console(file=stream, quiet=not processes.is_first())


def is_taken() -> bool:
  """Whether a line lives on the terminal."""
  return bool(_taken)


def take(to: rich.console.Console) -> None:
  """From here on a line lives on this console."""
  _taken.append(to)


def leave(to: rich.console.Console) -> None:
  """None lives there any more."""
  if to in _taken:
    _taken.remove(to)
