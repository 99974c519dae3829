"""Rows whose gradients, weighted, make up their class's mean gradient."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from scipy import optimize

from gmdistill import trees
from gmdistill.data import batches, samplers
from gmdistill.students import problems
from gmdistill.training import fitting

_LEAST_WEIGHT = 0.05  # of a chosen row, before the mean is made 1
_AT_ONCE = 8  # rows whose gradients are held at once


class Sketch(NamedTuple):
  """A count sketch of the tensors of a gradient (Charikar et al. 2002).

  Each number goes, with a sign, into one of `size` sums. Inner products are
  kept in the mean, with a variance of at most 2 |x|^2 |y|^2 / size.
  """

  places: list[jax.Array]  # of every number of each tensor
  signs: list[jax.Array]
  size: int

  def of(self, tensors: Sequence[jax.Array]) -> jax.Array:
    """Returns the sketch [size] of tensors."""
    total = jnp.zeros(self.size)
    for x, place, sign in zip(tensors, self.places, self.signs, strict=True):
      total = total.at[place].add(sign * x.reshape(-1))
    return total


def count_sketch(
  shapes: Sequence[tuple[int, ...]], size: int, seed: int
) -> Sketch:
  """Returns a sketch, drawn by `seed`, of tensors of these shapes."""
  places, signs = [], []
  for i, shape in enumerate(shapes):
    key = jax.random.fold_in(jax.random.key(seed), i)
    place_key, sign_key = jax.random.split(key)
    count = int(np.prod(shape))
    places.append(jax.random.randint(place_key, (count,), 0, size))
    signs.append(jax.random.rademacher(sign_key, (count,), jnp.float32))
  return Sketch(places, signs, size)


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

  def tensors(params):
    return [x.array for x in problem.roles.select(params, matched)]

  shapes = [x.shape for x in jax.eval_shape(tensors, along[0])]
  sketch = count_sketch(shapes, size, seed)

  @jax.jit
  def at(problem, params, batch, places, signs):
    def one(row):
      single = jax.tree.map(lambda x: x[None], row)
      grads = jax.grad(problem.loss)(params, single)
      selected = [x.array for x in problem.roles.select(grads, matched)]
      return Sketch(places, signs, size).of(selected)

    return jax.lax.map(one, batch, batch_size=_AT_ONCE)

  whole = jax.tree.map(jnp.asarray, batch)
  return np.concatenate(
    [
      np.asarray(at(problem, params, whole, sketch.places, sketch.signs))
      for params in along
    ],
    axis=1,
  )


def pursue(
  sketches_NxK: np.ndarray, labels: np.ndarray, per_class: int
) -> tuple[np.ndarray, np.ndarray]:
  """Returns rows [C * per_class] in class order, and a weight of each.

  Orthogonal matching pursuit of each class's mean by rows of it: the row that
  points most along what is left, then the best weights of all chosen ones,
  none of them negative (GRAD-MATCH, Killamsetty et al. 2021). The weights of
  a class have the mean 1.
  """
  chosen, weights = [], []
  for label in range(int(labels.max()) + 1):
    rows = np.flatnonzero(labels == label)
    own_nxK = sketches_NxK[rows].astype(np.float64)
    picked, shares = _pursue_one(own_nxK, per_class)
    chosen.append(rows[picked])
    weights.append(shares / shares.mean())
  return np.concatenate(chosen), np.concatenate(weights)


def _pursue_one(own_nxK, count):
  target_K = own_nxK.mean(axis=0)
  lengths_n = np.linalg.norm(own_nxK, axis=1) + 1e-12
  picked: list[int] = []
  left_K = target_K
  shares = np.zeros(0)
  for _ in range(count):
    gain_n = own_nxK @ left_K / lengths_n
    gain_n[picked] = -np.inf
    picked.append(int(gain_n.argmax()))
    shares, _ = optimize.nnls(own_nxK[picked].T, target_K)
    left_K = target_K - own_nxK[picked].T @ shares
  shares = shares / max(shares.mean(), 1e-12)
  return np.array(picked), np.maximum(shares, _LEAST_WEIGHT)
