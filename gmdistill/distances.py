"""Distances between two gradients of the same student, and what is matched."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

Params = Any

KINDS = (
  "neuron_cosine",
  "tensor_cosine",
  "flat_cosine",
  "tensor_relative",
  "l2",
)
_TABLES = ("position", "token_type")  # embedding tables, by name


def between(
  synthetic_grads: Params, real_grads: Params, *, kind: str, matched: str
) -> jax.Array:
  """Returns how far two gradients are from each other.

  Args:
    synthetic_grads: Gradients of a student on synthetic examples.
    real_grads: The same on real ones; the same tree.
    kind: `neuron_cosine`: 1 - cos for each output neuron's weights, the mean
      over all neurons (Zhao et al. 2021, eq. 10, divided by their number).
      `tensor_cosine`: 1 - cos for each tensor of each layer, the mean.
      `flat_cosine`: 1 - cos of everything as one vector. `l2`: the squared
      Euclidean distance. `tensor_relative`: for each tensor of each layer
      |a - b|^2 / (|a|^2 + |b|^2), the mean. A cosine leaves open how long a
      gradient is, and so how soon a student knows the examples by heart; this
      asks for the real length too, and no tensor outweighs another.
    matched: Which tensors; see `select`.
  """
  pairs = list(
    zip(
      select(synthetic_grads, matched),
      select(real_grads, matched),
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
  return gap(*flat).mean()


class Tensor(NamedTuple):
  """One matched tensor."""

  name: str
  array: jax.Array
  stacked: bool  # whether the leading axis counts layers


def select(grads: Params, matched: str) -> list[Tensor]:
  """Returns the matched tensors of a gradient, chosen by name.

  Args:
    grads: A tree like a student's parameters.
    matched: `head`; `last_K`, both heads, the pooler and the last K scanned
      layers; `all`. Embedding tables and key biases (whose gradient is zero in
      exact arithmetic: softmax ignores a shift of the scores) are never in.

  Raises:
    ValueError: another name, or `last_K` for a student without layers.
  """
  check_matched(matched)
  last = matched.removeprefix("last_")
  if matched.startswith("last_") and "layers" not in grads:
    raise ValueError(f"matched={matched!r}, but this student has no layers.")
  chosen = []
  for path, array in jax.tree_util.tree_leaves_with_path(grads):
    name = "/".join(str(part.key) for part in path)
    if name in _TABLES or name.endswith("key/bias"):
      continue
    top = name.split("/")[0]
    stacked = top == "layers"
    if matched == "head" and top != "head":
      continue
    if matched.startswith("last_"):
      if top not in ("layers", "pooler", "head", "rationale_head"):
        continue
      if stacked:
        array = array[-int(last) :]
    chosen.append(Tensor(name, array, stacked))
  return chosen


def keep(grads: Params, matched: str) -> Params:
  """Returns the matched tensors alone, as a tree like the gradient's.

  `between` and `select` read the result as they read a whole gradient, for the
  same `matched` or for one that it contains.
  """
  kept: dict[str, Any] = {}
  for tensor in select(grads, matched):
    *parents, name = tensor.name.split("/")
    place = kept
    for parent in parents:
      place = place.setdefault(parent, {})
    place[name] = tensor.array
  return kept


def contains(matched: str, other: str) -> bool:
  """Whether every tensor of `other` is in `matched` too."""
  check_matched(matched)
  check_matched(other)
  if matched == "all" or other in ("head", matched):
    return True
  if matched.startswith("last_") and other.startswith("last_"):
    return int(other[len("last_") :]) <= int(matched[len("last_") :])
  return False


def check_kind(kind: str) -> None:
  """Raises ValueError where `kind` names no distance."""
  if kind not in KINDS:
    raise ValueError(f"distance_kind={kind!r} is none of {', '.join(KINDS)}.")


def check_matched(matched: str) -> None:
  """Raises ValueError where `matched` names no set of tensors."""
  last = matched.removeprefix("last_")
  if matched not in ("head", "all") and not (
    matched.startswith("last_") and last.isdigit() and int(last) > 0
  ):
    raise ValueError(f"matched={matched!r} is none of head, last_K, all.")


def cosine(a: Params, b: Params, matched: str) -> jax.Array:
  """Returns the cosine of two gradients, flattened over the matched tensors."""
  return 1.0 - between(a, b, kind="flat_cosine", matched=matched)


def layer_cosines(a: Params, b: Params) -> dict[str, jax.Array]:
  """Returns the cosine of two gradients in each layer, by the layer's name.

  The scanned layers are `layer 1` and so on; other parts have their own names.
  """
  sums: dict[str, jax.Array] = {}  # dot, square a, square b
  for x, y in zip(select(a, "all"), select(b, "all"), strict=True):
    top = x.name.split("/")[0]
    first = int(x.stacked)
    axes = tuple(range(first, x.array.ndim))
    parts = [
      (u * v).sum(axes).reshape(-1)
      for u, v in ((x.array, y.array), (x.array, x.array), (y.array, y.array))
    ]
    for place, three in enumerate(jnp.stack(parts, axis=1)):
      name = f"layer {place + 1}" if x.stacked else top
      sums[name] = sums.get(name, jnp.zeros(3)) + three
  return {name: 1.0 - _one_minus_cosine(*sums[name]) for name in sums}


def _reduced_axes(tensor: Tensor, kind: str) -> tuple[int, ...]:
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
