"""A BERT checkpoint as a Transformer student's parameters, and back."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from gmdistill import errors
from gmdistill.students import encoders, roles

# Our name under a layer -> Hugging Face's. Kernels are transposed: Flax keeps
# (in, out), PyTorch (out, in).
_LAYER = {
  "attention/query": "attention.self.query",
  "attention/key": "attention.self.key",
  "attention/value": "attention.self.value",
  "attention/output": "attention.output.dense",
  "attention_norm": "attention.output.LayerNorm",
  "intermediate": "intermediate.dense",
  "output": "output.dense",
  "output_norm": "output.LayerNorm",
}

# A tensor that every encoder has, whatever stands before the names of a file.
ANCHOR = "embeddings.word_embeddings.weight"

_NORMS = ("attention_norm", "output_norm", "embedding_norm")


def to_flax(
  tensors: Mapping[str, np.ndarray], num_layers: int, pooling: str
) -> dict[str, Any]:
  """Returns a Transformer student's parameters but the head, layers stacked.

  Args:
    tensors: A checkpoint's, by the encoder's names.
    num_layers: How many of the first layers to take.
    pooling: `first` takes the pooler too.

  Raises:
    KeyError: a tensor is missing; its name.
    ValueError: layers have different shapes.
  """

  def norm(name: str) -> dict[str, np.ndarray]:
    # Old checkpoints say gamma and beta.
    old = f"{name}.gamma" in tensors
    return {
      "scale": tensors[f"{name}.gamma" if old else f"{name}.weight"],
      "bias": tensors[f"{name}.beta" if old else f"{name}.bias"],
    }

  def dense(name: str) -> dict[str, np.ndarray]:
    return {
      "kernel": tensors[f"{name}.weight"].T,
      "bias": tensors[f"{name}.bias"],
    }

  layers: dict[str, Any] = {"attention": {}}
  for ours, theirs in _LAYER.items():
    read = norm if ours in _NORMS else dense
    each = [read(f"encoder.layer.{i}.{theirs}") for i in range(num_layers)]
    parent, _, leaf = ours.rpartition("/")
    stacked = jax.tree.map(lambda *xs: np.stack(xs), *each)
    (layers[parent] if parent else layers)[leaf] = stacked
  params = {
    "position": tensors["embeddings.position_embeddings.weight"],
    "token_type": _two_types(
      tensors["embeddings.token_type_embeddings.weight"]
    ),
    "embedding_norm": norm("embeddings.LayerNorm"),
    "layers": layers,
  }
  if pooling == "first":
    params["pooler"] = dense("pooler.dense")
  return jax.tree.map(jnp.asarray, params)


def _two_types(table):
  """Returns the types of a pair's texts, of models with one or with many.

  Students read the first alone.
  """
  return np.concatenate([table, np.zeros_like(table)])[:2]


def check_shapes(
  path: epath.Path,
  student: dict[str, Any],
  params: dict[str, Any],
  embeddings: jax.Array,
) -> None:
  """Refuses tensors of other shapes than the student's own.

  Raises:
    InputError: one has; the line names `path` and the tensor.
  """
  module = encoders.Transformer(1, **student)
  width = student["width"]
  expected = jax.eval_shape(
    module.init,
    jax.random.key(0),
    jnp.zeros((1, 1, width)),
    jnp.ones((1, 1), bool),
  )["params"]
  expected = {name: expected[name] for name in params}
  expected["embeddings"] = jax.ShapeDtypeStruct(
    (len(embeddings), width), embeddings.dtype
  )
  found = dict(jax.tree.leaves_with_path({**params, "embeddings": embeddings}))
  for where, like in jax.tree.leaves_with_path(expected):
    if found[where].shape != like.shape:
      name = "/".join(part.key for part in where)
      raise errors.InputError(
        f"{path} has {name} of shape {found[where].shape}, but the student of "
        f"its config.json takes {like.shape}; they are not of one model."
      )


def from_flax(params: Mapping[str, Any]) -> dict[str, np.ndarray]:
  """Returns a student's tensors, but the head's: the inverse of `to_flax`."""
  params = jax.tree.map(np.asarray, dict(params))
  tensors = {
    "embeddings.position_embeddings.weight": params["position"],
    "embeddings.token_type_embeddings.weight": params["token_type"],
    "embeddings.LayerNorm.weight": params["embedding_norm"]["scale"],
    "embeddings.LayerNorm.bias": params["embedding_norm"]["bias"],
  }
  if "pooler" in params:
    tensors["pooler.dense.weight"] = params["pooler"]["kernel"].T
    tensors["pooler.dense.bias"] = params["pooler"]["bias"]
  for ours, theirs in _LAYER.items():
    node = params["layers"]
    for part in ours.split("/"):
      node = node[part]
    weight = node["scale"] if ours in _NORMS else node["kernel"]
    for i in range(weight.shape[0]):
      prefix = f"encoder.layer.{i}.{theirs}"
      tensors[f"{prefix}.weight"] = weight[i].T  # a vector's .T is itself
      tensors[f"{prefix}.bias"] = node["bias"][i]
  return tensors


def head(params: Mapping[str, Any]) -> dict[str, np.ndarray]:
  """Returns the head as PyTorch keeps such layers."""
  kernel, bias = roles.readout(dict(params))
  return {"weight": np.asarray(kernel).T, "bias": np.asarray(bias)}


def movable_names(params: Mapping[str, Any], of: roles.Roles) -> list[str]:
  """Returns the names of what normalised steps move, in the steps' order.

  Args:
    params: A Transformer student's parameters, or their shapes.
    of: The student's roles.
  """
  tops = {"embedding_norm": "embeddings.LayerNorm", "pooler": "pooler.dense"}
  names: list[str] = []
  for path, x in jax.tree_util.tree_leaves_with_path(dict(params)):
    *parents, leaf = (part.key for part in path)
    leaf = "bias" if leaf == "bias" else "weight"
    count = of.num_movable(path, x)
    if count and parents[0] == "layers":
      theirs = _LAYER["/".join(parents[1:])]
      names += [f"encoder.layer.{i}.{theirs}.{leaf}" for i in range(count)]
    elif count:
      names.append(f"{tops[parents[0]]}.{leaf}")
  return names


def rationale_head(params: Mapping[str, Any]) -> dict[str, np.ndarray]:
  """Returns the second head as PyTorch keeps such layers."""
  second = jax.tree.map(np.asarray, dict(params["rationale_head"]))
  return {
    "dense.weight": second["dense"]["kernel"].T,
    "dense.bias": second["dense"]["bias"],
    "LayerNorm.weight": second["norm"]["scale"],
    "LayerNorm.bias": second["norm"]["bias"],
  }
