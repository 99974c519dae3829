"""Sets that people can read: `set.jsonl`, for any student of any tokenizer.

One JSON object a line: `text`, or `texts` of one or two; `label`, a class's
name or number; where they are known `labels`, a probability a class; `weight`,
what the row counts in a student's loss; `source`, the number of the training
row that it is, or "written"; `nearest_real`, the number of the training row
whose words are most like its own, and `overlap`, how much so.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from gmdistill import errors
from gmdistill.data import batches, formats, split_rows, tokenizing
from gmdistill.data import texts as row_texts
from gmdistill.system import json_files, paths

FORMAT = "gmdistill-text-set-1"
FILE = "set.jsonl"
TEXTS = "texts"  # what the rows of a file are, where no card says it
WRITTEN = "written"  # the source of a text that is no training row

_SHAPE = '{"text": "...", "label": "..."}'
_SUM = 1e-3  # how far from 1 probabilities may sum, printed with few digits

Text = row_texts.Text


class TextSet(NamedTuple):
  """Texts, and what students are to learn of each."""

  texts: tuple[Text, ...]
  labels: np.ndarray  # [M, C] distributions
  weights: np.ndarray  # [M], their mean is 1
  sources: tuple[int | str, ...]  # a training row's number, or `WRITTEN`

  @property
  def targets(self) -> np.ndarray:
    """What a soft cross-entropy reads, [M, C]: labels times weights."""
    return self.labels * self.weights[:, None]


def of_rows(
  rows: Sequence[int] | np.ndarray,
  texts: Sequence[Text] | Mapping[int, Text],
  labels: Any,
  weights: Any = None,
) -> TextSet:
  """Returns training rows as a text set.

  Args:
    rows: Their numbers [M].
    texts: Of every training row, or of these by their numbers.
    labels: Distributions [M, C].
    weights: What each counts [M]; None: all the same.
  """
  numbers = [int(row) for row in rows]
  if weights is None:
    weights = np.ones(len(numbers))
  weights_M = np.asarray(weights, np.float32)
  chosen = tuple(
    text if isinstance(text, str) else (text[0], text[1])
    for text in (texts[number] for number in numbers)
  )
  return TextSet(
    chosen,
    np.asarray(labels, np.float32),
    weights_M / weights_M.mean(),
    tuple(numbers),
  )


def read(
  path: epath.Path, label_names: Sequence[str], *, labelled: bool = True
) -> TextSet:
  """Reads a text set, whoever wrote it.

  Args:
    path: A file of JSON lines.
    label_names: The classes, in their order.
    labelled: Whether every row must have a label; one without has every class
      alike otherwise.

  Raises:
    InputError: names the file, the line and what would be right.
  """
  if not path.is_file():
    raise errors.InputError(f"there is no file {path}.")
  names = list(label_names)
  rows = [
    _row(line, f"{path}, line {number}", names, labelled)
    for number, line in enumerate(_lines(path), start=1)
    if line.strip()
  ]
  if not rows:
    raise errors.InputError(f"{path} has no line; write {_SHAPE}, one a line.")
  texts, labels, weights, sources = zip(*rows, strict=True)
  weights_M = np.array(weights, np.float32)
  if not weights_M.any():
    raise errors.InputError(
      f"{path}: every weight is 0; give some rows a weight above it."
    )
  return TextSet(texts, np.stack(labels), weights_M / weights_M.mean(), sources)


def _lines(path):
  try:
    # Of JSON, the end of a line alone is one: a text may hold other breaks.
    # Some editors write a mark of the byte order in front.
    return path.read_text(encoding="utf-8-sig").split("\n")
  except UnicodeDecodeError as error:
    raise errors.InputError(f"{path} is not UTF-8; write it so.") from error


def _row(line, where, names, labelled):
  """Returns (text, labels [C], weight, source) of one line."""
  try:
    row = json_files.parse(line)
  except ValueError as error:
    raise errors.InputError(f"{where} is no {_SHAPE} in JSON.") from error
  text = _text(row, where)
  labels_C = _soft(row["labels"], where, names) if row.get("labels") else None
  if row.get("label") is not None:
    one_hot_C = _hard(row["label"], where, names)
    labels_C = one_hot_C if labels_C is None else labels_C
  elif labels_C is None and labelled:
    raise errors.InputError(
      f'{where} has no label; give one of {", ".join(names)}, or soft "labels".'
    )
  elif labels_C is None:
    labels_C = np.full(len(names), 1 / len(names), np.float32)
  weight = row.get("weight", 1.0)
  if not _is_number(weight) or weight < 0:
    raise errors.InputError(
      f"{where}: weight={weight!r} must be a number of at least 0."
    )
  return text, labels_C, float(weight), row.get("source", WRITTEN)


def _text(row, where):
  """Returns a text, or the two of a pair."""
  if "text" not in row and "texts" not in row:
    beside = "; give texts/set.jsonl beside it" if "score" in row else ""
    raise errors.InputError(f"{where} is no {_SHAPE} in JSON{beside}.")
  given = row.get("text", row.get("texts"))
  parts = given if isinstance(given, list) else [given]
  if not 1 <= len(parts) <= 2 or not all(map(_is_text, parts)):
    raise errors.InputError(
      f"{where}: text must be a string or two of them, of whole characters."
    )
  if not "".join(parts).strip():
    raise errors.InputError(f"{where}: the text is empty; leave the line out.")
  return parts[0] if len(parts) == 1 else tuple(parts)


def _is_text(x):
  """Whether this is a string of whole characters, which UTF-8 can say."""
  if not isinstance(x, str):
    return False
  try:
    x.encode()
  except UnicodeEncodeError:
    return False
  return True


def _hard(label, where, names):
  index = names.index(label) if label in names else label
  if type(index) is not int or not 0 <= index < len(names):  # a bool is an int
    errors.not_one_of(f"{where}: the label {label!r}", str(label), names)
  return np.eye(len(names), dtype=np.float32)[index]


def _soft(labels, where, names):
  """Returns a distribution [C], of probabilities in the classes' order."""
  fits = isinstance(labels, list) and len(labels) == len(names)
  if not fits or not all(map(_is_number, labels)):
    raise errors.InputError(
      f"{where}: labels={labels!r} must be {len(names)} probabilities, of "
      f"{', '.join(names)}."
    )
  labels_C = np.array(labels, np.float64)
  total = labels_C.sum()
  if not (labels_C >= 0).all() or not abs(total - 1) <= _SUM:
    raise errors.InputError(
      f"{where}: labels={labels!r} must be at least 0 each and sum to 1, not "
      f"to {total:.4g}."
    )
  return (labels_C / total).astype(np.float32)


