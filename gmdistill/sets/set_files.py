"""A synthetic set on disk: `set.safetensors` and `card.json`."""

import dataclasses
import hashlib
import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy
from etils import epath

from gmdistill import errors
from gmdistill.data import batches
from gmdistill.sets import hub, snippets, synthetic
from gmdistill.students import problems
from gmdistill.system import json_files, logs, paths

FORMAT = "gmdistill-set-1"

PRECISIONS = ("float32", "bfloat16", "int8")

# What a file calls the arrays of a batch; the others are named by their path.
_NAMES = {
  "inputs": "embeddings",
  "teachers/logits": "teacher_logits",
  "teachers/features": "teacher_features",
  "tokens/targets": "rationale",
  "tokens/weights": "rationale_weights",
  "tokens/steps": "rationale_steps",
  "tokens/teacher_ids": "teacher_ids",
  "tokens/teacher_logs": "teacher_logs",
}

# Of a set without classes, whose places each say a token.
_OF_LANGUAGE = {
  "tokens/targets": "targets",
  "tokens/weights": "target_weights",
}

# Their paths by those names. How far training is, is nothing that a set knows.
_OF_EXAMPLES = {
  _NAMES.get(path, path.replace("/", "_")): path
  for path in batches.PATHS
  if path != "progress"
}

# What a set may bring beside its batch, by the names of file and dataclass.
_TRAVELLING = tuple(
  field.name
  for field in dataclasses.fields(synthetic.SyntheticSet)
  if field.name != "batch"
)


def as_stored(
  syn: synthetic.SyntheticSet, precision: str = "float32"
) -> synthetic.SyntheticSet:
  """Returns the set as a reader of the saved one will see it.

  What is reported of a set is measured on this.
  """
  rounded = _dequantised(_tensors(syn, precision))
  inputs = jnp.asarray(rounded["embeddings"])
  batch = dataclasses.replace(syn.batch, inputs=inputs)
  return dataclasses.replace(syn, batch=batch)


def num_bytes(syn: synthetic.SyntheticSet, precision: str = "float32") -> int:
  """Returns the bytes of what a student needs: all arrays but the mask, and
  the weights that the labels are multiplied by."""
  arrays = _tensors(syn, precision)
  left_out = ("mask", "weights")
  return sum(x.nbytes for name, x in arrays.items() if name not in left_out)


def save(
  folder: epath.PathLike,
  syn: synthetic.SyntheticSet,
  card: dict[str, Any],
  precision: str = "float32",
) -> None:
  """Writes `set.safetensors` and `card.json`, whole or not at all.

  Args:
    folder: Made where it is absent.
    syn: The set.
    card: What is said of it; it gets the `format`, the `bytes` and a script of
      `use` too.
    precision: Of the embeddings. `int8`: integers `embeddings`, and
      `embeddings_scale` [M, L] (float32), to be multiplied. Where the set has
      a basis, `embeddings` are codes [M, L, R], to be multiplied by `basis`.
  """
  size, tensors = num_bytes(syn, precision), _tensors(syn, precision)
  content = safetensors.numpy.save(tensors, metadata={"format": FORMAT})
  digest = hashlib.sha256(content).hexdigest()
  card = {"format": FORMAT, **card, "use": snippets.use(card, tensors)}
  card |= {"bytes": size, "sha256": digest}
  told = json.dumps(card, indent=2) + "\n"
  files = {"set.safetensors": content, "card.json": told.encode()}
  paths.write_files(paths.path(folder), files)


