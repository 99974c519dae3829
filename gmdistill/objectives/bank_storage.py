"""How a bank stores an entry's arrays: as floats, or in a few bits each."""

import jax
import jax.numpy as jnp
import numpy as np

from gmdistill import trees
from gmdistill.objectives import contract

PRECISIONS = ("float32", "bfloat16", "int8")

_BLOCK = 64  # numbers of a gradient that share a scale


def stored(expert: contract.Expert, precision: str) -> contract.Expert:
  """Returns an entry as it is stored; its losses stay as they are.

  Args:
    expert: Of float32 arrays.
    precision: One of `PRECISIONS`. `int8`: the states in eight bits, with a
      scale for each vector along a tensor's longest axis, and the gradients in
      four, with one for every 64 numbers. Gradients of two batches of rows
      differ by far more (that is a cosine of 0.995).
  """
  state = gradient = lambda x: x.astype(precision)
  if precision == "int8":
    state, gradient = _eight_bits, _four_bits
  return expert._replace(
    params=jax.tree.map(state, expert.params),
    targets=jax.tree.map(gradient, expert.targets),
  )


def restored(
  kept: contract.Expert, precision: str, like: contract.Expert
) -> contract.Expert:
  """Returns a stored entry as floats (host arrays), shaped as `like`."""
  if precision != "int8":
    return kept

  def of_four(shape, part):
    count = int(np.prod(shape.shape))
    return _of_four(part).reshape(-1)[:count].reshape(shape.shape)

  return kept._replace(
    params=jax.tree.map(
      lambda _, part: _of_eight(part), like.params, kept.params
    ),
    targets=jax.tree.map(of_four, like.targets, kept.targets),
  )


def _rounded(x, most, **axes) -> tuple[jax.Array, jax.Array]:
  """Returns whole numbers up to `most`, and the scale of each vector."""
  scale = jnp.abs(x).max(keepdims=True, **axes) / most
  # To more than it: the largest number must not pass `most`.
  scale = scale.astype(jnp.bfloat16).astype(jnp.float32) * (1 + 2**-7)
  scale = scale.astype(jnp.bfloat16)
  safe = jnp.where(scale > 0, scale, 1).astype(jnp.float32)
  return jnp.round(x / safe), scale


def _eight_bits(x: jax.Array) -> trees.PyTree:
  longest = int(np.argmax(x.shape)) if x.ndim else None
  whole, scale = _rounded(x, 127, axis=longest)
  return {"int8": whole.astype(jnp.int8), "scale": scale}


def _of_eight(part: trees.PyTree) -> np.ndarray:
  scale = np.asarray(part["scale"], np.float32)
  return np.asarray(part["int8"], np.float32) * scale


def _four_bits(x: jax.Array) -> trees.PyTree:
  flat = x.reshape(-1)
  flat = jnp.pad(flat, (0, -len(flat) % _BLOCK)).reshape(-1, _BLOCK)
  whole, scale = _rounded(flat, 7, axis=1)
  low, high = jnp.split((whole + 8).astype(jnp.uint8), 2, axis=1)
  return {"int4": low | high << 4, "scale": scale}


def _of_four(part: trees.PyTree) -> np.ndarray:
  pairs = np.asarray(part["int4"])
  whole = np.concatenate([pairs & 15, pairs >> 4], axis=1)
  numbers = whole.astype(np.float32) - 8
  return numbers * np.asarray(part["scale"], np.float32)
