"""Training a student: by any optimiser, or by a set's own SGD steps."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gmdistill import data, mixed_mode
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

  Returns:
    The trained parameters.
  """
  init_key, order_key = jax.random.split(key)
  if params is None:
    params = problem.init(init_key)
  rows_TxB = shuffled_rows(
    order_key, len(examples.labels), num_steps, batch_size
  )
  return descend(problem.loss, params, examples, optimizer, rows=rows_TxB)


def descend(
  loss: Callable[[Params, data.Batch], jax.Array],
  params: Params,
  examples: data.Batch,
  optimizer: optax.GradientTransformation,
  *,
  rows: jax.Array,
) -> Params:
  """Returns `params` after one update for each of `rows` [T, B] of examples."""

  def step(carry, rows_B):
    params, state = carry
    batch = jax.tree.map(lambda x: x[rows_B], examples)
    grads = jax.grad(loss)(params, batch)
    updates, state = optimizer.update(grads, state, params)
    return (optax.apply_updates(params, updates), state), None

  carry = (params, optimizer.init(params))
  return jax.lax.scan(step, carry, rows)[0][0]


class Steps(NamedTuple):
  """The T SGD steps that a set is replayed in."""

  learning_rates: jax.Array  # [T]
  head_learning_rates: jax.Array | None = (
    None  # [T]; None: the head's are those
  )
  order: jax.Array | None = None  # [T, b] rows of each step; None: all of them
  tensor_shares: jax.Array | None = None  # [T, K], normalised steps; see replay


def replay(
  problem: problems.Problem,
  params: Params,
  batch: data.Batch,
  steps: Steps,
  *,
  rule: str = "mixed",
) -> Params:
  """Takes the set's own SGD steps: theta <- theta - eta_t g(theta, x).

  The head, drawn afresh, may take larger steps than a pretrained encoder. With
  `tensor_shares`, the K tensors below it move by a distance of their own,

      theta_k <- theta_k - eta_t s_tk g_k / || g_k ||

  (layer-wise normalised, as You et al. 2017): eta_t is how far a step moves
  them all where each row of shares has norm 1. `movable` says which they are.
  Differentiable with respect to the batch and the step sizes through
  `mixed_mode.grad`, whose backward pass recomputes each step from its
  parameters: memory grows by the parameters alone with T.

  Args:
    problem: The student's architecture.
    params: Where to start.
    batch: The synthetic examples [M, ...].
    steps: Their sizes, and the rows that each takes.
    rule: A rule of `mixed_mode.grad`.

  Returns:
    The parameters after T steps.
  """
  gradient = mixed_mode.grad(problem.loss, rule)

  def step(params, own):
    taken = batch
    if own.order is not None:
      taken = jax.tree.map(lambda x: x[own.order], batch)
    return _step(params, gradient(params, taken), own), None

  return jax.lax.scan(step, params, steps)[0]


def _step(params, grads, own):
  """Returns the parameters after one SGD step of the sizes in `own`."""
  down = lambda rate: lambda p, g: p - rate * g  # noqa: E731
  if own.tensor_shares is None:
    moved = jax.tree.map(down(own.learning_rates), params, grads)
  else:
    moved = _normalised_step(
      params, grads, own.learning_rates * own.tensor_shares
    )
  rate = own.head_learning_rates
  rate = own.learning_rates if rate is None else rate
  head = jax.tree.map(down(rate), params["head"], grads["head"])
  return {**moved, "head": head}


def _normalised_step(params, grads, distances_K):
  """Moves the k-th movable tensor by the k-th distance down its gradient."""
  first = 0

  def step(path, param, grad):
    nonlocal first
    count = _num_movable(path, param)
    if not count:
      return param
    distances = distances_K[first : first + count]
    first += count
    axes = tuple(range(_is_stacked(path), param.ndim))
    squares = jnp.square(grad).sum(axis=axes, keepdims=True)
    # Guarded before the root: a zero gradient stays, and has no direction.
    norm = jnp.sqrt(jnp.where(squares > 0, squares, 1.0))
    return param - distances.reshape(squares.shape) * grad / norm

  return jax.tree_util.tree_map_with_path(step, params, grads)


