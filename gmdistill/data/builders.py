"""From the name of a data set to its TFDS builder, whose files can be read."""

import contextlib
import difflib
import hashlib
import importlib
import logging
import os
import re
from collections.abc import Iterator
from typing import Any

import tensorflow_datasets as tfds
from etils import epath

from gmdistill import errors
from gmdistill.data import records, table_files
from gmdistill.system import paths

EMBEDDED = (
  "docstrings",
  "chains",
  "motifs",
)  # prepared on the spot, of our own

# Where TFDS defines sets of texts.
_TEXTS = ("tensorflow_datasets.text", "tensorflow_datasets.question_answering")

_FILES = "give FILE.csv, .tsv, .jsonl or .parquet, a folder or glob of them"

_NAME = re.compile(r"[A-Za-z_]\w*(/[\w.+=-]+)?(:\d[\w.*]*)?")


def find(name: str, data_dir: str, embedded_dir: epath.PathLike) -> Any:
  """Returns the builder of a prepared data set; arguments as `open_source`'s.

  Raises:
    errors.InputError: the set is unknown, not prepared, or in files that need
      TensorFlow.
  """
  if not _NAME.fullmatch(name):
    raise errors.InputError(
      f"config.data.name={name!r} is no data set that is known; give "
      f"{table_files.WAYS}"
    )
  if name in EMBEDDED:
    return _embedded(name, paths.path(data_dir or embedded_dir))
  return _copied(_prepared(name, data_dir), paths.path(embedded_dir))


def _embedded(name: str, folder: epath.Path) -> Any:
  from gmdistill.data.corpora import chains, docstrings, motifs

  if not paths.is_local(folder):
    raise errors.InputError(
      f"{name} is prepared on this machine, not in {folder}; leave "
      "config.data.dir empty."
    )
  of = {"docstrings": docstrings, "chains": chains, "motifs": motifs}[name]
  with _quiet():
    return of.prepare(folder)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
  """Keeps TFDS from warning about what is reported in one line here."""
  logger = logging.getLogger("absl")
  level = logger.level
  logger.setLevel(logging.ERROR)
  try:
    yield
  finally:
    logger.setLevel(level)


def _prepared(name: str, data_dir: str) -> Any:
  folder = paths.path(data_dir or tfds.core.constants.DATA_DIR)
  try:
    with _quiet():
      builder = _known(name, os.fspath(folder) if data_dir else None)
      prepared = builder.is_prepared() and builder.info.splits
  # TFDS asserts where a version is unknown.
  except (ValueError, AssertionError):
    raise errors.InputError(_unknown(name, folder)) from None
  command = (
    f'python -c "import tensorflow_datasets as tfds, {", ".join(_TEXTS)}; '
    f"tfds.builder('{name}', data_dir='{folder}')"
    ".download_and_prepare(file_format='array_record')\""
  )
  if not prepared:
    raise errors.InputError(
      f"{name} is not prepared under {folder}; set config.data.dir to the "
      f"TFDS folder that has it, or, with a network, run: {command}"
    )
  file_format = builder.info.file_format
  if file_format not in records.READABLE:
    known = ", ".join(x.value for x in records.READABLE)
    raise errors.InputError(
      f"{name} under {folder} is prepared as {file_format.value}, which is not "
      f"read here; prepare it anew as one of {known}"
    )
  return builder


def _known(name: str, data_dir: str | None) -> Any:
  """Returns TFDS's builder of a name, wherever in TFDS it is defined.

  Without TensorFlow, TFDS gives up its own search at the first module that
  cannot be imported, and comes to no module of texts.
  """
  try:
    return tfds.builder(name, data_dir=data_dir)
  except tfds.core.DatasetNotFoundError:
    for module in _TEXTS:
      importlib.import_module(module)
    return tfds.builder(name, data_dir=data_dir)


def _copied(builder: Any, cache: epath.Path) -> Any:
  """Returns the builder of a set's files here, copied where they are not.

  Rows are read at random by libraries that know local files alone.
  """
  source = epath.Path(builder.data_path)
  if paths.is_local(source):
    return builder
  digest = hashlib.sha256(os.fspath(source).encode()).hexdigest()[:16]
  folder = cache / "copies" / digest / source.name
  # The file that makes a folder a data set comes last, when all is there.
  names = [file.name for file in source.iterdir() if file.is_file()]
  for name in sorted(names, key=lambda name: name == "dataset_info.json"):
    there, here = source / name, folder / name
    if not here.is_file() or os.path.getsize(here) != there.stat().length:
      folder.mkdir(parents=True, exist_ok=True)
      paths.write_bytes(here, there.read_bytes())
  with _quiet():
    return tfds.builder_from_directory(folder)


def _unknown(name: str, folder: epath.Path) -> str:
  there = sorted(names_on_disk(folder))
  close = difflib.get_close_matches(name, [*EMBEDDED, *there], n=3, cutoff=0.5)
  said = (
    f"Unknown data set {name!r}: TFDS has none of that name and configuration, "
    f"and none is prepared under {folder}; "
  )
  if close:
    return f"{said}did you mean {', '.join(close)}? Files: {_FILES}"
  if there:
    return f"{said}prepared there: {', '.join(there)}. Files: {_FILES}"
  return (
    f"{said}nothing is: set config.data.dir to a folder of prepared sets, or "
    f"use {' or '.join(EMBEDDED)}, which need none. Files: {_FILES}"
  )


def names_on_disk(folder: epath.Path) -> set[str]:
  """Returns the names of the data sets prepared under a TFDS folder."""
  depth = len(folder.parts)
  return {
    "/".join(path.parts[depth:-2])
    for pattern in ("*/*/dataset_info.json", "*/*/*/dataset_info.json")
    for path in folder.glob(pattern)
  }
