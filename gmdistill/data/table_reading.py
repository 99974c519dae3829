"""Rows of files, read once in bounded memory: what is checked and mended.

Texts go to an Arrow file that is mapped, not held; labels, and eight bytes a
row that tell copies, are held.
"""

import math
from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from gmdistill import errors
from gmdistill.data import (
  labels,
  table_columns,
  table_files,
  table_rows,
  table_texts,
)
from gmdistill.system import waits

_MB = 10**6


class Part(NamedTuple):
  """The rows of one split, in their order; label -1: of no known class."""

  texts: table_texts.Texts
  names: np.ndarray  # [N] int32, into `Read.names`; -1: no label
  rationales: list[str]
  groups: np.ndarray | None
  topics: list[list[str]]
  hashes: np.ndarray  # [N] int64; equal where the texts are


class Read(NamedTuple):
  """All rows of the files."""

  parts: dict[str, Part]
  names: list[str]  # the labels, as they came
  counts: Counter[str]  # of what was mended on the way
  first: dict[str, str]  # where each of these was met first
  group_names: tuple[str, ...]  # by number; none where groups are numbers


def read(
  files: Iterable[table_files.TableFile], columns: table_columns.Columns
) -> Read:
  """Returns all rows of the files.

  Raises:
    errors.InputError: one cannot be read; names file and line.
  """
  files, done, reading = list(files), 0, _Reading(columns)
  size = sum(file.path.stat().length for file in files) // _MB
  count = waits.Count("reading rows", size, "MB")
  with table_texts.spool(len(columns.texts)) as spool, count.working(size):
    for file in files:
      for chunk in table_rows.chunks(file, columns.names):
        reading.add(file, chunk, spool)
        count.reach((done + chunk.place) / _MB)
      done += file.path.stat().length
  return reading.end(spool.batches())


def number(name: str) -> float | None:
  """Returns the number that a label is; None: it is a word."""
  try:
    value = float(name)
  except ValueError:
    return None
  return value if math.isfinite(value) and "_" not in name else None


