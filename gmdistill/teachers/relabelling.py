"""Sets that teachers label after the fact: distilled ones, coresets, texts."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from gmdistill import errors
from gmdistill.data import batches, formats, loading, tokenizing
from gmdistill.sets import spaces, synthetic
from gmdistill.system import json_files
from gmdistill.teachers import ensembles, trained


class Rows(NamedTuple):
  """Examples that a student and teachers can read, and their own labels."""

  syn: synthetic.SyntheticSet  # embeddings, as the student reads them
  read: Callable[[trained.Teacher], batches.Batch]  # as a teacher does


def of_set(setup: spaces.Setup, syn: synthetic.SyntheticSet) -> Rows:
  """Returns the rows of a set; teachers must read its embedding space."""

  def read(teacher):
    theirs = trained.space_id(teacher)
    if theirs != setup.space_id:
      raise errors.InputError(
        f"the teacher {teacher.name} reads embedding space {theirs} of "
        f"{_size(teacher.problem)}, the set lives in {setup.space_id} of "
        f"{_size(setup.problem)}; use a teacher over the set's table and "
        "tokenizer."
      )
    length = syn.batch.mask.shape[1]
    trained.require_length(teacher, length, "the set's sequence_length")
    return syn.batch

  return Rows(syn, read)


def _size(problem):
  tokens, width = problem.embeddings.shape
  return f"{tokens} tokens, {width} wide"


def of_coreset(
  setup: spaces.Setup, rows: np.ndarray, options: loading.Options
) -> Rows:
  """Returns real rows; every teacher reads their text by its own tokenizer."""
  num_classes = len(setup.corpus.label_names)

  def batch_of(corpus):
    return batches.as_batch(batches.take(corpus.train, rows), num_classes)

  batch = _embedded(setup, batch_of(setup.corpus))
  return Rows(
    synthetic.SyntheticSet(batch),
    lambda teacher: batch_of(trained.as_read(teacher, setup.corpus, options)),
  )


def of_texts(
  setup: spaces.Setup, path: epath.Path, options: loading.Options
) -> Rows:
  """Returns the texts of a file of JSON lines {"text": ..., "label": ...}.

  `text` is a string or a pair of them; `label` a class's name or index. A text
  without a label has every class alike.

  Raises:
    InputError: a line that says something else, named by its number.
  """
  names = list(setup.corpus.label_names)
  texts, labels_MxC = [], []
  try:
    # Of JSON, the end of a line alone is one: a text may hold other breaks.
    # Some editors write a mark of the byte order in front.
    lines = path.read_text(encoding="utf-8-sig").split("\n")
  except UnicodeDecodeError as error:
    raise errors.InputError(f"{path} is not UTF-8; write it so.") from error
  for number, line in enumerate(lines, start=1):
    if line.strip():
      text, label_C = _parsed(line, f"{path}, line {number}", names)
      texts.append(text)
      labels_MxC.append(label_C)
  if not any("".join(text).strip() for text in texts):
    what = "no text but empty ones" if texts else "no line"
    raise errors.InputError(
      f'{path} has {what}; write {{"text": "..."}}, one a line.'
    )
  labels = np.stack(labels_MxC)

  def batch_of(tokenizer, slots):
    ids, mask = tokenizer.encode(texts, options.max_length)
    rows = batches.Examples(ids, mask, labels.argmax(axis=1))
    if slots:
      rows = formats.with_slots(rows, slots, tokenizer.special_id("mask"))
    return batches.Batch(rows.token_ids, rows.mask, labels)

  def read(teacher):
    pairs = any(isinstance(text, tuple) for text in texts)
    trained.require_reads(teacher, names, options, pairs)
    tokenizer = tokenizing.Tokenizer.from_file(teacher.tokenizer_file)
    return batch_of(tokenizer, teacher.slots)

  batch = _embedded(setup, batch_of(setup.corpus.tokenizer, options.slots))
  return Rows(synthetic.SyntheticSet(batch), read)


def _parsed(line, where, names):
  try:
    row = json_files.parse(line)
    text, label = row["text"], row.get("label")
  except (ValueError, KeyError, TypeError, AttributeError) as error:
    raise errors.InputError(
      f'{where} is no {{"text": "...", "label": "..."}} in JSON.'
    ) from error
  pair = isinstance(text, list) and len(text) == 2
  if not all(map(_is_text, text if pair else [text])):
    raise errors.InputError(
      f"{where}: text must be a string or two of them, of whole characters."
    )
  if label is None:
    return text, np.full(len(names), 1 / len(names), np.float32)
  index = names.index(label) if label in names else label
  if type(index) is not int or not 0 <= index < len(names):  # a bool is an int
    errors.not_one_of(f"{where}: the label {label!r}", str(label), names)
  return tuple(text) if pair else text, np.eye(len(names), dtype=np.float32)[
    index
  ]


def _is_text(x):
  """Whether this is a string of whole characters, which UTF-8 can say."""
  if not isinstance(x, str):
    return False
  try:
    x.encode()
  except UnicodeEncodeError:
    return False
  return True


def _embedded(setup, batch):
  """Returns a batch of ids as one of embeddings."""
  return batches.Batch(
    setup.problem.embed(batch),
    jnp.asarray(batch.mask),
    jnp.asarray(batch.labels),
  )


def label(
  rows: Rows,
  named: Sequence[trained.Teacher],
  options: ensembles.Options,
  *,
  features: bool,
) -> synthetic.SyntheticSet:
  """Returns the rows with what the teachers say of them.

  Args:
    rows: Of `of_set`, `of_coreset` or `of_texts`.
    named: One or several teachers.
    options: How their labels are joined and mixed with the rows' own.
    features: Keep the features of every layer of the teacher too; it must be
      one.

  Returns:
    The set, with mixed `labels` and the teachers' logits [M, K, C], and where
    asked their features [M, layers, F].

  Raises:
    InputError: a teacher that cannot read the rows; features of several.
  """
  if features and len(named) > 1:
    raise errors.InputError(
      f"kd.features takes the features of one teacher, not of {len(named)}; "
      "give one --teacher, or leave kd.features empty."
    )
  said = []
  for teacher in named:
    batch = rows.read(teacher)
    said.append(jax.jit(teacher.problem.apply)(teacher.params, batch))
    trained.require_finite(teacher, np.asarray(said[-1].logits))
  logits_KxMxC = np.stack([np.asarray(one.logits) for one in said])
  own_MxC = np.asarray(rows.syn.batch.labels)
  labels_MxC = errors.named(
    "teachers", lambda: ensembles.soft_labels(logits_KxMxC, own_MxC, options)
  )
  batch = dataclasses.replace(
    rows.syn.batch,
    labels=jnp.asarray(labels_MxC),
    teachers=batches.TeacherTargets(
      jnp.asarray(np.moveaxis(logits_KxMxC, 0, 1)),
      said[0].layers if features else None,
    ),
  )
  return dataclasses.replace(rows.syn, batch=batch)
