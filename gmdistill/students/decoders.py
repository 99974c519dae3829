"""Decoder-only students: a causal Transformer over token embeddings.

One module holds GPT-2, Llama and Qwen alike, each a few arguments of it. What
comes out are hidden states: logits [B, L, V] are products with the unembedding
that few need at once (see `next_token`).
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from gmdistill import errors
from gmdistill.students import blocks, decoder_layers, encoders, outputs
from gmdistill.students import roles as tensor_roles
from gmdistill.system import parts


class Decoder(nn.Module):
  """A causal Transformer; what each family changes of it, stands below.

  Gives hidden states [B, L, D] after the last norm, whose products with the
  unembedding are logits; or, of `num_classes` classes, a head's logits [B, C]
  of each row's last token. Layers are scanned: their parameters carry a leading
  [layers] axis. The first `lower` of them, where a student trains the others
  alone, lie under a name of their own in the parameter tree.
  """

  num_classes: int = 0  # 0: no head
  width: int = 128
  num_layers: int = 2
  num_heads: int = 4
  hidden: int = 512
  max_positions: int = 128
  vocabulary: int = 0  # V of an unembedding that is not the table
  num_key_value_heads: int = 0  # 0: one for every query
  head_width: int = 0  # 0: width / num_heads
  rotary: decoder_layers.Rotary | None = None  # None: learned positions
  norm: str = "layer"
  epsilon: float = 1e-5
  activation: str = "gelu_new"
  gated: bool = False
  query_bias: bool = True
  output_bias: bool = True
  mlp_bias: bool = True
  head_norms: bool = False
  tied: bool = True  # whether the table is the unembedding too
  lower: int = 0
  # The stacks of layers whose tensors lie on all devices together; each layer
  # is made whole where it is read, and again in a backward pass.
  split: tuple[str, ...] = ()
  remat: str = "none"  # what a backward pass computes again; see blocks
  unroll: int = 1
  compute: str = "float32"  # of the products; the hidden states are in it

  @property
  def roles(self) -> tensor_roles.Roles:
    """Which tensor is what; a key's bias depends on the positions."""
    rotary = self.rotary is not None
    return tensor_roles.of_decoder(
      head=bool(self.num_classes),
      lower=bool(self.lower),
      rotary=rotary,
      null_keys=self.query_bias and not rotary and not self.head_norms,
    )

  def setup(self) -> None:
    """Names the parts as the parameter tree shows them."""
    errors.choice("compute", self.compute, encoders.PRECISIONS)
    # float32 asks for nothing: a student in double precision stays so.
    dtype = None if self.compute == "float32" else jnp.dtype(self.compute)
    normal = nn.initializers.normal(0.02)
    shape = self.shape(dtype)

    def scanned(stack: str, length: int) -> Any:
      layer: Any = decoder_layers.DecoderLayer
      remat = self.remat
      if stack in self.split:
        layer = nn.map_variables(layer, "params", parts.gathered)
        # Else a gradient keeps every layer whole.
        remat = "layers" if remat == "none" else remat
      return nn.scan(
        blocks.rematerialised(layer, remat),
        variable_axes={"params": 0, "lora": 0, "cache": 0},
        split_rngs={"params": True},
        in_axes=nn.broadcast,
        length=length,
        unroll=min(self.unroll, length),
      )(shape)

    if self.rotary is None:
      self.position = self.param(
        "position", normal, (self.max_positions, self.width)
      )
    if self.lower:
      self.lower_layers = scanned("lower_layers", self.lower)
    self.layers = scanned("layers", self.num_layers - self.lower)
    self.final_norm = decoder_layers.NORMS[self.norm](
      epsilon=self.epsilon, dtype=dtype
    )
    if self.num_classes:
      self.head = nn.Dense(self.num_classes, kernel_init=normal)
    elif not self.tied:
      self.unembedding = self.param(
        "unembedding", normal, (self.vocabulary, self.width)
      )

  def shape(self, dtype: Any = None) -> decoder_layers.Shape:
    """Returns what the layers have in common."""
    return decoder_layers.Shape(
      self.num_heads,
      self.num_key_value_heads or self.num_heads,
      self.head_width or self.width // self.num_heads,
      self.hidden,
      self.activation,
      self.epsilon,
      self.norm,
      self.gated,
      self.query_bias,
      self.output_bias,
      self.mlp_bias,
      self.head_norms,
      dtype,
    )

  def __call__(
    self, x_BxLxD: jax.Array, mask_BxL: jax.Array
  ) -> outputs.Outputs:
    """Returns logits or hidden states, and each row's last state [B, D]."""
    hidden_BxLxD = self.encode(x_BxLxD, mask_BxL)
    last_BxD = last_states(hidden_BxLxD, mask_BxL).astype(x_BxLxD.dtype)
    if self.num_classes:
      return outputs.Outputs(self.head(last_BxD), last_BxD)
    unembedding = None if self.tied else self.unembedding
    return outputs.Outputs(hidden_BxLxD, last_BxD, unembedding=unembedding)

  def encode(
    self,
    x_BxLxD: jax.Array,
    mask_BxS: jax.Array,
    start: jax.Array | int | None = None,
  ) -> jax.Array:
    """Returns the hidden states [B, L, D], in the precision of `compute`.

    A token's position counts the unmasked ones before it: padding on either
    side changes nothing.

    Args:
      x_BxLxD: Embeddings.
      mask_BxS: Of them, where `start` is None, and S is L.
      start: Of tokens that go on with a text of S places: the first one's place
        there. What was said of the places before stands in the collection
        `cache`, where what is said of these is put beside it.
    """
    queries, length = x_BxLxD.shape[1], mask_BxS.shape[1]
    mask_BxS = mask_BxS.astype(bool)
    positions_BxL = jnp.maximum(jnp.cumsum(mask_BxS, axis=1) - 1, 0)
    earlier_1xLxS: Any = np.tri(length, dtype=bool)[None]
    if start is not None:
      positions_BxL, earlier_1xLxS = (
        jax.lax.dynamic_slice_in_dim(jnp.asarray(x), start, queries, axis=1)
        for x in (positions_BxL, earlier_1xLxS)
      )
    if self.rotary is None:
      x_BxLxD = x_BxLxD + self.position[positions_BxL]
    if self.compute != "float32":
      x_BxLxD = x_BxLxD.astype(self.compute)
    seen_BxLxS = mask_BxS[:, None, :] & earlier_1xLxS
    reading = decoder_layers.Reading(seen_BxLxS, start=start)
    if self.rotary is not None:
      tables = self.rotary.tables(length, self.shape().head_width)
      # In the precision of the products: else queries and keys become wide.
      cosines, sines = (
        jnp.asarray(table, x_BxLxD.dtype)[positions_BxL][:, :, None]
        for table in tables
      )
      reading = reading._replace(turns=(cosines, sines))
    if self.lower:
      x_BxLxD, _ = self.lower_layers(x_BxLxD, reading)
    x_BxLxD, _ = self.layers(x_BxLxD, reading)
    hidden_BxLxD: jax.Array = self.final_norm(x_BxLxD)
    return hidden_BxLxD


class GPT2(Decoder):
  """GPT-2 (Radford et al. 2019), as `Decoder` stands."""


class Llama(Decoder):
  """Llama (Touvron et al. 2023) and those that share its architecture."""

  rotary: decoder_layers.Rotary | None = decoder_layers.Rotary()
  norm: str = "rms"
  activation: str = "silu"
  gated: bool = True
  query_bias: bool = False
  output_bias: bool = False
  mlp_bias: bool = False


class Qwen2(Llama):
  """Qwen 2 and 2.5: queries, keys and values have biases."""

  query_bias: bool = True


class Qwen3(Llama):
  """Qwen 3: each head's query and key is normed."""

  head_norms: bool = True


def last_states(hidden_BxLxD: jax.Array, mask_BxL: jax.Array) -> jax.Array:
  """Returns the hidden state [B, D] of each row's last unmasked token."""
  length = mask_BxL.shape[1]
  last_B = length - 1 - jnp.argmax(mask_BxL[:, ::-1], axis=1)
  return jnp.take_along_axis(hidden_BxLxD, last_B[:, None, None], axis=1)[:, 0]
