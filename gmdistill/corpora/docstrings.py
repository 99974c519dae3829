"""The embedded default corpus: where does this docstring come from?

A text-classification set that every installation can build by itself: the
docstrings of the Python standard library and of packages that gmdistill depends
on anyway, read from their source files (never imported), reduced to prose, and
labelled by where they are from. It needs no network, takes seconds to prepare,
and is a pure function of what is installed.
"""

import ast
import contextlib
import gc
import hashlib
import importlib.metadata
import importlib.util
import inspect
import io
import os
import pathlib
import platform
import re
import sysconfig
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator
from typing import Any

import tensorflow_datasets as tfds

from gmdistill import errors

# Import name -> distribution name.
PACKAGES = {
  "sklearn": "scikit-learn",
  "matplotlib": "matplotlib",
  "jax": "jax",
}

STANDARD_LIBRARY = "python"


def label_names() -> list[str]:
  """Returns the classes, in the order of their numbers."""
  return [STANDARD_LIBRARY, *PACKAGES]


ROWS_PER_CLASS = 1500
MIN_WORDS = 10
MAX_WORDS = 64
TEST_PARTS = 6  # One part in six is the test split.

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
_GIVEAWAYS = re.compile(
  r"hugging[ -]?face|scikit[ -]learn|"
  r"\b\w*(sklearn|scikit|matplotlib|mpl|pyplot|pylab|plt|jax|jnp|xla|pallas|"
  r"hugging|numpy|scipy|python)\w*\b|\b(np|lax|hf|hub|hfapi)\b",
  re.IGNORECASE,
)

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
  # Twice: splitting at underscores uncovers more of the names.
  text = _GIVEAWAYS.sub(" ", text).replace("_", " ")
  text = _GIVEAWAYS.sub(" ", text)
  text = re.sub(r"[^A-Za-z0-9,.;:()'-]+", " ", text)
  text = re.sub(r"(?<!\w)[^\w\s(]+(?!\w)", " ", text)  # stray punctuation
  return " ".join(text.split()[:MAX_WORDS])


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


def _digest(text: str) -> str:
  return hashlib.sha256(text.encode()).hexdigest()


def split_of(text: str) -> str:
  """Returns "train" or "test", decided by the opening words alone."""
  part = int(_digest("split " + near_duplicate_keys(text)[0])[:8], 16)
  return "test" if part % TEST_PARTS == 0 else "train"


def _folder(label: str) -> pathlib.Path:
  if label == STANDARD_LIBRARY:
    return pathlib.Path(sysconfig.get_paths()["stdlib"])
  return _package_folder(label)


def _package_folder(package: str) -> pathlib.Path:
  spec = importlib.util.find_spec(package)
  if spec is None or not spec.submodule_search_locations:
    raise errors.InputError(
      f"The data set 'docstrings' reads the package {package}, which is not "
      f"installed; run: pip install {PACKAGES[package]}"
    )
  return pathlib.Path(next(iter(spec.submodule_search_locations)))


def _docstrings(folder: pathlib.Path) -> Iterator[str]:
  """Yields every docstring of the source files below a folder."""
  files = {path.relative_to(folder): path for path in folder.rglob("*.py")}
  skipped = _SKIPPED_FOLDERS | _SKIPPED_OF_PYTHON
  documented = (
    ast.Module,
    ast.ClassDef,
    ast.FunctionDef,
    ast.AsyncFunctionDef,
  )
  for relative in sorted(files, key=pathlib.PurePath.as_posix):
    if skipped & set(relative.parts):
      continue
    with warnings.catch_warnings(), _without_collection():
      # Other people's invalid escapes are not the user's concern.
      warnings.simplefilter("ignore")
      try:
        tree = ast.parse(files[relative].read_bytes())
      except (SyntaxError, ValueError):
        continue  # A template, or code for another Python.
    for node in _statements(tree):
      if isinstance(node, documented):
        docstring = ast.get_docstring(node, clean=False)
        if docstring:
          yield docstring


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
    for field in ("body", "orelse", "finalbody", "handlers", "cases"):
      inner = getattr(node, field, None)
      if isinstance(inner, list):  # a lambda's or a condition's is one node
        waiting += inner


