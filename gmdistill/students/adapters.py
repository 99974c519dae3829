"""Students that are a part of a pretrained decoder, or a change of it.

The frozen base is an argument of jit, in the collection `frozen`; what pools,
banks and checkpoints hold is what is trained, in the collection `params`.
"""

import dataclasses
import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gmdistill import errors, trees
from gmdistill.students import decoder_weights, decoders, problems, roles
from gmdistill.system import devices

# The matrices of a layer, by the last part of their names.
TARGETS = ("query", "key", "value", "output", "gate", "up", "down")


class Adapted(NamedTuple):
  """A student over a frozen base."""

  student: "LowRank | Part"
  frozen: trees.Params  # what it reads and does not change
  initial: (
    trees.Params | None
  )  # where every student starts; None: drawn from a key


class _OverDecoder:
  """What students over a decoder have of it."""

  module: decoders.Decoder

  @property
  def num_classes(self) -> int:
    """C of the decoder's head; 0: it has none."""
    return self.module.num_classes

  @property
  def width(self) -> int:
    """D of the embeddings that it reads."""
    return self.module.width

  @property
  def num_layers(self) -> int:
    """How many layers the decoder has."""
    return self.module.num_layers

  @property
  def max_positions(self) -> int:
    """How many tokens it reads at most."""
    return self.module.max_positions


@dataclasses.dataclass(frozen=True)
class LowRank(_OverDecoder):
  """A low-rank change of a decoder's matrices (LoRA, Hu et al. 2022).

  W + (alpha / rank) A B for every target matrix W [in, out] of every layer,
  with A [in, rank] drawn and B [rank, out] zero: a new student says what the
  base says. As long as B is zero the gradient of A is exactly zero: the first
  step moves B alone, and who compares gradients compares those of B.
  """

  module: decoders.Decoder
  rank: int
  alpha: float
  targets: tuple[str, ...]

  @property
  def roles(self) -> roles.Roles:
    """Which tensor is what: pairs of every layer, and perhaps a head."""
    fresh = self.module.roles.fresh
    return roles.Roles(fresh=fresh, stacks=("layers",))

  @property
  def scale(self) -> float:
    """What a change A B is multiplied by."""
    return self.alpha / self.rank

  def init(self, key: jax.Array, *inputs: Any) -> trees.Params:
    """Returns new variables; A is uniform within 1 / sqrt(in), as PEFT's."""
    fresh: trees.Params = {}
    if self.module.roles.fresh:
      drawn: Any = self.module.clone(split=()).init(key, *inputs)
      fresh = {name: drawn["params"][name] for name in self.roles.fresh}
    layers: trees.Params = {}
    shapes = kernels(decoder_weights.shapes(self.module)["layers"])
    chosen = [name for name in shapes if name.split("/")[-1] in self.targets]
    for name, own in zip(
      chosen, jax.random.split(key, len(chosen)), strict=True
    ):
      count, rows, columns = shapes[name].shape
      bound = rows**-0.5
      down = jax.random.uniform(
        own, (count, rows, self.rank), minval=-bound, maxval=bound
      )
      up = jnp.zeros((count, self.rank, columns))
      put(layers, name, {"A": down, "B": up})
    return {"params": {"layers": layers, **fresh}}

  def variables(
    self, frozen: trees.Params, params: trees.Params
  ) -> dict[str, Any]:
    """Returns the decoder's variables."""
    fresh = {name: x for name, x in params.items() if name != "layers"}
    changes = _scaled({"layers": params["layers"]}, self.scale)
    return {"params": {**frozen, **fresh}, "lora": changes}

  def apply(self, variables: dict[str, Any], *inputs: Any) -> Any:
    """Returns what the changed decoder says."""
    whole = self.variables(variables["frozen"], variables["params"])
    return self.module.apply(whole, *inputs)

  def merged(self, frozen: trees.Params, params: trees.Params) -> trees.Params:
    """Returns the changed decoder's parameters, for those who know no LoRA."""
    layers = jax.tree.map(lambda x: x, frozen["layers"])  # its dicts are new
    for name, pair in pairs(params["layers"]).items():
      kernel = _at(layers, name)
      change = jnp.einsum("nir,nro->nio", pair["A"], pair["B"])
      kernel["kernel"] = kernel["kernel"] + self.scale * change
    fresh = {name: x for name, x in params.items() if name != "layers"}
    return {**frozen, **fresh, "layers": layers}


@dataclasses.dataclass(frozen=True)
class Part(_OverDecoder):
  """Some of a decoder's parameters; the others are frozen."""

  module: decoders.Decoder

  @property
  def roles(self) -> roles.Roles:
    """Which tensor is what, as of the whole decoder."""
    return self.module.roles

  def init(self, key: jax.Array, *inputs: Any) -> trees.Params:
    """Returns a whole decoder's variables; but a head's, they stay as given."""
    drawn: Any = self.module.clone(split=()).init(key, *inputs)
    return drawn

  def variables(
    self, frozen: trees.Params, params: trees.Params
  ) -> dict[str, Any]:
    """Returns the decoder's variables."""
    return {"params": {**frozen, **params}}

  def apply(self, variables: dict[str, Any], *inputs: Any) -> Any:
    """Returns what the decoder says."""
    whole = self.variables(variables["frozen"], variables["params"])
    return self.module.apply(whole, *inputs)

  def merged(self, frozen: trees.Params, params: trees.Params) -> trees.Params:
    """Returns the parameters of the decoder that is not cut in two."""
    whole = {**frozen, **params}
    lower = whole.pop("lower_layers", None)
    if lower is not None:
      whole["layers"] = jax.tree.map(
        lambda *xs: jnp.concatenate(xs), lower, whole["layers"]
      )
    return whole


