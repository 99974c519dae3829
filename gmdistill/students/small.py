"""Small students that read in order or by windows: BiLSTM and TextCNN."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from gmdistill.students import blocks, outputs
from gmdistill.students import roles as tensor_roles


class BiLSTM(nn.Module):
  """A bidirectional LSTM, mean-pooled (Graves and Schmidhuber 2005)."""

  roles = tensor_roles.SMALL  # of the class: no field

  num_classes: int
  width: int = 128
  max_positions: int = 1 << 30  # any length

  @nn.compact
  def __call__(
    self, x_BxLxD: jax.Array, mask_BxL: jax.Array
  ) -> outputs.Outputs:
    """Returns logits [B, C] and features [B, 2 * width]."""

    def step(cell, carry, inputs):
      x_BxD, mask_B = inputs
      new, out_BxF = cell(carry, x_BxD)

      # A masked position leaves the memory as it is, wherever it stands.
      def keep(a, b):
        return jnp.where(mask_B[:, None], a, b)

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
      carry = jax.tree.map(lambda x: x.astype(x_BxLxD.dtype), carry)
      return scan(cell, carry, (x_BxLxD, mask_BxL))[1]

    both = [run("forward", False), run("backward", True)]
    features_BxF = blocks.masked_mean(jnp.concatenate(both, axis=-1), mask_BxL)
    logits_BxC = blocks.dense(self.num_classes, "head")(features_BxF)
    return outputs.Outputs(logits_BxC, features_BxF)


class TextCNN(nn.Module):
  """Convolutions of several widths, max over time (Kim 2014)."""

  roles = tensor_roles.SMALL

  num_classes: int
  width: int = 128
  windows: tuple[int, ...] = (3, 4, 5)
  max_positions: int = 1 << 30  # any length

  @nn.compact
  def __call__(
    self, x_BxLxD: jax.Array, mask_BxL: jax.Array
  ) -> outputs.Outputs:
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
    return outputs.Outputs(logits_BxC, features_BxF)


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
