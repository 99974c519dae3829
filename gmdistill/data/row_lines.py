"""Rows as JSON lines that people read, and that are read back as data."""

import json
import shlex
from collections.abc import Iterable, Mapping
from typing import Any

from gmdistill import errors
from gmdistill.data import sources, split_rows

SPLIT = "split"  # the column that says a row's split when they are read back


def reported_name(wanted: str) -> str:
  """Returns what the split to report on is called, as files are read back.

  Args:
    wanted: What the config calls it; empty: it does not.
  """
  return wanted if wanted in ("validation", "test") else "test"


def columns(
  source: sources.Source, rows: split_rows.Rows, row: int, text: Any = None
) -> dict[str, Any]:
  """Returns what a data set says of one row, by its own names of columns.

  Args:
    source: The data set.
    rows: Of one of its splits.
    row: Which of them.
    text: Its text or pair, where that is at hand already.
  """
  text = rows.texts[row] if text is None else text
  texts = (text,) if isinstance(text, str) else text
  said: dict[str, Any] = dict(zip(source.text_keys, texts, strict=True))
  said[source.label_key] = source.label_names[int(rows.labels[row])]
  if rows.rationales:
    said[source.rationale_key] = rows.rationales[row]
  if rows.groups is not None:
    group = int(rows.groups[row])
    names = rows.group_names
    said[source.group_key] = names[group] if names else group
  if rows.topics:
    said[source.topics_key] = list(rows.topics[row])
  return said


def line(said: Mapping[str, Any], more: Mapping[str, Any]) -> str:
  """Returns a row as a line, with `more` beside what the data say.

  Raises:
    InputError: the data have a column of such a name.
  """
  for name in more:
    if name in said:
      raise errors.InputError(
        f"the data have a column {name!r}, by which these rows would say "
        "something else; read them under another name."
      )
  return json.dumps({**said, **more}, ensure_ascii=False) + "\n"


def encoded(lines: Iterable[str]) -> bytes:
  """Returns lines as the bytes of a file.

  UTF-8 has no lone surrogates, and texts of the web have: JSON escapes them.
  """
  return b"".join(map(_encoded, lines))


def _encoded(text):
  try:
    return text.encode()
  except UnicodeEncodeError:
    return (json.dumps(json.loads(text)) + "\n").encode()


def read_by(source: sources.Source, wanted: str) -> dict[str, str]:
  """Returns the fields of `config.data` by which lines are read back."""
  names = source.label_names
  return {
    "text_keys": ",".join(source.text_keys),
    "label_key": source.label_key,
    # The order of the classes, where the field can say it.
    "classes": "" if any("," in name for name in names) else ",".join(names),
    "reported_split": reported_name(wanted) if wanted else "",
  }


def flags(name: Any, fields: Mapping[str, str]) -> str:
  """Returns the command line's words that have these rows read."""
  values = {"name": str(name), "dir": "", **fields}
  words = [
    shlex.quote(f"--config.data.{key}={value}") for key, value in values.items()
  ]
  return " ".join(words)
