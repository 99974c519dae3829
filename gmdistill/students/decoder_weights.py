"""Hugging Face decoders as students and back: GPT-2, Llama, Qwen2 and Qwen3.

A family is a table of names, read both ways, and the two functions that turn
`config.json` into arguments of `decoders.Decoder` and back.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from gmdistill import trees
from gmdistill.students import (
  decoder_configs,
  decoder_reader,
  decoders,
  shards,
)


class Names(NamedTuple):
  """A family's names of the parts of a layer, and of the rest.

  A part that is the n-th third of a fused tensor is named `NAME#n`.
  """

  layer: Mapping[str, str]  # below `layers.i.`
  top: Mapping[str, str]
  layers: str = "model.layers"
  table: str = "model.embed_tokens"
  transposed: bool = True  # kernels are (out, in), as PyTorch's Linear has them


_LLAMA = Names(
  layer={
    "attention_norm": "input_layernorm",
    "attention/query": "self_attn.q_proj",
    "attention/key": "self_attn.k_proj",
    "attention/value": "self_attn.v_proj",
    "attention/output": "self_attn.o_proj",
    "attention/query_norm": "self_attn.q_norm",
    "attention/key_norm": "self_attn.k_norm",
    "mlp_norm": "post_attention_layernorm",
    "gate": "mlp.gate_proj",
    "up": "mlp.up_proj",
    "down": "mlp.down_proj",
  },
  top={"final_norm": "model.norm", "unembedding": "lm_head"},
)

_GPT2 = Names(
  layer={
    "attention_norm": "ln_1",
    "attention/query": "attn.c_attn#0",
    "attention/key": "attn.c_attn#1",
    "attention/value": "attn.c_attn#2",
    "attention/output": "attn.c_proj",
    "mlp_norm": "ln_2",
    "up": "mlp.c_fc",
    "down": "mlp.c_proj",
  },
  top={
    "position": "transformer.wpe",
    "final_norm": "transformer.ln_f",
    "unembedding": "lm_head",
  },
  layers="transformer.h",
  table="transformer.wte",
  transposed=False,
)


class Form(NamedTuple):
  """How a family stands in a directory."""

  names: Names
  module: type[decoders.Decoder]
  architecture: str
  read: Callable[[decoder_configs.Fields], dict[str, Any]]
  write: Callable[[decoders.Decoder], dict[str, Any]]

  @property
  def anchor(self) -> str:
    """The table's name in a model without a head."""
    return f"{decoder_reader.bare(self.names.table)}.weight"


FORMS = {
  "gpt2": Form(
    _GPT2,
    decoders.GPT2,
    "GPT2LMHeadModel",
    decoder_configs.read_gpt2,
    decoder_configs.write_gpt2,
  ),
  "llama": Form(
    _LLAMA,
    decoders.Llama,
    "LlamaForCausalLM",
    decoder_configs.read_llama,
    decoder_configs.write_llama,
  ),
  "qwen2": Form(
    _LLAMA,
    decoders.Qwen2,
    "Qwen2ForCausalLM",
    decoder_configs.read_qwen2,
    decoder_configs.write_llama,
  ),
  "qwen3": Form(
    _LLAMA,
    decoders.Qwen3,
    "Qwen3ForCausalLM",
    decoder_configs.read_qwen3,
    decoder_configs.write_llama,
  ),
}


class Decoder(NamedTuple):
  """A decoder of a directory: its architecture and its weights."""

  family: str
  module: decoders.Decoder
  params: trees.Params
  embeddings: jax.Array  # [V, D]


def load(folder: epath.Path, dtype: str = "float32", **options: Any) -> Decoder:
  """Reads a decoder.

  Args:
    folder: With `config.json` and one safetensors file, or shards.
    dtype: Of the parameters, whatever they are stored in.
    options: Further arguments of `decoders.Decoder`: compute, remat, unroll.

  Raises:
    InputError: the directory is incomplete, damaged or of another family.
  """
  fields = decoder_configs.Fields.of_folder(folder, FORMS)
  family = fields["model_type"]
  form = FORMS[family]
  module = form.module(**{**form.read(fields), **options})
  return Decoder(family, module, *read_weights(folder, family, module, dtype))


# (shape, read) -> array; `read(index)` returns a part of it from the files.
Place = Callable[[Any, Callable[[tuple[slice, ...]], np.ndarray]], jax.Array]


