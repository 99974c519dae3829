"""Scores of single rows: what each is worth to a student."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from gmdistill import errors, trees
from gmdistill.data import batches
from gmdistill.selection import pools, row_gradients, warm_students
from gmdistill.students import problems
from gmdistill.system import waits
from gmdistill.training import optimizers


def el2n(
  pool: pools.Pool, *, per_class: int, seed: int, options: pools.Options
) -> np.ndarray:
  """The error's length |p - y| early in training; the hardest first.

  Paul et al. 2021, the mean over students. They keep the hardest rows of many;
  of few, those are odd and mislabelled ones.
  """
  del per_class

  def error(problem, params, row):
    said_1xC = jax.nn.softmax(problem.apply(params, row).logits)
    return jnp.linalg.norm(said_1xC - row.class_labels)

  return _mean_over_students(pool, options, seed, error)


def grand(
  pool: pools.Pool, *, per_class: int, seed: int, options: pools.Options
) -> np.ndarray:
  """The loss gradient's length early in training; the longest first.

  Paul et al. 2021, the mean over students, of the matched tensors.
  """
  del per_class

  def length(problem, params, row):
    found = row_gradients.gradient(problem, params, row, options.matched)
    return jnp.sqrt(sum(jnp.square(x).sum() for x in jax.tree.leaves(found)))

  return _mean_over_students(pool, options, seed, length)


def _mean_over_students(pool, options, seed, of_row):
  rows = pools.as_batch(pool, pool.rows)
  found = [
    row_gradients.each(pool.problem, params, rows, of_row, options.chunk)
    for params in warm_students.warmed_up(pool, options, seed)
  ]
  return np.mean(found, axis=0, dtype=np.float64)


def less(
  pool: pools.Pool, *, per_class: int, seed: int, options: pools.Options
) -> np.ndarray:
  """How far Adam's step on a row goes the validation gradient's way; the
  farthest first.

  LESS (Xia et al. 2024, eq. 3): over the checkpoints of a warm-up, the sum of
  the rate times the cosine of the row's Adam direction and the mean gradient of
  the validation rows, both sketched.
  """
  del per_class
  rows = pools.as_batch(pool, pool.rows)
  wanted = pools.as_batch(pool, pool.validation)
  total_P = np.zeros(len(rows))

  def plain(problem, params, row):
    found = row_gradients.gradient(problem, params, row, options.matched)
    return row_gradients.sketch(found, options.sketch)

  def step(problem, warm, row):
    found = row_gradients.gradient(problem, warm.params, row, options.matched)
    keep = functools.partial(problem.roles.keep, matched=options.matched)
    moved = adam_direction(
      found, keep(warm.first), keep(warm.second), warm.updates
    )
    return row_gradients.sketch(moved, options.sketch)

  each = functools.partial(row_gradients.each, pool.problem)
  for warm in warm_students.along_training(pool, options, seed):
    mean_W = each(warm.params, wanted, plain, options.chunk).mean(axis=0)
    steps_PxW = each(warm, rows, step, options.chunk)
    lengths_P = np.linalg.norm(steps_PxW, axis=1) * np.linalg.norm(mean_W)
    total_P += (
      options.learning_rate
      * (steps_PxW @ mean_W)
      / np.maximum(lengths_P, 1e-12)
    )
  return total_P


def adam_direction(
  grads: trees.Params,
  first: trees.Params,
  second: trees.Params,
  updates: jax.Array,
) -> trees.Params:
  """Returns Adam's step on a gradient, of rate 1, from its moments before."""
  b1, b2 = optimizers.B1, optimizers.B2
  count = updates + 1

  def direction(g, m, v):
    m = (b1 * m + (1 - b1) * g) / (1 - b1**count)
    v = (b2 * v + (1 - b2) * jnp.square(g)) / (1 - b2**count)
    return m / (jnp.sqrt(v) + optimizers.EPSILON)

  return jax.tree.map(direction, grads, first, second)


def shapley(
  pool: pools.Pool, *, per_class: int, seed: int, options: pools.Options
) -> np.ndarray:
  """What a row's steps take off the validation loss, to first order; the most
  first.

  In-run data Shapley (Wang et al. 2024, eq. 5): along one training by SGD, the
  sum over the row's steps of their size times the product of its gradient and
  the validation gradient, which is one derivative of the losses of a batch
  along the validation gradient: no row's own gradient is ever held.
  """
  del per_class
  rows = jax.tree.map(jnp.asarray, pools.as_batch(pool, pool.rows))
  wanted = pools.as_batch(pool, pool.validation)
  wanted = jax.tree.map(jnp.asarray, wanted)
  batch_size = min(options.batch_size, len(rows))
  key = jax.random.key(seed)
  params = problems.first_student(pool.problem, key)
  rng = np.random.default_rng([seed, 3])
  value_P = np.zeros(len(rows))
  starts = range(0, len(rows), batch_size)
  for epoch in range(1, options.epochs + 1):
    order, label = rng.permutation(len(rows)), f"epoch {epoch}"
    for start in waits.over(starts, label, len(rows), "rows", batch_size):
      own = order[start : start + batch_size]
      index = np.resize(own, batch_size)
      counts = (np.arange(batch_size) < len(own)).astype(np.float32)
      looked = rng.permutation(len(wanted))[:batch_size]
      params, gain_B = sgd_step(
        pool.problem,
        params,
        batches.take_rows(rows, index),
        batches.take_rows(wanted, looked),
        counts,
        options.sgd_rate,
      )
      value_P[own] += np.asarray(gain_B)[: len(own)]
  return value_P


