"""Losses of next tokens: the logits of a text never stand in memory whole."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gmdistill.students import next_token
from gmdistill.training import mixed_mode

B, L, D, V = 3, 7, 8, 19


def make(key=0, dtype=jnp.float32):
  keys = jax.random.split(jax.random.key(key), 4)
  hidden = jax.random.normal(keys[0], (B, L, D), dtype)
  table = jax.random.normal(keys[1], (V, D))
  ids = jax.random.randint(keys[2], (B, L), 0, V)
  queries = 0.5 * jax.random.normal(keys[3], (B, L, D))
  return hidden, table, {"ids": ids, "queries": queries}


def whole(hidden, table, targets):
  logs = jax.nn.log_softmax(hidden @ table.T)
  if targets.ndim == 2:
    return -jnp.take_along_axis(logs, targets[..., None], -1)[..., 0]
  return -(jax.nn.softmax(targets @ table.T) * logs).sum(-1)


def gradients(of, hidden, table, targets):
  """A loss, its gradient, and a gradient of its gradient by the one rule."""
  weights = jnp.cos(jnp.arange(B * L)).reshape(B, L)
  floats = jnp.issubdtype(targets.dtype, jnp.floating)

  def loss(params, hidden, targets):
    values = of(hidden * params["scale"], params["table"], targets)
    return (weights * values).sum()

  def outer(hidden, targets):
    grads = mixed_mode.grad(loss)(params, hidden, targets)
    return sum(jnp.sin(x).sum() for x in jax.tree.leaves(grads))

  params = {"scale": jnp.linspace(0.5, 1.5, D), "table": table}
  argnums = (0, 1) if floats else (0,)
  return (
    of(hidden, table, targets),
    jax.grad(loss)(params, hidden, targets),
    jax.grad(outer, argnums)(hidden, targets),
  )


@pytest.mark.parametrize("kind", ["ids", "queries"])
def test_chunks_give_what_whole_logits_give_to_the_second_order(kind):
  hidden, table, targets = make()
  with jax.numpy_rank_promotion("allow"):
    expected, actual = (
      jax.jit(lambda h, t, y, of=of: gradients(of, h, t, y))(
        hidden, table, targets[kind]
      )
      for of in (whole, lambda *xs: next_token.losses(*xs, chunk=5))
    )
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5),
    actual,
    expected,
  )


def test_half_the_bits_are_summed_in_single():
  hidden, table, targets = make(dtype=jnp.bfloat16)
  values = next_token.losses(hidden, table, targets["ids"])
  assert values.dtype == jnp.float32
  expected = whole(hidden.astype(jnp.float32), table, targets["ids"])
  np.testing.assert_allclose(values, expected, rtol=0.05, atol=0.05)


def test_no_product_of_half_the_bits_is_widened_in_any_order():
  hidden, table, targets = make(dtype=jnp.bfloat16)

  def loss(hidden):
    return next_token.losses(hidden, table, targets["ids"]).mean()

  def outer(hidden):
    gradient = mixed_mode.grad(lambda h: loss(h))(hidden)
    return jnp.square(gradient).sum(dtype=jnp.float32)

  text = jax.jit(jax.grad(outer)).lower(hidden).as_text()
  products = [x for x in text.splitlines() if "stablehlo.dot_general" in x]
  assert len(products) > 3
  for product in products:
    given = product.rpartition("(")[2].partition(")")[0]
    assert "f32" not in given.replace("bf16", ""), product


def temporary_bytes(vocabulary, chunk):
  """What XLA plans for a second-order step beside its arguments."""
  rows, length = 4, 64
  shapes = [(rows, length, D), (vocabulary, D), (D, D)]
  hidden, table, kernel = (jax.ShapeDtypeStruct(x, jnp.float32) for x in shapes)
  ids = jax.ShapeDtypeStruct((rows, length), jnp.int32)

  def loss(kernel, hidden, table, ids):
    return next_token.losses(hidden @ kernel, table, ids, chunk=chunk).mean()

  def outer(kernel, hidden, table, ids):
    # The table is frozen, as a base's is: nothing of it is differentiated.
    gradient = mixed_mode.grad(lambda k, h: loss(k, h, table, ids))
    first = kernel - gradient(kernel, hidden)
    return jnp.square(gradient(first, hidden)).sum()

  compiled = (
    jax.jit(jax.grad(outer, argnums=1))
    .lower(kernel, hidden, table, ids)
    .compile()
  )
  return compiled.memory_analysis().temp_size_in_bytes


def test_memory_by_vocabulary_is_that_of_a_chunk_in_every_order():
  chunk, small, large = 16, 2048, 8192
  a_token = 4 * (large - small)  # bytes that its logits grow by
  grown = temporary_bytes(large, chunk) - temporary_bytes(small, chunk)
  assert grown > 0
  tokens_at_once = grown / a_token
  # Forward over reverse holds a few arrays of a chunk's logits, not of 256.
  assert tokens_at_once <= 8 * chunk < 4 * 64
