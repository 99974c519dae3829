"""Calibration: how far a student's certainty is right."""

import functools
from typing import Any

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import optax

from gmdistill import errors
from gmdistill.evaluation import measuring, posterior, readings, trainers
from gmdistill.teachers import divergences


def calibration(
  trainer: trainers.Trainer, students: Any, splits: measuring.Splits
) -> dict[str, np.ndarray]:
  """Returns each student's accuracy and calibration on the reported split.

  Beside `accuracy`, each [S]: `ece`, the temperature that fits the selection
  split, and `ece_scaled`, the error at that temperature; and what the
  protocol's `readings` say.

  Raises:
    NotFinite: a student's logits are not.
  """
  protocol = trainer.protocol
  read = functools.partial(readings.values, trainer.problem, students)
  chosen_SxNxC, chosen_N = read(splits.selection, protocol.logits)
  logits_SxNxC, labels_N = read(splits.reported, protocol.logits)
  if not np.isfinite(logits_SxNxC).all():
    raise errors.NotFinite(measuring.DIVERGED)
  right_SxN = logits_SxNxC.argmax(axis=-1) == labels_N
  looks = {
    "accuracy": right_SxN.mean(axis=1),
    **_calibration(chosen_SxNxC, chosen_N, logits_SxNxC, labels_N),
  }
  for name, reading in protocol.readings:
    looks[name] = read(splits.reported, reading)[0].mean(axis=1)
  return jax.tree.map(np.asarray, looks)


@jax.jit
def _calibration(chosen_SxNxC, chosen_N, logits_SxNxC, labels_N):
  def error(logits_NxC):
    return expected_calibration_error(jax.nn.softmax(logits_NxC), labels_N)

  def one(chosen_NxC, logits_NxC):
    temperature = fit_temperature(chosen_NxC, chosen_N)
    return {
      "ece": error(logits_NxC),
      "temperature": temperature,
      "ece_scaled": error(logits_NxC / temperature),
    }

  return jax.vmap(one)(chosen_SxNxC, logits_SxNxC)


# --- calibration ----------------------------------------------------------


def expected_calibration_error(
  probs_NxC: posterior.Array, labels_N: posterior.Array, bins: int = 15
) -> jax.Array:
  """Returns sum_b n_b / N |accuracy_b - confidence_b|.

  Over bins (b - 1, b] / bins of the largest probability (Naeini et al. 2015,
  as Guo et al. 2017): 0 where of rows that say 70 %, 70 % are right.
  """
  confidence_N = jnp.max(probs_NxC, axis=-1)
  right_N = jnp.argmax(probs_NxC, axis=-1) == labels_N
  bin_N = jnp.clip(jnp.ceil(confidence_N * bins) - 1, 0, bins - 1)
  gaps = jax.ops.segment_sum(
    right_N - confidence_N, bin_N.astype(jnp.int32), bins
  )
  return jnp.abs(gaps).sum() / len(confidence_N)


def negative_log_likelihood(
  logits_NxC: posterior.Array, labels_N: posterior.Array
) -> jax.Array:
  """Returns the mean of -log p of the true class (nats)."""
  return optax.softmax_cross_entropy_with_integer_labels(
    divergences.wide(logits_NxC), labels_N
  ).mean()


def fit_temperature(
  logits_NxC: posterior.Array, labels_N: posterior.Array
) -> jax.Array:
  """Returns the T at which softmax(logits / T) fits the labels best.

  One number by maximum likelihood (Guo et al. 2017). The likelihood is concave
  in 1 / T, so its slope changes sign once and halving the bracket finds it,
  to the ends of `LOWEST` and `HIGHEST`. Never worse than T = 1.
  """
  logits_NxC = divergences.wide(logits_NxC)

  def value(log_t):
    scaled = logits_NxC * jnp.exp(-log_t)
    return negative_log_likelihood(scaled, labels_N)

  def halve(_, bracket):
    low, high = bracket
    middle = 0.5 * (low + high)
    # Rising in T: the best T is below.
    rises = jax.grad(value)(middle) > 0
    return jnp.where(rises, low, middle), jnp.where(rises, middle, high)

  ends = (jnp.log(posterior.LOWEST), jnp.log(posterior.HIGHEST))
  low, high = jax.lax.fori_loop(0, 40, halve, ends)
  log_best = 0.5 * (low + high)
  # Rounding alone could make a flat likelihood worse.
  best = jnp.where(
    value(log_best) <= value(jnp.zeros_like(log_best)), log_best, 0.0
  )
  return jnp.exp(best)
