"""BERT in a Hugging Face directory: its config, its tensors, its place there.

`families` names these functions; `hugging_face` calls them.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from gmdistill import errors
from gmdistill.students import bert_weights, blocks, encoders, weight_files

_SIZES = (
  "hidden_size",
  "num_hidden_layers",
  "num_attention_heads",
  "intermediate_size",
  "max_position_embeddings",
)


def checked(folder: epath.Path, config: dict[str, Any]) -> dict[str, Any]:
  """Returns a `config.json` with what BERT's leaves out, checked.

  Raises:
    InputError: no Transformer student has these fields.
  """
  if config.get("hidden_act", "gelu") not in list(blocks.ACTIVATIONS):
    raise errors.InputError(
      f"{folder} uses hidden_act={config['hidden_act']}; known are "
      f"{', '.join(blocks.ACTIVATIONS)}."
    )
  if config.get("position_embedding_type", "absolute") != "absolute":
    raise errors.InputError(
      f"{folder} uses position_embedding_type="
      f"{config['position_embedding_type']}; only absolute is known."
    )
  for name in _SIZES:
    if type(config.get(name)) is not int or config[name] < 1:
      raise errors.InputError(
        f"{folder / 'config.json'} has {name}={config.get(name)!r}; it must be "
        "a positive integer."
      )
  if config["hidden_size"] % config["num_attention_heads"]:
    raise errors.InputError(
      f"{folder / 'config.json'} has hidden_size={config['hidden_size']}, "
      f"which {config['num_attention_heads']} attention heads do not divide."
    )
  if config.get("is_decoder"):
    raise errors.InputError(
      f"{folder} holds a decoder (is_decoder), whose tokens see no later ones; "
      "use an encoder."
    )
  config = {"hidden_act": "gelu", "layer_norm_eps": 1e-12, **config}
  epsilon = config["layer_norm_eps"]
  if not isinstance(epsilon, float | int) or not 0 < epsilon < 1:
    raise errors.InputError(
      f"{folder / 'config.json'} has layer_norm_eps={epsilon!r}; it must be a "
      "small number above 0."
    )
  return config


def load(
  folder: epath.Path, config: Mapping[str, Any], choices: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any], jax.Array]:
  """Returns a student's arguments but the classes, its parameters but the head,
  and the word-embedding table [V, D].

  Args:
    folder: A directory.
    config: Its `config.json`, checked.
    choices: `num_layers`, how many of the first layers to keep (0: all), and
      `pooling`, `first` or `mean`; `first` needs the pooler's weights and draws
      them from the checkpoint.

  Raises:
    InputError: it has not what is chosen, or its tensors are damaged.
  """
  pooling = choices.get("pooling", "first")
  errors.choice("student.pooling", pooling, encoders.POOLINGS)
  num_layers, total = choices.get("num_layers", 0), config["num_hidden_layers"]
  if not 0 <= num_layers <= total:
    raise errors.InputError(
      f"student.num_layers={num_layers}, but {folder} has {total} layers; "
      f"use 1 to {total}, or 0 for all."
    )
  layers = num_layers or total
  student = dict(
    width=config["hidden_size"],
    num_layers=layers,
    num_heads=config["num_attention_heads"],
    hidden=config["intermediate_size"],
    max_positions=config["max_position_embeddings"],
    pooling=pooling,
    activation=config["hidden_act"],
    epsilon=config["layer_norm_eps"],
  )
  path = folder / weight_files.names(folder)[0]
  tensors = weight_files.read(folder, bert_weights.ANCHOR)
  try:
    params = bert_weights.to_flax(tensors, layers, pooling)
    table = jnp.asarray(tensors[bert_weights.ANCHOR])
  except KeyError as error:
    raise errors.InputError(
      f"{path} has no tensor {error}; it is not a complete BERT encoder"
      + (
        " with a pooler: use student.pooling=mean."
        if "pooler" in str(error)
        else f" of {layers} layers."
      )
    ) from error
  except ValueError as error:  # np.stack
    raise errors.InputError(
      f"{path} holds layers of different shapes; copy or download it again."
    ) from error
  bert_weights.check_shapes(path, student, params, table)
  return student, params, table


def write(
  params: Mapping[str, Any], embeddings: jax.Array, student: Any
) -> tuple[
  dict[str, Any], dict[str, np.ndarray], dict[str, dict[str, np.ndarray]]
]:
  """Returns the fields of a `config.json`, the tensors, and files beside them.

  With `first` pooling, `BertForSequenceClassification` loads them and gives the
  same logits. That class knows no other pooling: with `mean`, the tensors are a
  `BertModel`'s, and those of `classifier.safetensors` read the mean of its last
  hidden states over unmasked tokens; the class itself, which would draw a head
  at random, refuses the config. A student with slots has its second head
  in `rationale_head.safetensors`, and the config says how many
  `rationale_slots` ([MASK] after [CLS]) it reads.
  """
  is_classifier = student.pooling == "first"
  config = {
    "architectures": [
      "BertForSequenceClassification" if is_classifier else "BertModel"
    ],
    "model_type": "bert",
    "vocab_size": embeddings.shape[0],
    "hidden_size": student.width,
    "num_hidden_layers": student.num_layers,
    "num_attention_heads": student.num_heads,
    "intermediate_size": student.hidden,
    "hidden_act": student.activation,
    "max_position_embeddings": student.max_positions,
    "type_vocab_size": 2,
    "layer_norm_eps": student.epsilon,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
  }
  beside = {}
  if "rationale_head" in params:
    config["rationale_slots"] = student.rationale_slots
    beside["rationale_head.safetensors"] = bert_weights.rationale_head(params)
  tensors = bert_weights.from_flax(params)
  tensors[bert_weights.ANCHOR] = np.asarray(embeddings)
  head = bert_weights.head(params)
  if is_classifier:
    tensors = {f"bert.{name}": x for name, x in tensors.items()}
    tensors |= {f"classifier.{name}": x for name, x in head.items()}
  else:
    beside["classifier.safetensors"] = head
    # A probability that `torch.nn.Dropout` refuses, and no `BertModel` reads.
    config["classifier_dropout"] = 2.0
  return config, tensors, beside
