"""What trained students say of a split's rows, and how often they are right."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gmdistill import trees
from gmdistill.data import batches as row_batches
from gmdistill.data import lengths
from gmdistill.students import problems
from gmdistill.system import devices

# (problem, params, batch [B, ...]) -> [B, ...]: what a student says of rows
Reading = Callable[
  [problems.Problem, trees.Params, row_batches.Batch], jax.Array
]


def logits(
  problem: problems.Problem, params: trees.Params, batch: row_batches.Batch
) -> jax.Array:
  """Returns a student's logits [B, C], or what else its task reads."""
  return problem.apply(params, batch).logits


def total_score(
  problem: problems.Problem,
  params: trees.Params,
  batch: row_batches.Batch,
  reading: Reading = logits,
) -> jax.Array:
  """Returns the sum of the rows' scores, each times what its row counts.

  Of classes: how many rows of `batch` the student labels right. NaN of a
  student that has diverged: the largest of logits that are NaN is the first.
  """
  counts_B = problem.task.counts(batch)
  return (_scores(problem, params, batch, reading) * counts_B).sum()


def _scores(problem, params, batch, reading):
  """Returns the rows' scores [B]; NaN of a batch with logits not finite."""
  read = reading(problem, params, batch)
  finite = [jnp.isfinite(x).all() for x in jax.tree.leaves(read)]
  return jnp.where(jnp.stack(finite).all(), problem.score(read, batch), jnp.nan)


def length_buckets(
  examples: row_batches.Examples, num_classes: int, rows: int = lengths.ROWS
) -> list[row_batches.Batch]:
  """Cuts rows into batches of few lengths, so that padding costs little.

  Args:
    examples: The rows of a split, masked after their last token.
    num_classes: Length C of the one-hot labels.
    rows: Rows of a batch; the last one is padded with rows of zero labels.

  Returns:
    At most three stacked batches of [chunks, rows, L'] (device arrays), the
    lots of `lengths.lots`; every row of `examples` is in exactly one.
  """
  batches = []
  # Who is right is told by the truth, whatever teachers say of a row.
  truth = examples._replace(soft=None)
  for cut, chosen in lengths.lots(examples.mask):
    padding = -chosen.size % rows
    held = np.concatenate([chosen, np.repeat(chosen[-1:], padding)])
    whole = row_batches.as_batch(row_batches.take(truth, held), num_classes)
    batch = row_batches.without_count(
      row_batches.cut(whole, cut), np.arange(chosen.size, len(held))
    )
    batches.append(
      jax.tree.map(
        lambda x: jnp.asarray(x).reshape(-1, rows, *x.shape[1:]), batch
      )
    )
  return batches


def order(examples: row_batches.Examples) -> np.ndarray:
  """Returns the numbers of rows [N] in the order of their length buckets.

  Rows of language that are to say nothing are left out, as `counted` does.
  """
  lots = [chosen for _, chosen in lengths.lots(examples.mask)]
  rows = np.concatenate(lots)
  if row_batches.is_language(examples):
    weights: Any = examples.tokens and examples.tokens.weights
    rows = rows[weights[rows].sum(axis=1) > 0]
  return rows


def groups(
  examples: row_batches.Examples, names: Sequence[str] = ()
) -> dict[str, np.ndarray]:
  """Returns where each group's rows stand in the order of the length buckets.

  Args:
    examples: The rows of a split; {} where they are of no groups.
    names: Of the groups; their numbers where left out.
  """
  if examples.groups is None:
    return {}
  groups_N = examples.groups[order(examples)]
  return {
    str(names[group] if names else group): np.flatnonzero(groups_N == group)
    for group in np.unique(groups_N)
  }


def _over_chunks(one):
  """Returns `one(problem, params, chunks)` mapped over students and jitted."""
  mesh = devices.whole()

  def of_these(problem, params, chunks):
    return jax.lax.map(lambda params: one(problem, params, chunks), params)

  everywhere, by_student = devices.EVERYWHERE, devices.BY_STUDENT
  mapped = problems.over_students(
    mesh, of_these, (by_student, everywhere), by_student
  )
  jitted = jax.jit(mapped, out_shardings=devices.sharding(mesh, everywhere))
  return lambda problem, params, chunks: np.asarray(
    jitted(problem, params, devices.put(mesh, chunks))
  )


