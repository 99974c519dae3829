"""Hugging Face directories of any family: into students and back.

`config.json`, the tensors and `tokenizer.json` become a student's arguments,
its parameters and the frozen word-embedding table; a trained student becomes a
directory again. What is a family's own in them, its `families.Form` knows.
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
from gmdistill.data import chat, tokenizing
from gmdistill.students import families, model_cards, weight_files
from gmdistill.system import json_files, paths

FILES = ("config.json", weight_files.WHOLE, "tokenizer.json")

# What a directory may hold that its model has no place for.
BESIDE = ("classifier.safetensors", "rationale_head.safetensors")

TOKENIZER_CONFIG = "tokenizer_config.json"


class Pretrained(NamedTuple):
  """A pretrained model, ready for `problems.Problem`."""

  student: dict[str, Any]  # arguments of its family's module, classes aside
  params: dict[str, Any]  # all but the head
  embeddings: jax.Array  # [V, D], the word-embedding table
  tokenizer_file: str
  model_type: str  # of its family

  @property
  def family(self) -> families.Family:
    """The family that it is of."""
    found = families.of_model_type(self.model_type)
    assert found is not None  # it was read as one
    return found


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


def load(source: str, num_layers: int = 0, **choices: Any) -> Pretrained:
  """Reads a pretrained model.

  Args:
    source: A Hugging Face directory, or a hub id.
    num_layers: How many of the first layers to keep; 0 keeps all.
    **choices: Other fields of a config's `student` that its family reads, such
      as `pooling`.

  Raises:
    InputError: the directory is incomplete, damaged or of no student's family.
  """
  folder = find(source)
  config = read_config(folder)
  arguments, params, table = _form(config["model_type"]).load(
    folder, config, {"num_layers": num_layers, **choices}
  )
  return Pretrained(
    arguments, params, table, str(folder / FILES[2]), config["model_type"]
  )


def read_table(source: str) -> tuple[jax.Array, str]:
  """Returns the table [V, D] of a pretrained model, and its tokenizer's file.

  Raises:
    InputError: as in `load`.
  """
  folder = find(source)
  form = _form(read_config(folder)["model_type"])
  tensors = weight_files.read(folder, form.anchor)
  if form.anchor not in tensors:
    raise errors.InputError(
      f"{folder / weight_files.names(folder)[0]} has no tensor {form.anchor}; "
      "copy or download it again."
    )
  return jnp.asarray(tensors[form.anchor]), str(folder / FILES[2])


def read_tensors(folder: epath.Path) -> dict[str, np.ndarray]:
  """Returns all tensors of a directory by the names of its bare model.

  Raises:
    InputError: as in `load`.
  """
  form = _form(read_config(folder)["model_type"])
  return weight_files.read(folder, form.anchor)


def save(
  folder: epath.PathLike,
  *,
  params: Mapping[str, Any],
  embeddings: jax.Array,
  student: Any,
  label_names: Sequence[str],
  tokenizer_json: str,
) -> epath.Path:
  """Writes a Hugging Face directory; its family says what stands in it.

  Args:
    folder: Made if absent; files of the same names are replaced.
    params: Parameters of the student.
    embeddings: The word-embedding table [V, D].
    student: Its module, whose sizes go into `config.json`.
    label_names: One name a class, in the order of the logits.
    tokenizer_json: The text of `tokenizer.json`.

  Raises:
    InputError: Hugging Face has no place for this student's architecture.
  """
  form = families.form_of(student)
  folder = paths.absolute(folder)
  config, tensors, beside = form.write(params, embeddings, student)
  added = json.loads(tokenizer_json)["added_tokens"]
  known = {token["content"]: token["id"] for token in added}
  special = {
    f"{name}_token": token
    for name, tokens in tokenizing.SPECIAL_TOKENS.items()
    for token in reversed(tokens)  # the first that is there stays
    if token in known
  }
  config |= {
    "pad_token_id": known.get(special.get("pad_token"), 0),
    "id2label": {str(i): name for i, name in enumerate(label_names)},
    "label2id": {name: i for i, name in enumerate(label_names)},
  }
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
  files["README.md"] = model_cards.text(config, beside, label_names).encode()
  paths.write_files(folder, files)
  for name in set(BESIDE) - set(files):  # of an earlier student there
    (folder / name).unlink(missing_ok=True)
  return folder


def check_exportable(student: Any) -> None:
  """Refuses a student that has no Hugging Face form.

  Raises:
    InputError: it has none.
  """
  families.form_of(student)


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
          chat.FILE,
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
  """Returns a directory's `config.json`, checked by its family.

  Raises:
    InputError: it is damaged, or of no student's family.
  """
  mend = "save the model again with save_pretrained."
  config = json_files.read(folder / "config.json", mend)
  if "model_type" not in config:
    raise errors.InputError(
      f"{folder / 'config.json'} is not a Hugging Face model config; {mend}"
    )
  model_type = config["model_type"]
  if families.of_model_type(model_type) is None:
    known = [x.form.model_type for x in families.FAMILIES.values() if x.form]
    raise errors.InputError(
      f"{folder} holds a model of type {model_type}; student.pretrained takes "
      f"model_type {', '.join(known)}."
    )
  return _form(model_type).checked(folder, config)


def _form(model_type: str) -> families.Form:
  family = families.of_model_type(model_type)
  assert family is not None and family.form is not None  # see read_config
  return family.form
