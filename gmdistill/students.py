"""Students: Linen encoders over word-level embeddings, with a linear head.

Every student reads embeddings [B, L, D] *before* positions and LayerNorm, so
that real text (through a frozen table) and synthetic examples take the same
path, and students of different architecture share one embedding space.
"""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from gmdistill import blocks

POOLINGS = ("first", "mean")
PRECISIONS = ("float32", "bfloat16")


class Outputs(NamedTuple):
  """What a student says of a batch."""

  logits: jax.Array  # [B, C]
  features: jax.Array  # [B, F], what the head reads
  # [B, layers, heads, L], the first token's attention weights; None: none
  attention: jax.Array | None = None
  # [B, layers, F], each layer's own, pooled as the last one's; None: no layers
  layers: jax.Array | None = None
  # [B, R, D], whose products with the table are the logits of the rationale's
  # tokens; None: no such head
  rationale: jax.Array | None = None


class Transformer(nn.Module):
  """A BERT-style encoder (Devlin et al. 2019) with a linear head.

  Layers are scanned: their parameters carry a leading [layers] axis. Feature:
  `first`, BERT's pooler on the first token; `mean`, the mean over tokens.
  """

  num_classes: int
  width: int = 128
  num_layers: int = 2
  num_heads: int = 4
  hidden: int = 512
  max_positions: int = 128
  pooling: str = "first"
  activation: str = "gelu"
  epsilon: float = 1e-12
  remat: str = "none"  # what a backward pass computes again; see blocks
  unroll: int = 1  # layers a scan iteration; more compiles longer, runs faster
  # Of the layers' products, float32 or bfloat16; parameters, their gradients,
  # logits and features stay in the precision of the parameters.
  compute: str = "float32"

  def setup(self) -> None:
    """Names the parts as the parameter tree shows them."""
    if self.pooling not in POOLINGS:
      raise ValueError(f"pooling={self.pooling!r} is none of first, mean.")
    if self.compute not in PRECISIONS:
      raise ValueError(
        f"compute={self.compute!r} is none of {', '.join(PRECISIONS)}."
      )
    # float32 asks for nothing: a student in double precision stays so.
    dtype = None if self.compute == "float32" else jnp.dtype(self.compute)
    normal = nn.initializers.normal(0.02)
    self.position = self.param(
      "position", normal, (self.max_positions, self.width)
    )
    self.token_type = self.param("token_type", normal, (2, self.width))
    self.embedding_norm = nn.LayerNorm(epsilon=self.epsilon)
    self.layers = nn.scan(
      blocks.rematerialised(self.remat),
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
    self.head = nn.Dense(self.num_classes, kernel_init=normal)

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

  def __call__(self, x_BxLxD: jax.Array, mask_BxL: jax.Array) -> Outputs:
    """Returns logits [B, C], features [B, D], attention and layers."""
    hidden_BxLxD, attention, layers_BxNxD = self.encode(x_BxLxD, mask_BxL)
    features_BxD = blocks.pool(hidden_BxLxD, mask_BxL, self.pooling)
    if self.pooling == "first":
      features_BxD = jnp.tanh(self.pooler(features_BxD))
      layers_BxNxD = jnp.tanh(self.pooler(layers_BxNxD))
    return Outputs(
      self.head(features_BxD),
      features_BxD,
      attention,
      layers_BxNxD,
      self.say(hidden_BxLxD),
    )

  def say(self, hidden_BxLxD: jax.Array) -> jax.Array | None:
    """Returns `Outputs.rationale`, of a student that has a head for it."""
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
  `data.with_slots`. Every layer may read them, and so may the head.
  """

  rationale_slots: int = 16  # R

  def setup(self) -> None:
    """Adds the second head."""
    super().setup()
    self.rationale_head = RationaleHead(self.activation, self.epsilon)

  def say(self, hidden_BxLxD: jax.Array) -> jax.Array | None:
    """Returns what the second head says of the slots."""
    slots_BxRxD = hidden_BxLxD[:, 1 : 1 + self.rationale_slots]
    return self.rationale_head(slots_BxRxD)


class BiLSTM(nn.Module):
  """A bidirectional LSTM, mean-pooled (Graves and Schmidhuber 2005)."""

  num_classes: int
  width: int = 128
  max_positions: int = 1 << 30  # any length

  @nn.compact
  def __call__(self, x_BxLxD: jax.Array, mask_BxL: jax.Array) -> Outputs:
    """Returns logits [B, C] and features [B, 2 * width]."""

    def step(cell, carry, inputs):
      x_BxD, mask_B = inputs
      new, out_BxF = cell(carry, x_BxD)
      # A masked position leaves the memory as it is, wherever it stands.
      keep = lambda a, b: jnp.where(mask_B[:, None], a, b)  # noqa: E731
      return jax.tree.map(keep, new, carry), out_BxF

    def run(name: str, reverse: bool) -> jax.Array:
      cell = nn.OptimizedLSTMCell(self.width, name=name)
      scan = nn.scan(
        step,
        variable_broadcast="params",
        split_rngs={"params": False},
        in_axes=1,
        out_axes=1,
        reverse=reverse,
      )
      carry = cell.initialize_carry(jax.random.key(0), x_BxLxD[:, 0].shape)
      return scan(cell, carry, (x_BxLxD, mask_BxL))[1]

    both = [run("forward", False), run("backward", True)]
    features_BxF = blocks.masked_mean(jnp.concatenate(both, axis=-1), mask_BxL)
    logits_BxC = blocks.dense(self.num_classes, "head")(features_BxF)
    return Outputs(logits_BxC, features_BxF)


class TextCNN(nn.Module):
  """Convolutions of several widths, max over time (Kim 2014)."""

  num_classes: int
  width: int = 128
  windows: tuple[int, ...] = (3, 4, 5)
  max_positions: int = 1 << 30  # any length

  @nn.compact
  def __call__(self, x_BxLxD: jax.Array, mask_BxL: jax.Array) -> Outputs:
    """Returns logits [B, C] and features [B, windows * width]."""
    x_BxLxD = jnp.where(mask_BxL[..., None], x_BxLxD, 0.0)
    pooled = []
    for window in self.windows:
      conv = nn.Conv(
        self.width,
        (window,),
        conv_general_dilated=_product_of_windows,
        name=f"conv_{window}",
      )
      out_BxLxF = nn.relu(conv(x_BxLxD))
      # relu is never negative, so 0 is the maximum over no tokens.
      out_BxLxF = jnp.where(mask_BxL[..., None], out_BxLxF, 0.0)
      pooled.append(out_BxLxF.max(axis=1))
    features_BxF = jnp.concatenate(pooled, axis=-1)
    logits_BxC = blocks.dense(self.num_classes, "head")(features_BxF)
    return Outputs(logits_BxC, features_BxF)


def _product_of_windows(x_BxLxD, kernel_WxDxF, *_, **__):
  """A convolution of padding SAME as one product: inside a loop, XLA's own is
  twenty times slower on a CPU."""
  window, length = len(kernel_WxDxF), x_BxLxD.shape[1]
  left = (window - 1) // 2
  around = ((0, 0), (left, window - 1 - left), (0, 0))
  padded = jnp.pad(x_BxLxD, around)
  shifted = [padded[:, i : i + length] for i in range(window)]
  kernel = kernel_WxDxF.reshape(-1, kernel_WxDxF.shape[-1])
  return jnp.concatenate(shifted, axis=-1) @ kernel


KINDS: dict[str, Any] = {
  "transformer": Transformer,
  "bilstm": BiLSTM,
  "textcnn": TextCNN,
}