def _is_number(x):
  return type(x) in (int, float) and abs(x) < 1e30  # no NaN, fits a float32


def read_card(
  path: epath.Path, label_names: Sequence[str] = ()
) -> dict[str, Any]:
  """Returns the card beside a text set; of a file that has none, what is sure.

  Raises:
    InputError: a damaged card, or one of other classes than these.
  """
  place = path.parent / "card.json"
  if not place.is_file():
    return {"rows": TEXTS}
  card = json_files.read(place, "restore it from a copy, or take it away.")
  theirs, ours = card.get("label_names", list(label_names)), list(label_names)
  if ours and theirs != ours:
    raise errors.InputError(
      f"the texts in {path} have the classes {theirs}, the data {ours}; give "
      "the --config of their data."
    )
  return card


def label_names(path: epath.Path) -> list[str]:
  """Returns the classes of a text set without a card, by their names.

  Raises:
    InputError: a line that says no label.
  """
  found = set()
  for number, line in enumerate(_lines(path), start=1):
    if not line.strip():
      continue
    where = f"{path}, line {number}"
    try:
      label = json_files.parse(line)["label"]
    except (ValueError, KeyError, TypeError) as error:
      raise errors.InputError(f"{where} is no {_SHAPE} in JSON.") from error
    if not isinstance(label, str):
      raise errors.InputError(
        f"{where}: without a card beside it, the file must name its classes, "
        f"not number them as {label!r}."
      )
    found.add(label)
  return sorted(found)


def as_batch(
  text_set: TextSet,
  tokenizer: tokenizing.Tokenizer,
  length: int,
  slots: int = 0,
) -> batches.Batch:
  """Returns the texts as a student of this tokenizer reads them.

  Args:
    text_set: The texts.
    tokenizer: The student's.
    length: Tokens a row, at most.
    slots: For rationales; see `formats.with_slots`.

  Returns:
    Token ids [M, L], mask, `targets` [M, C], weights [M] (numpy arrays).
  """
  classes_M = text_set.labels.argmax(axis=1).astype(np.int32)
  texts: Any = list(text_set.texts)  # all single, or all pairs
  rows = split_rows.Rows(texts, classes_M, 0, 0, [])
  read_rows = formats.encoded(rows, tokenizer, length, 0)
  if slots:
    mask_id = tokenizer.special_id("mask")
    read_rows = formats.with_slots(read_rows, slots, mask_id)
  ids_MxL, mask_MxL = read_rows.token_ids, read_rows.mask
  weights_M = text_set.weights
  return batches.Batch(ids_MxL, mask_MxL, text_set.targets, weights=weights_M)


def lines(
  text_set: TextSet, label_names: Sequence[str], real: Sequence[Text]
) -> list[dict[str, Any]]:
  """Returns the rows of `set.jsonl`.

  Args:
    text_set: The texts.
    label_names: The classes, in their order.
    real: The training rows' texts, among which the nearest are looked for.
  """
  nearest_M, overlap_M = row_texts.nearest(text_set.texts, real)
  rows = []
  for m, text in enumerate(text_set.texts):
    labels_C = text_set.labels[m]
    row: dict[str, Any] = (
      {"text": text} if isinstance(text, str) else {"texts": list(text)}
    )
    row["label"] = label_names[int(labels_C.argmax())]
    if labels_C.max() < 1:
      row["labels"] = _rounded(labels_C)
    row["weight"] = round(float(text_set.weights[m]), 4)
    row["source"] = text_set.sources[m]
    row["nearest_real"] = int(nearest_M[m])
    row["overlap"] = round(float(overlap_M[m]), 4)
    rows.append(row)
  return rows


def _rounded(labels_C):
  """Returns probabilities of six digits that still sum to 1."""
  found = [round(float(y), 6) for y in labels_C]
  largest = int(np.argmax(labels_C))
  found[largest] = round(1 - sum(found[:largest] + found[largest + 1 :]), 6)
  return found


def save(
  folder: epath.Path,
  rows: Sequence[dict[str, Any]],
  card: dict[str, Any],
  name: str = FILE,
) -> None:
  """Writes rows and `card.json`, whole or not at all.

  Args:
    folder: Made if absent.
    rows: Of `lines`.
    card: What is said of them; where it is a distilled set's, it stays one.
    name: Of the file.
  """
  said = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
  content = "".join(said).encode()
  digest = hashlib.sha256(content).hexdigest()
  about = {"rows": len(rows), "file": name, "sha256": digest}
  told = json.dumps({"format": FORMAT, **card, "texts": about}, indent=2) + "\n"
  paths.write_files(folder, {name: content, "card.json": told.encode()})
