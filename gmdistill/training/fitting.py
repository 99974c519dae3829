"""Training a student by any optimiser."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from gmdistill.data import batches
from gmdistill.students import problems

Params = Any


class Teaching(NamedTuple):
  """A teacher that changes while its student learns: state in, state out.

  `init(problem, params, key) -> state`; `logits(problem, state, batch)` [B, C];
  `update(problem, state, params, batch) -> state`, where `params` are those
  that the student has just left, and `batch` is what it learned on.
  """

  init: Callable[[problems.Problem, Params, jax.Array], Any]
  logits: Callable[[problems.Problem, Any, batches.Batch], jax.Array]
  update: Callable[[problems.Problem, Any, Params, batches.Batch], Any]


def fit(
  problem: problems.Problem,
  examples: batches.Batch,
  optimizer: optax.GradientTransformation,
  *,
  num_steps: int,
  batch_size: int,
  key: jax.Array,
  params: Params | None = None,
  teaching: Teaching | None = None,
  seen: Callable[[batches.Batch], batches.Batch] | None = None,
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
    teaching: A teacher that changes with the student, beside those that the
      examples bring.
    seen: What an update sees of its batch, which says how far the training is;
      None: all.

  Returns:
    The trained parameters, without what the problem's criterion learned.

  Raises:
    ValueError: a changing teacher, and no criterion that says what is lost to
      it.
  """
  if teaching is not None and problem.criterion is None:
    raise ValueError("a changing teacher needs a problem with a criterion.")
  init_key, order_key = jax.random.split(key)
  if params is None:
    params = problem.init(init_key)
  rows_TxB = shuffled_rows(order_key, len(examples), num_steps, batch_size)
  if problem.criterion is None:
    return descend(
      problem.loss, params, examples, optimizer, rows=rows_TxB, seen=seen
    )
  own_names = frozenset(params)
  first = batches.take_rows(examples, rows_TxB[0])
  if teaching is not None:
    first = with_teacher(first, problem.apply(params, first).logits)
  criterion_key, peer_key = jax.random.split(jax.random.fold_in(key, 2))
  params = problem.with_criterion_params(params, first, criterion_key)
  if teaching is None:
    params = descend(
      problem.loss, params, examples, optimizer, rows=rows_TxB, seen=seen
    )
  else:
    params = _descend_taught(
      problem,
      params,
      examples,
      optimizer,
      rows=rows_TxB,
      seen=seen,
      teaching=teaching,
      key=peer_key,
    )
  return {name: x for name, x in params.items() if name in own_names}


def descend(
  loss: Callable[[Params, batches.Batch], jax.Array],
  params: Params,
  examples: batches.Batch,
  optimizer: optax.GradientTransformation,
  *,
  rows: jax.Array,
  seen: Callable[[batches.Batch], batches.Batch] | None = None,
) -> Params:
  """Returns `params` after one update for each of `rows` [T, B] of examples."""

  def step(carry, progress_rows_B):
    params, state = carry
    batch = _drawn(examples, seen, *progress_rows_B)
    grads = jax.grad(loss)(params, batch)
    updates, state = optimizer.update(grads, state, params)
    return (optax.apply_updates(params, updates), state), None

  carry = (params, optimizer.init(params))
  return jax.lax.scan(step, carry, _in_order(rows))[0][0]


def _descend_taught(
  problem, params, examples, optimizer, *, rows, seen, teaching, key
):
  """As `descend`, with a teacher that changes."""

  def step(carry, progress_rows_B):
    params, state, teacher = carry
    batch = _drawn(examples, seen, *progress_rows_B)
    said_BxC = teaching.logits(problem, teacher, batch)
    grads = jax.grad(problem.loss)(params, with_teacher(batch, said_BxC))
    updates, state = optimizer.update(grads, state, params)
    teacher = teaching.update(problem, teacher, params, batch)
    return (optax.apply_updates(params, updates), state, teacher), None

  teacher = teaching.init(problem, params, key)
  carry = (params, optimizer.init(params), teacher)
  return jax.lax.scan(step, carry, _in_order(rows))[0][0]


def _in_order(rows_TxB):
  """Returns the rows of each update, and the share of training before it."""
  return jnp.arange(len(rows_TxB)) / len(rows_TxB), rows_TxB


def _drawn(examples, seen, progress, rows_B):
  batch = batches.take_rows(examples, rows_B)
  batch = dataclasses.replace(batch, progress=progress)
  return batch if seen is None else seen(batch)


def with_teacher(batch: batches.Batch, said_BxC: jax.Array) -> batches.Batch:
  """Returns the batch with one more teacher; it is a constant."""
  said_Bx1xC = jax.lax.stop_gradient(said_BxC)[:, None]
  teachers = batch.teachers or batches.TeacherTargets()
  if teachers.logits is not None:
    said_Bx1xC = jnp.concatenate([teachers.logits, said_Bx1xC], axis=1)
  teachers = dataclasses.replace(teachers, logits=said_Bx1xC)
  return dataclasses.replace(batch, teachers=teachers)


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
