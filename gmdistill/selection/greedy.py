"""Rows that together stand for a class, chosen one after another."""

from collections.abc import Callable

import jax
import numpy as np

from gmdistill.selection import (
  coresets,
  covering,
  features,
  pools,
  row_gradients,
  warm_students,
)


def random(
  pool: pools.Pool, *, per_class: int, seed: int, options: pools.Options
) -> np.ndarray:
  """Rows drawn at random, each as likely as another."""
  del options
  return _by_rank(
    pool, coresets.random(pool.rows.labels, per_class, seed), per_class
  )


def length_matched(
  pool: pools.Pool, *, per_class: int, seed: int, options: pools.Options
) -> np.ndarray:
  """Rows drawn at random that are as long as the class's: one of each of equal
  parts of its rows by length."""
  del options
  rng = np.random.default_rng([seed, 5])

  def choose(rows):
    parts = np.array_split(
      rows[np.argsort(pool.lengths[rows], kind="stable")], per_class
    )
    return rng.permutation([rng.choice(part) for part in parts])

  return _of_each_class(pool, per_class, choose)


def herding(
  pool: pools.Pool, *, per_class: int, seed: int, options: pools.Options
) -> np.ndarray:
  """Rows whose running mean of features follows the class's (Welling 2009)."""
  del seed, options
  return _coreset(pool, "herding", per_class)


def k_centers(
  pool: pools.Pool, *, per_class: int, seed: int, options: pools.Options
) -> np.ndarray:
  """The rows nearest k-means centroids of features (Maekawa et al. 2024)."""
  del seed, options
  return _coreset(pool, "k_centers", per_class)


def _coreset(pool, method, per_class):
  """The very rows of the baseline of that name."""
  chosen = coresets.choose(
    method,
    pool.problem,
    pool.rows,
    per_class=per_class,
    pool=len(pool.rows.labels),
    seed=coresets.CORESET_SEED,
  )
  return _by_rank(pool, chosen, per_class)


def matching(
  pool: pools.Pool, *, per_class: int, seed: int, options: pools.Options
) -> np.ndarray:
  """Rows whose mean gradient goes the class's way, added one by one.

  Greedy: the k-th row makes the cosine of the first k rows' mean gradient and
  the class's the largest, over all students at once; sketches of the matched
  tensors' gradients stand for them.
  """
  rows = pools.as_batch(pool, pool.rows)

  def of_row(problem, params, row):
    found = row_gradients.gradient(problem, params, row, options.matched)
    return row_gradients.sketch(found, options.sketch)

  students = warm_students.warmed_up(pool, options, seed)
  whole_PxW = np.concatenate(
    [
      row_gradients.each(pool.problem, params, rows, of_row, options.chunk)
      for params in students
    ],
    axis=1,
  )

  def choose(rows):
    grads_NxW = whole_PxW[rows].astype(np.float64)
    mean_W = grads_NxW.mean(axis=0)
    along_N = grads_NxW @ mean_W
    squares_N = np.square(grads_NxW).sum(axis=1)
    total_W, chosen = np.zeros_like(mean_W), []
    free = np.ones(len(rows), bool)
    for _ in range(per_class):
      length_N = squares_N + 2 * grads_NxW @ total_W + np.square(total_W).sum()
      cosine_N = (along_N + total_W @ mean_W) / np.sqrt(length_N + 1e-20)
      at = int(np.where(free, cosine_N, -np.inf).argmax())
      free[at] = False
      total_W = total_W + grads_NxW[at]
      chosen.append(rows[at])
    return np.array(chosen)

  return _of_each_class(pool, per_class, choose)


def facility_location(
  pool: pools.Pool, *, per_class: int, seed: int, options: pools.Options
) -> np.ndarray:
  """Rows that every row of the class has one near to, by cosines of features.

  Greedy facility location, see `covering`.
  """
  del seed, options
  params = pool.problem.init(jax.random.key(coresets.CORESET_SEED))
  found = features.features(pool.problem, params, pool.rows)
  lengths = np.linalg.norm(found, axis=1, keepdims=True)
  unit_PxF = found / np.maximum(lengths, 1e-12)

  def choose(rows):
    near_NxN = unit_PxF[rows] @ unit_PxF[rows].T
    return rows[covering.cover(near_NxN, per_class)]

  return _of_each_class(pool, per_class, choose)


def _of_each_class(
  pool: pools.Pool, per_class: int, choose: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
  """Returns scores of what is chosen in each class, the first the highest."""
  labels = pool.rows.labels
  chosen = [
    choose(np.flatnonzero(labels == label)) for label in np.unique(labels)
  ]
  return _by_rank(pool, np.concatenate(chosen), per_class)


def _by_rank(pool, chosen, per_class):
  """Returns 1 for the first row of a class, less for the next, else NaN."""
  scores_P = np.full(len(pool.rows.labels), np.nan)
  scores_P[chosen] = np.tile(
    1 - np.arange(per_class) / per_class, len(chosen) // per_class
  )
  return scores_P
