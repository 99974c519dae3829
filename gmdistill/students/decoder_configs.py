"""A decoder's `config.json` as arguments of `decoders.Decoder`, and back."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from etils import epath

from gmdistill import errors
from gmdistill.students import blocks, decoder_layers, decoders
from gmdistill.system import json_files, paths

NAME = "config.json"


class Fields(dict[str, Any]):
  """The fields of a `config.json`, each checked where it is read."""

  def __init__(self, fields: Mapping[str, Any], path: epath.Path):
    """Keeps the path for messages."""
    super().__init__(fields)
    self.path = path

  @classmethod
  def of_folder(cls, folder: epath.Path, families: Iterable[str]) -> "Fields":
    """Reads a folder's, of one of `families`.

    Raises:
      InputError: it is absent, damaged, or of another family.
    """
    path = folder / NAME
    mend = "save the model again with save_pretrained."
    content = json_files.read(path, mend)
    if "model_type" not in content:
      raise errors.InputError(
        f"{path} is not a Hugging Face model config; {mend}"
      )
    family = content["model_type"]
    if family not in list(families):  # which may be anything
      raise errors.InputError(
        f"{folder} holds a model of type {family}; known decoders are "
        f"{', '.join(families)}."
      )
    fields = cls(content, path)
    fields.refuse_quantised()
    return fields

  def refuse_quantised(self) -> None:
    """Refuses weights that are numbers only with the scales beside them."""
    self.refuse("quantization_config", None, "weights of full precision")

  def size(self, name: str, default: int | None = None) -> int:
    """Returns a positive integer; `default` where it is absent or null."""
    value = self.get(name)
    value = default if value is None else value
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
      raise errors.InputError(
        f"{self.path} has {name}={value!r}; it must be a positive integer."
      )
    return value

  def number(self, name: str, default: float) -> float:
    """Returns a positive number."""
    value = self.get(name, default)
    if not isinstance(value, float | int) or not value > 0:
      raise errors.InputError(
        f"{self.path} has {name}={value!r}; it must be a positive number."
      )
    return float(value)

  def refuse(self, name: str, right: Any, known: str) -> None:
    """Refuses another value than `right`, which is what an absent one means.

    Raises:
      InputError: it is another; the message ends with `known`.
    """
    if self.get(name, right) not in (right, None):
      raise errors.InputError(
        f"{self.path} has {name}={self[name]!r}; students know {known} alone."
      )

  def activation(self, name: str, default: str) -> str:
    """Returns the name of a known activation."""
    value = self.get(name, default)
    if value not in list(blocks.ACTIVATIONS):
      raise errors.InputError(
        f"{self.path} has {name}={value!r}; known are "
        f"{', '.join(blocks.ACTIVATIONS)}."
      )
    return value

  def rotary(self) -> decoder_layers.Rotary:
    """Returns the rotary positions, by their old names or by the new ones.

    Raises:
      InputError: they are of a kind that students do not know.
    """
    said = self.get("rope_parameters") or self.get("rope_scaling") or {}
    if not isinstance(said, dict):
      said = {"rope_type": said}
    scaling = Fields(said, self.path)
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    if kind not in decoder_layers.SCALINGS:
      raise errors.InputError(
        f"{self.path} has rotary positions of kind {kind}; known are "
        f"{', '.join(decoder_layers.SCALINGS)}."
      )
    for fields in (self, scaling):
      fields.refuse("partial_rotary_factor", 1.0, "whole heads that rotate")
    theta = scaling.number("rope_theta", self.number("rope_theta", 10000.0))
    rotary = decoder_layers.Rotary(theta=theta, kind=kind)
    if kind != "default":
      rotary = rotary._replace(factor=scaling.number("factor", 1.0))
    if kind == "llama3":
      rotary = rotary._replace(
        low=scaling.number("low_freq_factor", 1.0),
        high=scaling.number("high_freq_factor", 4.0),
        original=scaling.size("original_max_position_embeddings"),
      )
    return rotary


def read_gpt2(fields: Fields) -> dict[str, Any]:
  """Returns the decoder's arguments."""
  fields.refuse("scale_attn_weights", True, "scaled scores")
  fields.refuse(
    "scale_attn_by_inverse_layer_idx", False, "scores scaled alike in layers"
  )
  fields.refuse("add_cross_attention", False, "decoders without an encoder")
  width = fields.size("n_embd")
  heads = fields.size("n_head")
  _require_even(fields, "n_embd", width, "n_head", heads)
  return dict(
    width=width,
    num_layers=fields.size("n_layer"),
    num_heads=heads,
    hidden=fields.size("n_inner", 4 * width),
    vocabulary=fields.size("vocab_size"),
    max_positions=fields.size("n_positions"),
    epsilon=fields.number("layer_norm_epsilon", 1e-5),
    activation=fields.activation("activation_function", "gelu_new"),
    tied=bool(fields.get("tie_word_embeddings", True)),
  )


