"""Which texts that a language model wrote are kept, and why others are not."""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from gmdistill import errors
from gmdistill.data import batches, formats, templates
from gmdistill.data import texts as row_texts
from gmdistill.runs.config import recipe as recipes
from gmdistill.selection import (
  coresets,
  deduplication,
  pools,
  row_gradients,
  warm_students,
)
from gmdistill.sets import readable, spaces, text_sets
from gmdistill.system import logs

# Why a text is dropped, and what would keep more.
REASONS = {
  "empty": "a larger writer.temperature, or another writer.template",
  "too short": "a smaller writer.length_quantile",
  "too long": "a smaller writer.length_quantile or writer.max_tokens",
  "copy of a training row": "a larger writer.temperature or dedup.similarity",
  "copy of a written row": "a larger writer.temperature or dedup.similarity",
  "doubted": "a smaller writer.confidence",
}


class Candidates(NamedTuple):
  """Texts that were asked for, each with the class that it was asked for."""

  texts: Sequence[row_texts.Text | None]  # None: nothing that is a row's text
  labels: np.ndarray  # [N]


class Kept(NamedTuple):
  """Those that stay, and what became of the others."""

  rows: np.ndarray  # [K] numbers of candidates, in class order
  probabilities: np.ndarray  # [K] of their labels; NaN: nobody was asked
  reasons: list[str]  # [N] of `REASONS`; empty: kept

  def counts(
    self, candidates: Candidates, reason: str, names: Sequence[str]
  ) -> dict[str, int]:
    """Returns how many of each class have a reason."""
    return {
      name: sum(
        given == reason and int(own) == label
        for given, own in zip(self.reasons, candidates.labels, strict=True)
      )
      for label, name in enumerate(names)
    }


def kept(
  candidates: Candidates,
  setup: spaces.Setup,
  config: recipes.Recipe,
  real: Sequence[row_texts.Text],
) -> Kept:
  """Returns which candidates are kept.

  Each filter looks at what those before it have left: texts that are none, or
  shorter or longer than real rows, near copies, and texts whose label students
  doubt.

  Args:
    candidates: The texts.
    setup: The data and the student.
    config: Whose filters.
    real: The training rows' texts.

  Raises:
    InputError: a class has none left; names the filter and its field.
  """
  names = setup.corpus.label_names
  reasons = ["" for _ in candidates.texts]
  probabilities_N = np.full(len(candidates.texts), np.nan)

  def left() -> np.ndarray:
    return np.array([i for i, x in enumerate(reasons) if not x], np.int64)

  def drop(**which: np.ndarray) -> None:
    rows = left()
    for reason, is_dropped in which.items():
      for row in rows[is_dropped]:
        reasons[row] = reasons[row] or reason.replace("_", " ")
    _require_some(candidates, reasons, names)

  drop(empty=np.array([text is None for text in candidates.texts], bool))
  lengths, (least, most) = _lengths(candidates, left(), setup, config)
  drop(too_short=lengths < least, too_long=lengths > most)
  of_real, of_written = _copies(candidates, left(), config, real)
  drop(copy_of_a_training_row=of_real, copy_of_a_written_row=of_written)
  if config.writer.confidence:
    rows = left()
    probabilities_N[rows] = _of_labels(candidates, rows, setup, config)
    drop(doubted=probabilities_N[rows] < config.writer.confidence)
  return Kept(left(), probabilities_N[left()], reasons)


def _require_some(candidates, reasons, names):
  """Refuses what leaves a class nothing, by the filter that took most."""
  for label, name in enumerate(names):
    own = [reasons[i] for i in np.flatnonzero(candidates.labels == label)]
    if not all(own):
      continue
    counts = {reason: own.count(reason) for reason in REASONS}
    worst = max(counts, key=lambda reason: counts[reason])
    told = ", ".join(f"{n} {reason}" for reason, n in counts.items() if n)
    raise errors.InputError(
      f"all {len(own)} texts written for the class {name!r} are dropped "
      f"({told}); use {REASONS[worst]}, or a larger writer.num_candidates."
    )


def as_text_set(
  candidates: Candidates, rows: np.ndarray, num_classes: int
) -> text_sets.TextSet:
  """Returns some candidates, none of them without a text, as a text set."""
  texts: Any = tuple(candidates.texts[row] for row in rows)
  return text_sets.TextSet(
    texts,
    np.eye(num_classes, dtype=np.float32)[candidates.labels[rows]],
    np.ones(len(rows), np.float32),
    (text_sets.WRITTEN,) * len(rows),
  )


def as_read(
  text_set: text_sets.TextSet,
  setup: spaces.Setup,
  config: recipes.Recipe,
  length: int,
  slots: int = 0,
) -> batches.Batch:
  """Returns texts in rows of a length, in the template that rows have."""
  tokenizer: Any = setup.corpus.tokenizer
  if config.task.kind != "label_words":
    return text_sets.as_batch(text_set, tokenizer, length, slots)
  template = templates.Template(tokenizer, config.task.template)
  return readable.in_template(
    text_set, template, setup.corpus.text_keys, length
  )


def _lengths(candidates, left, setup, config):
  """Returns each text's tokens, and the least and the most of real rows."""
  train = formats.without_slots(setup.corpus.train)
  longest = train.mask.shape[1]
  text_set = as_text_set(candidates, left, setup.corpus.num_classes)
  # One place more shows which are longer than any row can be.
  read = as_read(text_set, setup, config, longest + 1)
  tail = config.writer.length_quantile
  least, most = np.quantile(train.mask.sum(axis=1), [tail, 1 - tail])
  if most >= longest:
    most = np.inf  # real rows are cut there too
  return np.asarray(read.mask).sum(axis=1), (least, most)


def _copies(candidates, left, config, real):
  """Returns which texts are near copies of training rows, and which of a text
  written before them."""
  texts = [*real, *(candidates.texts[row] for row in left)]

  def features():
    raise AssertionError("copies by their n-grams ask for no features")

  rows = deduplication.Rows(texts, features, len(real), True)
  copies = deduplication.minhash(rows, config.dedup).of[len(real) :]
  return (copies >= 0) & (copies < len(real)), copies >= len(real)


def student_pool(setup: spaces.Setup, config: recipes.Recipe) -> pools.Pool:
  """Returns the real rows on which students are warmed up."""
  train = setup.corpus.train
  most = max(config.coreset_pool, config.per_group)
  every = np.arange(len(train.labels))
  rows = batches.take(
    train, coresets.limited(train.labels, every, most, config.seed)
  )
  problem = dataclasses.replace(setup.problem, criterion=None)
  return pools.Pool(problem, rows, rows, setup.corpus.num_classes)


def _of_labels(candidates, left, setup, config):
  """Returns the probability [N] of each label, the mean over students."""
  options, pool = config.subset, student_pool(setup, config)
  logs.say(
    f"asking {options.num_students} students of {len(pool.rows.labels)} real "
    "rows, "
    f"{options.num_steps} steps each, about {len(left)} texts"
  )
  batch = text_sets.as_batch(
    as_text_set(candidates, left, setup.corpus.num_classes),
    setup.corpus.tokenizer,
    config.data.max_length,
    config.data.slots,
  )

  def of_row(problem, params, row):
    logits_C = problem.apply(params, row).logits[0]
    return (jax.nn.softmax(logits_C) * row.labels[0]).sum()

  of_students = [
    row_gradients.each(pool.problem, params, batch, of_row, options.chunk)
    for params in warm_students.warmed_up(pool, options, config.seed)
  ]
  return np.mean(of_students, axis=0, dtype=np.float64)