class _Reading:
  """What is gathered while rows go by."""

  def __init__(self, columns):
    self._columns = columns
    self._numbers: dict[str, int] = {}
    self._labels: list[np.ndarray] = []
    self._hashes: list[np.ndarray] = []
    self._splits: list[np.ndarray] = []
    self._groups: list[int | str] = []
    self._topics: list[list[str]] = []
    self._rationales: list[str] = []
    self._split_numbers: dict[str, int] = {}
    self.counts: Counter[str] = Counter()
    self.first: dict[str, str] = {}

  def add(self, file, chunk, spool):
    """Takes the rows of a chunk."""
    columns, keys = chunk.columns, self._columns
    texts = [self._texts(chunk, key) for key in keys.texts]
    spool.write(texts)
    self._hashes.append(
      np.fromiter(map(hash, zip(*texts, strict=True)), np.int64, len(texts[0]))
    )
    found = [
      self._label(value, chunk, row)
      for row, value in enumerate(columns[keys.label])
    ]
    self._labels.append(np.array(found, np.int32))
    splits = [file.split or "train"] * len(found)
    if keys.split and not file.split:
      splits = [
        self._split(value, chunk, row)
        for row, value in enumerate(columns[keys.split])
      ]
    self._splits.append(
      np.array(
        [
          self._split_numbers.setdefault(x, len(self._split_numbers))
          for x in splits
        ],
        np.int8,
      )
    )
    if keys.rationale:
      self._rationales += self._texts(chunk, keys.rationale)
    if keys.topics:
      self._topics += [
        self._of_row(value, chunk, row)
        for row, value in enumerate(columns[keys.topics])
      ]
    if keys.by_file:
      stem = file.path.name[: -len(file.path.suffix)]
      self._groups += [stem] * len(found)
    elif keys.group:
      self._groups += [
        self._group(value, chunk, row)
        for row, value in enumerate(columns[keys.group])
      ]

  def end(self, batches) -> Read:
    """Returns all, split by split."""
    split_N = np.concatenate([np.zeros(0, np.int8), *self._splits])
    label_N = np.concatenate([np.zeros(0, np.int32), *self._labels])
    hash_N = np.concatenate([np.zeros(0, np.int64), *self._hashes])
    group_N, group_names = _numbered(self._groups)
    parts = {}
    for split, number in self._split_numbers.items():
      rows = np.flatnonzero(split_N == number)
      parts[split] = Part(
        table_texts.Texts(batches, rows, len(self._columns.texts)),
        label_N[rows],
        [self._rationales[x] for x in rows] if self._rationales else [],
        group_N[rows] if self._groups else None,
        [self._topics[x] for x in rows] if self._topics else [],
        hash_N[rows],
      )
    return Read(
      parts, list(self._numbers), self.counts, self.first, group_names
    )

  def _note(self, what, where, row):
    self.counts[what] += 1
    if what not in self.first:
      self.first[what] = where(row)

  def _texts(self, chunk, key):
    values = chunk.columns[key]
    return [self._text(x, key, chunk, row) for row, x in enumerate(values)]

  def _text(self, value, key, chunk, row):
    if value is None:
      return ""
    if isinstance(value, list) and all(isinstance(x, str) for x in value):
      value = " ; ".join(value)
    if not isinstance(value, str):
      raise errors.InputError(
        f"{chunk.where(row)}: {key!r} is {_said(value)}, where a text is read; "
        'write it in quotes, "" for none, or name another column in '
        "config.data.text_keys"
      )
    if "\0" in value:
      self._note(
        "texts hold a zero byte, which is read as is", chunk.where, row
      )
    try:
      value.encode()
    except UnicodeEncodeError:
      what = "texts hold half a character (a lone surrogate), read as \ufffd"
      self._note(what, chunk.where, row)
      halves = value.encode("utf-16", "surrogatepass")
      value = halves.decode("utf-16", "replace")
    return value

  def _label(self, value, chunk, row):
    """Returns the number of a row's label among those that were met."""
    name = self._label_name(value, chunk, row)
    if not name:
      self._note("rows have no label and are left out", chunk.where, row)
      return -1
    if name not in self._numbers:
      self._numbers[name] = len(self._numbers)
      value = number(name)
      if value is not None and value % 1:
        self.first[f"label {name}"] = chunk.where(row)
      if len(self._numbers) > 10 * labels.MOST:
        raise errors.InputError(
          f"{chunk.where(row)}: the column {self._columns.label!r} has more "
          f"than {10 * labels.MOST} different values; classes are 2 to "
          f"{labels.MOST}: name another column in config.data.label_key"
        )
    return self._numbers[name]

  def _label_name(self, value, chunk, row):
    if value is None or value is table_rows.ABSENT:
      return ""
    if isinstance(value, list) and len(value) <= 1:
      return self._label_name(value[0] if value else None, chunk, row)
    if isinstance(value, float) and not math.isnan(value) and not value % 1:
      return str(int(value))
    if isinstance(value, float) and math.isnan(value):
      return ""
    if not isinstance(value, str | bool | int | float):
      raise errors.InputError(
        f"{chunk.where(row)}: the label is {_said(value)}; a row has one "
        "class: a word or a whole number, or name another column in "
        "config.data.label_key"
      )
    name = str(value).strip()
    return name.encode(errors="replace").decode()

  def _split(self, value, chunk, row):
    split = table_files.split_of(value)
    if not split:
      raise errors.InputError(
        f"{chunk.where(row)}: {self._columns.split!r} is {value!r}, which "
        "is no split; write train, validation or test"
      )
    return split

  def _group(self, value, chunk, row):
    try:
      if isinstance(value, float) and value % 1:
        raise ValueError
      return int(value)
    except (TypeError, ValueError):
      if isinstance(value, str) and value.strip():
        return value.strip().encode(errors="replace").decode()
      raise errors.InputError(
        f"{chunk.where(row)}: {self._columns.group!r} is {_said(value)}, where "
        "config.data.group_key reads a whole number or a word"
      ) from None

  def _of_row(self, value, chunk, row):
    """Returns the topics of a list of words, or of words with ; between."""
    if isinstance(value, str):
      value = value.split(";")
    if value is None or value is table_rows.ABSENT:
      value = []
    if not isinstance(value, list) or not all(
      isinstance(x, str) for x in value
    ):
      raise errors.InputError(
        f"{chunk.where(row)}: {self._columns.topics!r} is {_said(value)}, "
        "where config.data.topics_key reads a list of words"
      )
    return [x.strip() for x in value if x.strip()]


def _numbered(groups):
  """Returns the groups as numbers [N], and their names where some are words."""
  if all(isinstance(x, int) for x in groups):
    return np.array(groups, np.int64), ()
  numbers = {name: n for n, name in enumerate(sorted(set(map(str, groups))))}
  return np.array([numbers[str(x)] for x in groups], np.int64), tuple(numbers)


def _said(value):
  kinds = {
    dict: "an object",
    list: "a list",
    bool: "a truth value",
    int: "a number",
    float: "a number",
  }
  if value is table_rows.ABSENT:
    return "missing"
  return f"{kinds.get(type(value), type(value).__name__)} ({value!r:.40})"