def write_gpt2(module: decoders.Decoder) -> dict[str, Any]:
  """Returns the fields of `config.json`."""
  return {
    "vocab_size": module.vocabulary,
    "n_embd": module.width,
    "n_layer": module.num_layers,
    "n_head": module.num_heads,
    "n_inner": module.hidden,
    "n_positions": module.max_positions,
    "layer_norm_epsilon": module.epsilon,
    "activation_function": module.activation,
    "tie_word_embeddings": module.tied,
  }


def read_llama(fields: Fields) -> dict[str, Any]:
  """Returns the decoder's arguments."""
  heads = fields.size("num_attention_heads")
  width = fields.size("hidden_size")
  keys = fields.size("num_key_value_heads", heads)
  _require_even(fields, "num_attention_heads", heads, "its key heads", keys)
  if fields.get("head_dim") is None:
    _require_even(fields, "hidden_size", width, "num_attention_heads", heads)
  biased = bool(fields.get("attention_bias", False))
  return dict(
    width=width,
    num_layers=fields.size("num_hidden_layers"),
    num_heads=heads,
    num_key_value_heads=keys,
    head_width=fields.size("head_dim", width // heads),
    hidden=fields.size("intermediate_size"),
    vocabulary=fields.size("vocab_size"),
    max_positions=fields.size("max_position_embeddings", 2048),
    rotary=fields.rotary(),
    norm="rms",
    epsilon=fields.number("rms_norm_eps", 1e-6),
    activation=fields.activation("hidden_act", "silu"),
    gated=True,
    query_bias=biased,
    output_bias=biased,
    mlp_bias=bool(fields.get("mlp_bias", False)),
    tied=bool(fields.get("tie_word_embeddings", False)),
  )


def read_qwen2(fields: Fields) -> dict[str, Any]:
  """Returns the decoder's arguments: biased queries, keys and values."""
  _require_whole_attention(fields)
  return {**read_llama(fields), "query_bias": True, "output_bias": False}


def read_qwen3(fields: Fields) -> dict[str, Any]:
  """Returns the decoder's arguments: normed heads of a width of their own."""
  _require_whole_attention(fields)
  return {
    **read_llama(fields),
    "head_norms": True,
    "head_width": fields.size("head_dim", 128),
  }


def write_llama(module: decoders.Decoder) -> dict[str, Any]:
  """Returns the fields of `config.json` of Llama and of the Qwens."""
  rotary = module.rotary
  assert rotary is not None
  scaling: dict[str, Any] | None = None
  if rotary.kind != "default":
    scaling = {"rope_type": rotary.kind, "factor": rotary.factor}
  if scaling and rotary.kind == "llama3":
    scaling |= {
      "low_freq_factor": rotary.low,
      "high_freq_factor": rotary.high,
      "original_max_position_embeddings": rotary.original,
    }
  shape = module.shape()
  return {
    "vocab_size": module.vocabulary,
    "hidden_size": module.width,
    "num_hidden_layers": module.num_layers,
    "num_attention_heads": shape.num_heads,
    "num_key_value_heads": shape.num_key_value_heads,
    "head_dim": shape.head_width,
    "intermediate_size": module.hidden,
    "hidden_act": module.activation,
    "max_position_embeddings": module.max_positions,
    "rms_norm_eps": module.epsilon,
    "rope_theta": rotary.theta,
    "rope_scaling": scaling,
    "attention_bias": module.output_bias,
    "mlp_bias": module.mlp_bias,
    "tie_word_embeddings": module.tied,
  }


def save(folder: epath.Path, fields: Mapping[str, Any]) -> None:
  """Writes a folder's `config.json`."""
  paths.write_text(folder / NAME, json.dumps(dict(fields), indent=2) + "\n")


def _require_whole_attention(fields: Fields) -> None:
  windows = [x for x in fields.get("layer_types") or [] if "sliding" in str(x)]
  if fields.get("use_sliding_window") or windows:
    raise errors.InputError(
      f"{fields.path} asks for attention in a sliding window; students know "
      "attention to the whole text alone."
    )


def _require_even(
  fields: Fields, name: str, whole: int, by: str, count: int
) -> None:
  if whole % count:
    raise errors.InputError(
      f"{fields.path} has {name}={whole}, which {by}={count} does not divide."
    )
