"""Samplers: rows into batches, as pure functions of the step."""

import functools
from collections.abc import Callable

import numpy as np

from gmdistill import errors
from gmdistill.data import batches

# step -> host batch; pure, so resuming needs no iterator state
Sampler = Callable[[int], batches.Batch]


def class_balanced_sampler(
  examples: batches.Examples,
  *,
  rows_per_class: int,
  num_classes: int,
  seed: int,
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

  def sample(step: int) -> batches.Batch:
    start = step * rows_per_class
    rows = [stream(start, rows_per_class) for stream in streams]
    return batches.as_batch(
      batches.take(examples, np.concatenate(rows)), num_classes
    )

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