def whole(like: Any, read: Callable[..., np.ndarray]) -> jax.Array:
  """Reads all of an array, for this process's device; see `Place`."""
  return jnp.asarray(read((slice(None),) * len(like.shape)))


def read_weights(
  folder: epath.Path,
  family: str,
  module: decoders.Decoder,
  dtype: str = "float32",
  place: Place = whole,
) -> tuple[trees.Params, jax.Array]:
  """Returns the parameters that a module asks for, and the table [V, D].

  Args:
    folder: With the tensors.
    family: Whose names they have.
    module: Whose parameters are meant.
    dtype: Of the parameters, whatever they are stored in.
    place: Lays out a parameter, of which it reads what it needs; `whole`, or
      `parts.spread` on a mesh.

  Raises:
    InputError: some are missing, or of other shapes.
  """
  names = FORMS[family].names
  reader = decoder_reader.Reader(folder, jnp.dtype(dtype))

  def leaf(path, like):
    each, stacked, turned = _named(names, path, like)
    read = reader.of(each, like.shape, stacked=stacked, turned=turned)
    return place(like, read)

  params = jax.tree_util.tree_map_with_path(leaf, shapes(module))
  like = jax.ShapeDtypeStruct((module.vocabulary, module.width), reader.dtype)
  read = reader.of([f"{names.table}.weight"], like.shape)
  return params, whole(like, read)


def shapes(module: decoders.Decoder) -> trees.Params:
  """Returns the shapes of a decoder's parameters, as a tree like them."""
  variables: Any = jax.eval_shape(
    module.clone(split=()).init,
    jax.random.key(0),
    jnp.zeros((1, 2, module.width)),
    jnp.ones((1, 2), bool),
  )
  return variables["params"]


def _named(names, path, like):
  """Returns a parameter's name in every layer, or its one name; whether it is
  stacked so, and whether its tensors are transposed."""
  *parents, leaf = [part.key for part in path]
  ending = "bias" if leaf == "bias" else "weight"
  turned = names.transposed and leaf == "kernel"
  if not parents or parents[0] != "layers":
    name = f"{names.top['/'.join(parents) or leaf]}.{ending}"
    return [name], False, turned
  part, _, third = names.layer["/".join(parents[1:])].partition("#")
  end = f"{part}.{ending}" + (f"#{third}" if third else "")
  every = [f"{names.layers}.{i}.{end}" for i in range(like.shape[0])]
  return every, True, turned


def tensors_of(
  family: str, params: trees.Params, embeddings: jax.Array
) -> dict[str, np.ndarray]:
  """Returns a decoder's tensors by the family's names; the inverse of `load`.

  An unembedding that is the table is left out, as Hugging Face does.
  """
  names = FORMS[family].names
  tensors = {f"{names.table}.weight": np.asarray(embeddings)}
  fused: dict[str, dict[int, np.ndarray]] = {}
  for name, tensor in _leaves(names, params):
    name, _, third = name.partition("#")
    if third:
      fused.setdefault(name, {})[int(third)] = tensor
    else:
      tensors[name] = tensor
  for name, thirds in fused.items():
    tensors[name] = np.concatenate([thirds[i] for i in range(3)], axis=-1)
  return tensors


def _leaves(names, params) -> Iterator[tuple[str, np.ndarray]]:
  for path, leaf in jax.tree_util.tree_leaves_with_path(params):
    array = np.asarray(leaf)
    each, stacked, turned = _named(names, path, array)
    for name, one in zip(each, array if stacked else [array], strict=True):
      yield name, one.T if turned else one


def save(
  folder: epath.Path,
  decoder: Decoder,
  *,
  dtype: str = "float32",
  shard_bytes: int = 5 * 10**9,
) -> None:
  """Writes `config.json` and the weights, as `transformers` loads them.

  Args:
    folder: Made if absent; an earlier model there is replaced.
    decoder: What `load` returned, perhaps trained since.
    dtype: Of the tensors on the disk.
    shard_bytes: Of a file at most; more make shards and an index.
  """
  form = FORMS[decoder.family]
  tensors = tensors_of(decoder.family, decoder.params, decoder.embeddings)
  stored = {name: x.astype(jnp.dtype(dtype)) for name, x in tensors.items()}
  shards.write(folder, stored, shard_bytes)
  decoder_configs.save(
    folder,
    {
      "architectures": [form.architecture],
      "model_type": decoder.family,
      "dtype": dtype,
      **form.write(decoder.module),
    },
  )
