"""A replay whose backward pass keeps one student, however many steps."""

import jax
import jax.numpy as jnp

from gmdistill import trees
from gmdistill.data import batches
from gmdistill.students import problems
from gmdistill.training import replays


def replay(
  problem: problems.Problem,
  params: trees.Params,
  batch: batches.Batch,
  steps: replays.Steps,
) -> trees.Params:
  """`replays.replay`, whose backward pass keeps one student whatever T is.

  Each step's gradient is differentiated where it was taken, and how earlier
  steps move later ones is left out (Cui et al. 2023):

      x_bar = sum_t -eta_t (d^2 L(theta_t, x) / dtheta dx)^T v
      eta_bar_t = -<v, g(theta_t, x)>,   theta_bar = v

  with v the covector of theta_T (its head's part for the head's step sizes).
  The backward pass walks the steps again. Arguments and result are those of
  `replays.replay`.
  """

  leaves, structure = jax.tree.flatten(batch)
  is_float = [jnp.issubdtype(x.dtype, jnp.floating) for x in leaves]

  def whole(floats, others):
    known, rest = iter(floats), iter(others)
    both = [next(known) if learned else next(rest) for learned in is_float]
    return jax.tree.unflatten(structure, both)

  # What has no covector is an argument all the same: a backward pass may not
  # close over arrays of an outer trace, such as the table.
  @jax.custom_vjp
  def run(held, params, floats, sizes):
    problem, others, order = held
    every = sizes._replace(order=order)
    return replays.replay(problem, params, whole(floats, others), every)

  def forward(held, params, floats, sizes):
    start = held, params, floats, sizes
    return run(*start), start

  def backward(start, covector):
    (problem, others, order), params, floats, sizes = start

    def loss_of(params, floats, progress, own):
      batch = replays.taken(whole(floats, others), progress, own)
      return problem.loss(params, batch)

    def step(carry, progress_own):
      params, floats_bar = carry
      progress, own = progress_own

      def both(params):
        return jax.grad(loss_of, argnums=(0, 1))(params, floats, progress, own)

      # A step is linear in its sizes and in the gradient: its transpose takes
      # the covector to theirs.
      grads = jax.grad(loss_of)(params, floats, progress, own)
      later, transpose = jax.vjp(
        lambda grads, sizes: replays.moved(params, grads, sizes, problem.roles),
        grads,
        own._replace(order=None),
      )
      grads_bar, sizes_bar = transpose(covector)
      _, (_, slopes) = jax.jvp(both, (params,), (grads_bar,))
      return (later, jax.tree.map(jnp.add, floats_bar, slopes)), sizes_bar

    zeros = jax.tree.map(jnp.zeros_like, floats)
    (_, floats_bar), sizes_bar = jax.lax.scan(
      step, (params, zeros), replays.in_order(sizes._replace(order=order))
    )
    return None, covector, floats_bar, sizes_bar

  run.defvjp(forward, backward)
  floats = [x for x, learned in zip(leaves, is_float, strict=True) if learned]
  others = [x for x, ok in zip(leaves, is_float, strict=True) if not ok]
  sizes = steps._replace(order=None)
  return run((problem, others, steps.order), params, floats, sizes)