def lora(
  module: decoders.Decoder,
  params: trees.Params,
  *,
  rank: int = 8,
  alpha: float | None = None,
  targets: Sequence[str] = TARGETS,
) -> Adapted:
  """Returns students that are low-rank changes.

  Args:
    module: The decoder.
    params: Its parameters, which stay frozen.
    rank: Of every change.
    alpha: The scale of a change is alpha / rank; None: 2.
    targets: Which matrices of a layer; those that it has.

  Raises:
    ValueError: a rank that is no rank, or a name of no matrix.
  """
  if not 1 <= rank <= module.width:
    raise ValueError(
      f"rank={rank}, but the decoder is {module.width} wide; use 1 to "
      f"{module.width}."
    )
  for name in targets or ("",):
    errors.choice("targets", name, TARGETS)
  alpha = 2.0 * rank if alpha is None else float(alpha)
  return Adapted(LowRank(module, rank, alpha, tuple(targets)), params, None)


def lora_of(
  module: decoders.Decoder, params: trees.Params, fields: Mapping[str, Any]
) -> Adapted:
  """Returns students that are low-rank changes, by the fields of a config.

  Args:
    module: The decoder.
    params: Its parameters, which stay frozen.
    fields: Of `config.student`: `rank`, `alpha` (0: 2 ranks) and `targets`
      (none: all).

  Raises:
    ValueError: as of `lora`.
  """
  return lora(
    module,
    params,
    rank=fields["rank"],
    alpha=fields["alpha"] or None,
    targets=fields["targets"] or TARGETS,
  )


def last_layers(
  module: decoders.Decoder, params: trees.Params, count: int
) -> Adapted:
  """Returns students that are the last layers, and the norm after them.

  Nothing is differentiated below the layers that are trained.

  Raises:
    ValueError: the decoder has not as many layers.
  """
  if not 1 <= count <= module.num_layers:
    raise ValueError(
      f"the last {count} layers of a decoder that has {module.num_layers}; use "
      f"1 to {module.num_layers}."
    )
  lower = module.num_layers - count
  layers = params["layers"]
  trained = {"layers": jax.tree.map(lambda x: x[lower:], layers)}
  trained["final_norm"] = params["final_norm"]
  frozen = {name: x for name, x in params.items() if name not in trained}
  if lower:
    frozen["lower_layers"] = jax.tree.map(lambda x: x[:lower], layers)
  return Adapted(Part(module.clone(lower=lower)), frozen, trained)


def head(
  module: decoders.Decoder, params: trees.Params, embeddings: jax.Array
) -> Adapted:
  """Returns students that are the unembedding, untied where it is the table."""
  trained = {"unembedding": params.get("unembedding", embeddings)}
  frozen = {name: x for name, x in params.items() if name not in trained}
  return Adapted(Part(module.clone(tied=False)), frozen, trained)


def everything(module: decoders.Decoder, params: trees.Params) -> Adapted:
  """Returns students that are all parameters but the table of embeddings."""
  return Adapted(Part(module), {}, params)


def over(problem: problems.Problem, adapted: Adapted) -> problems.Problem:
  """Returns the problem whose students are adapted ones."""
  return dataclasses.replace(
    problem,
    student=adapted.student,
    frozen=adapted.frozen,
    initial=adapted.initial,
  )


def identity(params: trees.Params) -> str:
  """Returns a hash of a base's parameters; slow, keep it."""
  digest = hashlib.sha256()
  for path, leaf in jax.tree_util.tree_leaves_with_path(params):
    array = np.ascontiguousarray(devices.host(leaf))
    digest.update(f"{jax.tree_util.keystr(path)}{array.shape}".encode())
    digest.update(array.view(np.uint8).data)
  return digest.hexdigest()


def kernels(layers: trees.Params) -> dict[str, Any]:
  """Returns the stacked matrices of the layers by their names."""
  return {
    "/".join(part.key for part in path[:-1]): leaf
    for path, leaf in jax.tree_util.tree_leaves_with_path(layers)
    if path[-1].key == "kernel"
  }


def pairs(layers: trees.Params) -> dict[str, trees.Params]:
  """Returns the pairs A, B by the names of the matrices that they change."""
  names = {
    "/".join(part.key for part in path[:-1])
    for path, _ in jax.tree_util.tree_leaves_with_path(layers)
  }
  return {name: _at(layers, name) for name in sorted(names)}


def _at(tree, name):
  for part in name.split("/"):
    tree = tree[part]
  return tree


def put(tree: trees.Params, name: str, value: Any) -> None:
  """Sets a part of a tree by its name, such as "attention/query"."""
  *parents, last = name.split("/")
  for part in parents:
    tree = tree.setdefault(part, {})
  tree[last] = value


def _scaled(params, scale):
  def of(path, leaf):
    return leaf * scale if path[-1].key == "B" else leaf

  return jax.tree_util.tree_map_with_path(of, params)


def num_parameters(params: trees.Params) -> int:
  """Returns how many numbers a student is."""
  return sum(math.prod(x.shape) for x in jax.tree.leaves(params))
