"""What a student gives for a batch."""

from typing import NamedTuple

import jax


class Outputs(NamedTuple):
  """What a student says of a batch."""

  logits: jax.Array  # [B, C], or what the task reads; see `tasks.Task`
  features: jax.Array  # [B, F], what the head reads
  # [B, layers, heads, L], the first token's attention weights; None: none
  attention: jax.Array | None = None
  # [B, layers, F], each layer's own, pooled as the last one's; None: no layers
  layers: jax.Array | None = None
  # [B, R, D], whose products with the table are the logits of tokens that are
  # said beside the logits; None: no such head
  queries: jax.Array | None = None
  # [V, D], whose products with hidden states are logits of words; None: the
  # table
  unembedding: jax.Array | None = None
