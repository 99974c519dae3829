"""Adapters in the directories of the PEFT library: written, and read."""

import json
import re
from typing import Any

import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy
from etils import epath

from gmdistill import errors, trees
from gmdistill.students import adapters, decoder_weights, decoders
from gmdistill.system import json_files, paths

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"

_PREFIX = "base_model.model."

_TENSOR = re.compile(r"(.+)\.(\d+)\.(.+)\.lora_([AB])\.weight")

# What an adapter may ask for beside its pairs of matrices, and what is known.
_PLAIN = {
  "use_dora": (False, None),
  "bias": ("none", None),
  "modules_to_save": (None, []),
  "layer_replication": (None,),
  "lora_bias": (False, None),
  "trainable_token_indices": (None,),
  "alora_invocation_tokens": (None, []),
  "use_qalora": (False, None),
  "use_bdlora": (None,),
  "kasa_config": (None,),
  "arrow_config": (None,),
}

# How pairs may have started; by another name, PEFT changes the base as well.
_STARTS = ("gaussian", "eva", "orthogonal", "mica")


def save(
  folder: epath.PathLike,
  student: adapters.LowRank,
  params: trees.Params,
  *,
  family: str,
  base: str,
  base_id: str,
) -> None:
  """Writes an adapter, as `peft.PeftModel.from_pretrained` loads it.

  Args:
    folder: Made if absent.
    student: What it is an adapter of.
    params: The adapter.
    family: The base's, of `decoder_weights.FORMS`.
    base: The directory or the hub id of the base.
    base_id: `adapters.identity` of the base's parameters.
  """
  names = decoder_weights.FORMS[family].names
  grouped: dict[str, dict[str, Any]] = {}  # by their part of a layer
  for ours, pair in sorted(adapters.pairs(params["layers"]).items()):
    theirs, _, third = names.layer[ours].partition("#")
    grouped.setdefault(theirs, {})[third] = pair
  tensors, ranks = {}, {}
  for theirs, pairs in grouped.items():
    down, up = _joined(pairs, student.module)
    ranks[theirs] = down.shape[-1]
    for i in range(len(down)):
      place = f"{_PREFIX}{names.layers}.{i}.{theirs}"
      tensors[f"{place}.lora_A.weight"] = np.ascontiguousarray(down[i].T)
      tensors[f"{place}.lora_B.weight"] = np.ascontiguousarray(up[i].T)
  other = {name: rank for name, rank in ranks.items() if rank != student.rank}
  config = {
    "peft_type": "LORA",
    "task_type": "CAUSAL_LM",
    "base_model_name_or_path": base,
    "r": student.rank,
    "lora_alpha": student.alpha,
    "target_modules": sorted(grouped),
    "rank_pattern": other,
    # The same scale alpha / rank everywhere.
    "alpha_pattern": {name: x * student.scale for name, x in other.items()},
    "fan_in_fan_out": not names.transposed,
    "lora_dropout": 0.0,
    "bias": "none",
    "inference_mode": True,
  }
  metadata = {"format": "pt", "base": base_id}
  paths.write_files(
    paths.absolute(folder),
    {
      CONFIG: (json.dumps(config, indent=2) + "\n").encode(),
      WEIGHTS: safetensors.numpy.save(tensors, metadata=metadata),
    },
  )


def _joined(pairs, module):
  """Returns A [N, in, R] and B [N, R, out] of one matrix of the family.

  Of thirds of a fused matrix, the ranks stand side by side, and each third has
  rows of its own in B; a third without a change has zeros.
  """
  if list(pairs) == [""]:
    return np.asarray(pairs[""]["A"]), np.asarray(pairs[""]["B"])
  down = np.concatenate([np.asarray(pairs[t]["A"]) for t in sorted(pairs)], -1)
  rows = []
  for third in sorted(pairs):
    block = np.asarray(pairs[third]["B"])
    places = [np.zeros_like(block)] * 3
    places[int(third)] = block
    rows.append(np.concatenate(places, axis=-1))
  return down, np.concatenate(rows, axis=1)


def load(
  folder: epath.PathLike,
  module: decoders.Decoder,
  *,
  family: str,
  base_id: str,
) -> tuple[adapters.LowRank, trees.Params]:
  """Reads an adapter of this base, by whatever library it was written.

  Layers and matrices that it leaves alone get a change of zero; scales of
  their own are multiplied into B.

  Raises:
    InputError: it is incomplete or damaged, of another base, or changes more
      than the matrices of layers.
  """
  place = paths.absolute(folder)
  config = _read_config(place)
  tensors = _read_tensors(place, base_id)
  form = decoder_weights.FORMS[family]
  shapes = adapters.kernels(decoder_weights.shapes(module)["layers"])
  ours: dict[str, list[tuple[str, str]]] = {}  # by their part of a layer
  for name in shapes:
    theirs, _, third = form.names.layer[name].partition("#")
    ours.setdefault(theirs, []).append((name, third))
  scale = config["lora_alpha"] / _ranked(config, config["r"])
  layers: dict[str, Any] = {}
  for theirs, letters in _by_matrix(place, tensors, form.names.layers).items():
    if theirs not in ours:
      raise errors.InputError(
        f"{place} changes {theirs}, which is no matrix of a {family} layer; it "
        "is an adapter of another base, or of more than its layers."
      )
    for name, third in ours[theirs]:
      filled = _filled(place, letters, shapes[name].shape, theirs, third)
      for i, tensor in letters["A"].items():
        alpha = _alpha_of(config, f"{form.names.layers}.{i}.{theirs}")
        own = alpha / _ranked(config, len(tensor)) / scale
        filled["B"][i] *= np.float32(own)
      adapters.put(layers, name, {k: jnp.asarray(x) for k, x in filled.items()})
  targets = tuple(name.split("/")[-1] for name in adapters.pairs(layers))
  rank = config["r"]
  student = adapters.LowRank(module, rank, scale * rank, targets)
  return student, {"layers": layers}


