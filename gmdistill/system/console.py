"""What is printed: nothing of it may end a run.

A terminal may not know a character, and a pipe may be closed before the run
ends (`gmdistill evaluate ... | head`). What is printed is for people; what a
run has computed is in its files by then, or would be lost by an error here.
"""

import contextlib
import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

# What a reader understands, where a stream has no such character.
_PLAIN = str.maketrans(
  {"±": "+-", "×": "x", "→": "->", "…": "...", "–": "-", "—": "-", "’": "'"}
)


def show(text: str) -> None:
  """Prints one line, or several, of a command's results: to standard output."""
  _print(text, "stdout")


def data(content: Any) -> None:
  """Prints a result as a program reads it: JSON, and nothing beside it."""
  show(json.dumps(content, indent=2))


def complain(text: str) -> None:
  """Prints a line to standard error."""
  _print(text, "stderr")


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
  """Prints a table of texts: as wide as a terminal, or else a row a line."""
  import rich.console  # which a command that prints none need not wait for
  import rich.markup
  import rich.table

  made = rich.table.Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
  for name in header:
    made.add_column(name, overflow="fold")
  for row in rows:
    made.add_row(*map(rich.markup.escape, row))
  stream: Any = Stream("stdout")
  to = rich.console.Console(file=stream)
  if to.is_terminal:
    to.print(made)
    return
  to = rich.console.Console(file=stream, width=10_000, highlight=False)
  with to.capture() as text:
    to.print(made)
  show("\n".join(line.rstrip() for line in text.get().splitlines()))


def flush() -> None:
  """Shows what was printed, of a process that is about to end."""
  for name in ("stdout", "stderr"):
    Stream(name).flush()


def _print(text: str, name: str) -> None:
  stream = Stream(name)
  stream.write(f"{text}\n")
  stream.flush()


def encodable(text: str, encoding: str | None) -> str:
  """Returns the text with what an encoding lacks written in other characters.

  `±` becomes `+-`; what has no such form is escaped, as `\\u4e2d` or, of a
  file name that is no UTF-8, `\\udcff`.
  """
  encoding = encoding or "utf-8"
  try:
    text.encode(encoding)
    return text
  except UnicodeEncodeError:
    plain = text.translate(_PLAIN).encode(encoding, "backslashreplace")
    return plain.decode(encoding)


class Stream:
  """Standard output or error, whatever it is just now, that takes any text.

  One that is closed takes all and shows nothing. Everything else is the
  stream's: `isatty`, `fileno`, `buffer`.
  """

  def __init__(self, name: str, stream: Any = None):
    """Stands for `sys.stdout` or `sys.stderr`, by name, or for `stream`."""
    self._name, self._stream = name, stream

  def __getattr__(self, name: str) -> Any:
    """Returns what the stream itself has."""
    if name == "rich_proxied_file":  # rich would write there, around this one
      raise AttributeError(name)
    return getattr(self._now(), name)

  def write(self, text: str) -> int:
    """Writes what can be written."""
    stream = self._now()
    with _kept_from_harm(self._name, stream):
      stream.write(encodable(text, getattr(stream, "encoding", None)))
    return len(text)

  def flush(self) -> None:
    """Shows what was written."""
    stream = self._now()
    with _kept_from_harm(self._name, stream):
      stream.flush()

  def writelines(self, lines: Any) -> None:
    """Writes one text after the other."""
    for line in lines:
      self.write(line)

  def _now(self):
    return getattr(sys, self._name) if self._stream is None else self._stream


@contextlib.contextmanager
def _kept_from_harm(name, stream):
  try:
    yield
  except (OSError, ValueError, AttributeError) as error:
    # ValueError: closed. AttributeError: None, of a process that has none.
    _lose(name, stream, error)


def _lose(name, stream, error):
  """Lets what is still to be written to a stream vanish."""
  with contextlib.suppress(OSError, ValueError, AttributeError):
    number = stream.fileno()
    # Python flushes it once more at its end, and would tell of that.
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, number)
    os.close(nowhere)
    if name == "stdout" and not isinstance(error, BrokenPipeError):
      complain(f"gmdistill: nothing more can be printed ({error.strerror})")


@contextlib.contextmanager
def tolerant() -> Iterator[None]:
  """Makes every print of the block harmless, those of other libraries too."""
  before = sys.stdout, sys.stderr
  sys.stdout = Stream("stdout", before[0])  # type: ignore[assignment]
  sys.stderr = Stream("stderr", before[1])  # type: ignore[assignment]
  try:
    yield
  finally:
    sys.stdout.flush()
    sys.stderr.flush()
    sys.stdout, sys.stderr = before
