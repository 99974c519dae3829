"""What a decoder's hidden states say of words: losses and logits.

Logits [B, L, V] are the largest array of a language model by far, and nobody
needs them whole. Losses take them a chunk of tokens at a time and compute them
again in the backward pass; they can be differentiated any number of times.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

CHUNK = 256  # tokens whose logits stand in memory at once


def losses(
  hidden_BxLxD: jax.Array,
  unembedding_VxD: jax.Array,
  targets: jax.Array,
  *,
  chunk: int = CHUNK,
) -> jax.Array:
  """Returns the cross-entropy [B, L] of each token's prediction (nats).

  Products are in the precision of the hidden states, sums in float32 at least.

  Args:
    hidden_BxLxD: After the last norm.
    unembedding_VxD: Whose products with the hidden states are logits.
    targets: What each place should say: ids [B, L], or queries [B, L, D], whose
      products with the unembedding are the logits of a distribution. Of a text,
      the target of a place is its next token: nothing is shifted here.
    chunk: Tokens whose logits stand in memory at once.
  """
  is_ids = jnp.issubdtype(targets.dtype, jnp.integer)
  table_VxD = unembedding_VxD.astype(hidden_BxLxD.dtype)  # once, not a chunk

  @jax.checkpoint
  def of_chunk(hidden_TxD, targets):
    logs_TxV = jax.nn.log_softmax(logits(hidden_TxD, table_VxD))
    if is_ids:
      return -jnp.take_along_axis(logs_TxV, targets[:, None], axis=1)[:, 0]
    p_TxV = jax.nn.softmax(logits(targets, table_VxD))
    return -(p_TxV * logs_TxV).sum(axis=1)

  assert is_ids or targets.shape[-1] == hidden_BxLxD.shape[-1]
  values: jax.Array = _in_chunks(of_chunk, chunk, hidden_BxLxD, targets)
  return values


def outcomes(
  hidden_BxLxD: jax.Array,
  unembedding_VxD: jax.Array,
  ids_BxLxKxk: jax.Array,
  *,
  others: bool = True,
  chunk: int = CHUNK,
) -> jax.Array:
  """Returns the log-probabilities of some tokens a place, and of the others.

  What all others have together is one outcome, the last: what comes out is a
  distribution again [B, L, K, k + 1]; of `others=False` [B, L, K, k], which is
  one where the k tokens are all that there are.

  Args:
    hidden_BxLxD: After the last norm.
    unembedding_VxD: Whose products with the hidden states are logits.
    ids_BxLxKxk: Of K choices a place, each of k different tokens.
    others: Whether to tell what is left.
    chunk: Tokens whose logits stand in memory at once.
  """
  table_VxD = unembedding_VxD.astype(hidden_BxLxD.dtype)

  @jax.checkpoint
  def of_chunk(hidden_TxD, ids_TxKxk):
    logs_TxV = jax.nn.log_softmax(logits(hidden_TxD, table_VxD))

    def of_choice(ids_Txk):
      chosen_Txk = jnp.take_along_axis(logs_TxV, ids_Txk, axis=1)
      if not others:
        return chosen_Txk
      # Left out by a large finite number, as no difference from one is exact.
      places_Tx1 = jnp.arange(len(ids_Txk))[:, None]
      rest_TxV = logs_TxV.at[places_Tx1, ids_Txk].set(-1e9)
      rest_T = jax.nn.logsumexp(rest_TxV, axis=1)
      return jnp.concatenate([chosen_Txk, rest_T[:, None]], axis=1)

    return jax.vmap(of_choice, in_axes=1, out_axes=1)(ids_TxKxk)

  values: jax.Array = _in_chunks(of_chunk, chunk, hidden_BxLxD, ids_BxLxKxk)
  return values


def likeliest(
  hidden_BxLxD: jax.Array,
  unembedding_VxD: jax.Array,
  count: int,
  *,
  known: int,
  others: bool = True,
  chunk: int = CHUNK,
) -> tuple[jax.Array, jax.Array]:
  """Returns the likeliest tokens of each place, and what `outcomes` tells.

  Ids [B, L, k], the likeliest first, and log-probabilities [B, L, k + 1].

  Args:
    hidden_BxLxD: After the last norm.
    unembedding_VxD: Whose products with the hidden states are logits.
    count: k.
    known: Of the rows of the unembedding, how many the first are tokens; what
      the rest has belongs to the others.
    others: Whether to tell what is left.
    chunk: Tokens whose logits stand in memory at once.
  """
  table_VxD = unembedding_VxD.astype(hidden_BxLxD.dtype)

  def of_chunk(hidden_TxD):
    return jax.lax.top_k(logits(hidden_TxD, table_VxD)[:, :known], count)[1]

  ids_BxLxk = _in_chunks(of_chunk, chunk, hidden_BxLxD)
  logs = outcomes(
    hidden_BxLxD,
    unembedding_VxD,
    ids_BxLxk[:, :, None],
    others=others,
    chunk=chunk,
  )
  return ids_BxLxk, logs[:, :, 0]


def _in_chunks(of_chunk: Callable[..., Any], size: int, *arrays: Any) -> Any:
  """Returns a function of tokens [T, ...], of all of them, chunk by chunk."""
  rows, length = arrays[0].shape[:2]
  tokens = rows * length
  size = min(size, tokens)
  count = -(-tokens // size)

  def cut(x):
    rest = x.shape[2:]
    padding = [(0, count * size - tokens)] + [(0, 0)] * len(rest)
    return jnp.pad(x.reshape(tokens, *rest), padding).reshape(
      count, size, *rest
    )

  values = jax.lax.map(lambda xs: of_chunk(*xs), tuple(map(cut, arrays)))
  return values.reshape(count * size, *values.shape[2:])[:tokens].reshape(
    rows, length, *values.shape[2:]
  )


def logits(queries_TxD: jax.Array, table_VxD: jax.Array) -> jax.Array:
  """Returns logits [T, V], summed in float32 at least.

  Their derivatives are products in the precision of the queries too.
  """
  return _product(queries_TxD, table_VxD.astype(queries_TxD.dtype))


@jax.custom_jvp
def _product(queries_TxD: jax.Array, table_VxD: jax.Array) -> jax.Array:
  wide = jnp.promote_types(queries_TxD.dtype, jnp.float32)
  return jnp.einsum(
    "td,vd->tv", queries_TxD, table_VxD, preferred_element_type=wide
  )


# The plain rule would widen both sides to the float32 of a covector, whose
# products are several times as slow.
@functools.partial(_product.defjvp, symbolic_zeros=True)
def _product_jvp(primals, tangents):
  queries_TxD, table_VxD = primals
  pairs = ((tangents[0], table_VxD), (queries_TxD, tangents[1]))
  zero = jax.custom_derivatives.SymbolicZero
  logits_TxV = _product(*primals)
  tangent_TxV = jnp.zeros_like(logits_TxV)
  for pair in pairs:
    if not any(isinstance(x, zero) for x in pair):
      tangent_TxV += jnp.einsum("td,vd->tv", *pair).astype(logits_TxV.dtype)
  return logits_TxV, tangent_TxV
