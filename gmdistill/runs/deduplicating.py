"""Rows without their copies: what `gmdistill dedup` writes."""

import hashlib
import json
import time
from typing import Any, NamedTuple

import jax
import numpy as np

from gmdistill import errors
from gmdistill.data import (
  formats,
  loading,
  parts,
  row_lines,
  sources,
  splits,
)
from gmdistill.runs import work
from gmdistill.runs.config import assembly, checks
from gmdistill.runs.config import recipe as recipes
from gmdistill.selection import deduplication
from gmdistill.selection import features as student_features
from gmdistill.system import console, folders, logs, paths, units
from gmdistill.teachers import trained

SHOWN = 5  # pairs, for whoever looks


class _Given(NamedTuple):
  """All labelled rows: those to report on in front, then the training rows."""

  source: sources.Source
  whole: parts.Whole
  texts: list[Any]
  split: str  # what the reported rows' split is called in a file

  @property
  def front(self) -> int:
    return len(self.whole.reported.labels)

  def place(self, row: int) -> tuple[Any, int, dict[str, Any]]:
    """Returns the part that a row is of, its place there, and where it was."""
    whole = self.whole
    if row < self.front:
      at = int(whole.reported_at[row])
      return whole.reported, row, {row_lines.SPLIT: self.split, "row": at}
    own = row - self.front
    at = int(whole.train_at[own])
    return whole.train, own, {row_lines.SPLIT: "train", "row": at}

  def said(self, row: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns what the data say of a row, and where it was."""
    part, own, where = self.place(row)
    return row_lines.columns(self.source, part, own, self.texts[row]), where


def run(
  config: recipes.Recipe, method: str, workdir: str, command: str = ""
) -> dict[str, Any]:
  """Drops copies from the training rows, and those that are reported on.

  Leaves `kept.jsonl`, to be read as data: the training rows that are kept and
  the rows to report on, each with its split; `dropped.jsonl`, each row with
  the one that it is a copy of; and `dedup.json`, the counts. The split that a
  data set brings to report on stays as it is; one that is cut from the training
  rows loses its copies too.

  Args:
    config: Names the data, and for `semantic` the student.
    method: One of `deduplication.METHODS`.
    workdir: Where it goes.
    command: How to start the same again.

  Raises:
    InputError: something the user can mend, before anything is written.
  """
  errors.choice("--method", method, deduplication.METHODS)
  checks.require_classes(config, "dedup")
  source = loading.opened(config.data)
  data = json.dumps(sources.identity(source), sort_keys=True)
  asked: dict[str, Any] = {
    "method": method,
    "data": hashlib.sha256(data.encode()).hexdigest()[:16],
  }
  if method == "semantic" and (student := config.student.pretrained):
    asked["student"] = trained.names_and_ids([student])
  with work.begun("dedup", workdir, config, asked) as (folder, done):
    if done is None:
      done = _dedup(config, source, method, folder, command) | {"asked": asked}
      folders.write_json(folder / "dedup.json", done)
    _say(done)
  return done


def what_next(workdir: str, done: dict[str, Any]) -> str:
  """Returns the line that says how a run reads rows that `run` has left."""
  kept = paths.path(workdir) / "kept.jsonl"
  told = row_lines.flags(kept, done["columns"])
  return f"next: gmdistill distill ... {told}"


def _dedup(config, source, method, folder, command):
  """Writes the rows; returns the counts."""
  given = _given(config, source)
  logs.say(
    f"{config.data.name}: {len(given.texts)} rows, {given.front} of them to "
    f"report on; looking for copies by {method}"
  )
  start = time.monotonic()
  rows = deduplication.Rows(
    given.texts,
    lambda: _features(config, given),
    given.front,
    not given.whole.is_cut,
  )
  copies = deduplication.METHODS[method](rows, config.dedup)
  seconds = time.monotonic() - start
  counts = _counts(given, copies)
  kept = np.flatnonzero(copies.of < 0)
  # As they came: training rows first.
  kept = np.concatenate([kept[kept >= given.front], kept[kept < given.front]])
  dropped = np.flatnonzero(copies.of >= 0)
  files = {
    "kept.jsonl": row_lines.encoded(
      row_lines.line(*given.said(int(row))) for row in kept
    ),
    "dropped.jsonl": row_lines.encoded(
      _dropped_line(given, copies, int(row)) for row in dropped
    ),
  }
  paths.write_files(folder, files)
  return {
    "schema": 1,
    "dataset": config.data.name,
    "method": method,
    **counts,
    "seconds": seconds,
    "columns": row_lines.read_by(given.source, config.data.reported_split),
    "pairs": _pairs(given, copies, dropped),
    "provenance": folders.environment(command),
  }


def _given(config, source):
  source = sources.with_classes(source)
  whole = parts.whole(source, config.data.reported_split)
  split = row_lines.reported_name(config.data.reported_split)
  texts = [*whole.reported.texts, *whole.train.texts]
  return _Given(source, whole, texts, split)


def _features(config, given):
  """Returns what a row means to the config's student, [N, F].

  A student from random weights knows no meaning: of it, the mean of its
  table's vectors, which the text has taught.
  """
  # All rows, cut at one length: however few students are measured on, and
  # however short the rows that they train on.
  setup = assembly.setup(
    recipes.changed(config, data__reported_rows=0, data__train_length=0)
  )
  corpus, problem = setup.corpus, setup.problem
  if problem.is_pretrained:
    params = problem.init(jax.random.key(0))

    def read(examples):
      return student_features.features(problem, params, examples)
  else:

    def read(examples):
      return student_features.mean_vectors(problem, examples)

  kept, chosen = splits.selection_split(given.whole.train.labels)
  # Slots for rationales are the same in every row.
  train = read(formats.without_slots(corpus.train))
  found = np.zeros((len(given.texts), train.shape[1]), np.float32)
  found[: given.front] = read(formats.without_slots(corpus.reported))
  found[given.front + chosen] = read(formats.without_slots(corpus.selection))
  found[given.front + kept] = train
  return found


def _counts(given, copies):
  """Returns how many rows are kept, and what the others are dropped for."""
  is_train = np.arange(len(copies.of)) >= given.front
  dropped = copies.of >= 0
  leaked = dropped & is_train & (copies.of < given.front)
  labels = np.concatenate(
    [given.whole.reported.labels, given.whole.train.labels]
  )
  other = dropped & (labels != labels[np.maximum(copies.of, 0)])
  return {
    "rows": int(is_train.sum()),
    "kept": int((is_train & ~dropped).sum()),
    "dropped": int((is_train & dropped).sum()),
    "reasons": {
      "copy": int((is_train & dropped & ~leaked).sum()),
      "leaked": int(leaked.sum()),
    },
    "another_label": int((other & is_train).sum()),
    "reported_rows": given.front,
    "reported_dropped": int((dropped & ~is_train).sum()),
  }


def _dropped_line(given, copies, row):
  said, where = given.said(row)
  other = int(copies.of[row])
  original, place = given.said(other)
  leaked = other < given.front <= row
  more = {
    **where,
    "reason": "leaked" if leaked else "copy",
    "similarity": round(float(copies.similarity[row]), 4),
    "copy_of": {**original, **place},
  }
  return row_lines.line(said, more)


def _pairs(given, copies, dropped):
  """Returns some pairs, spread over the similarities: the least alike first."""
  order = dropped[np.argsort(copies.similarity[dropped], kind="stable")]
  places = np.unique(np.linspace(0, len(order) - 1, SHOWN).astype(int))
  return [
    {
      "similarity": round(float(copies.similarity[row]), 3),
      "row": _short(given.texts[row]),
      "copy_of": _short(given.texts[int(copies.of[row])]),
    }
    for row in (order[places] if len(order) else [])
  ]


def _short(text):
  whole = text if isinstance(text, str) else " | ".join(text)
  whole = " ".join(whole.split())
  return whole if len(whole) <= 100 else f"{whole[:97]}..."


def _say(done):
  share = done["dropped"] / max(done["rows"], 1)
  reasons = done["reasons"]
  lines = [
    f"{done['method']}: {done['dropped']} of {done['rows']} training rows "
    f"dropped ({100 * share:.2f} %) in {units.seconds(done['seconds'])}: "
    f"{reasons['copy']} copies of others, {reasons['leaked']} of rows that are "
    f"reported on; {done['another_label']} have another label than the row "
    "that is kept"
  ]
  if done["reported_dropped"]:
    lines.append(
      f"{done['reported_dropped']} of {done['reported_rows']} rows cut to be "
      "reported on are copies of one another, and dropped too"
    )
  lines += [
    f"  {pair['similarity']:.3f}  {pair['row']}\n         {pair['copy_of']}"
    for pair in done["pairs"]
  ]
  console.show("\n".join(lines))
