"""Text-classification data: rows, batches, and samplers that make them.

A sampler turns rows into batches as a pure function of the step.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import flax.struct
import jax
import numpy as np

from gmdistill import errors
from gmdistill import tokenizer as tokenizing

Array = jax.Array | np.ndarray  # on a device, or on the host


@flax.struct.dataclass
class Batch:
  """What a student sees; real and synthetic data are the same type."""

  inputs: Array  # [B, L] token ids, or [B, L, D] word-level embeddings
  mask: Array  # [B, L] bool
  labels: Array  # [B, C] probabilities; one-hot when hard
  # [B, layers, heads, L] labels of the first token's attention; None: none
  attention: Array | None = None
  teacher_logits: Array | None = None  # [B, K, C] of K teachers; None: none
  teacher_features: Array | None = None  # [B, layers, F] of one; None: none
  # The share of the training that is over, from 0 to 1, where a loss depends
  # on it; None: outside of training.
  progress: Array | None = None
  # What the student's slots should say, as `inputs` are: [B, R] token ids, or
  # [B, R, D] queries whose products with the table are logits. None: nothing
  rationale: Array | None = None
  rationale_weights: Array | None = None  # [B, R], a row's sum to 1, or are 0
  rationale_steps: Array | None = None  # [B, R] int; -1: no token


class Examples(NamedTuple):
  """Rows of fixed length on the host."""

  token_ids: np.ndarray  # [N, L] int32
  mask: np.ndarray  # [N, L] bool
  labels: np.ndarray  # [N] int32
  soft: np.ndarray | None = None  # [N, C], what a teacher says; None: nothing
  teacher_logits: np.ndarray | None = None  # [N, K, C] of K teachers
  # Where the data have rationales: their tokens, the step that each belongs to
  # (-1: none), and what each counts; None: they are not learned.
  rationale: np.ndarray | None = None  # [N, R] int32
  rationale_steps: np.ndarray | None = None  # [N, R] int32
  rationale_weights: np.ndarray | None = None  # [N, R] float32
  groups: np.ndarray | None = None  # [N] int64, by which accuracies are told


class Corpus(NamedTuple):
  """A tokenized data set: three disjoint parts and what travels with them."""

  train: Examples
  selection: Examples  # cut from the training split; every choice is made on it
  reported: Examples  # touched once, at the end
  label_names: tuple[str, ...]
  text_keys: tuple[str, ...]
  label_key: str
  train_bytes: int  # UTF-8 bytes of the training part's text
  dropped: int  # unlabelled rows left out, over all splits used
  tokenizer: tokenizing.Tokenizer
  fingerprint: str  # hash of all of the above


def with_slots(examples: Examples, slots: int, mask_id: int) -> Examples:
  """Returns rows with R slots after the first token: [CLS] [MASK]*R text.

  The slots stand in front, so that they have the same positions in every row,
  and a row stays masked after its last token alone. Every split has them: what
  a student should say there is not known where it is used.
  """
  ids_NxL, mask_NxL = examples.token_ids, examples.mask
  blanks_NxR = np.full((len(ids_NxL), slots), mask_id, ids_NxL.dtype)
  join = lambda x, middle: np.concatenate([x[:, :1], middle, x[:, 1:]], axis=1)  # noqa: E731
  return examples._replace(
    token_ids=join(ids_NxL, blanks_NxR),
    mask=join(mask_NxL, np.ones(blanks_NxR.shape, bool)),
  )


def without_slots(examples: Examples) -> Examples:
  """Returns the rows' text alone; rows without slots as they are."""
  if examples.rationale is None:
    return examples
  slots = np.s_[1 : 1 + examples.rationale.shape[1]]
  return examples._replace(
    token_ids=np.delete(examples.token_ids, slots, axis=1),
    mask=np.delete(examples.mask, slots, axis=1),
  )


def take(examples: Examples, rows: np.ndarray | Sequence[int]) -> Examples:
  """Returns the chosen rows, in the order chosen."""
  chosen = np.asarray(rows, np.int64)
  return Examples._make(x if x is None else x[chosen] for x in examples)


def by_group(examples: Examples) -> dict[str, Examples]:
  """Returns the rows of each group by its number; {} where there are none."""
  if examples.groups is None:
    return {}
  return {
    str(group): take(examples, np.flatnonzero(examples.groups == group))
    for group in np.unique(examples.groups)
  }