# Kept for a few readings: functions of modules, never closures.
@functools.lru_cache(maxsize=8)
def _bucket_totals(reading):
  """Returns the sum of each student's scores [S] in a bucket."""

  def one(problem, params, chunks):
    def total(batch):
      return total_score(problem, params, batch, reading)

    return jax.lax.map(total, chunks).sum()

  return _over_chunks(one)


@functools.lru_cache(maxsize=8)
def _bucket_scores(reading):
  """Returns each student's score of every row of a bucket [S, n, B]."""
  return _bucket_values(functools.partial(_scores, reading=reading))


@functools.lru_cache(maxsize=8)
def _bucket_values(reading):
  """Returns what each student says of every row of a bucket [S, n, B, ...]."""

  def one(problem, params, chunks):
    return jax.lax.map(lambda batch: reading(problem, params, batch), chunks)

  return _over_chunks(one)


def accuracies(
  problem: problems.Problem,
  params: trees.Params,
  buckets: list[row_batches.Batch],
  reading: Reading = logits,
) -> np.ndarray:
  """Returns the mean score [S] of each of S stacked students.

  Of classes, the accuracy (fractions). NaN where a student's logits are not
  finite.

  Args:
    problem: The students' architecture.
    params: Parameters with a leading axis [S], as many on every device.
    buckets: What `length_buckets` made of a split.
    reading: A student's logits.
  """
  counts = [np.asarray(problem.task.counts(b), np.float64) for b in buckets]
  totals = _bucket_totals(reading)
  found = np.stack([totals(problem, params, b) for b in buckets])
  return found.astype(np.float64).sum(0) / sum(x.sum() for x in counts)


def means(
  problem: problems.Problem,
  params: trees.Params,
  buckets: list[row_batches.Batch],
  parts: Mapping[str, np.ndarray],
  reading: Reading = logits,
) -> dict[str, np.ndarray]:
  """Returns the mean score [S] of S stacked students on each of some parts.

  Every row is read once, whatever the number of parts.

  Args:
    problem: The students' architecture.
    params: Parameters with a leading axis [S], as many on every device.
    buckets: What `length_buckets` made of a split.
    parts: Numbers of rows, in the order of the buckets; of at least one each.
    reading: A student's logits.
  """
  read = _bucket_scores(reading)
  scores, counts = [], []
  for bucket in buckets:
    real_N = np.asarray(row_batches.counted(bucket)).reshape(-1)
    scores_SxnxB = read(problem, params, bucket).astype(np.float64)
    scores.append(scores_SxnxB.reshape(len(scores_SxnxB), -1)[:, real_N])
    counts_nxB = np.asarray(problem.task.counts(bucket), np.float64)
    counts.append(counts_nxB.reshape(-1)[real_N])
  scores_SxN, counts_N = np.concatenate(scores, axis=1), np.concatenate(counts)
  return {
    name: (scores_SxN[:, at] * counts_N[at]).sum(axis=1) / counts_N[at].sum()
    for name, at in parts.items()
  }


def values(
  problem: problems.Problem,
  params: trees.Params,
  buckets: list[row_batches.Batch],
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
  parts, classes = [], []
  for bucket in buckets:
    values_SxnxB = read(problem, params, bucket)
    flat = (len(values_SxnxB), -1, *values_SxnxB.shape[3:])
    classes_N = np.asarray(bucket.class_labels).argmax(axis=-1).reshape(-1)
    real_N = np.asarray(row_batches.counted(bucket)).reshape(-1)
    parts.append(values_SxnxB.reshape(flat)[:, real_N])
    classes.append(classes_N[real_N])
  return np.concatenate(parts, axis=1), np.concatenate(classes)
