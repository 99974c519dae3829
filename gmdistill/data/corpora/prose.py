"""Docstrings of source files, reduced to prose; run as a script, too.

    python prose.py FOLDER

prints the texts of a folder as JSON. It needs the standard library alone, so
that `read` can have a process read each folder: parsing is what takes time, and
threads would wait for each other.
"""

import ast
import contextlib
import gc
import hashlib
import inspect
import json
import os
import pathlib
import re
import subprocess
import sys
import warnings
from collections.abc import Iterator

MIN_WORDS = 10

MAX_WORDS = 64

_SKIPPED_FOLDERS = {"tests", "test", "testing", "_vendor", "externals"}

# Not the library itself: what is installed beside it, and whole applications.
_SKIPPED_OF_PYTHON = {
  "site-packages",
  "dist-packages",
  "ensurepip",
  "idlelib",
  "lib2to3",
  "pydoc_data",
  "turtledemo",
}

# Names of the packages, of their modules' usual aliases, and of their close
# relatives: with these in the text the task would be a search for a string.
_PARTS = (
  "sklearn|scikit|matplotlib|mpl|pyplot|pylab|plt|jax|jnp|xla|pallas|hugging|"
  "numpy|scipy|python"
)

_WHOLE = r"\b(np|lax|hf|hub|hfapi)\b"

_GIVEAWAYS = re.compile(
  rf"hugging[ -]?face|scikit[ -]learn|\b\w*({_PARTS})\w*\b|{_WHOLE}",
  re.IGNORECASE,
)

# Found in lower-case text wherever those are, in a tenth of the time.
_HINTS = re.compile(f"{_PARTS}|{_WHOLE}")

_HEADING = re.compile(
  r"(other |keyword )?(args|arguments|parameters|params|returns?|raises|yields?"
  r"|examples?|notes?|references|see also|attributes|usage|methods|warnings?)"
  r"\s*:*|[-=~^*]{3,}",
  re.IGNORECASE,
)

_ENDING = re.compile(
  r"(examples?|references|see also|usage)\s*:*", re.IGNORECASE
)

_TYPE = re.compile(r"\*{0,2}\w+(, ?\*{0,2}\w+)* : .*")  # x, y : int

_FIELD = re.compile(r"^:(param|returns?|raises|r?type)[^:]*:")  # :param x:


def clean(docstring: str) -> str:
  """Reduces a docstring to at most MAX_WORDS words of prose.

  The descriptions of parameters and results stay, without headings and types.
  Examples and references, doctests, directives and addresses go; identifiers
  are split at underscores; names of packages are removed.
  """
  kept: list[str] = []
  for paragraph in re.split(r"\n\s*\n", inspect.cleandoc(docstring)):
    prose, ended = _prose(paragraph)
    kept += prose
    if ended and kept:
      break
  text = " ".join(kept)
  text = re.sub(r"\w+://\S+|www\.\S+|<[^>]*>", " ", text)
  text = re.sub(r":\w+(?::\w+)*:`", " ", text)  # :class:`name` -> name
  text = _without_names(text)
  if "_" in text:  # Splitting there uncovers more of the names.
    text = _without_names(text.replace("_", " "))
  text = re.sub(r"[^A-Za-z0-9,.;:()'-]+", " ", text)
  text = re.sub(r"(?<!\w)[^\w\s(]+(?!\w)", " ", text)  # stray punctuation
  return " ".join(text.split()[:MAX_WORDS])


def _without_names(text: str) -> str:
  return _GIVEAWAYS.sub(" ", text) if _HINTS.search(text.lower()) else text


def _prose(paragraph: str) -> tuple[list[str], bool]:
  """Returns the prose of a paragraph, and whether the prose ends here."""
  lines: list[str] = []
  for raw_line in paragraph.split("\n"):
    line = raw_line.strip()
    if _ENDING.fullmatch(line):
      return lines, True
    if line.startswith(("..", ">>>")):
      break
    if _HEADING.fullmatch(line) or _TYPE.fullmatch(line):
      continue
    if not line.startswith("@"):
      lines.append(_FIELD.sub("", line))
  return lines, False