@jax.jit
def sgd_step(
  problem: problems.Problem,
  params: trees.Params,
  rows: batches.Batch,
  wanted: batches.Batch,
  counts_B: jax.Array,
  rate: jax.Array,
) -> tuple[trees.Params, jax.Array]:
  """Returns the student one SGD step on, and each row's share of the gain [B].

  The gain is what the step takes off the mean loss of the `wanted` rows, to
  first order; the shares add up to it. A row that does not count has none.
  """
  share_B = counts_B / counts_B.sum()

  def losses(params):
    def one(row):
      return problem.loss(params, jax.tree.map(lambda x: x[None], row))

    return jax.vmap(one)(rows)

  grads = jax.grad(lambda p: share_B @ losses(p))(params)
  squares = sum(jnp.square(x).sum() for x in jax.tree.leaves(grads))
  size = rate / jnp.maximum(jnp.sqrt(squares), 1.0)
  toward = jax.grad(problem.loss)(params, wanted)
  _, along_B = jax.jvp(losses, (params,), (toward,))
  moved = jax.tree.map(lambda p, g: p - size * g, params, grads)
  return moved, size * share_B * along_B


def ifd(
  pool: pools.Pool, *, per_class: int, seed: int, options: pools.Options
) -> np.ndarray:
  """The answer's loss after its question over its loss alone; the largest
  first, and none above 1.

  Instruction-following difficulty (Li et al. 2024): near 1, the question hardly
  helps a language model, and the row is hard; above 1 it misleads, and the row
  is dropped. Of a pretrained student, as it is. The answer's first token, which
  alone has nothing before it, counts in neither.

  Raises:
    InputError: the student is no language model, or rows have no questions.
  """
  del per_class
  require_language(pool)
  params = pool.problem.init(jax.random.key(seed))

  def loss(problem, params, row):
    return problem.loss(params, row)

  def losses(rows):
    batch = pools.as_batch(pool, rows)
    return row_gradients.each(pool.problem, params, batch, loss, options.chunk)

  asked, alone = with_and_without_question(pool.rows)
  ratio_P = losses(asked) / np.maximum(losses(alone), 1e-9)
  assert alone.tokens is not None
  told_P = np.asarray(alone.tokens.weights).sum(axis=1) > 0
  return np.where((ratio_P <= 1) & told_P, ratio_P, np.nan)


def require_language(pool: pools.Pool) -> None:
  """Checks that students are language models, and that rows say tokens.

  Raises:
    InputError: they tell classes, or the rows are texts without questions.
  """
  if not pool.problem.task.smaller_is_better or pool.rows.tokens is None:
    raise errors.InputError(
      "--method=ifd compares what a language model loses on an answer with and "
      "without its question, and this student tells classes; use one of the "
      "task next_token, or another method."
    )
  if are_texts(pool.rows):
    raise errors.InputError(
      "--method=ifd compares what a language model loses on an answer with and "
      "without its question, and these rows are texts, which have none; give "
      "rows of a prompt and its completion, or use another method."
    )


def are_texts(rows: batches.Examples) -> bool:
  """Whether rows of language are texts alone, which answer no question."""
  assert rows.tokens is not None and rows.tokens.weights is not None
  # Of a text the first place counts too: it says the second token.
  return bool((np.asarray(rows.tokens.weights)[:, 0] > 0).all())


def with_and_without_question(
  rows: batches.Examples,
) -> tuple[batches.Examples, batches.Examples]:
  """Returns rows whose answers count from their second token on, and these
  answers without what stands before them."""
  tokens = rows.tokens
  assert tokens is not None and tokens.weights is not None
  weights = np.array(tokens.weights, np.float32)
  count, length = weights.shape
  first_N = (weights > 0).argmax(axis=1)
  weights[np.arange(count), first_N] = 0
  asked = rows._replace(tokens=dataclasses.replace(tokens, weights=weights))
  # The place that says the answer's first token is the last of the question.
  places = np.arange(length) + first_N[:, None] + 1
  inside = places < length
  places = np.minimum(places, length - 1)

  def moved(x):
    return np.where(inside, np.take_along_axis(np.asarray(x), places, 1), 0)

  alone = rows._replace(
    token_ids=moved(rows.token_ids),
    mask=moved(rows.mask).astype(bool),
    tokens=dataclasses.replace(
      tokens, targets=moved(tokens.targets), weights=moved(weights)
    ),
  )
  return asked, alone
