"""How a synthetic set is stored while it is learned, and what comes out.

A `Parameterization` is a pair of pure functions; wrappers add to it:
`with_learning_rates(with_soft_labels(direct(), "unrestricted"), 8, 0.05)`.
"""

import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy

from gmdistill import data, errors

FORMAT = "gmdistill-set-1"
PyTree = Any


@flax.struct.dataclass
class SyntheticSet:
  """A batch of synthetic examples, and what travels with it."""

  batch: data.Batch
  learning_rates: jax.Array | None = None  # [T], of the T replayed steps
  order: jax.Array | None = None  # [T, b] rows of each step; None: all of them


class Parameterization(NamedTuple):
  """How a synthetic set is stored: parameters in, examples out."""

  init: Callable[[data.Batch], PyTree]
  decode: Callable[[PyTree], SyntheticSet]


def direct() -> Parameterization:
  """Stores the embeddings [M, L, D] as they are; the labels stay fixed.

  `init` takes a batch of *embeddings*. Every position of a synthetic example
  is used, whatever the mask of the real row it started from.
  """

  def init(batch: data.Batch) -> PyTree:
    return {"embeddings": batch.inputs, "labels": batch.labels}

  def decode(params: PyTree) -> SyntheticSet:
    inputs = params["embeddings"]
    mask = jnp.ones(inputs.shape[:2], bool)
    # The labels are parameters only so that they travel with the set.
    labels = jax.lax.stop_gradient(params["labels"])
    return SyntheticSet(data.Batch(inputs, mask, labels))

  return Parameterization(init, decode)


def with_soft_labels(base: Parameterization, kind: str) -> Parameterization:
  """Learns the labels too.

  Args:
    base: Any parameterization.
    kind: `hard`: fixed, the base as it is. `softmax`: y = softmax(z), started
      at 0.9 for the true class. `unrestricted`: y free, started one-hot
      (Sucholutsky and Schonlau 2021; the soft cross-entropy reads y as it is).

  Raises:
    ValueError: another kind.
  """
  if kind == "hard":
    return base
  if kind not in ("softmax", "unrestricted"):
    raise ValueError(f"labels={kind!r} is none of hard, softmax, unrestricted.")

  def init(batch: data.Batch) -> PyTree:
    start = batch.labels
    if kind == "softmax":
      num_classes = start.shape[-1]
      start = jnp.log(0.9 * start + 0.1 / num_classes)
    return {"base": base.init(batch), "labels": start}

  def decode(params: PyTree) -> SyntheticSet:
    decoded = base.decode(params["base"])
    labels = params["labels"]
    if kind == "softmax":
      labels = jax.nn.softmax(labels)
    batch = dataclasses.replace(decoded.batch, labels=labels)
    return dataclasses.replace(decoded, batch=batch)

  return Parameterization(init, decode)


def with_learning_rates(
  base: Parameterization, num_steps: int, initial: float
) -> Parameterization:
  """Learns the sizes of T replayed SGD steps, positive through softplus.

  Args:
    base: Any parameterization.
    num_steps: T; 0 leaves the base as it is.
    initial: Every step's size at the start.
  """
  if not num_steps:
    return base

  def init(batch: data.Batch) -> PyTree:
    raw = jnp.full((num_steps,), np.log(np.expm1(initial)), jnp.float32)
    return {"base": base.init(batch), "step_sizes": raw}

  def decode(params: PyTree) -> SyntheticSet:
    decoded = base.decode(params["base"])
    rates = jax.nn.softplus(params["step_sizes"])
    return dataclasses.replace(decoded, learning_rates=rates)

  return Parameterization(init, decode)


def space_id(embeddings: Any, tokenizer_fingerprint: str) -> str:
  """Returns the id of an embedding space: a hash of table and tokenizer."""
  digest = hashlib.sha256(np.ascontiguousarray(embeddings).tobytes())
  digest.update(tokenizer_fingerprint.encode())
  return digest.hexdigest()[:16]


def num_bytes(synthetic: SyntheticSet) -> int:
  """Returns the bytes of what a student needs: all arrays but the mask."""
  arrays = _tensors(synthetic)
  return sum(x.nbytes for name, x in arrays.items() if name != "mask")


def save(
  folder: str | pathlib.Path, synthetic: SyntheticSet, card: dict[str, Any]
) -> None:
  """Writes `set.safetensors` and `card.json`, each whole or not at all.

  The card gets the `format` and the `bytes`; the rest is the caller's.
  """
  folder = pathlib.Path(folder)
  folder.mkdir(parents=True, exist_ok=True)
  card = {"format": FORMAT, **card, "bytes": num_bytes(synthetic)}
  partial = folder / "set.safetensors.partial"
  safetensors.numpy.save_file(
    _tensors(synthetic), partial, metadata={"format": FORMAT}
  )
  partial.replace(folder / "set.safetensors")
  partial = folder / "card.json.partial"
  partial.write_text(json.dumps(card, indent=2) + "\n")
  partial.replace(folder / "card.json")


def load(
  folder: str | pathlib.Path, embedding_space: str = ""
) -> tuple[SyntheticSet, dict[str, Any]]:
  """Reads a set and its card.

  Args:
    folder: What `save` wrote.
    embedding_space: The reader's own space id; left empty, any set is taken.

  Raises:
    InputError: missing or damaged files, or a set of another space.
  """
  folder = pathlib.Path(folder)
  for name in ("set.safetensors", "card.json"):
    if not (folder / name).is_file():
      raise errors.InputError(
        f"{folder} has no {name}; give the set/ folder of a finished run."
      )
  try:
    tensors = safetensors.numpy.load_file(folder / "set.safetensors")
    card = json.loads((folder / "card.json").read_text())
    batch = data.Batch(
      jnp.asarray(tensors["embeddings"]),
      jnp.asarray(tensors["mask"]),
      jnp.asarray(tensors["labels"]),
    )
    theirs = card["embedding_space"]
  except (
    safetensors.SafetensorError,
    OSError,
    ValueError,
    KeyError,
    TypeError,
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
  rest = {
    name: jnp.asarray(tensors[name])
    for name in ("learning_rates", "order")
    if name in tensors
  }
  return SyntheticSet(batch, **rest), card


def _tensors(synthetic: SyntheticSet) -> dict[str, np.ndarray]:
  named = {
    "embeddings": synthetic.batch.inputs,
    "mask": synthetic.batch.mask,
    "labels": synthetic.batch.labels,
    "learning_rates": synthetic.learning_rates,
    "order": synthetic.order,
  }
  return {
    name: np.ascontiguousarray(x) for name, x in named.items() if x is not None
  }
