"""What a decoder's hidden states say of words: losses and logits.

Logits [B, L, V] are the largest array of a language model by far, and nobody
needs them whole. Losses take them a chunk of tokens at a time and compute them
again in the backward pass; they can be differentiated any number of times.
"""

import jax
import jax.numpy as jnp

CHUNK = 64  # tokens whose logits stand in memory at once


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
  width = hidden_BxLxD.shape[-1]
  tokens = hidden_BxLxD.shape[0] * hidden_BxLxD.shape[1]
  chunk = min(chunk, tokens)
  count = -(-tokens // chunk)

  def in_chunks(x):
    rest = x.shape[2:]
    flat = x.reshape(tokens, *rest)
    padding = [(0, count * chunk - tokens)] + [(0, 0)] * len(rest)
    return jnp.pad(flat, padding).reshape(count, chunk, *rest)

  is_ids = jnp.issubdtype(targets.dtype, jnp.integer)
  table_VxD = unembedding_VxD.astype(hidden_BxLxD.dtype)  # once, not a chunk

  @jax.checkpoint
  def of_chunk(hidden_TxD, targets):
    logs_TxV = jax.nn.log_softmax(logits(hidden_TxD, table_VxD))
    if is_ids:
      return -jnp.take_along_axis(logs_TxV, targets[:, None], axis=1)[:, 0]
    p_TxV = jax.nn.softmax(logits(targets, table_VxD))
    return -(p_TxV * logs_TxV).sum(axis=1)

  assert is_ids or targets.shape[-1] == width
  values = jax.lax.map(
    lambda xs: of_chunk(*xs), (in_chunks(hidden_BxLxD), in_chunks(targets))
  )
  return values.reshape(-1)[:tokens].reshape(hidden_BxLxD.shape[:2])


def logits(queries_TxD: jax.Array, table_VxD: jax.Array) -> jax.Array:
  """Returns logits [T, V], summed in float32 at least."""
  wide = jnp.promote_types(queries_TxD.dtype, jnp.float32)
  return jnp.einsum(
    "td,vd->tv",
    queries_TxD,
    table_VxD.astype(queries_TxD.dtype),
    preferred_element_type=wide,
  )
