"""Training a student by any optimiser, and its accuracy."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gmdistill import data
from gmdistill import mesh as meshes
from gmdistill import problem as problems

Params = Any
# (problem, params, batch [B, ...]) -> [B, ...]: what a student says of rows
Reading = Callable[[problems.Problem, Params, data.Batch], jax.Array]


class Teaching(NamedTuple):
  """A teacher that changes while its student learns: state in, state out.

  `init(problem, params, key) -> state`; `logits(problem, state, batch)` [B, C];
  `update(problem, state, params, batch) -> state`, where `params` are those
  that the student has just left, and `batch` is what it learned on.
  """

  init: Callable[[problems.Problem, Params, jax.Array], Any]
  logits: Callable[[problems.Problem, Any, data.Batch], jax.Array]
  update: Callable[[problems.Problem, Any, Params, data.Batch], Any]


def moving_average(decay: float) -> Teaching:
  """The student's own past: mean <- decay mean + (1 - decay) student.

  Tarvainen and Valpola 2017.
  """

  def update(problem, mean, params, batch):
    del problem, batch
    return jax.tree.map(lambda m, p: decay * m + (1 - decay) * p, mean, params)

  return Teaching(
    lambda problem, params, key: params,
    lambda problem, mean, batch: problem.apply(mean, batch).logits,
    update,
  )


def peer(optimizer: optax.GradientTransformation) -> Teaching:
  """A second student, which learns from the first as the first from it.

  Deep mutual learning (Zhang et al. 2018).
  """

  def init(problem, params, key):
    # What the criterion learns beside the student starts as the first's does.
    own = {**params, **problem.init(key)}
    return own, optimizer.init(own)

  def update(problem, state, params, batch):
    own, inner = state
    said_BxC = problem.apply(params, batch).logits
    grads = jax.grad(problem.loss)(own, _with_teacher(batch, said_BxC))
    updates, inner = optimizer.update(grads, inner, own)
    return optax.apply_updates(own, updates), inner

  return Teaching(
    init,
    lambda problem, state, batch: problem.apply(state[0], batch).logits,
    update,
  )


def fit(
  problem: problems.Problem,
  examples: data.Batch,
  optimizer: optax.GradientTransformation,
  *,
  num_steps: int,
  batch_size: int,
  key: jax.Array,
  params: Params | None = None,
  teaching: Teaching | None = None,
  seen: Callable[[data.Batch], data.Batch] | None = None,
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
  rows_TxB = shuffled_rows(
    order_key, len(examples.labels), num_steps, batch_size
  )
  if problem.criterion is None:
    return descend(
      problem.loss, params, examples, optimizer, rows=rows_TxB, seen=seen
    )
  own_names = frozenset(params)
  first = jax.tree.map(lambda x: x[rows_TxB[0]], examples)
  if teaching is not None:
    first = _with_teacher(first, problem.apply(params, first).logits)
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
  loss: Callable[[Params, data.Batch], jax.Array],
  params: Params,
  examples: data.Batch,
  optimizer: optax.GradientTransformation,
  *,
  rows: jax.Array,
  seen: Callable[[data.Batch], data.Batch] | None = None,
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
    grads = jax.grad(problem.loss)(params, _with_teacher(batch, said_BxC))
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
  batch = jax.tree.map(lambda x: x[rows_B], examples)
  batch = dataclasses.replace(batch, progress=progress)
  return batch if seen is None else seen(batch)


def _with_teacher(batch, said_BxC):
  """Returns the batch with one more teacher; it is a constant."""
  said_Bx1xC = jax.lax.stop_gradient(said_BxC)[:, None]
  if batch.teacher_logits is not None:
    said_Bx1xC = jnp.concatenate([batch.teacher_logits, said_Bx1xC], axis=1)
  return dataclasses.replace(batch, teacher_logits=said_Bx1xC)


def logits(
  problem: problems.Problem, params: Params, batch: data.Batch
) -> jax.Array:
  """Returns a student's logits [B, C]."""
  return problem.apply(params, batch).logits


def count_correct(
  problem: problems.Problem,
  params: Params,
  batch: data.Batch,
  reading: Reading = logits,
) -> jax.Array:
  """Returns how many rows of `batch` the student labels right (an int).

  Rows whose labels are all zero are padding and count as wrong.
  """
  logits_BxC = reading(problem, params, batch)
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


def _over_chunks(one):
  """Returns `one(problem, params, chunks)` mapped over students and jitted."""
  mesh = meshes.whole()

  def own(problem, params, chunks):
    return jax.lax.map(lambda params: one(problem, params, chunks), params)

  everywhere, by_student = meshes.EVERYWHERE, meshes.BY_STUDENT
  mapped = meshes.over_students(
    mesh, own, (everywhere, by_student, everywhere), by_student
  )
  found = jax.jit(mapped, out_shardings=meshes.sharding(mesh, everywhere))
  return lambda problem, params, chunks: np.asarray(
    found(problem, params, meshes.put(mesh, chunks))
  )


# Kept for a few readings: functions of modules, never closures.
@functools.lru_cache(maxsize=8)
def _bucket_correct(reading):
  """Returns the count of each student's right answers [S] in a bucket."""

  def one(problem, params, chunks):
    count = lambda batch: count_correct(problem, params, batch, reading)  # noqa: E731
    return jax.lax.map(count, chunks).sum()

  return _over_chunks(one)


@functools.lru_cache(maxsize=8)
def _bucket_values(reading):
  """Returns what each student says of every row of a bucket [S, n, B, ...]."""

  def one(problem, params, chunks):
    return jax.lax.map(lambda batch: reading(problem, params, batch), chunks)

  return _over_chunks(one)


def accuracies(
  problem: problems.Problem,
  params: Params,
  buckets: list[data.Batch],
  reading: Reading = logits,
) -> np.ndarray:
  """Returns the accuracy [S] of each of S stacked students (fractions).

  Args:
    problem: The students' architecture.
    params: Parameters with a leading axis [S], as many on every device.
    buckets: What `length_buckets` made of a split.
    reading: A student's logits.
  """
  total = sum(int((b.labels.sum(-1) > 0).sum()) for b in buckets)
  count = _bucket_correct(reading)
  correct_S = np.stack([count(problem, params, b) for b in buckets]).sum(0)
  return correct_S / total


def values(
  problem: problems.Problem,
  params: Params,
  buckets: list[data.Batch],
  reading: Reading = logits,
) -> tuple[np.ndarray, np.ndarray]:
  """Returns what S stacked students say of every row, and the true classes.

  Args:
    problem: The students' architecture.
    params: Parameters with a leading axis [S], as many on every device.
    buckets: What `length_buckets` made of a split.
    reading: What is said of a row; logits where left out.

  Returns:
    Values [S, N, ...] and classes [N], in the order of the buckets; padding is
    left out.
  """
  read = _bucket_values(reading)
  found, classes = [], []
  for bucket in buckets:
    values_SxnxB = read(problem, params, bucket)
    flat = (len(values_SxnxB), -1, *values_SxnxB.shape[3:])
    labels_NxC = np.asarray(bucket.labels).reshape(-1, bucket.labels.shape[-1])
    real_N = labels_NxC.sum(axis=-1) > 0
    found.append(values_SxnxB.reshape(flat)[:, real_N])
    classes.append(labels_NxC.argmax(axis=-1)[real_N])
  return np.concatenate(found, axis=1), np.concatenate(classes)


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
