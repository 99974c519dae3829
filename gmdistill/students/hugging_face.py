"""Hugging Face directories of the BERT family: into students and back.

`config.json`, `model.safetensors` and `tokenizer.json` become the Transformer
student's arguments, its parameters and the frozen word-embedding table; a
trained student becomes a `BertForSequenceClassification` directory.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from etils import epath

from gmdistill import errors
from gmdistill.data import tokenizing
from gmdistill.students import bert_weights, blocks, encoders, weight_files
from gmdistill.system import json_files, paths

FILES = ("config.json", weight_files.WHOLE, "tokenizer.json")

# For what BERT has no place.
BESIDE = ("classifier.safetensors", "rationale_head.safetensors")

TOKENIZER_CONFIG = "tokenizer_config.json"

_SIZES = (
  "hidden_size",
  "num_hidden_layers",
  "num_attention_heads",
  "intermediate_size",
  "max_position_embeddings",
)


class Pretrained(NamedTuple):
  """A pretrained encoder, ready for `problem.Problem`."""

  student: dict[str, Any]  # arguments of encoders.Transformer, classes aside
  params: dict[str, Any]  # all but the head
  embeddings: jax.Array  # [V, D], the word-embedding table
  tokenizer_file: str


def find(source: str) -> epath.Path:
  """Returns the folder of a directory or of a hub id, fetched if need be.

  Raises:
    InputError: neither a complete directory nor a hub id that can be reached.
  """
  folder = paths.path(source)
  if not folder.is_dir():
    if source.startswith((".", "/", "~")) or source.count("/") > 1:
      raise errors.InputError(
        f"{source} is not a directory; student.pretrained takes a Hugging Face "
        f"directory with {', '.join(FILES)}, or a hub id."
      )
    folder = _fetch(source)
  for name in FILES:
    whole = (folder / name).is_file()
    if name == weight_files.WHOLE:
      whole = bool(weight_files.names(folder))
    if not whole:
      raise errors.InputError(
        f"{folder} has no {name}; a pretrained student needs "
        f"{', '.join(FILES)} (save a slow tokenizer with use_fast=True)."
      )
  return folder


def load(
  source: str, num_layers: int = 0, pooling: str = "first"
) -> Pretrained:
  """Reads a BERT-family encoder.

  Args:
    source: A Hugging Face directory, or a hub id.
    num_layers: How many of the first layers to keep; 0 keeps all.
    pooling: `first` or `mean`; `first` needs the pooler's weights and draws
      them from the checkpoint.

  Raises:
    InputError: the directory is incomplete, damaged or of another family.
  """
  errors.choice("student.pooling", pooling, encoders.POOLINGS)
  folder = find(source)
  config = read_config(folder)
  total = config["num_hidden_layers"]
  if not 0 <= num_layers <= total:
    raise errors.InputError(
      f"student.num_layers={num_layers}, but {source} has {total} layers; "
      f"use 1 to {total}, or 0 for all."
    )
  path = folder / weight_files.names(folder)[0]
  tensors = weight_files.read(folder, bert_weights.ANCHOR)
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
  try:
    params = bert_weights.to_flax(tensors, layers, pooling)
    embeddings = jnp.asarray(tensors[bert_weights.ANCHOR])
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
  bert_weights.check_shapes(path, student, params, embeddings)
  return Pretrained(student, params, embeddings, str(folder / FILES[2]))


def save(
  folder: epath.PathLike,
  *,
  params: Mapping[str, Any],
  embeddings: jax.Array,
  student: Any,
  label_names: Sequence[str],
  tokenizer_json: str,
) -> epath.Path:
  """Writes a Hugging Face directory.

  With `first` pooling, `BertForSequenceClassification` loads it and gives the
  same logits. That class knows no other pooling: with `mean`, the directory
  holds a `BertModel`, and `classifier.safetensors` beside it the `weight` and
  `bias` that read the mean of its last hidden states over unmasked tokens. A
  student with slots has its second head in `rationale_head.safetensors`, and
  `config.json` says how many `rationale_slots` ([MASK] after [CLS]) it reads.

  Args:
    folder: Made if absent; files of the same names are replaced.
    params: Parameters of a Transformer student.
    embeddings: The word-embedding table [V, D].
    student: The students.Transformer, whose sizes go into `config.json`.
    label_names: One name a class, in the order of the logits.
    tokenizer_json: The text of `tokenizer.json`.

  Raises:
    InputError: BERT has no place for this student's architecture.
  """
  check_exportable(student)
  folder = paths.absolute(folder)
  is_classifier = student.pooling == "first"
  architecture = (
    "BertForSequenceClassification" if is_classifier else "BertModel"
  )
  added = json.loads(tokenizer_json)["added_tokens"]
  known = {token["content"]: token["id"] for token in added}
  special = {
    f"{name}_token": token
    for name, tokens in tokenizing.SPECIAL_TOKENS.items()
    for token in reversed(tokens)  # the first that is there stays
    if token in known
  }
  config = {
    "architectures": [architecture],
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
    "pad_token_id": known.get(special.get("pad_token"), 0),
    "id2label": {str(i): name for i, name in enumerate(label_names)},
    "label2id": {name: i for i, name in enumerate(label_names)},
  }
  beside = {}
  if "rationale_head" in params:
    config["rationale_slots"] = student.rationale_slots
    beside["rationale_head.safetensors"] = bert_weights.rationale_head(params)
  tensors = bert_weights.from_flax(params)
  tensors[bert_weights.ANCHOR] = np.asarray(embeddings)
  head = {
    "weight": np.asarray(params["head"]["kernel"]).T,
    "bias": np.asarray(params["head"]["bias"]),
  }
  if is_classifier:
    tensors = {f"bert.{name}": x for name, x in tensors.items()}
    tensors |= {f"classifier.{name}": x for name, x in head.items()}
  else:
    beside["classifier.safetensors"] = head
  tokenizer_config = {
    "tokenizer_class": "PreTrainedTokenizerFast",
    "model_max_length": student.max_positions,
    # No token_type_ids: the student saw segment 0 alone, in pairs too.
    "model_input_names": ["input_ids", "attention_mask"],
    **special,
  }
  files = {
    "config.json": _as_json(config),
    "tokenizer.json": tokenizer_json.encode(),
    "tokenizer_config.json": _as_json(tokenizer_config),
    "model.safetensors": _as_bytes(tensors),
    **{name: _as_bytes(own) for name, own in beside.items()},
  }
  paths.write_files(folder, files)
  for name in set(BESIDE) - set(files):  # of an earlier student there
    (folder / name).unlink(missing_ok=True)
  return folder


def check_exportable(student: Any) -> None:
  """Refuses a student that has no Hugging Face form.

  Raises:
    InputError: it is no Transformer.
  """
  if not isinstance(student, encoders.Transformer):
    raise errors.InputError(
      f"a {type(student).__name__} student has no Hugging Face BERT form; "
      "use student.kind=transformer."
    )


def _as_json(content: dict[str, Any]) -> bytes:
  return (json.dumps(content, indent=2) + "\n").encode()


def _as_bytes(tensors: dict[str, np.ndarray]) -> bytes:
  contiguous = {name: np.ascontiguousarray(x) for name, x in tensors.items()}
  return safetensors.numpy.save(contiguous, metadata={"format": "pt"})


def _fetch(source: str) -> epath.Path:
  import huggingface_hub  # slow to import, and needed by hub ids alone

  try:
    return epath.Path(
      huggingface_hub.snapshot_download(
        source,
        allow_patterns=[
          *FILES,
          *weight_files.PATTERNS,
          *BESIDE,
          TOKENIZER_CONFIG,
        ],
      )
    )
  except Exception as error:  # noqa: BLE001 the hub's errors have no common base
    raise errors.InputError(
      f"{source} is no directory here and could not be fetched from the hub "
      f"({type(error).__name__}); give the path of a Hugging Face directory."
    ) from error


def tells_pairs(folder: epath.Path) -> bool:
  """Whether a directory's model was given token types, as BERT's own are."""
  try:
    config = json_files.parse((folder / TOKENIZER_CONFIG).read_bytes())
    return "token_type_ids" in config.get(
      "model_input_names", ["token_type_ids"]
    )
  except (OSError, ValueError, TypeError):
    return True


def read_config(folder: epath.Path) -> dict[str, Any]:
  """Returns a directory's `config.json`, checked.

  Raises:
    InputError: it is damaged, or of another family.
  """
  mend = "save the model again with save_pretrained."
  config = json_files.read(folder / "config.json", mend)
  if "model_type" not in config:
    raise errors.InputError(
      f"{folder / 'config.json'} is not a Hugging Face model config; {mend}"
    )
  family = config["model_type"]
  if family != "bert":
    raise errors.InputError(
      f"{folder} holds a model of type {family}; student.pretrained takes the "
      "BERT family (model_type bert)."
    )
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
    if not isinstance(config.get(name), int) or config[name] < 1:
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
