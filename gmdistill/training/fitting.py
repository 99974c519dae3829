"""Training a student by any optimiser."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from gmdistill import trees
from gmdistill.data import batches
from gmdistill.students import problems


class Teaching(NamedTuple):
  """A teacher that changes while its student learns: state in, state out.

  `init(problem, params, key) -> state`; `logits(problem, state, batch)` [B, C];
  `update(problem, state, params, batch) -> state`, where `params` are those
  that the student has just left, and `batch` is what it learned on.
  """

  init: Callable[[problems.Problem, trees.Params, jax.Array], Any]
  logits: Callable[[problems.Problem, Any, batches.Batch], jax.Array]
  update: Callable[[problems.Problem, Any, trees.Params, batches.Batch], Any]


class Course(NamedTuple):
  """How long a student trains, and what joins in.

  Attributes:
    num_steps: Number of updates.
    batch_size: Examples an update, drawn in shuffled epochs; where the set is
      not larger, every update takes the whole set.
    teaching: A teacher that changes with the student, beside those that the
      examples bring.
    seen: What an update sees of its batch, which says how far the training is;
      None: all.
  """

  num_steps: int
  batch_size: int
  teaching: Teaching | None = None
  seen: Callable[[batches.Batch], batches.Batch] | None = None


def fit(
  problem: problems.Problem,
  examples: batches.Batch,
  optimizer: optax.GradientTransformation,
  *,
  num_steps: int,
  batch_size: int,
  key: jax.Array,
) -> trees.Params:
  """Trains one student on a set that lies on the device.

  A pure function of its arguments: wrap it in `jax.vmap` over keys for many
  seeds and in `jax.jit` for speed.

  Args:
    problem: What to train.
    examples: All examples [N, ...], real or synthetic.
    optimizer: Any optax optimiser.
    num_steps: See `Course`.
    batch_size: See `Course`.
    key: Decides the initialisation and the order of the examples.

  Returns:
    The trained parameters, without what the problem's criterion learned.
  """
  course = Course(num_steps, batch_size)
  return fit_course(problem, examples, optimizer, course, key=key)


def fit_course(
  problem: problems.Problem,
  examples: batches.Batch,
  optimizer: optax.GradientTransformation,
  course: Course,
  *,
  key: jax.Array,
) -> trees.Params:
  """Trains one student as `fit` does, on a `Course` with all that joins in.

  Raises:
    ValueError: a changing teacher, and no criterion that says what is lost to
      it.
  """
  teaching = course.teaching
  if teaching is not None and problem.criterion is None:
    raise ValueError("a changing teacher needs a problem with a criterion.")
  params = problems.first_student(problem, key)
  order_key = jax.random.split(key)[1]  # the first is the student's
  rows_TxB = shuffled_rows(
    order_key, len(examples), course.num_steps, course.batch_size
  )
  descends = functools.partial(
    descend, examples=examples, optimizer=optimizer, rows=rows_TxB
  )
  if problem.criterion is None:
    return descends(problem.loss, params, seen=course.seen)
  student_names = frozenset(params)
  first = batches.take_rows(examples, rows_TxB[0])
  if teaching is not None:
    first = with_teacher(first, problem.apply(params, first).logits)
  criterion_key, peer_key = jax.random.split(jax.random.fold_in(key, 2))
  params = problem.with_criterion_params(params, first, criterion_key)
  if teaching is None:
    params = descends(problem.loss, params, seen=course.seen)
  else:
    teacher = teaching.init(problem, params, peer_key)
    params = _descend_taught(
      problem, (params, teacher), examples, optimizer, course, rows_TxB
    )
  return {name: x for name, x in params.items() if name in student_names}


def update(
  optimizer: optax.GradientTransformation,
  grads: trees.Params,
  state: optax.OptState,
  params: trees.Params,
) -> tuple[trees.Params, optax.OptState]:
  """Returns the parameters and the optimiser's state after one step."""
  updates, state = optimizer.update(grads, state, params)
  return optax.apply_updates(params, updates), state


def descend(
  loss: Callable[[trees.Params, batches.Batch], jax.Array],
  params: trees.Params,
  examples: batches.Batch,
  optimizer: optax.GradientTransformation,
  *,
  rows: jax.Array,
  seen: Callable[[batches.Batch], batches.Batch] | None = None,
) -> trees.Params:
  """Returns `params` after one update for each of `rows` [T, B] of examples."""

  def step(carry, progress_rows_B):
    params, state = carry
    batch = _drawn(examples, seen, *progress_rows_B)
    grads = jax.grad(loss)(params, batch)
    return update(optimizer, grads, state, params), None

  carry = (params, optimizer.init(params))
  return jax.lax.scan(step, carry, _in_order(rows))[0][0]


def _descend_taught(problem, start, examples, optimizer, course, rows_TxB):
  """As `descend`, of a student and its teacher, which changes."""

  def step(carry, progress_rows_B):
    params, state, teacher = carry
    batch = _drawn(examples, course.seen, *progress_rows_B)
    said_BxC = course.teaching.logits(problem, teacher, batch)
    grads = jax.grad(problem.loss)(params, with_teacher(batch, said_BxC))
    teacher = course.teaching.update(problem, teacher, params, batch)
    return (*update(optimizer, grads, state, params), teacher), None

  params, teacher = start
  carry = (params, optimizer.init(params), teacher)
  return jax.lax.scan(step, carry, _in_order(rows_TxB))[0][0]


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

  def permute(key):
    return jax.random.permutation(key, num_rows)

  rows = jax.lax.map(permute, jax.random.split(key, epochs))
  rows = rows[:, : steps_per_epoch * batch_size].reshape(-1, batch_size)
  return rows[:num_steps]