def sharing(examples: Examples, others: Examples, length: int) -> np.ndarray:
  """Returns whether each row has `length` tokens in a row in common with any.

  Phrases cut from the same sentence are found so. Rows shorter than that share
  nothing.

  Args:
    examples: The rows [N] that are asked about.
    others: The rows that they are compared with.
    length: Consecutive tokens.

  Returns:
    [N] bools.
  """
  # A window is known by a random sum of its ids: equal sums of different
  # windows are as rare as equal hashes.
  factors = np.random.default_rng(0).integers(2**62, size=length)

  def windows(rows):
    ids = rows.token_ids.astype(np.int64)
    if ids.shape[1] < length:
      return np.zeros((len(ids), 0), np.int64), np.zeros((len(ids), 0), bool)
    view = functools.partial(
      np.lib.stride_tricks.sliding_window_view, window_shape=length, axis=1
    )
    return view(ids) @ factors, view(rows.mask).all(axis=-1)

  theirs, whole = windows(others)
  ours, ours_whole = windows(examples)
  found = np.isin(ours, theirs[whole]) & ours_whole
  return found.any(axis=1)


def as_batch(examples: Examples, num_classes: int) -> Batch:
  """Returns all rows as one batch of numpy arrays; the labels are a teacher's
  where the rows have some, else one-hot."""
  labels = examples.soft
  if labels is None:
    labels = np.eye(num_classes, dtype=np.float32)[examples.labels]
  # Host arrays: where they go on the device is decided by who uses them.
  batch = Batch(
    inputs=examples.token_ids,
    mask=examples.mask,
    labels=labels,
    teacher_logits=examples.teacher_logits,
  )
  if examples.rationale_weights is None:
    return batch
  return dataclasses.replace(
    batch,
    rationale=examples.rationale,
    rationale_weights=examples.rationale_weights,
    rationale_steps=examples.rationale_steps,
  )


def require_rows(
  examples: Examples,
  per_class: int,
  label_names: Sequence[str],
  field: str = "data_per_class",
) -> None:
  """Checks that every class has the `per_class` rows that a field asks for.

  Raises:
    errors.InputError: one has fewer; names it and what would be possible.
  """
  counts = np.bincount(examples.labels, minlength=len(label_names))
  scarcest = int(counts.argmin())
  if counts[scarcest] < per_class:
    raise errors.InputError(
      f"{field}={per_class} is more than the {counts[scarcest]} rows "
      f"of the class {label_names[scarcest]!r}; use at most "
      f"{counts[scarcest]}"
    )


# step -> host batch; pure, so resuming needs no iterator state
Sampler = Callable[[int], Batch]


def class_balanced_sampler(
  examples: Examples, *, rows_per_class: int, num_classes: int, seed: int
) -> Sampler:
  """Samples equally many rows of each class: `sampler(step) -> Batch`.

  A batch holds [num_classes * rows_per_class] rows, class by class. Over the
  steps, a class's rows come in shuffled epochs, each row once an epoch. Pure
  in `(seed, step)`.

  Raises:
    errors.InputError: a class has no rows, or `rows_per_class` is below one.
  """
  if rows_per_class < 1:
    raise errors.InputError(
      f"config.rows_per_class={rows_per_class} must be at least 1"
    )
  by_class = [
    np.flatnonzero(examples.labels == of_class)
    for of_class in range(num_classes)
  ]
  for of_class, rows in enumerate(by_class):
    if not len(rows):
      raise errors.InputError(
        f"Class {of_class} of {num_classes} has no rows to sample from; use "
        "data with rows of every class"
      )
  streams = [
    shuffled_epochs(rows, (seed, 1, of_class))
    for of_class, rows in enumerate(by_class)
  ]

  def sample(step: int) -> Batch:
    start = step * rows_per_class
    rows = [stream(start, rows_per_class) for stream in streams]
    return as_batch(take(examples, np.concatenate(rows)), num_classes)

  return sample


def shuffled_epochs(
  rows: np.ndarray, seed: tuple[int, ...]
) -> Callable[[int, int], np.ndarray]:
  """Returns `(start, count) -> rows` of an endless series of permutations.

  Pure in `(seed, start, count)`; each row comes once an epoch.
  """

  @functools.lru_cache(maxsize=2)  # The same value, only sooner.
  def epoch_rows(epoch: int) -> np.ndarray:
    return np.random.default_rng([*seed, epoch]).permutation(rows)

  def draw(start: int, count: int) -> np.ndarray:
    first, last = start // len(rows), (start + count - 1) // len(rows)
    epochs = [epoch_rows(epoch) for epoch in range(first, last + 1)]
    offset = start - first * len(rows)
    return np.concatenate(epochs)[offset : offset + count]

  return draw
