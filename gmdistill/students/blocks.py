"""What a Transformer student is made of: attention, BERT's layer, pooling."""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from gmdistill import errors


@jax.custom_jvp
def gelu(x: jax.Array) -> jax.Array:
  """Returns x Phi(x), the exact GELU (Hendrycks and Gimpel 2016).

  In float32 at least, whatever the precision of x. A backward pass keeps the
  slope alone: left to itself it keeps what its polynomials go through too.
  Linen's is 0.5 x erfc(-x / sqrt 2): the same numbers, but for XLA an erfc is
  three times the work of an erf, and on a GPU more than reading x.
  """
  wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
  return (wide * _normal_cdf(wide)).astype(x.dtype)


@gelu.defjvp
def _gelu_jvp(primals, tangents):
  (x,), (tangent,) = primals, tangents
  wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
  cdf = _normal_cdf(wide)
  density = jnp.exp(-0.5 * jnp.square(wide)) * (2 * np.pi) ** -0.5
  slope = (cdf + wide * density).astype(x.dtype)
  return (wide * cdf).astype(x.dtype), tangent * slope


def _normal_cdf(x):
  return 0.5 + 0.5 * jax.lax.erf(x * 0.5**0.5)


REMATS = ("none", "layers", "elementwise")

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
  "gelu": gelu,
  "gelu_new": lambda x: nn.gelu(x, approximate=True),
  "gelu_pytorch_tanh": lambda x: nn.gelu(x, approximate=True),
  "relu": nn.relu,
  "silu": nn.silu,
}


class Dense(nn.Dense):
  """Linen's, over all rows and tokens as one axis.

  The weights' gradient then sums over one axis. Of two, side by side for
  several classes, XLA makes one only by copies of whole activations.
  """

  def __call__(self, inputs: jax.Array) -> jax.Array:
    """Returns the product [..., features]."""
    flat = super().__call__(inputs.reshape(-1, inputs.shape[-1]))
    return flat.reshape(*inputs.shape[:-1], self.features)


def dense(
  features: int, name: str, std: float = 0.02, dtype: Any = None
) -> Dense:
  """Returns BERT's dense layer: weights drawn with a small deviation."""
  normal = nn.initializers.normal(std)
  return Dense(features, kernel_init=normal, dtype=dtype, name=name)


class Attention(nn.Module):
  """Multi-head self-attention (Vaswani et al. 2017), second-order safe.

  Plain products and a softmax: the fused kernels have no second-order rule.
  """

  num_heads: int
  dtype: Any = None  # of the products; None: the inputs'

  @nn.compact
  def __call__(
    self, x_BxLxD: jax.Array, mask_BxL: jax.Array
  ) -> tuple[jax.Array, jax.Array]:
    """Returns the mixed values [B, L, D] and the first token's weights.

    Masked keys get weight zero; the weights are [B, H, L].
    """
    width = x_BxLxD.shape[-1]
    heads = (*x_BxLxD.shape[:-1], self.num_heads, width // self.num_heads)
    project = functools.partial(dense, width, dtype=self.dtype)
    query_BxLxHxK = project("query")(x_BxLxD).reshape(heads)
    key_BxLxHxK = project("key")(x_BxLxD).reshape(heads)
    value_BxLxHxK = project("value")(x_BxLxD).reshape(heads)
    scores_BxHxLxL = jnp.einsum("bqhk,bshk->bhqs", query_BxLxHxK, key_BxLxHxK)
    scores_BxHxLxL = scores_BxHxLxL * heads[-1] ** -0.5
    # A large finite number: exp underflows to exactly zero, and a row without
    # any token gives finite numbers instead of NaN.
    scores_BxHxLxL = jnp.where(mask_BxL[:, None, None, :], scores_BxHxLxL, -1e9)
    # At least in float32: sixteen bits are few for small weights.
    wide = jnp.promote_types(scores_BxHxLxL.dtype, jnp.float32)
    weights_BxHxLxL = jax.nn.softmax(scores_BxHxLxL.astype(wide))
    mixed_BxLxHxK = jnp.einsum(
      "bhqs,bshk->bqhk",
      weights_BxHxLxL.astype(value_BxLxHxK.dtype),
      value_BxLxHxK,
    )
    mixed_BxLxD = mixed_BxLxHxK.reshape(x_BxLxD.shape)
    return project("output")(mixed_BxLxD), weights_BxHxLxL[:, :, 0]


def rematerialised(layer: Any, kind: str) -> Any:
  """Returns a layer's class, of which a backward pass finds less in memory.

  Args:
    layer: The class, such as `Layer`.
    kind: One of `REMATS`. `none`: everything is kept. `layers`: what goes into
      a layer alone; the rest is computed again. `elementwise`: what the
      products with its weights give; attention, norms and activation are
      computed again. That costs few products, and for large batches on a GPU
      less time than reading them would.

  Raises:
    ValueError: another kind.
  """
  errors.choice("remat", kind, REMATS)
  if kind == "none":
    return layer
  policy = None
  if kind == "elementwise":
    policy = jax.checkpoint_policies.dots_with_no_batch_dims_saveable
  return nn.remat(layer, prevent_cse=False, policy=policy)


class Layer(nn.Module):
  """One post-norm BERT layer; returns a pair, as `nn.scan` asks."""

  num_heads: int
  hidden: int
  activation: str
  epsilon: float
  dtype: Any = None
  pooling: str = "first"

  @nn.compact
  def __call__(
    self, x_BxLxD: jax.Array, mask_BxL: jax.Array
  ) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    """Returns the output [B, L, D], and of the layer: the first token's weights
    [B, H, L] and the pooled output [B, D]."""
    norm = functools.partial(
      nn.LayerNorm, epsilon=self.epsilon, dtype=self.dtype
    )
    mixed, first_BxHxL = Attention(
      self.num_heads, self.dtype, name="attention"
    )(x_BxLxD, mask_BxL)
    x_BxLxD = norm(name="attention_norm")(x_BxLxD + mixed)
    hidden = dense(self.hidden, "intermediate", dtype=self.dtype)(x_BxLxD)
    hidden = ACTIVATIONS[self.activation](hidden)
    hidden = dense(x_BxLxD.shape[-1], "output", dtype=self.dtype)(hidden)
    x_BxLxD = norm(name="output_norm")(x_BxLxD + hidden)
    return x_BxLxD, (first_BxHxL, pool(x_BxLxD, mask_BxL, self.pooling))


def pool(x_BxLxD: jax.Array, mask_BxL: jax.Array, pooling: str) -> jax.Array:
  """Returns the first token's state [B, D], or the mean over tokens."""
  if pooling == "first":
    return x_BxLxD[:, 0]
  return masked_mean(x_BxLxD, mask_BxL)


def masked_mean(x_BxLxD: jax.Array, mask_BxL: jax.Array) -> jax.Array:
  """Returns the mean [B, D] over unmasked positions; 0 where there are none."""
  weight_BxLx1 = mask_BxL[..., None].astype(x_BxLxD.dtype)
  total_BxD = (x_BxLxD * weight_BxLx1).sum(axis=1)
  return total_BxD / jnp.maximum(weight_BxLx1.sum(axis=1), 1.0)
