"""Which tensor of a student is what: fresh, stacked, matched, moved."""

from typing import Any, NamedTuple

import jax
import numpy as np

from gmdistill import errors, trees

FRESH = ("head", "rationale_head")  # drawn anew for every student


def is_stacked(path: Any) -> bool:
  """Whether the parameter at this path of a tree is one of every layer."""
  return bool(path[0].key == "layers")


def movable(params: trees.Params) -> np.ndarray:
  """Returns the sizes [K] of the tensors that normalised steps move, in order.

  Every tensor of every layer but the head's, whose steps are its own; the
  embedding tables, whose rows of absent positions have no gradient; and the
  key biases, whose gradient is zero up to rounding.

  Args:
    params: A student's parameters, or their shapes.
  """
  sizes: list[int] = []
  for path, x in jax.tree_util.tree_leaves_with_path(params):
    count = num_movable(path, x)
    sizes += [int(np.prod(x.shape)) // max(count, 1)] * count
  return np.array(sizes)


def even_shares(params: trees.Params) -> np.ndarray:
  """Returns shares [K] of norm 1 that move every weight alike, in the mean."""
  sizes_K = movable(params)
  return np.sqrt(sizes_K / sizes_K.sum()).astype(np.float32)


def num_movable(path: Any, x: Any) -> int:
  """Returns how many tensors of a parameter normalised steps move."""
  name = "/".join(str(part.key) for part in path)
  top = name.split("/")[0]
  if top in (*FRESH, "position", "token_type"):
    return 0
  if name.endswith("key/bias"):
    return 0
  return x.shape[0] if is_stacked(path) else 1


_TABLES = ("position", "token_type")  # embedding tables, by name


class Tensor(NamedTuple):
  """One matched tensor."""

  name: str
  array: jax.Array
  stacked: bool  # whether the leading axis counts layers


def select(grads: trees.Params, matched: str) -> list[Tensor]:
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


def keep(grads: trees.Params, matched: str) -> trees.Params:
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


def check_matched(matched: str) -> None:
  """Raises ValueError where `matched` names no set of tensors."""
  last = matched.removeprefix("last_")
  if matched not in ("head", "all") and not (
    matched.startswith("last_") and last.isdigit() and int(last) > 0
  ):
    errors.not_one_of(f"matched={matched}", matched, ("head", "last_K", "all"))
