"""Text-classification data: rows, batches, and samplers that make them.

A sampler turns rows into batches as a pure function of the step.
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import flax.struct
import jax
import numpy as np

from gmdistill import errors
from gmdistill.data import tokenizing

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
  notes: tuple[str, ...] = ()  # how its parts were made, where that is unusual


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
