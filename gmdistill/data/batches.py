"""Text-classification data: rows, batches, and samplers that make them.

A sampler turns rows into batches as a pure function of the step.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import flax.struct
import jax
import numpy as np

from gmdistill import errors
from gmdistill.data import tokenizing

Array = jax.Array | np.ndarray  # on a device, or on the host


@flax.struct.dataclass
class Tokens:
  """What a student should say at R places of a row, token by token."""

  # As `Batch.inputs` are: [B, R] token ids, or [B, R, D] queries whose products
  # with the table are logits
  targets: Array
  # [B, R], what each counts; None: not decided yet, and nobody learns them
  weights: Array | None = None
  steps: Array | None = None  # [B, R] int, of a rationale; -1: no token
  # [B, R, K, k] the likeliest tokens of each of K teachers, and the logarithms
  # of their probabilities [B, R, K, k + 1], that of all other tokens the last;
  # [B, R, K, k] where k tokens are all that there are.
  teacher_ids: Array | None = None
  teacher_logs: Array | None = None


@flax.struct.dataclass
class TeacherTargets:
  """What teachers say of a row, for a loss beside the labels."""

  logits: Array | None = None  # [B, K, C] of K teachers
  features: Array | None = None  # [B, layers, F] of one


@flax.struct.dataclass
class Batch:
  """What a student sees; real and synthetic data are the same type.

  Every leaf is of rows [B, ...] but `progress`.
  """

  inputs: Array  # [B, L] token ids, or [B, L, D] word-level embeddings
  mask: Array  # [B, L] bool
  labels: Array | None = None  # [B, C] probabilities, where rows have classes
  # [B, layers, heads, L] labels of the first token's attention; None: none
  attention: Array | None = None
  teachers: TeacherTargets | None = None
  # The share of the training that is over, from 0 to 1, where a loss depends
  # on it; None: outside of training.
  progress: Array | None = None
  tokens: Tokens | None = None  # targets token by token; None: none
  # [B], what each row counts in what is lost beside its labels, which are
  # multiplied by it; their mean over a set is 1. None: all the same
  weights: Array | None = None

  def __len__(self) -> int:
    """Returns the number of rows."""
    return len(self.inputs)

  @property
  def class_labels(self) -> Array:
    """The labels [B, C], of a batch that must have them.

    Raises:
      ValueError: its rows have no classes.
    """
    if self.labels is None:
      raise ValueError("these rows have no classes.")
    return self.labels

  def __bool__(self) -> bool:
    """A batch is one, however few its rows."""
    return True


class Examples(NamedTuple):
  """Rows of fixed length on the host; every array has one entry a row."""

  token_ids: np.ndarray  # [N, L] int32
  mask: np.ndarray  # [N, L] bool
  labels: np.ndarray  # [N] int32; 0 where rows have no classes
  soft: np.ndarray | None = None  # [N, C], what a teacher says; None: nothing
  teachers: TeacherTargets | None = None
  tokens: Tokens | None = None  # of rationales, or [N, L] those that follow
  groups: np.ndarray | None = None  # [N] int64, by which accuracies are told
  # [N, T] int32, numbers of what a row is about, ascending; -1: no more
  topics: np.ndarray | None = None


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
  group_names: tuple[str, ...] = ()  # of the groups, where these are words

  @property
  def num_classes(self) -> int:
    """C; 0: rows have no classes, but tokens to say."""
    return len(self.label_names)

  @property
  def strata(self) -> tuple[str, ...]:
    """What batches and sets hold equally many rows of: classes, or all rows."""
    return self.label_names or ("text",)


def take(examples: Examples, rows: np.ndarray | Sequence[int]) -> Examples:
  """Returns the chosen rows, in the order chosen."""
  chosen = np.asarray(rows, np.int64)
  return jax.tree.map(lambda x: x[chosen], examples)


def take_rows(batch: Batch, rows: Any) -> Batch:
  """Returns rows of a batch, by any index; how far training is stays."""
  bare = dataclasses.replace(batch, progress=None)
  chosen = jax.tree.map(lambda x: x[rows], bare)
  return dataclasses.replace(chosen, progress=batch.progress)


def cut(batch: Batch, length: int) -> Batch:
  """Returns the first positions of every row [..., L], and what is said of
  them."""
  axis = batch.mask.ndim - 1
  first = (*(np.s_[:],) * axis, np.s_[:length])
  tokens, full = batch.tokens, batch.mask.shape[axis]
  # Of slots there are fewer than positions; they stand in front, and stay.
  if tokens is not None and tokens.targets.shape[axis] == full:
    tokens = jax.tree.map(lambda x: x[first], tokens)
  return dataclasses.replace(
    batch, inputs=batch.inputs[first], mask=batch.mask[first], tokens=tokens
  )


def last(
  inputs: Array, mask: Array, length: int
) -> tuple[np.ndarray, np.ndarray]:
  """Returns the last places of every row, put at the end of a length.

  Args:
    inputs: [N, L] ids, or [N, L, D] embeddings, padded after their last token.
    mask: [N, L].
    length: What is left of L: shorter rows are padded in front.
  """
  mask_NxL, rows_Nx1 = np.asarray(mask), np.arange(len(mask))[:, None]
  ends_Nx1 = mask_NxL.shape[1] - mask_NxL[:, ::-1].argmax(axis=1)[:, None]
  places = ends_Nx1 - length + np.arange(length)[None]
  known = np.maximum(places, 0)
  return (
    np.asarray(inputs)[rows_Nx1, known],
    mask_NxL[rows_Nx1, known] & (places >= 0),
  )


_PARTS: dict[str, Any] = {"tokens": Tokens, "teachers": TeacherTargets}

# Every array that a batch may bring, by its path: "inputs", "tokens/weights".
PATHS = tuple(
  "/".join([field.name, *part])
  for field in dataclasses.fields(Batch)
  for part in (
    [[own.name] for own in dataclasses.fields(_PARTS[field.name])]
    if field.name in _PARTS
    else [[]]
  )
)


def named(tree: Any) -> dict[str, Array]:
  """Returns the arrays of a batch, or of examples, by their paths."""
  return {
    jax.tree_util.keystr(path, simple=True, separator="/"): leaf
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
  }


def of_named(arrays: Mapping[str, Array]) -> dict[str, Any]:
  """Returns the fields of a batch, or of examples: undoes `named`."""
  fields: dict[str, Any] = {}
  for path, array in arrays.items():
    name, _, part = path.partition("/")
    if part:
      fields.setdefault(name, {})[part] = array
    else:
      fields[name] = array
  return {
    name: _PARTS[name](**x) if name in _PARTS else x
    for name, x in fields.items()
  }


def as_batch(examples: Examples, num_classes: int) -> Batch:
  """Returns all rows as one batch of numpy arrays; the labels are a teacher's
  where the rows have some, else one-hot; rows of language have none."""
  labels = examples.soft
  if labels is None and not is_language(examples):
    labels = np.eye(num_classes, dtype=np.float32)[examples.labels]
  tokens = examples.tokens
  if tokens is not None and tokens.weights is None:
    tokens = None
  # Host arrays: where they go on the device is decided by who uses them.
  return Batch(
    inputs=examples.token_ids,
    mask=examples.mask,
    labels=labels,
    teachers=examples.teachers,
    tokens=tokens,
  )


def is_language(examples: Examples) -> bool:
  """Whether every place of a row says a token, and none is a slot for it."""
  tokens = examples.tokens
  return tokens is not None and tokens.targets.shape == examples.token_ids.shape


def counted(batch: Batch) -> Array:
  """Returns which rows [..., B] count; the others are padding."""
  if batch.labels is not None:
    return batch.labels.sum(axis=-1) > 0
  assert batch.tokens is not None and batch.tokens.weights is not None
  return batch.tokens.weights.sum(axis=-1) > 0


def row_mean(values: jax.Array, batch: Batch) -> jax.Array:
  """Returns the mean of values [B, ...], each row times its weight."""
  if batch.weights is None:
    return values.mean()
  weights = batch.weights.reshape(-1, *[1] * (values.ndim - 1))
  return (values * weights).mean()


def unweighed(batch: Batch) -> Batch:
  """Returns the batch with labels that are no longer multiplied by weights.

  A row that counts nothing keeps labels of zeros.
  """
  if batch.weights is None:
    return batch
  weights_Bx1 = batch.weights[:, None]
  safe_Bx1 = weights_Bx1 + (weights_Bx1 == 0)
  return dataclasses.replace(batch, labels=batch.class_labels / safe_Bx1)


def weighed(batch: Batch) -> Batch:
  """Undoes `unweighed`."""
  if batch.weights is None:
    return batch
  labels_BxC = batch.class_labels * batch.weights[:, None]
  return dataclasses.replace(batch, labels=labels_BxC)


def without_count(batch: Batch, rows: np.ndarray) -> Batch:
  """Returns a host batch in which some rows [n] are padding."""
  labels, tokens = batch.labels, batch.tokens
  if labels is not None:
    labels = np.array(labels)
    labels[rows] = 0
  if tokens is not None and tokens.weights is not None:
    weights = np.array(tokens.weights)
    weights[rows] = 0
    tokens = dataclasses.replace(tokens, weights=weights)
  return dataclasses.replace(batch, labels=labels, tokens=tokens)


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
  if not counts[scarcest]:
    raise errors.InputError(
      f"the class {label_names[scarcest]!r} has no training row; prepare the "
      "data without that class, or with rows of it"
    )
  if counts[scarcest] < per_class:
    raise errors.InputError(
      f"{field}={per_class} is more than the {counts[scarcest]} rows "
      f"of the class {label_names[scarcest]!r}; use at most "
      f"{counts[scarcest]}"
    )
