"""Rows whose gradients, weighted, make up their class's mean gradient."""

from collections.abc import Sequence

import jax
import numpy as np
import optax
from scipy import optimize

from gmdistill import trees
from gmdistill.data import batches, samplers
from gmdistill.selection import diversity, row_gradients
from gmdistill.students import problems
from gmdistill.training import fitting

_LEAST_WEIGHT = 0.05  # of a chosen row, before the mean is made 1
_AT_ONCE = 8  # rows whose gradients are held at once


def states(
  problem: problems.Problem,
  examples: batches.Examples,
  *,
  count: int,
  rate: float,
  seed: int,
) -> list[trees.Params]:
  """Returns students along AdamW on real rows, after 0, 4, 16, 64 ... steps."""
  params = problem.init(jax.random.key(seed))
  found, taken = [params], 0
  sampler = samplers.class_balanced_sampler(
    examples, rows_per_class=8, num_classes=problem.groups, seed=seed
  )
  optimizer = optax.adamw(rate)
  state = optimizer.init(params)

  @jax.jit
  def step(problem, params, state, batch):
    grads = jax.grad(problem.loss)(params, batch)
    return fitting.update(optimizer, grads, state, params)

  for i in range(1, count):
    while taken < 4**i:
      params, state = step(problem, params, state, sampler(taken))
      taken += 1
    found.append(params)
  return found


def sketches(
  problem: problems.Problem,
  along: Sequence[trees.Params],
  batch: batches.Batch,
  *,
  matched: str,
  size: int,
  seed: int,
) -> np.ndarray:
  """Returns each row's gradients [N, S * size], sketched, at S students."""

  def of_row(problem, params, row):
    grads = row_gradients.gradient(problem, params, row, matched)
    return row_gradients.sketch(grads, size, seed)

  return np.concatenate(
    [
      row_gradients.each(problem, params, batch, of_row, _AT_ONCE)
      for params in along
    ],
    axis=1,
  )


def pursue(
  sketches_NxK: np.ndarray,
  labels: np.ndarray,
  per_class: int,
  diverse: diversity.Diversity | None = None,
) -> tuple[np.ndarray, np.ndarray]:
  """Returns rows [C * per_class] in class order, and a weight of each.

  Orthogonal matching pursuit of each class's mean by rows of it: the row that
  points most along what is left, then the best weights of all chosen ones,
  none of them negative (GRAD-MATCH, Killamsetty et al. 2021). The weights of
  a class have the mean 1.

  Args:
    sketches_NxK: Of the rows' gradients.
    labels: Of the rows [N].
    per_class: Rows that are taken.
    diverse: What counts beside how far a row points along what is left.
  """
  chosen, weights = [], []
  for label in range(int(labels.max()) + 1):
    rows = np.flatnonzero(labels == label)
    own_nxK = sketches_NxK[rows].astype(np.float64)
    own = None if diverse is None else diverse.take(rows)
    picked, shares = _pursue_one(own_nxK, per_class, own)
    chosen.append(rows[picked])
    weights.append(shares / shares.mean())
  return np.concatenate(chosen), np.concatenate(weights)


def _pursue_one(own_nxK, count, diverse):
  target_K = own_nxK.mean(axis=0)
  lengths_n = np.linalg.norm(own_nxK, axis=1) + 1e-12
  picked: list[int] = []
  left_K = target_K
  shares = np.zeros(0)
  cover = None
  if diverse is not None and diverse.weight:
    cover = diversity.Cover(diverse, own_nxK @ left_K / lengths_n)
  for _ in range(count):
    gain_n = own_nxK @ left_K / lengths_n
    if cover is not None:
      gain_n += cover.gains()
    gain_n[picked] = -np.inf
    picked.append(int(gain_n.argmax()))
    if cover is not None:
      cover.add(picked[-1])
    shares, _ = optimize.nnls(own_nxK[picked].T, target_K)
    left_K = target_K - own_nxK[picked].T @ shares
  shares = shares / max(shares.mean(), 1e-12)
  return np.array(picked), np.maximum(shares, _LEAST_WEIGHT)