def _texts(folder: pathlib.Path) -> list[str]:
  """Returns a class's texts without near-duplicates, the longest first."""
  candidates = {clean(docstring) for docstring in _docstrings(folder)}
  ranked = sorted(
    (text for text in candidates if len(_words(text)) >= MIN_WORDS),
    key=lambda text: (-len(text.split()), _digest(text)),
  )
  texts: list[str] = []
  seen: set[str] = set()
  for text in ranked:
    keys = near_duplicate_keys(text)
    if not seen.intersection(keys):
      texts.append(text)
    seen.update(keys)
  return texts


def rows() -> dict[str, list[str]]:
  """Returns the texts of every class, equally many of each.

  Texts that occur in more than one class are left out.
  """
  folders = {label: _folder(label) for label in label_names()}
  texts = {label: _texts(folder) for label, folder in folders.items()}
  owners = Counter(
    key
    for of_label in texts.values()
    for key in {key for text in of_label for key in near_duplicate_keys(text)}
  )
  unique = {
    label: [
      text
      for text in of_label
      if all(owners[key] == 1 for key in near_duplicate_keys(text))
    ]
    for label, of_label in texts.items()
  }
  count = min(ROWS_PER_CLASS, *(len(kept) for kept in unique.values()))
  return {label: kept[:count] for label, kept in unique.items()}


def installed_versions() -> str:
  """Returns Python and the packages with their versions, as a folder name."""
  names = [f"{STANDARD_LIBRARY}-{platform.python_version()}"]
  names += [
    f"{package}-{importlib.metadata.version(distribution)}"
    for package, distribution in PACKAGES.items()
  ]
  return re.sub(r"[^\w.-]", "-", "_".join(names))


class Docstrings(tfds.core.GeneratorBasedBuilder):
  """TFDS builder `docstrings`: `text`, and `label`, where it is from.

  The configuration is named after the installed versions, so that an upgrade
  prepares the corpus afresh.
  """

  VERSION = tfds.core.Version("1.0.0")
  RELEASE_NOTES = {"1.0.0": "First release."}
  BUILDER_CONFIGS = [
    tfds.core.BuilderConfig(
      name=installed_versions(), description="Of the packages as installed."
    )
  ]

  def _info(self) -> tfds.core.DatasetInfo:
    return tfds.core.DatasetInfo(
      builder=self,
      description="Docstrings, labelled by where they are from.",
      features=tfds.features.FeaturesDict(
        {
          "text": tfds.features.Text(),
          "label": tfds.features.ClassLabel(names=label_names()),
        }
      ),
      supervised_keys=("text", "label"),
    )

  def _split_generators(
    self, dl_manager: tfds.download.DownloadManager
  ) -> dict[str, Iterator[tuple[str, dict[str, str]]]]:
    del dl_manager  # Nothing is downloaded.
    by_label = rows()
    return {
      split: self._generate_examples(by_label, split)
      for split in ("train", "test")
    }

  def _generate_examples(
    self, by_label: dict[str, list[str]], split: str
  ) -> Iterator[tuple[str, dict[str, str]]]:
    for label, texts in by_label.items():
      for text in texts:
        if split_of(text) == split:
          yield _digest(text), {"text": text, "label": label}


def prepare(data_dir: str | os.PathLike[str], corpus: Any = Docstrings) -> Any:
  """Returns the builder of a corpus of our own, prepared under `data_dir`.

  Prepares on first use, into a temporary folder that is renamed when complete:
  of two processes that prepare at once, one wins and both read its files.

  Raises:
    errors.InputError: a labelled package is not installed.
  """
  builder = corpus(data_dir=data_dir)
  if builder.is_prepared():
    return builder
  with (
    tempfile.TemporaryDirectory() as downloads,
    contextlib.redirect_stdout(io.StringIO()),  # TFDS reports every shard.
    contextlib.redirect_stderr(io.StringIO()),
  ):
    try:
      builder.download_and_prepare(
        download_dir=downloads, file_format="array_record"
      )
    except OSError:
      # The rename fails where another process has finished first.
      builder = corpus(data_dir=data_dir)
      if not builder.is_prepared():
        raise
  return builder
