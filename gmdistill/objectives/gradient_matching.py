"""Gradient matching: a set's gradients are those of the real rows."""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from gmdistill import fields
from gmdistill.objectives import contract, distances, trajectories
from gmdistill.sets import synthetic
from gmdistill.students import roles
from gmdistill.training import mixed_mode

PyTree = Any

# --- objectives --------------------------------------------------------------


def gradient_matching(
  along: trajectories.Trajectory,
  *,
  distance_kind: str = "neuron_cosine",
  matched: str = "all",
  sum_weight: fields.Size = 1.0,
  class_chunk: fields.FromZero = 0,
  rule: str = "mixed",
) -> contract.Objective:
  """Matches the synthetic set's gradients to the real ones (Zhao et al. 2021).

      mean_c D(g(theta, syn_c), g(theta, real_c))
      + w D(sum_c g(theta, syn_c), sum_c g(theta, real_c))

  Args:
    along: The trajectory of the student theta.
    distance_kind: One of `distances.KINDS`.
    matched: `head`, `last_K` or `all`; see `distances.select`.
    sum_weight: w, the weight of the sum over classes beside class by class.
    class_chunk: How many classes at most are computed side by side. Fewer
      than there are: memory holds the gradients of so many alone, which are
      computed again where they are differentiated. All: one pass of larger
      products. 0: one class after the other, the gradients of all kept.
    rule: A rule of `mixed_mode.grad`.

  Raises:
    ValueError: an unknown distance or matched set, or a negative chunk.
  """
  _check(distance_kind, matched, class_chunk)
  gap = functools.partial(
    _gap,
    distance_kind=distance_kind,
    matched=matched,
    sum_weight=sum_weight,
    class_chunk=class_chunk,
    rule=rule,
  )

  def loss(problem, syn: synthetic.SyntheticSet, student, real, key):
    num_classes = syn.batch.class_labels.shape[-1]
    first = jax.tree.map(lambda x: x[0], real.batches)

    def real_gradient(batch):
      return jax.grad(problem.loss)(student.params, batch)

    value, metrics = gap(
      problem,
      student.params,
      syn,
      contract.by_class(first, num_classes),
      real_gradient,
    )
    if along.train_on == "real":
      batches = jax.tree.map(lambda x: x[1:], real.batches)
    else:
      batches = jax.tree.map(
        lambda x: jnp.broadcast_to(x, (along.num_steps, *x.shape)),
        jax.lax.stop_gradient(syn.batch),
      )
    student = along.advance(problem, student, batches, key)
    return value, (student, metrics)

  extra = along.num_steps if along.train_on == "real" else 0
  return contract.Objective(along.init, loss, 1 + extra)


def expert_matching(
  *,
  distance_kind: str = "neuron_cosine",
  matched: str = "all",
  sum_weight: fields.Size = 1.0,
  class_chunk: fields.FromZero = 0,
  rule: str = "mixed",
) -> contract.Objective:
  """Gradient matching against the stored gradients of an expert bank.

  `gradient_matching`'s equation at a bank's states: nothing of it depends on
  the set but the synthetic gradient, so that is all that is computed.

  Raises:
    ValueError: an unknown distance or matched set, or a negative chunk.
  """
  _check(distance_kind, matched, class_chunk)

  def loss(problem, syn: synthetic.SyntheticSet, student, real, key):
    value, metrics = _gap(
      problem,
      real.expert.params,
      syn,
      real.expert.targets,
      lambda targets: targets,
      distance_kind=distance_kind,
      matched=matched,
      sum_weight=sum_weight,
      class_chunk=class_chunk,
      rule=rule,
    )
    return value, (student, metrics)

  return contract.Objective(contract.no_state, loss, 0, ("params", "targets"))


