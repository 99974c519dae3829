"""Training a student by any optimiser, and its accuracy."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gmdistill import data
from gmdistill import mesh as meshes
from gmdistill import problem as problems

Params = Any


def fit(
  problem: problems.Problem,
  examples: data.Batch,
  optimizer: optax.GradientTransformation,
  *,
  num_steps: int,
  batch_size: int,
  key: jax.Array,
  params: Params | None = None,
  at_step: Callable[[data.Batch, jax.Array], data.Batch] | None = None,
) -> Params:
  """Trains one student on a set that lies on the device.

  A pure function of its arguments: wrap it in `jax.vmap` over keys for many
  seeds and in `jax.jit` for speed.

  Args:
    problem: What to train.
    examples: All examples [N, ...], real or synthetic.
    optimizer: Any optax optimiser.
    num_steps: Number of updates.
    batch_size: Examples an update, drawn in shuffled epochs; where the set is
      not larger, every update takes the whole set.
    key: Decides the initialisation and the order of the examples.
    params: Where to start; a fresh student of `key` where left out.
    at_step: What an update sees of its examples, by its number; None: all.

  Returns:
    The trained parameters.
  """
  init_key, order_key = jax.random.split(key)
  if params is None:
    params = problem.init(init_key)
  rows_TxB = shuffled_rows(
    order_key, len(examples.labels), num_steps, batch_size
  )
  return descend(
    problem.loss, params, examples, optimizer, rows=rows_TxB, at_step=at_step
  )


def descend(
  loss: Callable[[Params, data.Batch], jax.Array],
  params: Params,
  examples: data.Batch,
  optimizer: optax.GradientTransformation,
  *,
  rows: jax.Array,
  at_step: Callable[[data.Batch, jax.Array], data.Batch] | None = None,
) -> Params:
  """Returns `params` after one update for each of `rows` [T, B] of examples."""

  def step(carry, own):
    (params, state), (rows_B, number) = carry, own
    batch = jax.tree.map(lambda x: x[rows_B], examples)
    if at_step is not None:
      batch = at_step(batch, number)
    grads = jax.grad(loss)(params, batch)
    updates, state = optimizer.update(grads, state, params)
    return (optax.apply_updates(params, updates), state), None

  carry = (params, optimizer.init(params))
  return jax.lax.scan(step, carry, (rows, jnp.arange(len(rows))))[0][0]


def count_correct(
  problem: problems.Problem, params: Params, batch: data.Batch
) -> jax.Array:
  """Returns how many rows of `batch` the student labels right (an int).

  Rows whose labels are all zero are padding and count as wrong.
  """
  logits_BxC = problem.apply(params, batch).logits
  right_B = logits_BxC.argmax(axis=-1) == batch.labels.argmax(axis=-1)
  return (right_B & (batch.labels.sum(axis=-1) > 0)).sum()


def length_buckets(
  examples: data.Examples, num_classes: int, rows: int = 64
) -> list[data.Batch]:
  """Cuts rows into batches of few lengths, so that padding costs little.

  Args:
    examples: The rows of a split, masked after their last token.
    num_classes: Length C of the one-hot labels.
    rows: Rows of a batch; the last one is padded with rows of zero labels.

  Returns:
    At most three stacked batches of [chunks, rows, L'] with L' in
    {L/4, L/2, L} (device arrays); every row of `examples` is in exactly one.
  """
  full = examples.mask.shape[1]
  lengths_N = examples.mask.sum(axis=1)
  batches, floor = [], -1
  for cut in sorted({max(full // 4, 1), max(full // 2, 1), full}):
    chosen = np.flatnonzero((lengths_N > floor) & (lengths_N <= cut))
    floor = cut
    if not chosen.size:
      continue
    padded = -(-chosen.size // rows) * rows
    labels = np.zeros((padded, num_classes), np.float32)
    labels[np.arange(chosen.size), examples.labels[chosen]] = 1.0
    chosen = np.concatenate(
      [chosen, np.repeat(chosen[-1:], padded - len(chosen))]
    )
    batch = data.Batch(
      examples.token_ids[chosen, :cut], examples.mask[chosen, :cut], labels
    )
    batches.append(
      jax.tree.map(
        lambda x: jnp.asarray(x).reshape(-1, rows, *x.shape[1:]), batch
      )
    )
  return batches


@functools.lru_cache(maxsize=1)
def _bucket_correct():
  """Returns the mapped, jitted count of each student's right answers [S]."""
  mesh = meshes.whole()

  def own(problem, params, chunks):
    def one(params):
      count = lambda batch: count_correct(problem, params, batch)  # noqa: E731
      return jax.lax.map(count, chunks).sum()

    return jax.lax.map(one, params)

  everywhere, by_student = meshes.EVERYWHERE, meshes.BY_STUDENT
  mapped = meshes.over_students(
    mesh, own, (everywhere, by_student, everywhere), by_student
  )
  count = jax.jit(mapped, out_shardings=meshes.sharding(mesh, everywhere))
  return lambda problem, params, chunks: np.asarray(
    count(problem, params, meshes.put(mesh, chunks))
  )


def accuracies(
  problem: problems.Problem, params: Params, buckets: list[data.Batch]
) -> np.ndarray:
  """Returns the accuracy [S] of each of S stacked students (fractions).

  Args:
    problem: The students' architecture.
    params: Parameters with a leading axis [S], as many on every device.
    buckets: What `length_buckets` made of a split.
  """
  total = sum(int((b.labels.sum(-1) > 0).sum()) for b in buckets)
  count = _bucket_correct()
  correct_S = np.stack([count(problem, params, b) for b in buckets]).sum(0)
  return correct_S / total


def shuffled_rows(
  key: jax.Array, num_rows: int, num_steps: int, batch_size: int
) -> jax.Array:
  """Returns rows [T, B]: shuffled epochs, whole batches only.

  A set of at most `batch_size` rows gives all its rows, in order, every step.
  """
  if batch_size >= num_rows:
    return jnp.broadcast_to(jnp.arange(num_rows), (num_steps, num_rows))
  steps_per_epoch = num_rows // batch_size
  epochs = -(-num_steps // steps_per_epoch)
  permute = lambda k: jax.random.permutation(k, num_rows)  # noqa: E731
  rows = jax.lax.map(permute, jax.random.split(key, epochs))
  rows = rows[:, : steps_per_epoch * batch_size].reshape(-1, batch_size)
  return rows[:num_steps]
