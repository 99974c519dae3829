"""What a decoder is made of: rotary positions, causal attention, its layer."""

import functools
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from gmdistill import errors
from gmdistill.students import blocks

NORMS = {"layer": nn.LayerNorm, "rms": nn.RMSNorm}

SCALINGS = ("default", "linear", "llama3")  # of rotary positions


class Rotary(NamedTuple):
  """Rotary positions (Su et al. 2021), and how they reach longer texts."""

  theta: float = 10000.0
  kind: str = "default"  # one of `SCALINGS`
  factor: float = 1.0  # how many times longer
  low: float = 1.0  # llama3 stretches waves longer than original / low
  high: float = 4.0  # and leaves those shorter than original / high
  original: int = 8192  # tokens that the model was first trained on

  def frequencies(self, width: int) -> np.ndarray:
    """Returns the angle a token [width / 2], float32.

    Raises:
      ValueError: an unknown kind of scaling.
    """
    errors.choice("rotary.kind", self.kind, SCALINGS)
    exponents = np.arange(0, width, 2, dtype=np.float32) / width
    angles = (1.0 / self.theta**exponents).astype(np.float32)
    if self.kind == "default":
      return angles
    if self.kind == "linear":
      return (angles / self.factor).astype(np.float32)
    # Between the two lengths the share of the unscaled frequency falls from
    # one to zero, linearly in the number of waves that the original text held.
    waves = self.original * angles / (2 * np.pi)
    share = np.clip((waves - self.low) / (self.high - self.low), 0.0, 1.0)
    return (angles * (share + (1 - share) / self.factor)).astype(np.float32)

  def tables(self, length: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the cosines and the sines of every position [L, width / 2]."""
    positions = np.arange(length, dtype=np.float32)
    angles = positions[:, None] * self.frequencies(width)[None]
    return np.cos(angles), np.sin(angles)


class Shape(NamedTuple):
  """What the layers of a decoder have in common."""

  num_heads: int
  num_key_value_heads: int  # each is read by as many queries as come out even
  head_width: int
  hidden: int
  activation: str
  epsilon: float
  norm: str  # one of `NORMS`
  gated: bool  # activation(gate) * up instead of activation(up)
  query_bias: bool  # of query, key and value
  output_bias: bool
  mlp_bias: bool
  head_norms: bool  # an RMS norm of each head's query and of its key
  dtype: Any = None  # of the products; None: the inputs'


class Reading(NamedTuple):
  """Who sees whom, and from where: the same in every layer."""

  seen_BxLxS: jax.Array  # whether token l sees token s
  # Cosines and sines [B, L, 1, K / 2]; None: learned positions.
  turns: tuple[jax.Array, jax.Array] | None = None
  # The place of the first token among S whose keys and values are kept in the
  # collection `cache`; None: nothing is kept, and S is L.
  start: jax.Array | int | None = None


class Projection(blocks.Dense):
  """A dense layer, and beside it the low-rank update of an adapter.

  x W + b + (x A) B, where the collection `lora` has A [in, r] and B [r, out];
  B holds the scale of the update too (see `adapters`).
  """

  def __call__(self, inputs: jax.Array) -> jax.Array:
    """Returns the product [..., features]."""
    whole = super().__call__(inputs)
    if not self.has_variable("lora", "A"):
      return whole
    down = jnp.asarray(self.get_variable("lora", "A"), whole.dtype)
    up = jnp.asarray(self.get_variable("lora", "B"), whole.dtype)
    flat = inputs.reshape(-1, inputs.shape[-1]).astype(whole.dtype)
    return whole + ((flat @ down) @ up).reshape(whole.shape)


def _projection(features, name, use_bias, dtype):
  return Projection(
    features,
    use_bias=use_bias,
    kernel_init=nn.initializers.normal(0.02),
    dtype=dtype,
    name=name,
  )


def rotated(
  x_BxLxHxK: jax.Array, cosines: jax.Array, sines: jax.Array
) -> jax.Array:
  """Returns heads turned by their positions; halves are the coordinates."""
  first, second = jnp.split(x_BxLxHxK, 2, axis=-1)
  return jnp.concatenate(
    (first * cosines - second * sines, second * cosines + first * sines), -1
  )


class CausalAttention(nn.Module):
  """Grouped-query attention (Ainslie et al. 2023), second-order safe."""

  shape: Shape

  @nn.compact
  def __call__(self, x_BxLxD: jax.Array, reading: Reading) -> jax.Array:
    """Returns the mixed values [B, L, D]; unseen keys get weight zero."""
    shape = self.shape
    keys, width = shape.num_key_value_heads, shape.head_width

    def heads(name: str, count: int) -> jax.Array:
      project = _projection(count * width, name, shape.query_bias, shape.dtype)
      return project(x_BxLxD).reshape(*x_BxLxD.shape[:2], count, width)

    query_BxLxHxK = heads("query", shape.num_heads)
    key_BxLxGxK, value_BxLxGxK = heads("key", keys), heads("value", keys)
    if shape.head_norms:
      norm = functools.partial(
        nn.RMSNorm, epsilon=shape.epsilon, dtype=shape.dtype
      )
      query_BxLxHxK = norm(name="query_norm")(query_BxLxHxK)
      key_BxLxGxK = norm(name="key_norm")(key_BxLxGxK)
    if reading.turns is not None:
      query_BxLxHxK = rotated(query_BxLxHxK, *reading.turns)
      key_BxLxGxK = rotated(key_BxLxGxK, *reading.turns)
    key_BxSxGxK = self._kept("key_cache", key_BxLxGxK, reading)
    value_BxSxGxK = self._kept("value_cache", value_BxLxGxK, reading)
    # R queries read one key.
    query = query_BxLxHxK.reshape(*query_BxLxHxK.shape[:2], keys, -1, width)
    scores = jnp.einsum("bqgrk,bsgk->bgrqs", query, key_BxSxGxK) * width**-0.5
    # As in `blocks.Attention`: finite, and at least in float32.
    wide = jnp.promote_types(scores.dtype, jnp.float32)
    seen = reading.seen_BxLxS[:, None, None]
    weights = jax.nn.softmax(jnp.where(seen, scores.astype(wide), -1e9))
    mixed = jnp.einsum(
      "bgrqs,bsgk->bqgrk", weights.astype(value_BxSxGxK.dtype), value_BxSxGxK
    )
    output = _projection(
      x_BxLxD.shape[-1], "output", shape.output_bias, shape.dtype
    )
    return output(mixed.reshape(*x_BxLxD.shape[:2], shape.num_heads * width))

  def _kept(self, name: str, x_BxLxGxK: jax.Array, reading: Reading) -> Any:
    """Returns the keys, or values, of all places, with these put at theirs."""
    if reading.start is None:
      return x_BxLxGxK
    count, _, *rest = x_BxLxGxK.shape
    places = (count, reading.seen_BxLxS.shape[-1], *rest)
    cache = self.variable("cache", name, jnp.zeros, places, x_BxLxGxK.dtype)
    cache.value = jax.lax.dynamic_update_slice_in_dim(
      cache.value, x_BxLxGxK, reading.start, axis=1
    )
    return cache.value


class DecoderLayer(nn.Module):
  """One pre-norm layer; returns a pair, as `nn.scan` asks."""

  shape: Shape

  @nn.compact
  def __call__(
    self, x_BxLxD: jax.Array, reading: Reading
  ) -> tuple[jax.Array, None]:
    """Returns the output [B, L, D]."""
    shape = self.shape
    norm = functools.partial(
      NORMS[shape.norm], epsilon=shape.epsilon, dtype=shape.dtype
    )
    activation = blocks.ACTIVATIONS[shape.activation]
    project = functools.partial(
      _projection, use_bias=shape.mlp_bias, dtype=shape.dtype
    )
    normed = norm(name="attention_norm")(x_BxLxD)
    x_BxLxD = x_BxLxD + CausalAttention(shape, name="attention")(
      normed, reading
    )
    normed = norm(name="mlp_norm")(x_BxLxD)
    hidden = project(shape.hidden, "up")(normed)
    if shape.gated:
      hidden = activation(project(shape.hidden, "gate")(normed)) * hidden
    else:
      hidden = activation(hidden)
    return x_BxLxD + project(x_BxLxD.shape[-1], "down")(hidden), None
