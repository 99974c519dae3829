"""How a synthetic set is stored while it is learned, and what comes out.

A `Parameterization` is a pair of pure functions; `wrappers` add to it.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from gmdistill import trees
from gmdistill.data import batches
from gmdistill.training import replays


@flax.struct.dataclass
class SyntheticSet:
  """A batch of synthetic examples, and what travels with it."""

  batch: batches.Batch
  learning_rates: jax.Array | None = None  # [T], of the T replayed steps
  order: jax.Array | None = None  # [T, b] rows of each step; None: all of them
  head_learning_rates: jax.Array | None = None  # [T]; None: as the others
  basis: jax.Array | None = None  # [R, D] that spans the embeddings
  tensor_shares: jax.Array | None = None  # [T, K] of each tensor in a step

  @property
  def steps(self) -> replays.Steps:
    """The steps that the set brings; it must bring some."""
    assert self.learning_rates is not None
    return replays.Steps(
      self.learning_rates,
      self.head_learning_rates,
      self.order,
      self.tensor_shares,
    )


def without_padding(batch: batches.Batch) -> batches.Batch:
  """Returns embedded rows whose own tokens go on, in turn, where they ended.

  Every position of a synthetic example is read, and so would padding be.
  """
  mask_MxL = np.asarray(batch.mask)
  places_MxL = np.arange(mask_MxL.shape[1]) % mask_MxL.sum(axis=1)[:, None]
  inputs = np.take_along_axis(
    np.asarray(batch.inputs), places_MxL[..., None], axis=1
  )
  full = jnp.ones_like(batch.mask)
  return dataclasses.replace(batch, inputs=jnp.asarray(inputs), mask=full)


class Parameterization(NamedTuple):
  """How a synthetic set is stored: parameters in, examples out.

  `encode` is what `decode` undoes: the parameters of a set that is there
  already. One without it starts from real rows alone.
  """

  init: Callable[[batches.Batch], trees.PyTree]
  decode: Callable[[trees.PyTree], SyntheticSet]
  encode: Callable[[SyntheticSet], trees.PyTree] | None = None


def direct() -> Parameterization:
  """Stores the embeddings [M, L, D] as they are; the labels stay fixed.

  `init` takes a batch of *embeddings*. Every position of a synthetic example
  is used, whatever the mask of the real row it started from.
  """

  def init(batch: batches.Batch) -> trees.PyTree:
    return {"embeddings": batch.inputs, "labels": batch.labels}

  def decode(params: trees.PyTree) -> SyntheticSet:
    inputs = params["embeddings"]
    mask = jnp.ones(inputs.shape[:2], bool)
    # The labels are parameters only so that they travel with the set.
    labels = jax.lax.stop_gradient(params["labels"])
    return SyntheticSet(batches.Batch(inputs, mask, labels))

  return Parameterization(init, decode, lambda syn: init(syn.batch))


def factorized(rank: int) -> Parameterization:
  """Stores embeddings as codes [M, L, R] times a basis [R, D] of all classes.

  What several examples share is learned, and kept, once (the text form of Liu
  et al. 2022). It starts from the best approximation of rank R.

  Args:
    rank: R, at most D and M * L.

  Raises:
    ValueError: `init` is given fewer than R positions or dimensions.
  """

  def init(batch: batches.Batch) -> trees.PyTree:
    m, length, width = batch.inputs.shape
    if not 0 < rank <= min(m * length, width):
      raise ValueError(
        f"rank={rank} must be 1 to {min(m * length, width)}: the set has "
        f"{m * length} positions of width {width}."
      )
    rows_NxD = jnp.reshape(batch.inputs, (m * length, width))
    left_NxR, scale_R, right_RxD = jnp.linalg.svd(rows_NxD, False)
    # The scale is shared out, so that both factors learn at one pace.
    root_R = jnp.sqrt(scale_R[:rank])
    codes_NxR = left_NxR[:, :rank] * root_R[None]
    return {
      "codes": codes_NxR.reshape(m, length, rank),
      "basis": right_RxD[:rank] * root_R[:, None],
      "labels": batch.labels,
    }

  def decode(params: trees.PyTree) -> SyntheticSet:
    inputs = params["codes"] @ params["basis"]
    mask = jnp.ones(inputs.shape[:2], bool)
    labels = jax.lax.stop_gradient(params["labels"])
    return SyntheticSet(
      batches.Batch(inputs, mask, labels), basis=params["basis"]
    )

  return Parameterization(init, decode, lambda syn: init(syn.batch))


def embedded(
  syn: SyntheticSet, embed: Callable[[batches.Batch], batches.Array]
) -> SyntheticSet:
  """Returns a set of tokens as one of embeddings; others as they are."""
  inputs = jnp.asarray(embed(syn.batch))
  batch = dataclasses.replace(syn.batch, inputs=inputs)
  return dataclasses.replace(syn, batch=batch)


def encoded(base: Parameterization, syn: SyntheticSet) -> trees.PyTree:
  """Returns the parameters of a set that is there already.

  Raises:
    ValueError: this parameterization starts from real rows alone.
  """
  if base.encode is None:
    raise ValueError("this parameterization cannot start from a set.")
  return base.encode(syn)