def _gap(
  problem,
  params,
  syn,
  real,
  real_gradient,
  *,
  distance_kind,
  matched,
  sum_weight,
  class_chunk,
  rule,
):
  """Returns the distance at one student, class by class plus the sum.

  `real_gradient` turns one class of `real` [C, ...] into its real gradient.
  """
  gradient = mixed_mode.grad(problem.loss, rule)
  between = functools.partial(
    distances.between, kind=distance_kind, matched=matched
  )

  def one_class(pair):
    syn_class, real_class = pair
    syn_grads = roles.keep(gradient(params, syn_class), matched)
    real_grads = roles.keep(real_gradient(real_class), matched)
    return (
      between(syn_grads, real_grads),
      distances.cosine(syn_grads, real_grads, matched),
      (syn_grads, real_grads),
    )

  num_classes = syn.batch.class_labels.shape[-1]
  pairs = (contract.by_class(syn.batch, num_classes), real)
  # Side by side, classes come second where a student's layers are stacked:
  # moving them to the front would copy every gradient.
  axes = 2 * (
    jax.tree_util.tree_map_with_path(
      lambda path, _: int(roles.is_stacked(path)),
      roles.keep(params, matched),
    ),
  )
  side_by_side = jax.vmap(one_class, out_axes=(0, 0, axes))
  if 0 < class_chunk < num_classes:
    size = max(n for n in range(1, class_chunk + 1) if num_classes % n == 0)
    gaps_C, cosines_C, sums = _in_chunks(
      one_class, side_by_side, axes, pairs, size
    )
  elif class_chunk:
    gaps_C, cosines_C, grads = side_by_side(pairs)
    sums = jax.tree.map(_total, axes, grads)
  else:
    gaps_C, cosines_C, grads = jax.lax.map(one_class, pairs)
    sums = jax.tree.map(functools.partial(_total, 0), grads)
  syn_sum, real_sum = sums
  value = gaps_C.mean() + sum_weight * between(syn_sum, real_sum)
  return value, {
    "matching/cosine": cosines_C.mean(),
    "matching/cosine_of_sum": distances.cosine(syn_sum, real_sum, matched),
  }


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _total(axis, x):
  """Returns the sum over an axis, one addition after the other.

  On a CPU `x.sum(axis=0)` of a few large rows takes six times as long, and the
  rule that JAX would find for these additions pads a row for each.
  """
  rows = (
    jax.lax.index_in_dim(x, i, axis, keepdims=False)
    for i in range(x.shape[axis])
  )
  return functools.reduce(jnp.add, rows)


def _total_forward(axis, x):
  return _total(axis, x), jnp.zeros(x.shape[axis])


def _total_backward(axis, rows, bar):
  shape = (*bar.shape[:axis], len(rows), *bar.shape[axis:])
  return (jnp.broadcast_to(jnp.expand_dims(bar, axis), shape),)


_total.defvjp(_total_forward, _total_backward)


def _in_chunks(one_class, side_by_side, axes, pairs, size):
  """Returns (gaps [C], cosines [C], sums of the gradients), `size` classes at
  a time. No gradient of a class outlives its chunk."""
  chunks = jax.tree.map(lambda x: x.reshape(-1, size, *x.shape[1:]), pairs)
  shapes = jax.eval_shape(one_class, jax.tree.map(lambda x: x[0], pairs))[2]
  zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)

  # The loop keeps forward and backward pass apart; no barrier is needed.
  @functools.partial(jax.checkpoint, prevent_cse=False)
  def add(sums, chunk):
    gaps, cosines, grads = side_by_side(chunk)
    more = jax.tree.map(_total, axes, grads)
    return jax.tree.map(jnp.add, sums, more), (gaps, cosines)

  sums, seen = jax.lax.scan(add, zeros, chunks)
  gaps_C, cosines_C = (x.reshape(-1) for x in seen)
  return gaps_C, cosines_C, sums


def _check(distance_kind: str, matched: str, class_chunk: int) -> None:
  distances.check_kind(distance_kind)
  roles.check_matched(matched)
  if class_chunk < 0:
    raise ValueError(f"class_chunk={class_chunk} must be at least 0.")
