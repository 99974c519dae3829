"""What the places of a set say, where rows have no classes: what follows."""

import dataclasses

import jax
import jax.numpy as jnp

from gmdistill import trees
from gmdistill.data import batches
from gmdistill.sets import synthetic


def with_following_tokens(
  base: synthetic.Parameterization, *, soft: bool = False
) -> synthetic.Parameterization:
  """Says what each place of an example says: the token that follows.

  Args:
    base: Any parameterization.
    soft: Whether that is learned, as queries [M, L, D] whose products with the
      unembedding are the logits of a distribution; else it stays the token [M,
      L] that followed in the real row. What a place counts, and which places
      there are, stay as they are there.
  """

  def told(batch: batches.Batch) -> trees.PyTree:
    tokens = batch.tokens
    assert tokens is not None and tokens.weights is not None
    return {
      "mask": jnp.asarray(batch.mask),
      "targets": jnp.asarray(tokens.targets),
      "target_weights": jnp.asarray(tokens.weights),
    }

  def init(batch: batches.Batch) -> trees.PyTree:
    assert batch.tokens is not None
    queries = not jnp.issubdtype(batch.tokens.targets.dtype, jnp.integer)
    assert queries == soft  # as a set of the other kind would not be
    return {"base": base.init(batch), **told(batch)}

  def decode(params: trees.PyTree) -> synthetic.SyntheticSet:
    decoded = base.decode(params["base"])
    # A parameter only so that it travels with the set.
    weights = jax.lax.stop_gradient(params["target_weights"])
    batch = dataclasses.replace(
      decoded.batch,
      mask=params["mask"],
      tokens=batches.Tokens(params["targets"], weights),
    )
    return dataclasses.replace(decoded, batch=batch)

  def encode(syn: synthetic.SyntheticSet) -> trees.PyTree:
    return {"base": synthetic.encoded(base, syn), **told(syn.batch)}

  return synthetic.Parameterization(init, decode, encode)