def load(
  folder: epath.PathLike, embedding_space: str = ""
) -> tuple[synthetic.SyntheticSet, dict[str, Any]]:
  """Reads a set and its card.

  Args:
    folder: What `save` wrote, the folder around it, or hf:ORG/NAME.
    embedding_space: The reader's own space id; left empty, any set is taken.

  Raises:
    InputError: missing or damaged files, or a set of another space.
  """
  folder = hub.set_folder(folder)
  for name in ("set.safetensors", "card.json"):
    if not (folder / name).is_file():
      raise errors.InputError(
        f"{folder} has no {name}; give the set/ folder of a finished run."
      )
  mend = "distil the set again, or restore it from a copy."
  card = json_files.read(folder / "card.json", mend)
  try:
    theirs = card["embedding_space"]
    if "sha256" in card:  # of sets since it is told
      _require_digest(folder / "set.safetensors", card["sha256"])
    stored = paths.read_tensors(folder / "set.safetensors")
    _require_shapes(stored)
    tensors = _dequantised(stored)
  except (
    safetensors.SafetensorError,
    OSError,
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    RecursionError,
  ) as error:
    raise errors.InputError(
      f"the set in {folder} is damaged ({error}); distil it again or restore "
      "set.safetensors and card.json from a copy."
    ) from error
  if embedding_space and theirs != embedding_space:
    raise errors.InputError(
      f"the set in {folder} lives in embedding space {theirs}, this student in "
      f"{embedding_space}; use the table and tokenizer it was distilled with."
    )
  arrays = {name: jnp.asarray(x) for name, x in tensors.items()}
  named = {**_OF_EXAMPLES, **{x: path for path, x in _OF_LANGUAGE.items()}}
  brought = {
    path: arrays[name] for name, path in named.items() if name in arrays
  }
  rest = {name: arrays[name] for name in _TRAVELLING if name in arrays}
  return synthetic.SyntheticSet(
    batches.Batch(**batches.of_named(brought)), **rest
  ), card


# Of every tensor: the kinds of its numbers, and its axes. Axes of one letter
# are of one length: M examples, L tokens, D wide, R codes, C classes, T steps.
_AXES = {
  "embeddings": ("fVi", "ML*"),
  "mask": ("b", "ML"),
  "labels": ("f", "MC"),
  "weights": ("f", "M"),
  "target_weights": ("f", "ML"),
  "embeddings_scale": ("f", "ML"),
  "basis": ("f", "RD"),
  "attention": ("f", "M**L"),
  "teacher_logits": ("f", "M*C"),
  "teacher_ids": ("iu", "M***"),
  "teacher_logs": ("f", "M***"),
  "teacher_features": ("f", "M**"),
  "learning_rates": ("f", "T"),
  "head_learning_rates": ("f", "T"),
  "tensor_shares": ("f", "T*"),
  "order": ("iu", "T*"),
}


def _require_shapes(tensors: dict[str, np.ndarray]) -> None:
  """Checks that the tensors of a file are one set.

  Raises:
    KeyError: one that every set has is missing.
    ValueError: one is of another kind or shape; names it.
  """
  lengths: dict[str, int] = {}
  for name in ("embeddings", "mask"):
    tensors[name]  # noqa: B018 a KeyError names it
  if not {"labels", "rationale", "targets"} & set(tensors):
    raise ValueError("it has no labels")
  for name, x in tensors.items():
    first = "M" if name in _OF_EXAMPLES else "*"
    others = first + "*" * (x.ndim - 1)
    kinds, axes = _AXES.get(name, (x.dtype.kind, others))
    if name == "targets":  # ids, or queries
      kinds, axes = ("iu", "ML") if x.ndim == 2 else ("f", "ML*")
    fits = x.dtype.kind in kinds and x.ndim == len(axes) and x.size > 0
    for axis, length in zip(axes, x.shape, strict=False):
      fits &= axis == "*" or lengths.setdefault(axis, length) == length
    if not fits:
      raise ValueError(f"{name} is {x.dtype} of shape {list(x.shape)}")
  codes, order = tensors.get("basis"), tensors.get("order")
  if codes is not None and tensors["embeddings"].shape[2] != len(codes):
    raise ValueError(f"basis is of shape {list(codes.shape)}")
  if order is not None and not 0 <= order.min() <= order.max() < lengths["M"]:
    raise ValueError(f"order names rows beyond the {lengths['M']} of the set")


def _require_digest(place: epath.Path, digest: str) -> None:
  if hashlib.sha256(place.read_bytes()).hexdigest() != digest:
    raise ValueError(f"{place.name} is not the one of its card")


