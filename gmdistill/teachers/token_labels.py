"""What teachers of language models say after every token of rows, and of sets.

Their likeliest tokens are kept, and what the others have together: of a
vocabulary of 50,000 a row of text would be megabytes.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gmdistill import errors
from gmdistill.data import batches
from gmdistill.sets import spaces, synthetic
from gmdistill.students import generation, next_token
from gmdistill.system import cache, waits
from gmdistill.teachers import language_teachers, trained

ROWS, LENGTHS = 16, 16  # of a batch; its length is a multiple


class Asked(NamedTuple):
  """What teachers are asked at every place."""

  top: int  # k of the likeliest tokens
  known: int  # tokens that teachers and student share
  others: bool  # whether there is anything besides


def asked(
  teachers: Sequence[language_teachers.LanguageTeacher],
  rows: int,
  known: int,
  count: int,
) -> Asked:
  """Returns what teachers are asked.

  Args:
    teachers: All of them: what they say stands side by side.
    rows: Of the student's unembedding, V.
    known: Tokens of the tokenizer.
    count: k, as it was asked for.
  """
  count = min(count, known)
  sizes = {rows, *(_unembedding(x).shape[0] for x in teachers)}
  return Asked(count, known, sizes != {count})


def said_of(
  teacher: language_teachers.LanguageTeacher, batch: batches.Batch, asks: Asked
) -> tuple[jax.Array, jax.Array]:
  """Returns ids [B, L, k] and logs [B, L, k + 1] of what follows each token."""
  return _likeliest(teacher.problem, teacher.params, batch, asks)


@functools.partial(jax.jit, static_argnames="asks")
def _likeliest(problem, params, batch, asks):
  said = problem.apply(params, batch).logits
  whole = problem.embeddings if said.unembedding is None else said.unembedding
  return next_token.likeliest(
    said.queries,
    whole,
    asks.top,
    known=asks.known,
    others=asks.others,
  )


def _unembedding(teacher):
  module = generation.module_of(teacher.problem)
  if module.tied:
    return teacher.problem.embeddings
  base = teacher.problem.frozen or teacher.params
  return base["unembedding"]


def taught(
  teachers: Sequence[language_teachers.LanguageTeacher],
  corpus: batches.Corpus,
  asks: Asked,
) -> batches.Examples:
  """Returns the training part with what teachers say of its tokens.

  Computed once for a teacher and a data set, and kept in the cache folder.
  """
  told = [_kept(teacher, corpus, asks) for teacher in teachers]
  tokens = corpus.train.tokens
  assert tokens is not None
  tokens = dataclasses.replace(
    tokens,
    teacher_ids=np.stack([ids for ids, _ in told], axis=2),
    teacher_logs=np.stack([said for _, said in told], axis=2),
  )
  return corpus.train._replace(tokens=tokens)


def _kept(teacher, corpus, asks):
  module = generation.module_of(teacher.problem)
  decides = [
    teacher.id,
    teacher.base,
    corpus.fingerprint,
    list(asks),
    module.compute,
  ]
  entry = cache.entry("token_teachers", decides)
  rows = corpus.train
  shape = (*rows.token_ids.shape, asks.top)
  arrays = cache.read_arrays(entry) or {}
  if "ids" in arrays and arrays["ids"].shape == shape:
    return arrays["ids"], arrays["logs"]
  ids, said = of_rows(teacher, rows, asks)
  cache.write_arrays(entry, {"ids": ids, "logs": said})
  return ids, said


def label(
  setup: spaces.Setup,
  syn: synthetic.SyntheticSet,
  teachers: Sequence[language_teachers.LanguageTeacher],
  asks: Asked,
) -> synthetic.SyntheticSet:
  """Returns a set with what teachers say after each of its embeddings.

  Args:
    setup: Whose embedding space the set lives in.
    syn: A set without classes.
    teachers: Who read that space.
    asks: What they are asked.

  Raises:
    InputError: a teacher of another table, or too few positions.
  """
  ids, said = [], []
  for teacher in teachers:
    theirs = spaces.id_of(
      teacher.problem.embeddings, setup.corpus.tokenizer.fingerprint
    )
    if theirs != setup.space_id:
      raise errors.InputError(
        f"the teacher {teacher.name} has a table of embeddings of its own, and "
        "cannot read what was learned in the student's; use an adapter of the "
        "student's base, or a model whose table is the same."
      )
    trained.require_length(teacher, syn.batch.mask.shape[1], "the set's length")
    answer = said_of(teacher, syn.batch, asks)
    _require_finite(teacher, np.asarray(answer[1]))
    ids.append(answer[0])
    said.append(answer[1])
  return _with(syn, ids, said)


def label_rows(
  setup: spaces.Setup,
  rows: batches.Examples,
  teachers: Sequence[language_teachers.LanguageTeacher],
  asks: Asked,
) -> synthetic.SyntheticSet:
  """Returns real rows as a set, with what teachers say of their tokens.

  Raises:
    InputError: as in `of_rows`.
  """
  batch = batches.as_batch(rows, 0)
  syn = synthetic.SyntheticSet(
    dataclasses.replace(batch, inputs=setup.problem.embed(batch))
  )
  told = [of_rows(teacher, rows, asks) for teacher in teachers]
  return _with(syn, [x for x, _ in told], [x for _, x in told])


def _with(syn, ids, said):
  tokens = dataclasses.replace(
    syn.batch.tokens,
    teacher_ids=np.stack(ids, axis=2),
    teacher_logs=np.stack(said, axis=2),
  )
  batch = dataclasses.replace(syn.batch, tokens=tokens)
  return dataclasses.replace(syn, batch=jax.tree.map(jnp.asarray, batch))


def of_rows(
  teacher: language_teachers.LanguageTeacher,
  rows: batches.Examples,
  asks: Asked,
) -> tuple[np.ndarray, np.ndarray]:
  """Returns ids [N, L, k] and logs [N, L, k + 1]; of padding, they are zero.

  Raises:
    InputError: rows too long for the teacher, or what it says is not finite.
  """
  total, full = rows.token_ids.shape
  trained.require_length(teacher, full, "config.data.max_length")
  ids = np.zeros((total, full, asks.top), np.int32)
  said = np.zeros((total, full, asks.top + asks.others), np.float32)
  lengths = rows.mask.sum(axis=1)
  order = np.argsort(lengths, kind="stable")
  steps = range(0, total, ROWS)
  label = f"the teacher {teacher.name} reads"
  for first in waits.over(steps, label, total, "rows", ROWS):
    chosen = order[first : first + ROWS]
    # A few lengths and one size of batch: a program each.
    cut = min(-(-int(lengths[chosen].max()) // LENGTHS) * LENGTHS, full)
    padded = np.resize(chosen, ROWS)
    mask = rows.mask[padded, :cut]
    batch = batches.Batch(rows.token_ids[padded, :cut], mask)
    answer = said_of(teacher, batch, asks)
    for whole, part in zip((ids, said), answer, strict=True):
      read = np.where(mask[..., None], np.asarray(part), 0)
      whole[chosen, :cut] = read[: len(chosen)]
  _require_finite(teacher, said)
  return ids, said


def _require_finite(teacher, said):
  if not np.isfinite(said).all():
    raise errors.InputError(
      f"the teacher {teacher.name} says numbers that are not finite; use one "
      "whose training has not diverged."
    )
