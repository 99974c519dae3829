"""Students: Linen encoders over word-level embeddings, with a linear head.

Every student reads embeddings [B, L, D] *before* positions and LayerNorm, so
that real text (through a frozen table) and synthetic examples take the same
path, and students of different architecture share one embedding space.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from gmdistill import errors, fields
from gmdistill.students import blocks, outputs
from gmdistill.students import roles as tensor_roles

POOLINGS = ("first", "mean")

PRECISIONS = ("float32", "bfloat16")

HEAD_STD = 0.02  # of the weights of a fresh head; its bias is zero


class Transformer(nn.Module):
  """A BERT-style encoder (Devlin et al. 2019) with a linear head.

  Layers are scanned: their parameters carry a leading [layers] axis. Feature:
  `first`, BERT's pooler on the first token; `mean`, the mean over tokens.

  Attributes:
    num_classes: C.
    width: D, of the embeddings and of every layer.
    num_layers: Layers.
    num_heads: Heads of attention, which share out the width.
    hidden: Units between the two products of a layer's perceptron.
    max_positions: The longest row, in tokens.
    pooling: `first`, or `mean`.
    activation: One of `blocks.ACTIVATIONS`.
    epsilon: Of every LayerNorm.
    remat: What a backward pass computes again instead of keeping it: `none`,
      `layers`, `elementwise`; see `blocks`.
    unroll: Layers a scan iteration; more compiles longer, and runs faster.
    compute: Of the layers' products, `float32` or `bfloat16`; parameters, their
      gradients, logits and features keep the precision of the parameters.
  """

  roles = tensor_roles.ENCODER  # of the class: no field

  num_classes: int
  width: fields.Width = 128
  num_layers: fields.Layers = 2
  num_heads: fields.Width = 4
  hidden: fields.Width = 512
  max_positions: fields.Length = 128
  pooling: str = "first"
  activation: str = "gelu"
  epsilon: float = 1e-12
  remat: str = "none"
  unroll: fields.Layers = 1
  compute: str = "float32"

  def setup(self) -> None:
    """Names the parts as the parameter tree shows them."""
    errors.choice("pooling", self.pooling, POOLINGS)
    errors.choice("compute", self.compute, PRECISIONS)
    # float32 asks for nothing: a student in double precision stays so.
    dtype = None if self.compute == "float32" else jnp.dtype(self.compute)
    normal = nn.initializers.normal(0.02)
    self.position = self.param(
      "position", normal, (self.max_positions, self.width)
    )
    self.token_type = self.param("token_type", normal, (2, self.width))
    self.embedding_norm = nn.LayerNorm(epsilon=self.epsilon)
    self.layers = nn.scan(
      blocks.rematerialised(blocks.Layer, self.remat),
      variable_axes={"params": 0},
      split_rngs={"params": True},
      in_axes=nn.broadcast,
      length=self.num_layers,
      unroll=min(self.unroll, self.num_layers),
    )(
      self.num_heads,
      self.hidden,
      self.activation,
      self.epsilon,
      dtype,
      self.pooling,
    )
    if self.pooling == "first":
      self.pooler = nn.Dense(self.width, kernel_init=normal)
    fresh = nn.initializers.normal(HEAD_STD)
    self.head = nn.Dense(self.num_classes, kernel_init=fresh)

  def encode(
    self, x_BxLxD: jax.Array, mask_BxL: jax.Array
  ) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns the last hidden states [B, L, D], and of every layer the first
    token's attention [B, layers, heads, L] and the pooled state [B, layers, D].
    """
    length, precision = x_BxLxD.shape[1], x_BxLxD.dtype
    # Segment 0 throughout: a pair is told apart by its separator token.
    positions_1xLxD = self.position[None, :length]
    x_BxLxD = x_BxLxD + positions_1xLxD + self.token_type[None, :1]
    x_BxLxD = self.embedding_norm(x_BxLxD)
    if self.compute != "float32":
      x_BxLxD = x_BxLxD.astype(self.compute)
    x_BxLxD, (first_NxBxHxL, pooled_NxBxD) = self.layers(x_BxLxD, mask_BxL)
    return (
      x_BxLxD.astype(precision),
      jnp.moveaxis(first_NxBxHxL, 0, 1),
      jnp.moveaxis(pooled_NxBxD, 0, 1).astype(precision),
    )

  def __call__(
    self, x_BxLxD: jax.Array, mask_BxL: jax.Array
  ) -> outputs.Outputs:
    """Returns logits [B, C], features [B, D], attention and layers."""
    hidden_BxLxD, attention, layers_BxNxD = self.encode(x_BxLxD, mask_BxL)
    features_BxD = blocks.pool(hidden_BxLxD, mask_BxL, self.pooling)
    if self.pooling == "first":
      features_BxD = jnp.tanh(self.pooler(features_BxD))
      layers_BxNxD = jnp.tanh(self.pooler(layers_BxNxD))
    return outputs.Outputs(
      self.head(features_BxD),
      features_BxD,
      attention,
      layers_BxNxD,
      self.say(hidden_BxLxD),
    )

  def say(self, hidden_BxLxD: jax.Array) -> jax.Array | None:
    """Returns `Outputs.queries`, of a student that has a head for it."""
    del hidden_BxLxD
    return None


class RationaleHead(nn.Module):
  """BERT's token head, without its last product: that takes the table."""

  activation: str
  epsilon: float

  @nn.compact
  def __call__(self, x_BxRxD: jax.Array) -> jax.Array:
    """Returns the queries [B, R, D] of the slots' hidden states."""
    x_BxRxD = blocks.dense(x_BxRxD.shape[-1], "dense")(x_BxRxD)
    x_BxRxD = blocks.ACTIVATIONS[self.activation](x_BxRxD)
    return nn.LayerNorm(epsilon=self.epsilon, name="norm")(x_BxRxD)


class RationaleTransformer(Transformer):
  """A Transformer that says a token at each of R slots too.

  The slots are the positions 1 to R, right after the first token; see
  `formats.with_slots`. Every layer may read them, and so may the head.
  """

  roles = tensor_roles.ENCODER_WITH_SLOTS

  rationale_slots: int = 16  # R

  def setup(self) -> None:
    """Adds the second head."""
    super().setup()
    self.rationale_head = RationaleHead(self.activation, self.epsilon)

  def say(self, hidden_BxLxD: jax.Array) -> jax.Array | None:
    """Returns what the second head says of the slots."""
    slots_BxRxD = hidden_BxLxD[:, 1 : 1 + self.rationale_slots]
    return self.rationale_head(slots_BxRxD)
