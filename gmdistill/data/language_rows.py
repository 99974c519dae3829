"""Rows of language, before they are tokens: texts, answers, conversations."""

import os
import pathlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from gmdistill import errors
from gmdistill.data import (
  builders,
  records,
  row_lines,
  table_files,
  table_rows,
)

# What a row holds, by the columns that say it.
KINDS = {
  "answers": ("prompt", "completion"),
  "messages": ("messages",),
  "text": ("text",),
}


class Row(NamedTuple):
  """One row, and where it stands, for messages."""

  value: Any  # a text, (prompt, completion), or a list of messages
  where: Callable[[], str]
  group: str = ""


class Source(NamedTuple):
  """A data set of language whose columns are known; no row is read yet."""

  name: str
  kind: str  # of `KINDS`
  keys: tuple[str, ...]
  group_key: str  # empty: rows have no groups
  splits: tuple[str, ...]
  identity: Any  # what decides the rows
  rows: Callable[[str], Iterator[Row]]  # of a split


def open_source(
  name: str,
  *,
  data_dir: str,
  embedded_dir: epath.PathLike,
  text_keys: tuple[str, ...] = (),
  group_key: str = "",
) -> Source:
  """Finds a data set, and which of its columns are read.

  Args:
    name: A file of rows, a folder or glob of them, or a TFDS name.
    data_dir: The TFDS folder; empty: TFDS's own default.
    embedded_dir: Where embedded sets are prepared.
    text_keys: One text, or a prompt and its completion; empty: by their names.
    group_key: The task of a row; empty: none is read.

  Raises:
    errors.InputError: there is no such set, or its columns do not tell.
  """
  if name not in builders.EMBEDDED and table_files.are_meant(name):
    files = table_files.find(name)
    columns = table_rows.columns(files[0])
    splits = [table_files.own_split(file) for file in files]
    identity: Any = table_files.identity(files)
    said = None
    if row_lines.SPLIT not in (*text_keys, group_key):
      said = _said_splits(files)
    if said is not None:
      splits = [split for of_file in said for split in of_file]
      identity = {**identity, row_lines.SPLIT: "as rows say"}

    def rows(split: str) -> Iterator[Row]:
      for number, file in enumerate(files):
        read = _of_file(file, kind, keys, group_key)
        if said is not None:
          own = zip(read, said[number], strict=True)
          yield from (row for row, of_row in own if of_row == split)
        elif splits[number] == split:
          yield from read

  else:
    from gmdistill.data import sources  # whose identity of a set this shares

    builder = builders.find(name, data_dir, embedded_dir)
    columns, splits = tuple(builder.info.features), list(builder.info.splits)
    folder = pathlib.Path(os.fspath(builder.data_path))
    whole = sources.Source(name, builder, (), "", (), folder)
    identity = sources.identity(whole)

    def rows(split: str) -> Iterator[Row]:
      for number, row in enumerate(records.rows(builder, split), 1):
        yield _row(row, kind, keys, group_key, f"{name}, {split} row {number}")

  kind, keys = _kind(name, columns, text_keys)
  if group_key and group_key not in columns:
    raise errors.InputError(
      f"config.data.group_key names {group_key!r}, but {name} has the columns "
      f"{', '.join(map(repr, columns))}"
    )
  return Source(
    name, kind, keys, group_key, tuple(dict.fromkeys(splits)), identity, rows
  )


def _said_splits(files):
  """Returns the split that each row says, file by file; None: none says one.

  A file's name goes before.

  Raises:
    errors.InputError: some rows say one, and another does not.
  """
  name = row_lines.SPLIT
  if any(file.split or name not in table_rows.columns(file) for file in files):
    return None
  found: list[list[str]] = []
  wrong = ""
  for file in files:
    found.append([])
    for chunk in table_rows.chunks(file, (name,)):
      splits = [table_files.split_of(x) for x in chunk.columns[name]]
      found[-1] += splits
      if not wrong and "" in splits:
        row = splits.index("")
        value = chunk.columns[name][row]
        wrong = f"{chunk.where(row)}: {name!r} is {value!r}"
  if not any(split for of_file in found for split in of_file):
    return None
  if wrong:
    raise errors.InputError(
      f"{wrong}, which is no split; write train, validation or test"
    )
  return found


def _kind(name, columns, wanted):
  """Returns what rows are, and the columns that say it."""
  listed = f"{name} has the columns {', '.join(map(repr, columns))}"
  for key in wanted:
    if key not in columns:
      raise errors.InputError(
        f"config.data.text_keys names {key!r}, but {listed}"
      )
  if len(wanted) > 2:
    raise errors.InputError(
      f"config.data.text_keys names {len(wanted)} columns; a language model "
      "reads one text, or a prompt and its completion"
    )
  if wanted:
    return ("text" if len(wanted) == 1 else "answers"), tuple(wanted)
  for kind, keys in KINDS.items():
    if all(key in columns for key in keys):
      return kind, keys
  raise errors.InputError(
    f"{listed}: a language model reads 'prompt' and 'completion', 'messages' "
    "or 'text'; name one text, or a prompt and its completion, in "
    "config.data.text_keys"
  )


def _of_file(file, kind, keys, group_key):
  wanted = (*keys, *[group_key] * bool(group_key))
  for chunk in table_rows.chunks(file, wanted):
    columns = chunk.columns
    for i in range(len(columns[keys[0]])):
      row = {name: columns[name][i] for name in wanted}
      yield _row(row, kind, keys, group_key, (chunk.where, i))


def _row(row, kind, keys, group_key, place):
  def where():
    return place if isinstance(place, str) else place[0](place[1])

  values = [row[key] for key in keys]
  if kind == "messages":
    value = _messages(values[0], where)
  else:
    texts = tuple(
      _text(x, key, where) for key, x in zip(keys, values, strict=True)
    )
    value = texts if kind == "answers" else texts[0]
  group = str(_plain(row[group_key])) if group_key else ""
  return Row(value, where, group)


def _plain(value):
  return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def _text(value, key, where):
  value = _plain(value)
  if value is None or value is table_rows.ABSENT:
    return ""
  if not isinstance(value, str):
    raise errors.InputError(
      f"{where()}: {key!r} is {type(value).__name__}, not a text; mend the row"
    )
  return value


def _messages(value, where):
  """Returns a conversation, checked."""
  if isinstance(value, np.ndarray):
    value = value.tolist()
  right = isinstance(value, list) and all(
    isinstance(x, dict) and isinstance(x.get("role"), str) for x in value
  )
  if not right or not any(x["role"] == "assistant" for x in value):
    raise errors.InputError(
      f"{where()}: 'messages' must be a list of {{'role': ..., 'content': "
      "...} with an answer of the role 'assistant'; mend the row"
    )
  return value


def num_bytes(rows: Iterable[Row]) -> int:
  """Returns the UTF-8 bytes of the texts of rows."""

  def texts(value):
    if isinstance(value, str):
      yield value
    elif isinstance(value, dict):
      yield str(value.get("content") or "")
    else:
      for part in value:
        yield from texts(part)

  return sum(len(x.encode()) for row in rows for x in texts(row.value))
