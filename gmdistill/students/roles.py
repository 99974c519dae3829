"""Which tensor of a student is what; the one place that knows them by name.

A student's module brings its `Roles` as the attribute `roles`: one value for a
family, or a property where a choice decides (a key's bias has no gradient where
positions are absolute, and one where they rotate). Whoever matches, moves,
stores or names tensors asks them.
"""

from typing import Any, NamedTuple

import jax
import numpy as np

from gmdistill import errors, trees

HEAD = "head"  # the dense layer that reads a student's features

KINDS = ("fresh", "table", "null", "layer", "body")


class Tensor(NamedTuple):
  """One matched tensor."""

  name: str
  array: jax.Array
  stacked: bool  # whether the leading axis counts layers


class Roles(NamedTuple):
  """The roles of a student's tensors, by their names: "layers/output/bias".

  Every tensor has one, the first of `KINDS` that it is:

  fresh: of a head, drawn anew for every student, with steps of its own size.
  table: an embedding table, whose rows of absent positions have no gradient;
    never matched, nor moved by normalised steps.
  null: its gradient is identically zero; never matched, nor moved by those.
  layer: of a stack of layers, whose leading axis counts them.
  body: the rest.
  """

  fresh: tuple[str, ...] = (HEAD,)  # parts, by the tree's own keys
  tables: tuple[str, ...] = ()  # parts
  null: tuple[str, ...] = ()  # tensors, by their whole names
  stacks: tuple[str, ...] = ()  # parts
  above: tuple[str, ...] = ()  # parts between the layers and the heads

  def of(self, path: Any) -> str:
    """Returns the role of the tensor at this path of a tree: a `KINDS`."""
    name, part = name_of(path), path[0].key
    if part in self.fresh:
      return "fresh"
    if part in self.tables:
      return "table"
    if name in self.null:
      return "null"
    return "layer" if part in self.stacks else "body"

  def is_stacked(self, path: Any) -> bool:
    """Whether the tensor at this path of a tree is one of every layer."""
    return path[0].key in self.stacks

  def select(self, grads: trees.Params, matched: str) -> list[Tensor]:
    """Returns the matched tensors of a gradient.

    Args:
      grads: A tree like a student's parameters.
      matched: `head`; `last_K`, the heads, what stands between them and the
        layers, and the last K layers; `all`. Tables, and what has no gradient,
        are never in.

    Raises:
      ValueError: another name, or `last_K` for a student without layers.
    """
    check_matched(matched)
    last = matched.removeprefix("last_")
    of_last = (*self.stacks, *self.above, *self.fresh)
    if matched.startswith("last_") and not any(x in grads for x in self.stacks):
      raise ValueError(f"matched={matched!r}, but this student has no layers.")
    chosen = []
    for path, array in jax.tree_util.tree_leaves_with_path(grads):
      part = path[0].key
      if self.of(path) in ("table", "null"):
        continue
      if matched == "head" and part != HEAD:
        continue
      stacked = self.is_stacked(path)
      if matched.startswith("last_"):
        if part not in of_last:
          continue
        if stacked:
          array = array[-int(last) :]
      chosen.append(Tensor(name_of(path), array, stacked))
    return chosen

  def keep(self, grads: trees.Params, matched: str) -> trees.Params:
    """Returns the matched tensors alone, as a tree like the gradient's.

    `select` reads the result as it reads a whole gradient, for the same
    `matched` or for one that it contains.
    """
    kept: dict[str, Any] = {}
    for tensor in self.select(grads, matched):
      *parents, name = tensor.name.split("/")
      place = kept
      for parent in parents:
        place = place.setdefault(parent, {})
      place[name] = tensor.array
    return kept

  def num_movable(self, path: Any, x: Any) -> int:
    """Returns how many tensors of a parameter normalised steps move."""
    role = self.of(path)
    if role == "layer":
      return int(x.shape[0])
    return int(role == "body")

  def movable(self, params: trees.Params) -> np.ndarray:
    """Returns the sizes [K] of what normalised steps move, in order.

    Every tensor of every layer but the heads', whose steps are their own; the
    tables'; and those that have no gradient but rounding.

    Args:
      params: A student's parameters, or their shapes.
    """
    sizes: list[int] = []
    for path, x in jax.tree_util.tree_leaves_with_path(params):
      count = self.num_movable(path, x)
      sizes += [int(np.prod(x.shape)) // max(count, 1)] * count
    return np.array(sizes)

  def even_shares(self, params: trees.Params) -> np.ndarray:
    """Returns shares [K] of norm 1: every weight moves alike, in the mean."""
    sizes_K = self.movable(params)
    return np.sqrt(sizes_K / sizes_K.sum()).astype(np.float32)

  def layer_names(self, tensor: Tensor) -> list[str]:
    """Returns what reports call the layers of a tensor, the first one first."""
    if not tensor.stacked:
      return [tensor.name.split("/")[0]]
    return [f"layer {i + 1}" for i in range(len(tensor.array))]

  def from_below(self, names: Any) -> list[str]:
    """Returns names of `layer_names` in the order in which a text goes up."""
    top = (*self.above, *self.fresh)

    def height(name: str) -> tuple[int, int, str]:
      if name in top:
        return 2, top.index(name), name
      layer = name.removeprefix("layer ")
      return (1, int(layer), name) if layer != name else (0, 0, name)

    return sorted(names, key=height)


# Embeddings with absolute positions, BERT's layers, a linear head. Of a key's
# bias softmax sees a shift of a query's scores, which it ignores.
ENCODER = Roles(
  tables=("position", "token_type"),
  null=("layers/attention/key/bias",),
  stacks=("layers",),
  above=("pooler",),
)

ENCODER_WITH_SLOTS = ENCODER._replace(fresh=(HEAD, "rationale_head"))


def of_decoder(
  *, head: bool, lower: bool, rotary: bool, null_keys: bool
) -> Roles:
  """Returns the roles of a causal Transformer.

  Args:
    head: Whether it has one, of classes; without, nothing is drawn afresh.
    lower: Whether its first layers lie apart.
    rotary: Whether its positions rotate; others are a table.
    null_keys: Whether its keys have biases that nothing turns after them:
      neither a rotation, nor a norm of each head's keys.
  """
  stacks = ("lower_layers", "layers") if lower else ("layers",)
  null = tuple(f"{stack}/attention/key/bias" for stack in stacks)
  return Roles(
    fresh=(HEAD,) if head else (),
    tables=() if rotary else ("position",),
    null=null if null_keys else (),
    stacks=stacks,
    above=("final_norm", "unembedding"),
  )


SMALL = Roles()  # no layers, no tables


def name_of(path: Any) -> str:
  """Returns the name of the tensor at this path of a tree."""
  return "/".join(str(part.key) for part in path)


def readout(params: trees.Params) -> tuple[jax.Array, jax.Array]:
  """Returns the kernel [F, C] and the bias [C] that read a student's features.

  Raises:
    ValueError: the student has no such head.
  """
  if HEAD not in params:
    raise ValueError("this student has no head that reads its features.")
  return params[HEAD]["kernel"], params[HEAD]["bias"]


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
