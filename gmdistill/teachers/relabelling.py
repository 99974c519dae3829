"""Sets that teachers label after the fact: distilled ones, coresets, texts."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from gmdistill import errors
from gmdistill.data import batches, loading, tokenizing
from gmdistill.data import texts as row_texts
from gmdistill.sets import spaces, synthetic, text_sets
from gmdistill.students import problems
from gmdistill.teachers import ensembles, trained


class Rows(NamedTuple):
  """Examples that a student and teachers can read, and their own labels."""

  # Embeddings, as the student reads them. What teachers say is mixed with
  # labels, and only then counts so much: they are not times the weights yet.
  syn: synthetic.SyntheticSet
  read: Callable[[trained.Teacher], batches.Batch]  # as a teacher does
  texts: text_sets.TextSet | None = None  # where people can read them too


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

  plain = batches.unweighed(syn.batch)
  return Rows(dataclasses.replace(syn, batch=plain), read)


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
    text_sets.of_rows(
      rows, row_texts.by_part(options, setup.corpus)["train"], batch.labels
    ),
  )


def of_texts(
  setup: spaces.Setup, path: epath.Path, options: loading.Options
) -> Rows:
  """Returns the texts of a file of JSON lines; see `text_sets`.

  A text without a label has every class alike.

  Raises:
    InputError: a line that says something else, named by its number.
  """
  names = list(setup.corpus.label_names)
  text_set = text_sets.read(path, names, labelled=False)

  def batch_of(tokenizer, slots):
    return text_sets.as_batch(text_set, tokenizer, options.max_length, slots)

  def read(teacher):
    pairs = any(isinstance(text, tuple) for text in text_set.texts)
    trained.require_reads(teacher, names, options, pairs)
    tokenizer = tokenizing.Tokenizer.from_file(teacher.tokenizer_file)
    return batch_of(tokenizer, teacher.slots)

  batch = _embedded(setup, batch_of(setup.corpus.tokenizer, options.slots))
  batch = dataclasses.replace(batch, labels=jnp.asarray(text_set.labels))
  return Rows(synthetic.SyntheticSet(batch), read, text_set)


def _embedded(setup, batch):
  """Returns a batch of ids as one of embeddings."""
  weights = batch.weights
  return batches.Batch(
    setup.problem.embed(batch),
    jnp.asarray(batch.mask),
    jnp.asarray(batch.labels),
    weights=None if weights is None else jnp.asarray(weights),
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
    The set, with mixed `labels` that are not times the weights yet, and the
    teachers' logits [M, K, C], and where asked their features [M, layers, F].

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
    read = jax.jit(problems.Problem.apply)
    said.append(read(teacher.problem, teacher.params, batch))
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