def movable(params: Params) -> np.ndarray:
  """Returns the sizes [K] of the tensors that normalised steps move, in order.

  Every tensor of every layer but the head's, whose steps are its own; the
  embedding tables, whose rows of absent positions have no gradient; and the
  key biases, whose gradient is zero up to rounding.

  Args:
    params: A student's parameters, or their shapes.
  """
  sizes: list[int] = []
  for path, x in jax.tree_util.tree_leaves_with_path(params):
    count = _num_movable(path, x)
    sizes += [int(np.prod(x.shape)) // max(count, 1)] * count
  return np.array(sizes)


def even_shares(params: Params) -> np.ndarray:
  """Returns shares [K] of norm 1 that move every weight alike, in the mean."""
  sizes_K = movable(params)
  return np.sqrt(sizes_K / sizes_K.sum()).astype(np.float32)


def _num_movable(path, x):
  name = "/".join(str(part.key) for part in path)
  top = name.split("/")[0]
  if top in ("head", "position", "token_type") or name.endswith("key/bias"):
    return 0
  return x.shape[0] if _is_stacked(path) else 1


def _is_stacked(path):
  return int(path[0].key == "layers")


def replay_in_constant_memory(
  problem: problems.Problem,
  params: Params,
  batch: data.Batch,
  steps: Steps,
) -> Params:
  """`replay`, whose backward pass keeps one student whatever T is.

  Each step's gradient is differentiated where it was taken, and how earlier
  steps move later ones is left out (Cui et al. 2023):

      x_bar = sum_t -eta_t (d^2 L(theta_t, x) / dtheta dx)^T v
      eta_bar_t = -<v, g(theta_t, x)>,   theta_bar = v

  with v the covector of theta_T (its head's part for the head's step sizes).
  The backward pass walks the steps again. Arguments and result as `replay`'s.
  """

  def loss_of(params, floats, rows):
    taken = dataclasses.replace(batch, **floats)
    if rows is not None:
      taken = jax.tree.map(lambda x: x[rows], taken)
    return problem.loss(params, taken)

  order = steps.order
  sizes = steps._replace(order=None)

  @jax.custom_vjp
  def run(params, floats, sizes):
    whole = dataclasses.replace(batch, **floats)
    return replay(problem, params, whole, sizes._replace(order=order))

  def forward(params, floats, sizes):
    return run(params, floats, sizes), (params, floats, sizes)

  def backward(start, covector):
    params, floats, sizes = start

    def step(carry, own):
      params, floats_bar = carry

      def both(params):
        return jax.grad(loss_of, argnums=(0, 1))(params, floats, own.order)

      # A step is linear in its sizes and in the gradient: its transpose takes
      # the covector to theirs.
      grads = jax.grad(loss_of)(params, floats, own.order)
      moved, transpose = jax.vjp(
        lambda grads, sizes: _step(params, grads, sizes),
        grads,
        own._replace(order=None),
      )
      grads_bar, sizes_bar = transpose(covector)
      _, (_, slopes) = jax.jvp(both, (params,), (grads_bar,))
      return (moved, jax.tree.map(jnp.add, floats_bar, slopes)), sizes_bar

    zeros = jax.tree.map(jnp.zeros_like, floats)
    (_, floats_bar), sizes_bar = jax.lax.scan(
      step, (params, zeros), sizes._replace(order=order)
    )
    return covector, floats_bar, sizes_bar

  run.defvjp(forward, backward)
  floats = {
    name: getattr(batch, name) for name in ("inputs", "labels", "attention")
  }
  return run(params, floats, sizes)


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


@jax.jit
def _bucket_correct(problem, params, chunks):
  def one(params):
    count = lambda batch: count_correct(problem, params, batch)  # noqa: E731
    return jax.lax.map(count, chunks).sum()

  return jax.lax.map(one, params)


def accuracies(
  problem: problems.Problem, params: Params, buckets: list[data.Batch]
) -> np.ndarray:
  """Returns the accuracy [S] of each of S stacked students (fractions).

  Args:
    problem: The students' architecture.
    params: Parameters with a leading axis [S].
    buckets: What `length_buckets` made of a split.
  """
  total = sum(int((b.labels.sum(-1) > 0).sum()) for b in buckets)
  correct_S = sum(_bucket_correct(problem, params, b) for b in buckets)
  return np.asarray(correct_S) / total


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