def _read_config(place):
  try:
    config = json_files.parse((place / CONFIG).read_bytes())
    kind = config["peft_type"]
    for name in ("r", "lora_alpha"):
      if kind == "LORA" and not config[name] > 0:
        raise ValueError(f"{name}={config[name]}")
  except (OSError, ValueError, KeyError, TypeError) as error:
    raise errors.InputError(
      f"{place} has no {CONFIG} of a PEFT adapter that can be read "
      f"({type(error).__name__}: {str(error)[:80]}); give an adapter's "
      "directory."
    ) from error
  if kind != "LORA":
    raise errors.InputError(
      f"{place} holds an adapter of type {kind}; only LORA is known."
    )
  for name, known in _PLAIN.items():
    if config.get(name) not in known:
      raise errors.InputError(
        f"{place} has {name}={config[name]!r} in its {CONFIG}; only plain "
        "pairs of matrices are known."
      )
  start = config.get("init_lora_weights")
  if isinstance(start, str) and start.lower() not in _STARTS:
    raise errors.InputError(
      f"{place} has init_lora_weights={start!r} in its {CONFIG}, by which the "
      "base is changed too; save it with path_initial_model_for_weight_"
      "conversion, which makes plain pairs of it."
    )
  return config


def _read_tensors(place, base_id):
  path = place / WEIGHTS
  if not path.is_file():
    raise errors.InputError(
      f"{place} has no {WEIGHTS}; save the adapter again with save_pretrained."
    )
  try:
    tensors = paths.read_tensors(path)
    metadata: dict[str, str] = {}  # of a bucket's file it is not known
    if paths.is_local(path):
      with safetensors.safe_open(path, framework="np") as file:
        metadata = file.metadata() or {}
  except (safetensors.SafetensorError, OSError, ValueError) as error:
    raise errors.InputError(
      f"{path} is damaged ({error}); copy or download it again."
    ) from error
  if metadata.get("base", base_id) != base_id:
    raise errors.InputError(
      f"{place} is an adapter of another base ({metadata['base'][:12]}, not "
      f"{base_id[:12]}); give the base that it was trained over."
    )
  return {name: x.astype(np.float32) for name, x in tensors.items()}


def _by_matrix(place, tensors, layers):
  """Returns {their part of a layer: {"A" or "B": {layer: tensor}}}."""
  sorted_out: dict[str, Any] = {}
  for name, tensor in tensors.items():
    match = _TENSOR.fullmatch(name.removeprefix(_PREFIX))
    if not match or match[1] != layers:
      raise errors.InputError(
        f"{place} has {name}, which changes no matrix of {layers}; it is an "
        "adapter of another base, or of more than its layers."
      )
    letters = sorted_out.setdefault(match[3], {"A": {}, "B": {}})
    letters[match[4]][int(match[2])] = tensor
  for theirs, letters in sorted_out.items():
    if letters["A"].keys() != letters["B"].keys():
      raise errors.InputError(
        f"{place} has one matrix of a pair alone, of {theirs}; save the "
        "adapter again with save_pretrained."
      )
  return sorted_out


def _ranked(config, rank):
  return rank**0.5 if config.get("use_rslora") else rank


def _alpha_of(config, matrix):
  for pattern, alpha in (config.get("alpha_pattern") or {}).items():
    if re.fullmatch(rf"(.*\.)?({pattern})", matrix):
      return alpha
  return config["lora_alpha"]


def _filled(place, letters, shape, theirs, third):
  """Returns A [N, in, r] and B [N, r, out], zero where a layer has none, or a
  rank of its own that is lower."""
  count, rows, columns = shape
  rank = max(len(x) for x in letters["A"].values())
  filled = {
    "A": np.zeros((count, rows, rank), np.float32),
    "B": np.zeros((count, rank, columns), np.float32),
  }
  for letter, of_layers in letters.items():
    for i, tensor in of_layers.items():
      turned = tensor.T
      if letter == "B" and third and turned.shape[-1] == 3 * columns:
        turned = np.split(turned, 3, axis=-1)[int(third)]
      own = len(letters["A"][i])
      right = (rows, own) if letter == "A" else (own, columns)
      if i >= count or turned.shape != right:
        raise errors.InputError(
          f"{place} has lora_{letter} of shape {tensor.shape} for {theirs} of "
          f"layer {i}, but the base has {count} layers with matrices of "
          f"{(rows, columns)}; it is an adapter of another base."
        )
      filled[letter][i, : right[0], : right[1]] = turned
  return filled
