"""A learning problem: an architecture and the frozen table that it reads."""

import hashlib
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from gmdistill import trees
from gmdistill.data import batches
from gmdistill.students import outputs as student_outputs
from gmdistill.students import roles, tasks


@flax.struct.dataclass
class Problem:
  """A student architecture over a frozen token-embedding table.

  A pytree: the table and the pretrained parameters are arguments of `jit`,
  never constants baked into the program. It holds no trained parameters.
  """

  embeddings: jax.Array  # [V, D], frozen, shared by every student of a run
  initial: trees.Params | None  # pretrained parameters, all but the head
  student: nn.Module = flax.struct.field(pytree_node=False)
  # What is lost beside the labels; None: nothing.
  criterion: tasks.Criterion | None = flax.struct.field(
    pytree_node=False, default=None
  )
  # Of the labels in the loss, where a batch has rationales; they have the rest.
  label_share: float = flax.struct.field(pytree_node=False, default=1.0)

  @property
  def weights_id(self) -> str:
    """A hash of the pretrained parameters; slow, keep it."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(self.initial):
      digest.update(jax.tree_util.keystr(path).encode())
      digest.update(np.ascontiguousarray(leaf).data)
    return digest.hexdigest()

  @jax.jit  # one program wherever it is called, of nothing but what is drawn
  def init(self, key: jax.Array) -> trees.Params:
    """Returns the parameters of a new student.

    Pretrained parameters where there are any, and a head drawn afresh from
    `key`; else a random initialisation of the whole student.
    """
    inputs = jnp.zeros((1, 2, self.embeddings.shape[1]))
    drawn = self.student.init(key, inputs, jnp.ones((1, 2), bool))["params"]
    drawn = jax.tree.map(lambda x: x.astype(self.embeddings.dtype), drawn)
    if self.initial is None:
      return drawn
    fresh = {name: drawn[name] for name in roles.FRESH if name in drawn}
    return {**self.initial, **fresh}

  def apply(
    self, params: trees.Params, batch: batches.Batch
  ) -> student_outputs.Outputs:
    """Returns logits [B, C] and features [B, F] of ids or of embeddings."""
    variables = {"params": params}
    outputs: Any = self.student.apply(variables, self.embed(batch), batch.mask)
    return outputs

  def embed(self, batch: batches.Batch) -> batches.Array:
    """Returns the batch's word-level embeddings [B, L, D]."""
    if jnp.issubdtype(batch.inputs.dtype, jnp.integer):
      return self.embeddings[batch.inputs]
    return batch.inputs

  def loss(self, params: trees.Params, batch: batches.Batch) -> jax.Array:
    """Returns the soft cross-entropy, the mean over the batch (nats).

    -1/B sum_b sum_c y_bc log softmax(logits)_bc. The labels need not be a
    distribution: synthetic labels may be unrestricted. Where the batch has
    attention labels, their divergence from the student's attention is added;
    then comes what the criterion makes of it. Where it has rationales, all that
    has the weight `label_share`, and `rationale_loss` the rest (Hsieh et al.
    2023).
    """
    return self.loss_and_logits(params, batch)[0]

  def loss_and_logits(
    self, params: trees.Params, batch: batches.Batch, *, centred: bool = False
  ) -> tuple[jax.Array, jax.Array]:
    """Returns the loss of `batch` and its logits [B, C], in one pass.

    `centred`: of the logits around their mean over the batch, and 0.01 times
    the square of how that mean shifts the classes apart.
    """
    outputs = whole = self.apply(params, batch)
    shift: batches.Array | float = 0.0
    if centred:
      mean_1xC = whole.logits.mean(axis=0, keepdims=True)
      outputs = whole._replace(logits=whole.logits - mean_1xC)
      shift = 0.01 * jnp.square(mean_1xC - mean_1xC.mean()).sum()
    log_probs_BxC = jax.nn.log_softmax(outputs.logits)
    value = -(batch.class_labels * log_probs_BxC).sum(axis=-1).mean()
    if batch.attention is not None:
      value += _attention_gap(batch.attention, outputs.attention)
    if self.criterion is not None:
      value = self.criterion.loss(value, params, outputs, batch)
    if batch.tokens is not None and outputs.rationale is not None:
      share = self.label_share
      said = self.rationale_loss(outputs.rationale, batch)
      value = share * value + (1 - share) * said
    return value + shift, whole.logits

  def with_criterion_params(
    self, params: trees.Params, batch: batches.Batch, key: jax.Array
  ) -> trees.Params:
    """Returns the parameters, and those that a criterion learns."""
    if self.criterion is None:
      return params
    outputs = jax.eval_shape(self.apply, params, batch)
    return {**params, **self.criterion.init(key, outputs, batch)}

  def token_logits(self, queries: batches.Array) -> jax.Array:
    """Returns the table's logits [..., V] of queries [..., D].

    The products with the table over the length of its rows: a query of unit
    entries, as a LayerNorm starts with, is then sure of a token whatever the
    table's scale. Products with a table of small entries stay near zero for
    the thousands of steps in which the LayerNorm grows.
    """
    squares_V = jnp.square(self.embeddings).sum(axis=1)
    length = jnp.sqrt(squares_V.mean())
    return jnp.asarray(queries) @ self.embeddings.T / length

  def rationale_loss(
    self, said_BxRxD: jax.Array, batch: batches.Batch
  ) -> jax.Array:
    """Returns the cross-entropy of the rationales' tokens (nats).

    -1/B sum_b sum_r w_br sum_v p_brv log q_brv, with q the softmax of what
    the slots say, and p the token, or the softmax of a synthetic example's
    queries.
    """
    logs_BxRxV = jax.nn.log_softmax(self.token_logits(said_BxRxD))
    assert batch.tokens is not None and batch.tokens.weights is not None
    target, weights_BxR = batch.tokens.targets, batch.tokens.weights
    if jnp.issubdtype(target.dtype, jnp.integer):
      ids_BxRx1 = jnp.asarray(target)[..., None]
      values_BxR = -jnp.take_along_axis(logs_BxRxV, ids_BxRx1, axis=-1)[..., 0]
    else:
      p_BxRxV = jax.nn.softmax(self.token_logits(target))
      values_BxR = -(p_BxRxV * logs_BxRxV).sum(axis=-1)
    return (weights_BxR * values_BxR).sum(axis=-1).mean()


def _attention_gap(labels: batches.Array, attention: Any) -> jax.Array:
  """Returns KL(labels || attention), the mean over rows, layers and heads.

  Weight 1 in the loss, as in Maekawa et al. 2023.
  """
  # Masked positions have weight and label 0: no log of zero, no gradient.
  logs = jnp.log(jnp.maximum(attention, 1e-9))
  return (
    (jax.scipy.special.xlogy(labels, labels) - labels * logs).sum(-1).mean()
  )
