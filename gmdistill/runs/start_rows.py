"""Real rows that a set starts from, what each counts, and how they are read."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from gmdistill import errors
from gmdistill.data import batches
from gmdistill.runs.config import recipe as recipes
from gmdistill.selection import coresets
from gmdistill.sets import spaces


class Chosen(NamedTuple):
  """Training rows, class by class, and what each counts."""

  rows: np.ndarray  # [M]
  weights: np.ndarray  # [M], their mean is 1


def named(setup: spaces.Setup, config: recipes.Recipe) -> Chosen:
  """Returns the rows of a coreset, each counting the same."""
  rows = by_name(setup, config)
  return Chosen(rows, np.ones(len(rows)))


def by_name(setup: spaces.Setup, config: recipes.Recipe) -> np.ndarray:
  """Returns the rows of a coreset: long ones, or short ones to be read."""
  train = setup.corpus.train
  options = dict(
    per_class=config.data_per_class, pool=config.coreset_pool, seed=config.seed
  )
  if not config.readable:
    return coresets.choose_long(
      config.initialise,
      setup.problem,
      train,
      config.sequence_length,
      **options,
    )
  rows = short_rows(setup, config)
  few = batches.take(train, rows)
  return rows[coresets.choose(config.initialise, setup.problem, few, **options)]


def short_rows(setup: spaces.Setup, config: recipes.Recipe) -> np.ndarray:
  """Returns the rows that a set of texts may have: none is cut.

  Where a class has too few of them, rows may come that fill their positions,
  and may have been cut there.

  Raises:
    InputError: a class has too few.
  """
  train, names = setup.corpus.train, setup.corpus.label_names
  lengths_N = train.mask.sum(axis=1)
  for most in (train.mask.shape[1] - 1, train.mask.shape[1]):
    most = min(config.sequence_length, most)
    fits_N = (lengths_N <= most) & (lengths_N >= config.min_tokens)
    rows = np.flatnonzero(fits_N)
    counts = np.bincount(train.labels[rows], minlength=len(names))
    if counts.min() >= config.data_per_class:
      break
  if counts.min() < config.data_per_class:
    raise errors.InputError(
      f"sequence_length={config.sequence_length} leaves the class "
      f"{names[int(counts.argmin())]!r} {counts.min()} rows of at least "
      f"min_tokens={config.min_tokens}, fewer than "
      f"data_per_class={config.data_per_class}; use a larger sequence_length, "
      "or a smaller min_tokens."
    )
  return rows


def on_host(
  setup: spaces.Setup, config: recipes.Recipe, rows: np.ndarray
) -> batches.Batch:
  """Returns rows as they are read, as numpy arrays."""
  taken = batches.take(setup.rows, rows)
  batch = batches.as_batch(taken, len(setup.corpus.label_names))
  return batches.cut(batch, min(config.sequence_length, batch.mask.shape[1]))


def as_batch(
  setup: spaces.Setup, config: recipes.Recipe, chosen: Chosen
) -> batches.Batch:
  """Returns rows as a set of texts has them: ids, and labels times weights."""
  short = on_host(setup, config, chosen.rows)
  labels = np.asarray(short.class_labels) * chosen.weights[:, None]
  return batches.Batch(
    jnp.asarray(short.inputs),
    jnp.asarray(short.mask),
    jnp.asarray(labels, jnp.float32),
  )
