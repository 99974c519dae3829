"""Distances between two gradients of the same student, and what is matched."""

import jax
import jax.numpy as jnp

from gmdistill import errors, trees
from gmdistill.students import roles as tensor_roles

KINDS = (
  "neuron_cosine",
  "tensor_cosine",
  "flat_cosine",
  "tensor_relative",
  "l2",
)


def between(
  synthetic_grads: trees.Params,
  real_grads: trees.Params,
  roles: tensor_roles.Roles,
  *,
  kind: str,
  matched: str,
) -> jax.Array:
  """Returns how far two gradients are from each other.

  Args:
    synthetic_grads: Gradients of a student on synthetic examples.
    real_grads: The same on real ones; the same tree.
    roles: Of the student's tensors.
    kind: `neuron_cosine`: 1 - cos for each output neuron's weights, the mean
      over all neurons (Zhao et al. 2021, eq. 10, divided by their number).
      `tensor_cosine`: 1 - cos for each tensor of each layer, the mean.
      `flat_cosine`: 1 - cos of everything as one vector. `l2`: the squared
      Euclidean distance. `tensor_relative`: for each tensor of each layer
      |a - b|^2 / (|a|^2 + |b|^2), the mean. A cosine leaves open how long a
      gradient is, and so how soon a student knows the examples by heart; this
      asks for the real length too, and no tensor outweighs another. A tensor
      that is zero on both sides, as LoRA's A is at its start, is in no mean
      over tensors.
    matched: Which tensors; see `Roles.select`.
  """
  pairs = list(
    zip(
      roles.select(synthetic_grads, matched),
      roles.select(real_grads, matched),
      strict=True,
    )
  )
  if kind == "l2":
    return sum(jnp.square(a.array - b.array).sum() for a, b in pairs)  # type: ignore[return-value]
  sums = []  # of each pair: dot, square a, square b
  for a, b in pairs:
    axes = _reduced_axes(a, kind)
    sums.append(
      (
        (a.array * b.array).sum(axes),
        jnp.square(a.array).sum(axes),
        jnp.square(b.array).sum(axes),
      )
    )
  flat = tuple(
    jnp.concatenate([x.reshape(-1) for x in xs])
    for xs in zip(*sums, strict=True)
  )
  if kind == "flat_cosine":
    # Where `tensor_cosine` is asked for too, the gradients are to be read once
    # for both. Without a barrier XLA would sum them again, and write their
    # products down to do so.
    flat = jax.lax.optimization_barrier(flat)
    return _one_minus_cosine(*(x.sum() for x in flat))
  gap = _relative if kind == "tensor_relative" else _one_minus_cosine
  gaps = gap(*flat)
  if kind == "neuron_cosine":
    return gaps.mean()
  counts = (flat[1] > 0) | (flat[2] > 0)
  return gaps.sum() / jnp.maximum(counts.sum(), 1)


def check_kind(kind: str) -> None:
  """Raises ValueError where `kind` names no distance."""
  errors.choice("distance_kind", kind, KINDS)


def cosine(
  a: trees.Params, b: trees.Params, roles: tensor_roles.Roles, matched: str
) -> jax.Array:
  """Returns the cosine of two gradients, flattened over the matched tensors."""
  return 1.0 - between(a, b, roles, kind="flat_cosine", matched=matched)


def layer_cosines(
  a: trees.Params, b: trees.Params, roles: tensor_roles.Roles
) -> dict[str, jax.Array]:
  """Returns the cosine of two gradients in each layer, by the layer's name.

  The scanned layers are `layer 1` and so on; other parts have their own names.
  """
  sums: dict[str, jax.Array] = {}  # dot, square a, square b
  for x, y in zip(roles.select(a, "all"), roles.select(b, "all"), strict=True):
    first = int(x.stacked)
    axes = tuple(range(first, x.array.ndim))
    parts = [
      (u * v).sum(axes).reshape(-1)
      for u, v in ((x.array, y.array), (x.array, x.array), (y.array, y.array))
    ]
    names = roles.layer_names(x)
    for name, three in zip(names, jnp.stack(parts, axis=1), strict=True):
      sums[name] = sums.get(name, jnp.zeros(3)) + three
  return {name: 1.0 - _one_minus_cosine(*sums[name]) for name in sums}


def _reduced_axes(tensor: tensor_roles.Tensor, kind: str) -> tuple[int, ...]:
  first = int(tensor.stacked)
  is_vector = tensor.array.ndim - first == 1
  keep_output = kind == "neuron_cosine" and not is_vector
  # Flax kernels are (..., in, out): a neuron's weights are all axes but out.
  return tuple(range(first, tensor.array.ndim - int(keep_output)))


def _one_minus_cosine(dot, square_a, square_b):
  # Guarded before the division and the root, whose gradients at 0 are NaN.
  # Two zero vectors are equal: distance 0. One zero vector: distance 1.
  safe = (square_a > 0) & (square_b > 0)
  norm_a = jnp.sqrt(jnp.where(safe, square_a, 1.0))
  norm_b = jnp.sqrt(jnp.where(safe, square_b, 1.0))
  gap = 1.0 - jnp.where(safe, dot, 0.0) / norm_a / norm_b
  return jnp.where((square_a == 0) & (square_b == 0), 0.0, gap)


def _relative(dot, square_a, square_b):
  # Two zero vectors are equal; the division is guarded as above.
  both = square_a + square_b
  return 1.0 - 2.0 * dot / jnp.where(both > 0, both, 1.0) - (both == 0)