def require_classes(
  syn: synthetic.SyntheticSet,
  card: dict[str, Any],
  folder: epath.Path | str,
  label_names: tuple[str, ...],
) -> None:
  """Checks that a set has the classes of the data.

  Raises:
    errors.InputError: it has others; both are named.
  """
  theirs, ours = card.get("label_names"), list(label_names)
  labels = syn.batch.labels
  classes = 0 if labels is None else labels.shape[1]
  if theirs != ours or classes != len(ours):
    raise errors.InputError(
      f"the set in {folder} has the classes {theirs}, the data {ours}; give "
      "the --config that the set was made with."
    )


def for_student(
  problem: problems.Problem, syn: synthetic.SyntheticSet
) -> synthetic.SyntheticSet:
  """Leaves out what only students of the set's own architecture can use.

  Raises:
    errors.InputError: the student reads shorter sequences.
  """
  length, most = syn.batch.mask.shape[1], problem.student.max_positions
  if length > most:
    raise errors.InputError(
      f"the set has sequences of {length}, but the student has {most} "
      "positions; use a student with more student.max_positions."
    )
  shapes = jax.eval_shape(problem.init, jax.random.key(0))
  outputs = jax.eval_shape(problem.apply, shapes, syn.batch)
  labels = syn.batch.attention
  if labels is not None:
    own = outputs.attention
    if own is None or own.shape != labels.shape:
      logs.say("the set's attention labels are left out: another student's")
      batch = dataclasses.replace(syn.batch, attention=None)
      syn = dataclasses.replace(syn, batch=batch)
  tokens, slots = syn.batch.tokens, outputs.queries
  if (
    syn.batch.labels is not None
    and tokens is not None
    and (slots is None or slots.shape != tokens.targets.shape)
  ):
    logs.say("the set's rationales are left out: another student's slots")
    batch = dataclasses.replace(syn.batch, tokens=None)
    syn = dataclasses.replace(syn, batch=batch)
  shares = syn.tensor_shares
  if shares is not None and shares.shape[1] != len(
    problem.roles.movable(shapes)
  ):
    logs.say(
      "the set's steps are left out, being of another student: a protocol that "
      "replays chooses its learning rate"
    )
    syn = dataclasses.replace(
      syn,
      learning_rates=None,
      head_learning_rates=None,
      tensor_shares=None,
      order=None,
    )
  return syn


def _tensors(
  syn: synthetic.SyntheticSet, precision: str
) -> dict[str, np.ndarray]:
  brought = batches.named(syn.batch)
  others = {} if syn.batch.labels is not None else _OF_LANGUAGE
  named = {
    **{
      others.get(path, name): brought.get(path)
      for name, path in _OF_EXAMPLES.items()
    },
    **{name: getattr(syn, name) for name in _TRAVELLING},
  }
  found = {
    name: np.ascontiguousarray(x) for name, x in named.items() if x is not None
  }
  embeddings = found["embeddings"]
  if syn.basis is not None:
    embeddings = embeddings @ np.linalg.pinv(found["basis"])
  if precision == "int8":
    # Symmetric, one scale a position: a token's vector keeps its direction.
    largest = np.abs(embeddings).max(axis=-1)
    scale = (np.where(largest > 0, largest, 1.0) / 127).astype(np.float32)
    found["embeddings_scale"] = scale
    embeddings = np.rint(embeddings / scale[..., None])
  stored = np.ascontiguousarray(embeddings.astype(jnp.dtype(precision)))
  return found | {"embeddings": stored}


def _dequantised(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Returns the tensors with float32 embeddings, and no scale."""
  rest = {k: x for k, x in tensors.items() if k != "embeddings_scale"}
  embeddings = tensors["embeddings"].astype(np.float32)
  if "embeddings_scale" in tensors:
    embeddings = embeddings * tensors["embeddings_scale"][..., None]
  if "basis" in tensors:
    embeddings = embeddings @ tensors["basis"]
  return rest | {"embeddings": embeddings}
