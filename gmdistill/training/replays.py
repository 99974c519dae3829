"""Training a student by a set's own SGD steps."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gmdistill import errors, trees
from gmdistill.data import batches
from gmdistill.students import problems
from gmdistill.students import roles as tensor_roles
from gmdistill.training import mixed_mode

SCHEDULES = ("constant", "linear")


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
  params: trees.Params,
  batch: batches.Batch,
  steps: Steps,
  *,
  rule: str = "mixed",
) -> trees.Params:
  """Takes the set's own SGD steps: theta <- theta - eta_t g(theta, x).

  The head, drawn afresh, may take larger steps than a pretrained encoder. With
  `tensor_shares`, the K tensors below it move by a distance of their own,

      theta_k <- theta_k - eta_t s_tk g_k / || g_k ||

  (layer-wise normalised, as You et al. 2017): eta_t is how far a step moves
  them all where each row of shares has norm 1. `Roles.movable` says which they
  are. Differentiable with respect to the batch and the step sizes through
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

  def step(params, progress_own):
    progress, own = progress_own
    grads = gradient(params, taken(batch, progress, own))
    return moved(params, grads, own, problem.roles), None

  return jax.lax.scan(step, params, in_order(steps))[0]


def schedule(kind: str, num_steps: int) -> np.ndarray:
  """Returns the sizes [T] of steps, the first of which is 1.

  Args:
    kind: `constant`, or `linear`: (T - t) / T, in equal parts towards zero.
    num_steps: T.

  Raises:
    ValueError: another kind.
  """
  errors.choice("kind", kind, SCHEDULES)
  if kind == "constant":
    return np.ones(num_steps, np.float32)
  return 1 - np.arange(num_steps, dtype=np.float32) / num_steps


def rows_of(batch: batches.Batch, own: Steps) -> batches.Batch:
  """Returns the examples that one step of a replay takes."""
  if own.order is None:
    return batch
  return batches.take_rows(batch, own.order)


def taken(
  batch: batches.Batch, progress: jax.Array, own: Steps
) -> batches.Batch:
  """Returns what a step learns on, which says how far the training is."""
  return dataclasses.replace(rows_of(batch, own), progress=progress)


def in_order(steps: Steps) -> tuple[jax.Array, Steps]:
  """Returns the share of training before each step, and the steps."""
  count = len(steps.learning_rates)
  return jnp.arange(count) / max(count, 1), steps


def moved(
  params: trees.Params,
  grads: trees.Params,
  own: Steps,
  roles: tensor_roles.Roles,
) -> trees.Params:
  """Returns the parameters after one SGD step of the sizes in `own`."""

  def down(rate):
    return lambda p, g: p - rate * g

  if own.tensor_shares is None:
    body = jax.tree.map(down(own.learning_rates), params, grads)
  else:
    body = _normalised_step(
      params, grads, own.learning_rates * own.tensor_shares, roles
    )
  rate = own.head_learning_rates
  rate = own.learning_rates if rate is None else rate
  fresh = {
    name: jax.tree.map(down(rate), params[name], grads[name])
    for name in roles.fresh
    if name in params
  }
  return {**body, **fresh}


def _normalised_step(params, grads, distances_K, roles):
  """Moves the k-th movable tensor by the k-th distance down its gradient."""
  first = 0

  def step(path, param, grad):
    nonlocal first
    count = roles.num_movable(path, param)
    if not count:
      return param
    distances = distances_K[first : first + count]
    first += count
    axes = tuple(range(int(roles.is_stacked(path)), param.ndim))
    squares = jnp.square(grad).sum(axis=axes, keepdims=True)
    # Guarded before the root: a zero gradient stays, and has no direction.
    norm = jnp.sqrt(jnp.where(squares > 0, squares, 1.0))
    return param - distances.reshape(squares.shape) * grad / norm

  return jax.tree_util.tree_map_with_path(step, params, grads)
