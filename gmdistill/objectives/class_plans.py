"""The same classes in another order, for memory or for speed.

A plan computes what `one_class` says of each class, and returns (gaps [C],
cosines [C], sums of the gradients over classes).
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

# (one_class, pairs, axes) -> (gaps, cosines, sums)
Plan = Callable[[Callable[..., Any], Any, Any], tuple[Any, Any, Any]]


def plan(class_chunk: int, num_classes: int) -> Plan:
  """Returns the plan that computes so many classes at once."""
  if not class_chunk:
    return _one_by_one
  if class_chunk >= num_classes:
    return _side_by_side
  size = max(n for n in range(1, class_chunk + 1) if num_classes % n == 0)
  return functools.partial(_in_chunks, size)


def _one_by_one(one_class, pairs, axes):
  """One class after the other; the gradients of all are kept."""
  del axes
  gaps_C, cosines_C, grads = jax.lax.map(one_class, pairs)
  return gaps_C, cosines_C, jax.tree.map(functools.partial(_total, 0), grads)


def _side_by_side(one_class, pairs, axes):
  """All classes in one pass of larger products."""
  side_by_side = jax.vmap(one_class, out_axes=(0, 0, axes))
  gaps_C, cosines_C, grads = side_by_side(pairs)
  return gaps_C, cosines_C, jax.tree.map(_total, axes, grads)


def _in_chunks(size, one_class, pairs, axes):
  """So many classes at a time; no gradient of a class outlives its chunk."""
  chunks = jax.tree.map(lambda x: x.reshape(-1, size, *x.shape[1:]), pairs)
  shapes = jax.eval_shape(one_class, jax.tree.map(lambda x: x[0], pairs))[2]
  zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)

  # The loop keeps forward and backward pass apart; no barrier is needed.
  @functools.partial(jax.checkpoint, prevent_cse=False)
  def add(sums, chunk):
    gaps, cosines, more = _side_by_side(one_class, chunk, axes)
    return jax.tree.map(jnp.add, sums, more), (gaps, cosines)

  sums, seen = jax.lax.scan(add, zeros, chunks)
  gaps_C, cosines_C = (x.reshape(-1) for x in seen)
  return gaps_C, cosines_C, sums


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