def _words(text: str) -> list[str]:
  return re.findall("[a-z]+", text.lower())


def near_duplicate_keys(text: str) -> tuple[str, str]:
  """Returns a text's first and last twelve words, lower-cased, letters only.

  Two texts that share either are counted as one.
  """
  words = _words(text)
  return " ".join(words[:12]), " ".join(words[-12:])


def digest(text: str) -> str:
  """Returns a text's SHA-256, in hexadecimal digits."""
  return hashlib.sha256(text.encode()).hexdigest()


def docstrings(folder: pathlib.Path) -> Iterator[str]:
  """Yields every docstring of the source files below a folder."""
  documented = (
    ast.Module,
    ast.ClassDef,
    ast.FunctionDef,
    ast.AsyncFunctionDef,
  )
  for path in sorted(_sources(folder), key=pathlib.PurePath.as_posix):
    with warnings.catch_warnings(), _without_collection():
      # Other people's invalid escapes are not the user's concern.
      warnings.simplefilter("ignore")
      try:
        tree = ast.parse(path.read_bytes())
      except (SyntaxError, ValueError):
        continue  # A template, or code for another Python.
    for node in _statements(tree):
      if isinstance(node, documented):
        docstring = ast.get_docstring(node, clean=False)
        if docstring:
          yield docstring


def _sources(folder: pathlib.Path) -> Iterator[pathlib.Path]:
  skipped = _SKIPPED_FOLDERS | _SKIPPED_OF_PYTHON
  for inside, folders, files in os.walk(folder):
    folders[:] = [name for name in folders if name not in skipped]
    for name in files:
      if name.endswith(".py"):
        yield pathlib.Path(inside, name)


@contextlib.contextmanager
def _without_collection() -> Iterator[None]:
  """Spares a tree's thousands of new objects the search for dead ones."""
  was_on = gc.isenabled()
  gc.disable()
  try:
    yield
  finally:
    if was_on:
      gc.enable()


def _statements(tree: ast.Module) -> Iterator[ast.AST]:
  """Yields a module and what holds its statements, without the expressions.

  Those are most of a tree, and have no docstrings.
  """
  waiting: list[ast.AST] = [tree]
  while waiting:
    node = waiting.pop()
    yield node
    fields = vars(node)
    if "body" not in fields:  # most statements hold no others
      waiting += fields.get("cases", ())
      continue
    for field in ("body", "orelse", "finalbody", "handlers"):
      inner = fields.get(field)
      if isinstance(inner, list):  # a lambda's or a condition's is one node
        waiting += inner


def texts(folder: pathlib.Path) -> list[str]:
  """Returns a class's texts without near-duplicates, the longest first."""
  candidates = {clean(docstring) for docstring in docstrings(folder)}
  ranked = sorted(
    (text for text in candidates if len(_words(text)) >= MIN_WORDS),
    key=lambda text: (-len(text.split()), digest(text)),
  )
  kept: list[str] = []
  seen: set[str] = set()
  for text in ranked:
    keys = near_duplicate_keys(text)
    if not seen.intersection(keys):
      kept.append(text)
    seen.update(keys)
  return kept


def read(folders: dict[str, pathlib.Path]) -> dict[str, list[str]]:
  """Returns the texts of every folder; a process reads each.

  Raises:
    subprocess.CalledProcessError: one of them failed; it has said why.
  """
  # By its path: the package may be importable by this process alone.
  script = [sys.executable, "-P", __file__]
  with contextlib.ExitStack() as stack:
    readers = {
      name: stack.enter_context(
        subprocess.Popen([*script, folder], stdout=subprocess.PIPE)
      )
      for name, folder in folders.items()
    }
    printed = {
      name: reader.communicate()[0] for name, reader in readers.items()
    }
  for reader in readers.values():
    if reader.returncode:
      raise subprocess.CalledProcessError(reader.returncode, reader.args)
  return {name: json.loads(texts) for name, texts in printed.items()}


if __name__ == "__main__":
  json.dump(texts(pathlib.Path(sys.argv[1])), sys.stdout)
