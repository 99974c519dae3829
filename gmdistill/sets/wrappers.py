"""What may be learned beside a set's embeddings: wrappers of its storage.

Each adds to a parameterization:
`with_learning_rates(with_soft_labels(direct(), "unrestricted"), 8, 0.05)`.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gmdistill import errors, trees
from gmdistill.data import batches
from gmdistill.sets import synthetic
from gmdistill.training import replays

LABELS = ("hard", "softmax", "unrestricted")


def with_soft_labels(
  base: synthetic.Parameterization, kind: str
) -> synthetic.Parameterization:
  """Learns the labels too.

  Args:
    base: Any parameterization.
    kind: `hard`: fixed, the base as it is. `softmax`: y = softmax(z), started
      at nine tenths one-hot and one tenth uniform. `unrestricted`: y free,
      started one-hot (Sucholutsky and Schonlau 2021; the soft cross-entropy
      reads y as it is).

  Raises:
    ValueError: another kind.
  """
  if errors.choice("labels", kind, LABELS) == "hard":
    return base

  def init(batch: batches.Batch) -> trees.PyTree:
    start = batch.class_labels
    if kind == "softmax":
      num_classes = start.shape[-1]
      start = jnp.log(0.9 * start + 0.1 / num_classes)
    return {"base": base.init(batch), "labels": start}

  def decode(params: trees.PyTree) -> synthetic.SyntheticSet:
    decoded = base.decode(params["base"])
    labels = params["labels"]
    if kind == "softmax":
      labels = jax.nn.softmax(labels)
    batch = dataclasses.replace(decoded.batch, labels=labels)
    return dataclasses.replace(decoded, batch=batch)

  def encode(syn: synthetic.SyntheticSet) -> trees.PyTree:
    labels = syn.batch.class_labels
    if kind == "softmax":
      labels = jnp.log(jnp.maximum(labels, 1e-9))
    return {"base": synthetic.encoded(base, syn), "labels": labels}

  return synthetic.Parameterization(init, decode, encode)


def with_frozen_rows(
  base: synthetic.Parameterization, rows: np.ndarray
) -> synthetic.Parameterization:
  """Lets some examples stay as they start, all that is told of them included.

  Args:
    base: Any parameterization whose examples have nothing in common.
    rows: [M] bools: which stay.
  """

  def decode(params: trees.PyTree) -> synthetic.SyntheticSet:
    decoded = base.decode(params)

    def held(x):
      stays = jnp.asarray(rows).reshape(-1, *[1] * (x.ndim - 1))
      return jnp.where(stays, jax.lax.stop_gradient(x), x)

    batch = decoded.batch
    kept = jax.tree.map(held, trees.learned(batch))
    batch = trees.with_learned(batch, kept)
    return dataclasses.replace(decoded, batch=batch)

  return base._replace(decode=decode)


def with_row_weights(
  base: synthetic.Parameterization,
) -> synthetic.Parameterization:
  """Learns what each row counts: labels times weights whose mean is 1.

  The weights w = M softmax(z) stay positive. `init` takes labels that are
  multiplied by the weights that they start from.
  """

  def init(batch: batches.Batch) -> trees.PyTree:
    labels = batch.class_labels
    totals_M = labels.sum(axis=-1)
    plain = dataclasses.replace(batch, labels=labels / totals_M[:, None])
    return {"base": base.init(plain), "row_weights": jnp.log(totals_M)}

  def decode(params: trees.PyTree) -> synthetic.SyntheticSet:
    decoded = base.decode(params["base"])
    raw_M = params["row_weights"]
    weights_M = len(raw_M) * jax.nn.softmax(raw_M)
    labels = decoded.batch.class_labels * weights_M[:, None]
    batch = dataclasses.replace(decoded.batch, labels=labels, weights=weights_M)
    return dataclasses.replace(decoded, batch=batch)

  def encode(syn: synthetic.SyntheticSet) -> trees.PyTree:
    labels = syn.batch.class_labels
    totals_M = labels.sum(axis=-1)
    plain = dataclasses.replace(syn.batch, labels=labels / totals_M[:, None])
    base_params = synthetic.encoded(base, dataclasses.replace(syn, batch=plain))
    return {"base": base_params, "row_weights": jnp.log(totals_M)}

  return synthetic.Parameterization(init, decode, encode)


def with_smoothed_labels(
  base: synthetic.Parameterization, smoothing: float
) -> synthetic.Parameterization:
  """Decodes to labels y (1 - s) + s / C (Szegedy et al. 2016).

  A student that takes hundreds of steps on a few examples knows them by heart
  soon, and then follows what is odd in them; unsure labels it can fit, and be
  still. For the finished set alone: gradients match best with sharp labels.

  Args:
    base: Any parameterization.
    smoothing: s, from 0 (the base as it is) to 1.
  """
  if not smoothing:
    return base

  def decode(params: trees.PyTree) -> synthetic.SyntheticSet:
    decoded = base.decode(params)
    labels = decoded.batch.class_labels
    labels = (1 - smoothing) * labels + smoothing / labels.shape[-1]
    batch = dataclasses.replace(decoded.batch, labels=labels)
    return dataclasses.replace(decoded, batch=batch)

  def encode(syn: synthetic.SyntheticSet) -> trees.PyTree:
    smooth = syn.batch.class_labels
    labels = (smooth - smoothing / smooth.shape[-1]) / (1 - smoothing)
    batch = dataclasses.replace(syn.batch, labels=labels)
    return synthetic.encoded(base, dataclasses.replace(syn, batch=batch))

  return base._replace(decode=decode, encode=encode)


def with_learning_rates(
  base: synthetic.Parameterization,
  num_steps: int,
  initial: float,
  head: float = 0.0,
  shares: np.ndarray | None = None,
  order: np.ndarray | None = None,
  schedule: str = "constant",
) -> synthetic.Parameterization:
  """Learns the sizes of T replayed SGD steps, positive through softplus.

  Args:
    base: Any parameterization.
    num_steps: T; 0 leaves the base as it is.
    initial: The first step's size at the start.
    head: The same of the head alone, which then has sizes of its own; 0: the
      head's steps are those of the rest.
    shares: First shares [K] of a student's tensors in a normalised step, see
      `replays.replay`; learned as logarithms, and kept at norm 1, so that a
      step's size is the distance that it moves them. None: plain steps.
    order: Rows [T, b] that each step takes: see `cyclic_order`. None: all.
    schedule: Of the steps' sizes at the start, the head's own aside; see
      `replays.schedule`.
  """
  if not num_steps:
    return base
  starts = {"step_sizes": initial * replays.schedule(schedule, num_steps)}
  if head:
    starts["head_step_sizes"] = np.full(num_steps, head)

  def first_steps() -> dict[str, jax.Array]:
    raw = {
      name: jnp.asarray(np.log(np.expm1(start)), jnp.float32)
      for name, start in starts.items()
    }
    if shares is not None:
      logs_K = jnp.log(jnp.asarray(shares, jnp.float32))
      raw["tensor_shares"] = jnp.tile(logs_K, (num_steps, 1))
    return raw

  def init(batch: batches.Batch) -> trees.PyTree:
    return {"base": base.init(batch), **first_steps()}

  def decode(params: trees.PyTree) -> synthetic.SyntheticSet:
    decoded = base.decode(params["base"])
    own: dict[str, Any] = {
      "learning_rates": jax.nn.softplus(params["step_sizes"])
    }
    if head:
      own["head_learning_rates"] = jax.nn.softplus(params["head_step_sizes"])
    if shares is not None:
      squares_TxK = jax.nn.softmax(2 * params["tensor_shares"], axis=-1)
      own["tensor_shares"] = jnp.sqrt(squares_TxK)
    if order is not None:
      own["order"] = jnp.asarray(order, jnp.int32)
    return dataclasses.replace(decoded, **own)

  def encode(syn: synthetic.SyntheticSet) -> trees.PyTree:
    # Steps that a set does not bring, or has another number of, start afresh.
    raw = {"base": synthetic.encoded(base, syn), **first_steps()}
    brought = {
      "step_sizes": (syn.learning_rates, _inverse_softplus),
      "head_step_sizes": (syn.head_learning_rates, _inverse_softplus),
      "tensor_shares": (syn.tensor_shares, jnp.log),
    }
    for name, (steps, undo) in brought.items():
      if name in raw and steps is not None and steps.shape == raw[name].shape:
        raw[name] = undo(steps)
    return raw

  return synthetic.Parameterization(init, decode, encode)


def cyclic_order(
  groups: int, per_group: int, per_step: int, num_steps: int
) -> np.ndarray:
  """Returns rows [T, G * per_step]: the next few of each group every step.

  The set's rows are in group order, and so are those of a step. An example
  then learns for its own steps alone, and a step costs the same whatever the
  size of the set.

  Args:
    groups: G; of rows that have classes, those.
    per_group: Examples a group in the set.
    per_step: Examples a group in one step, at most `per_group`.
    num_steps: T.
  """
  steps_Tx1x1 = np.arange(num_steps)[:, None, None]
  place_Tx1xB = (steps_Tx1x1 * per_step + np.arange(per_step)) % per_group
  rows = place_Tx1xB + per_group * np.arange(groups)[None, :, None]
  return rows.reshape(num_steps, -1)


def with_attention_labels(
  base: synthetic.Parameterization,
  attention: Callable[[batches.Batch], jax.Array],
) -> synthetic.Parameterization:
  """Learns labels of the first token's attention (Maekawa et al. 2023).

  Args:
    base: Any parameterization.
    attention: What the labels [B, layers, heads, L] of a batch start at: a
      fresh student's own attention, whose divergence and gradient are zero.
  """

  def init(batch: batches.Batch) -> trees.PyTree:
    logits = jnp.log(jnp.maximum(attention(batch), 1e-9))
    return {"base": base.init(batch), "attention": logits}

  def decode(params: trees.PyTree) -> synthetic.SyntheticSet:
    decoded = base.decode(params["base"])
    labels = jax.nn.softmax(params["attention"], axis=-1)
    batch = dataclasses.replace(decoded.batch, attention=labels)
    return dataclasses.replace(decoded, batch=batch)

  def encode(syn: synthetic.SyntheticSet) -> trees.PyTree:
    found = syn.batch.attention
    if found is None:
      found = attention(syn.batch)
    logits = jnp.log(jnp.maximum(found, 1e-9))
    return {"base": synthetic.encoded(base, syn), "attention": logits}

  return synthetic.Parameterization(init, decode, encode)


def with_rationales(
  base: synthetic.Parameterization,
) -> synthetic.Parameterization:
  """Learns what a student's slots should say (after Hsieh et al. 2023).

  The target of a slot is a distribution over all tokens, by the table's
  products with a query, so that it lives in the embeddings' space and has
  their size. `init` takes a batch of queries [M, R, D]; what each slot counts
  stays as it is there.
  """

  def told(tokens: batches.Tokens) -> trees.PyTree:
    return {"rationale": tokens.targets, "rationale_weights": tokens.weights}

  def init(batch: batches.Batch) -> trees.PyTree:
    assert batch.tokens is not None
    return {"base": base.init(batch), **told(batch.tokens)}

  def decode(params: trees.PyTree) -> synthetic.SyntheticSet:
    decoded = base.decode(params["base"])
    tokens = batches.Tokens(
      params["rationale"],
      # Parameters only so that they travel with the set.
      jax.lax.stop_gradient(params["rationale_weights"]),
    )
    batch = dataclasses.replace(decoded.batch, tokens=tokens)
    return dataclasses.replace(decoded, batch=batch)

  def encode(syn: synthetic.SyntheticSet) -> trees.PyTree:
    if syn.batch.tokens is None:
      raise ValueError("the set has no rationales to start from.")
    return {"base": synthetic.encoded(base, syn), **told(syn.batch.tokens)}

  return synthetic.Parameterization(init, decode, encode)


def _inverse_softplus(x: jax.Array) -> jax.Array:
  return x + jnp.log(-jnp.expm1(-x))
