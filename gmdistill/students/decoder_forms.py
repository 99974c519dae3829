"""Decoders as any family of students stands in a Hugging Face directory.

`families` names these functions; `hugging_face` calls them.
"""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from etils import epath

from gmdistill import errors, trees
from gmdistill.students import decoder_configs, decoder_weights, decoders, roles


def checked(
  family: str, folder: epath.Path, config: dict[str, Any]
) -> decoder_configs.Fields:
  """Returns a `config.json` that a decoder of the family can be built from.

  Raises:
    InputError: none can.
  """
  fields = decoder_configs.Fields(config, folder / decoder_configs.NAME)
  fields.refuse_quantised()
  decoder_weights.FORMS[family].read(fields)
  return fields


def arguments(
  fields: decoder_configs.Fields, folder: epath.Path, num_layers: int
) -> dict[str, Any]:
  """Returns a student's arguments, of the first layers; 0: of all.

  Raises:
    InputError: it has fewer layers.
  """
  found = decoder_weights.FORMS[fields["model_type"]].read(fields)
  total = found["num_layers"]
  if not 0 <= num_layers <= total:
    raise errors.InputError(
      f"student.num_layers={num_layers}, but {folder} has {total} layers; use "
      f"1 to {total}, or 0 for all."
    )
  return {**found, "num_layers": num_layers or total}


def load(
  family: str,
  folder: epath.Path,
  config: Mapping[str, Any],
  choices: Mapping[str, Any],
) -> tuple[dict[str, Any], trees.Params, jax.Array]:
  """Returns a student's arguments, its parameters, and the table [V, D].

  `choices`: `num_layers`, how many of the first layers to keep, 0: all; and
  `place`, how the parameters are laid out, as `decoder_weights.read_weights`
  has it.

  Raises:
    InputError: it has fewer layers, or its tensors are damaged.
  """
  form = decoder_weights.FORMS[family]
  fields = decoder_configs.Fields(config, folder / decoder_configs.NAME)
  given = arguments(fields, folder, choices.get("num_layers", 0))
  module = form.module(**given)
  place = choices.get("place", decoder_weights.whole)
  params, table = decoder_weights.read_weights(
    folder, family, module, place=place
  )
  return given, params, table


def write(
  family: str,
  params: trees.Params,
  embeddings: jax.Array,
  module: decoders.Decoder,
) -> tuple[
  dict[str, Any], dict[str, np.ndarray], dict[str, dict[str, np.ndarray]]
]:
  """Returns the fields of a `config.json`, the tensors, and files beside them.

  A student that tells classes is a bare decoder there, and the tensors of
  `classifier.safetensors` read the last token's state. The library's own
  classifiers have no bias and would draw a head at random: they refuse the
  `score.weight`, of weights and biases side by side, which nobody else reads.
  """
  form = decoder_weights.FORMS[family]
  body = {name: x for name, x in params.items() if name != roles.HEAD}
  written = module.clone(vocabulary=len(embeddings))
  architecture, beside = form.architecture, {}
  if module.num_classes:
    written = written.clone(tied=True)
    architecture = form.architecture.replace("LMHead", "")
    architecture = architecture.replace("ForCausalLM", "Model")
    kernel, bias = roles.readout(params)
    head = {"weight": np.asarray(kernel).T, "bias": np.asarray(bias)}
    beside["classifier.safetensors"] = head
  config = {
    "architectures": [architecture],
    "model_type": family,
    **form.write(written),
  }
  tensors = decoder_weights.tensors_of(family, body, embeddings)
  if module.num_classes:
    tensors["score.weight"] = np.column_stack([head["weight"], head["bias"]])
  return config, tensors, beside
