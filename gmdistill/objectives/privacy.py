"""Gradients that keep single rows private, and what that guarantees.

Each row's gradient is clipped and noise is added to the sum (Abadi et al.
2016): the Gaussian mechanism, accounted for by the `dp-accounting` package. The
unit is one row: the guarantee compares the data with the same data in which
one row's contribution is zero. Class sizes and what a run reads beside the
bank are not covered.
"""

import os
import secrets
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from etils import epath

from gmdistill import errors, trees
from gmdistill.data import batches


def gradient(
  gradient_of: Callable[
    [trees.Params, batches.Batch], tuple[jax.Array, trees.Params]
  ],
  params: trees.Params,
  batch: batches.Batch,
  *,
  clip: float,
  noise: float,
  key: jax.Array,
) -> tuple[jax.Array, trees.Params]:
  """Returns the mean loss, and the mean of clipped gradients plus noise.

      (sum_i g_i min(1, clip / ||g_i||) + N(0, (noise clip)^2)) / B

  The loss has no noise: it must not leave with the gradient.

  Args:
    gradient_of: (params, batch of one row) -> (loss, gradient).
    params: The student's.
    batch: Rows [B, ...].
    clip: The largest norm of one row's gradient.
    noise: The noise multiplier; 0: clipped alone.
    key: Draws the noise. Who knows it can take the noise out again.
  """

  def clipped(row):
    one = jax.tree.map(lambda x: x[None], row)
    value, grads = gradient_of(params, one)
    norm = optax.tree.norm(grads)
    shorter = jnp.minimum(1.0, clip / jnp.maximum(norm, 1e-12))
    return value, jax.tree.map(lambda g: g * shorter, grads)

  def add(total, row):
    return jax.tree.map(jnp.add, total, clipped(row)), None

  # One row after the other: memory holds one row's gradient.
  count = len(batch)
  shapes = jax.eval_shape(
    gradient_of, params, jax.tree.map(lambda x: x[:1], batch)
  )
  zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
  (value, grads), _ = jax.lax.scan(add, zeros, batch)
  if noise:
    leaves, structure = jax.tree.flatten(grads)
    keys = jax.random.split(key, len(leaves))
    noisy = [
      g + noise * clip * jax.random.normal(k, g.shape, g.dtype)
      for g, k in zip(leaves, keys, strict=True)
    ]
    grads = jax.tree.unflatten(structure, noisy)
  return value / count, jax.tree.map(lambda g: g / count, grads)


def secret_key(path: epath.Path) -> jax.Array:
  """Returns the key of a bank's noise, drawn from the system's randomness.

  Who knows it can take the noise out, so it is no seed. An interrupted build
  needs it again: it is kept at `path`, for the owner's eyes, until the bank is
  whole.
  """
  if not path.is_file():
    # Whole or not there: a kill in between leaves no key that is half one.
    aside = path.with_name(f"{path.name}.new")
    aside.unlink(missing_ok=True)
    opened = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(opened, "w") as file:
      file.write(secrets.token_hex(8))
    aside.rename(path)
  words = np.frombuffer(bytes.fromhex(path.read_text()), np.uint32)
  return jax.random.wrap_key_data(jnp.asarray(words), impl="threefry2x32")


def uses(num_batches: int, batch_rows: int, rows: int) -> int:
  """Returns how many noisy sums one row costs at most, in shuffled epochs.

  A batch that straddles two epochs may hold a row twice: then its sum is twice
  as sensitive, which costs four uses.

  Args:
    num_batches: Batches drawn, one noisy sum each.
    batch_rows: Rows of a batch, at most `rows`.
    rows: Rows of an epoch.
  """
  epochs = -(-num_batches * batch_rows // rows)
  return 4 * (epochs // 2) + epochs % 2


def epsilon(noise: float, uses: int, delta: float) -> float:
  """Returns epsilon of `uses` Gaussian mechanisms at `delta`.

  Args:
    noise: The noise multiplier, above 0.
    uses: Noisy sums in which one row takes part at most.
    delta: The probability that the guarantee leaves open.

  Raises:
    InputError: `dp-accounting` is not installed.
  """
  try:
    import dp_accounting
    from dp_accounting import pld
  except ImportError as error:
    raise errors.InputError(
      "bank.noise needs the accountant of dp-accounting; install it with pip "
      "install 'gmdistill[privacy]'."
    ) from error
  accountant = pld.PLDAccountant()
  accountant.compose(dp_accounting.GaussianDpEvent(noise), uses)
  return float(accountant.get_epsilon(delta))
