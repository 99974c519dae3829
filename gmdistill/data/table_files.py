"""Rows in files that people bring: which files are meant, and their splits.

CSV, TSV, JSON lines and Parquet; one file, a folder, or a glob of them.
"""

import hashlib
import os
import pathlib
import re
from typing import Any, NamedTuple

from etils import epath

from gmdistill import errors
from gmdistill.system import paths

# By the end of a file's name.
KINDS = {
  ".csv": "csv",
  ".tsv": "tsv",
  ".tab": "tsv",
  ".json": "json",
  ".jsonl": "json",
  ".ndjson": "json",
  ".parquet": "parquet",
  ".pq": "parquet",
  ".arrow": "arrow",
}

WAYS = (
  "a file of rows (FILE.csv, .tsv, .jsonl or .parquet), a folder or glob of "
  "them, a data set of the Hugging Face hub as hf:ORG/NAME, or a TFDS set as "
  "NAME or NAME/CONFIG, such as 'glue/sst2'"
)

ON_THE_HUB = "hf:"  # begins the name of a data set there

# What a split may be called in a file's name or a split column.
_SPLITS = {
  "train": ("train", "training"),
  "validation": ("validation", "valid", "val", "dev", "eval"),
  "test": ("test", "testing", "heldout"),
}
_SPLIT_OF = {name: split for split, names in _SPLITS.items() for name in names}

_WHOLE = 64 << 20  # bytes; of larger files, head, tail and time tell


class TableFile(NamedTuple):
  """A file of rows."""

  path: epath.Path
  kind: str  # "csv", "tsv", "json", "parquet" or "arrow"
  split: str  # by its name; "": it has rows to train on, or of several splits


def are_meant(name: str) -> bool:
  """Whether a data set's name is of files, and not of a TFDS set."""
  if not name or "\0" in name:
    return False
  if pathlib.PurePath(name).suffix.lower() in KINDS or re.search(r"[*?]", name):
    return True
  if name.startswith(
    (ON_THE_HUB, "/", "./", "../", "~", "gs://", "s3://", "az://")
  ):
    return True
  place = pathlib.Path(name)
  try:
    return place.is_file() or (place.is_dir() and any(_tables_in(place)))
  except OSError:  # no name that the system takes
    return False


def find(name: str) -> tuple[TableFile, ...]:
  """Returns the files that a name means, in order.

  Raises:
    errors.InputError: there are none, or of another kind.
  """
  place, pattern = _base(name)
  if pattern:
    places = sorted(x for x in place.glob(pattern) if x.is_file())
    missing = f"config.data.name={name}: no file matches"
  elif place.is_dir():
    places = sorted(_tables_in(place))
    missing = f"config.data.name={name}: the folder has no file of rows"
  else:
    places = [place]
    missing = f"config.data.name={name}: there is no such file"
  if not places or not all(map(_is_there, places)):
    raise errors.InputError(f"{missing}; give {WAYS}")
  files = []
  for one in places:
    suffix = one.suffix.lower()
    if suffix not in KINDS:
      raise errors.InputError(
        f"{one}: rows are not read from {suffix or 'a file without a suffix'}; "
        f"save it as one of {', '.join(KINDS)}"
      )
    several = len(places) > 1
    split = _split_of_file(one, place) if several else ""
    files.append(TableFile(one, KINDS[suffix], split))
  return _with_training(tuple(files))


def _with_training(files):
  """Returns the files, those that name no split being to train on."""
  if not any(file.split for file in files):
    return files
  return tuple(file._replace(split=file.split or "train") for file in files)


def _is_there(place):
  try:
    with place.open("rb"):
      return True
  except FileNotFoundError:
    return False
  except OSError as error:
    raise errors.InputError(
      f"{place} cannot be read ({error.strerror or error}); mend that, or give "
      "another file"
    ) from error


def _base(name: str) -> tuple[epath.Path, str]:
  """Returns the file or folder that is named, and a glob's pattern below it."""
  whole = paths.path(name)
  if not re.search(r"[*?\[]", name) or whole.exists():
    return whole, ""
  parts = name.split("/")
  first = next(n for n, part in enumerate(parts) if re.search(r"[*?\[]", part))
  base = "/".join(parts[:first]) or ("/" if name.startswith("/") else ".")
  return paths.path(base), "/".join(parts[first:])


def _tables_in(folder):
  """Yields the files of rows of a folder, and of folders in it for splits."""
  yield from _tables_of(folder)
  for place in folder.iterdir():
    if split_of(place.name) and place.is_dir():
      yield from _tables_of(place)


# What `save_to_disk` of `datasets` writes beside the rows.
_ABOUT = ("dataset_dict.json", "dataset_info.json", "state.json")


def _tables_of(folder):
  """Yields the files of rows that lie in a folder itself."""
  # Caches of `map` may stand beside what was saved.
  hidden = (".", "_", "cache-")
  for place in folder.iterdir():
    if place.name in _ABOUT or place.name.startswith(hidden):
      continue
    if place.suffix.lower() in KINDS and place.is_file():
      yield place


def own_split(file: TableFile) -> str:
  """Returns a file's split where others of its folder are for training too: one
  that names none is a split of its own, by its name."""
  stem = _stem(file.path)
  named = [word for word in _words(stem) if word in _SPLIT_OF]
  is_named = named or split_of(file.path.parent.name) or not file.split
  return (file.split or "train") if is_named else stem


def _stem(place):
  return place.name[: len(place.name) - len(place.suffix)]


def _words(stem):
  return re.split(r"[^a-z]+", stem.lower())


def _split_of_file(place, folder):
  words = _words(_stem(place))
  named = [_SPLIT_OF[word] for word in words if word in _SPLIT_OF]
  if not named and place.parent != folder:
    return split_of(place.parent.name)
  return named[0] if named else ""


def split_of(word: str) -> str:
  """Returns the split that a word names; "": none."""
  return _SPLIT_OF.get(str(word).strip().lower(), "")


def identity(files: tuple[TableFile, ...]) -> dict[str, Any]:
  """Returns what decides the rows: each file's name, split and content.

  Of large files, size, time of change, head and tail stand for the content.
  """
  found = {}
  for number, file in enumerate(files):
    size = file.path.stat().length
    digest = hashlib.sha256(f"{size}".encode())
    with file.path.open("rb") as stream:
      if size <= _WHOLE:
        digest.update(stream.read())
      else:
        digest.update(f"{file.path.stat().mtime}".encode())
        digest.update(stream.read(1 << 16))
        stream.seek(size - (1 << 16))
        digest.update(stream.read())
    key = f"{number} {os.path.basename(file.path)} {file.kind} {file.split}"
    found[key] = digest.hexdigest()
  return found
