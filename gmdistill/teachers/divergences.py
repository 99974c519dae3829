"""What a student loses to a teacher: divergences of their logits, features.

Each takes logits [N, C] of the student and of the teacher and a mask [N] of the
rows that count; p is the teacher's distribution, q the student's. Computed in
at least float32; the mean is over unmasked rows. No gradient flows to the
teacher.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gmdistill import errors

Array = jax.Array | np.ndarray

Loss = Callable[[Array, Array, Array], jax.Array]

# Of fewer logits there is one difference, and its softmax is always 1.
LEAST_BILD = 3


def forward_kl(
  student_NxC: Array, teacher_NxC: Array, mask_N: Array, *, temperature=1.0
) -> jax.Array:
  """Returns tau^2 KL(p || q), both softened (Hinton et al. 2015)."""
  log_q, log_p = _log_probs(student_NxC, teacher_NxC, temperature)
  return temperature**2 * masked_mean(_kl(log_p, log_q), mask_N)


def reverse_kl(
  student_NxC: Array, teacher_NxC: Array, mask_N: Array, *, temperature=1.0
) -> jax.Array:
  """Returns tau^2 KL(q || p): the student seeks modes (Gu et al. 2024)."""
  log_q, log_p = _log_probs(student_NxC, teacher_NxC, temperature)
  return temperature**2 * masked_mean(_kl(log_q, log_p), mask_N)


def jensen_shannon(
  student_NxC: Array, teacher_NxC: Array, mask_N: Array, *, beta=0.5
) -> jax.Array:
  """Returns beta KL(p || m) + (1 - beta) KL(q || m), m = beta p + (1-beta) q.

  The generalised divergence of Agarwal et al. 2024.

  Raises:
    ValueError: beta is not between 0 and 1.
  """
  if not 0 < beta < 1:
    raise ValueError(f"beta={beta} must be between 0 and 1.")
  log_q, log_p = _log_probs(student_NxC, teacher_NxC)
  log_m = _log_mixture(log_p, log_q, beta)
  value = beta * _kl(log_p, log_m) + (1 - beta) * _kl(log_q, log_m)
  return masked_mean(value, mask_N)


def skew_forward_kl(
  student_NxC: Array, teacher_NxC: Array, mask_N: Array, *, alpha=0.1
) -> jax.Array:
  """Returns KL(p || alpha p + (1 - alpha) q) (Ko et al. 2024)."""
  log_q, log_p = _log_probs(student_NxC, teacher_NxC)
  return masked_mean(_kl(log_p, _log_mixture(log_p, log_q, alpha)), mask_N)


def skew_reverse_kl(
  student_NxC: Array, teacher_NxC: Array, mask_N: Array, *, alpha=0.1
) -> jax.Array:
  """Returns KL(q || (1 - alpha) p + alpha q) (Ko et al. 2024)."""
  log_q, log_p = _log_probs(student_NxC, teacher_NxC)
  return masked_mean(_kl(log_q, _log_mixture(log_q, log_p, alpha)), mask_N)


def total_variation(
  student_NxC: Array, teacher_NxC: Array, mask_N: Array
) -> jax.Array:
  """Returns half the sum of |p - q| (Wen et al. 2023)."""
  log_q, log_p = _log_probs(student_NxC, teacher_NxC)
  gap_N = jnp.abs(jnp.exp(log_p) - jnp.exp(log_q)).sum(axis=-1)
  return masked_mean(0.5 * gap_N, mask_N)


def soft_cross_entropy(
  student_NxC: Array, teacher_NxC: Array, mask_N: Array
) -> jax.Array:
  """Returns -sum p log q: forward KL and the teacher's entropy."""
  log_q, log_p = _log_probs(student_NxC, teacher_NxC)
  return masked_mean(-(jnp.exp(log_p) * log_q).sum(axis=-1), mask_N)


def bild(
  student_NxC: Array,
  teacher_NxC: Array,
  mask_N: Array,
  *,
  k: int = 8,
  temperature: float = 3.0,
) -> jax.Array:
  """Returns the sum of both parts of `bild_parts` (Li et al. 2024)."""
  return bild_parts(
    student_NxC, teacher_NxC, mask_N, k=k, temperature=temperature
  ).sum()


def bild_parts(
  student_NxC: Array,
  teacher_NxC: Array,
  mask_N: Array,
  *,
  k: int,
  temperature: float,
) -> jax.Array:
  """Returns the teacher-led and the student-led difference losses [2].

  Of the k largest logits of the one that leads, all differences z_i - z_j with
  i ranked before j are softened to a distribution, the teacher's and the
  student's; KL(p || q) of those (Li et al. 2024). A shift of all logits, and a
  permutation of the vocabulary, change nothing.

  Raises:
    ValueError: k is below 3, or above C.
  """
  classes = student_NxC.shape[-1]
  if not LEAST_BILD <= k <= classes:
    raise ValueError(
      f"k={k} must be {LEAST_BILD} to {classes}, the number of classes."
    )
  student, teacher = (
    wide(student_NxC),
    jax.lax.stop_gradient(wide(teacher_NxC)),
  )
  first, second = np.triu_indices(k, 1)

  def led_by(leader):
    order_Nxk = jax.lax.top_k(leader, k)[1]

    def log_probs(logits):
      top_Nxk = jnp.take_along_axis(logits, order_Nxk, axis=-1)
      gaps = top_Nxk[:, first] - top_Nxk[:, second]
      return jax.nn.log_softmax(gaps / temperature)

    return masked_mean(_kl(log_probs(teacher), log_probs(student)), mask_N)

  return jnp.stack([led_by(teacher), led_by(jax.lax.stop_gradient(student))])


def decoupled(
  student_NxC: Array,
  teacher_NxC: Array,
  mask_N: Array,
  labels_N: Array,
  *,
  alpha: float = 1.0,
  beta: float = 8.0,
) -> jax.Array:
  """Returns alpha times the target part, beta times the non-target part
  (Zhao et al. 2022); see `decoupled_parts`."""
  parts = decoupled_parts(student_NxC, teacher_NxC, mask_N, labels_N)
  return alpha * parts[0] + beta * parts[1]


def decoupled_parts(
  student_NxC: Array, teacher_NxC: Array, mask_N: Array, labels_N: Array
) -> jax.Array:
  """Returns both parts of decoupled KD [2].

  KL of (target class, all others together), and KL among the others alone;
  forward KL is the first plus (1 - p_target) times the second.
  """
  log_q, log_p = _log_probs(student_NxC, teacher_NxC)
  target_NxC = jax.nn.one_hot(labels_N, log_q.shape[-1], dtype=bool)

  def binary(log_probs):
    one = jnp.where(target_NxC, log_probs, 0.0).sum(axis=-1)
    # Left out by a large finite number: no NaN where a class takes it all.
    rest = jax.nn.logsumexp(jnp.where(target_NxC, -1e9, log_probs), axis=-1)
    return jnp.stack([one, rest], axis=-1)

  def others(log_probs):
    return jax.nn.log_softmax(jnp.where(target_NxC, -1e9, log_probs))

  target_N = _kl(binary(log_p), binary(log_q))
  rest_N = _kl(others(log_p), others(log_q))
  return jnp.stack([masked_mean(target_N, mask_N), masked_mean(rest_N, mask_N)])


def taid(
  student_NxC: Array, teacher_NxC: Array, mask_N: Array, *, t: Array | float
) -> jax.Array:
  """Returns KL(p_t || q), p_t = softmax((1 - t) student + t teacher).

  The target goes from the student itself, as a constant, to the teacher as t
  goes from 0 to 1 (Shing et al. 2025).
  """
  student, teacher = wide(student_NxC), wide(teacher_NxC)
  between = (1 - t) * jax.lax.stop_gradient(student) + t * teacher
  return forward_kl(student, between, mask_N)


# --- features -------------------------------------------------------------


def init_projection(
  key: jax.Array, student_width: int, teacher_width: int
) -> dict[str, jax.Array]:
  """Returns the parameters of a linear map of features, learned with the
  student: {"kernel": [student_width, teacher_width]}."""
  scale = student_width**-0.5
  shape = (student_width, teacher_width)
  return {"kernel": scale * jax.random.normal(key, shape)}


def layer_map(student_layers: int, teacher_layers: int) -> list[int]:
  """Returns the teacher's layer for each of the student's, evenly spread.

  The last goes with the last (Jiao et al. 2020). A student of more layers than
  the teacher has several to one layer, the lowest to the lowest.
  """
  step = teacher_layers / student_layers
  return [max(round((i + 1) * step), 1) - 1 for i in range(student_layers)]


def feature_mse(
  student_NxF: Array, teacher_NxG: Array, mask_N: Array, projection: Any
) -> jax.Array:
  """Returns the mean squared difference of projected features."""
  gap = _projected(student_NxF, projection) - jax.lax.stop_gradient(
    wide(teacher_NxG)
  )
  return masked_mean(jnp.square(gap).mean(axis=-1), mask_N)


def feature_cosine(
  student_NxF: Array, teacher_NxG: Array, mask_N: Array, projection: Any
) -> jax.Array:
  """Returns 1 - cos of projected features; 1, without gradient, for zeros."""
  ours = _projected(student_NxF, projection)
  theirs = jax.lax.stop_gradient(wide(teacher_NxG))
  squares = jnp.square(ours).sum(-1) * jnp.square(theirs).sum(-1)
  # Guarded before the root: the gradient of sqrt at 0 is infinite.
  norm = jnp.sqrt(jnp.where(squares > 0, squares, 1.0))
  return masked_mean(1.0 - (ours * theirs).sum(axis=-1) / norm, mask_N)


# --- schedules ------------------------------------------------------------


def schedule(
  kind: str, start: float, end: float, num_steps: int
) -> Callable[[Array | int], jax.Array]:
  """Returns `value(step)` of a temperature or a mixing weight.

  Args:
    kind: `constant` (at `start`), `linear` or `cosine`.
    start: At step 0.
    end: At step `num_steps`, and after it.
    num_steps: At least 1.

  Raises:
    ValueError: another kind, or no step.
  """
  errors.choice("kind", kind, ("constant", "linear", "cosine"))
  if num_steps < 1:
    raise ValueError(f"num_steps={num_steps} must be at least 1.")

  def value(step):
    share = jnp.clip(step / num_steps, 0.0, 1.0)
    if kind == "constant":
      share = 0.0 * share
    elif kind == "cosine":
      share = 0.5 * (1.0 - jnp.cos(jnp.pi * share))
    return start + share * (end - start)

  return value


# --- inside ---------------------------------------------------------------


def wide(x: Array) -> jax.Array:
  """Returns an array in at least float32."""
  x = jnp.asarray(x)
  return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _log_probs(student, teacher, temperature=1.0):
  """Returns log q and log p; the teacher is a constant."""
  teacher = jax.lax.stop_gradient(wide(teacher))
  log_q = jax.nn.log_softmax(wide(student) / temperature)
  return log_q, jax.nn.log_softmax(teacher / temperature)


def _kl(log_a, log_b):
  """Returns KL(a || b) [N]; from logarithms, so that zeros are no NaN."""
  return (jnp.exp(log_a) * (log_a - log_b)).sum(axis=-1)


def _log_mixture(log_a, log_b, weight):
  """Returns log(weight a + (1 - weight) b)."""
  return jnp.logaddexp(log_a + jnp.log(weight), log_b + jnp.log1p(-weight))


def masked_mean(value_N: jax.Array, mask_N: Array) -> jax.Array:
  """Returns the mean over unmasked rows; 0 where there are none."""
  weight_N = wide(mask_N)
  # Before the product: a masked row may be anything, NaN too.
  value_N = jnp.where(weight_N > 0, value_N, 0.0)
  return (value_N * weight_N).sum() / jnp.maximum(weight_N.sum(), 1.0)


def over_rows(
  mean: Callable[[Array], jax.Array], count: int, weights_N: Array | None
) -> jax.Array:
  """Returns `mean(mask)` of N rows, each times its weight, as the
  cross-entropy counts them: a row of weight 2 is two rows."""
  if weights_N is None:
    return mean(jnp.ones(count))
  # A `masked_mean` divides by what its mask sums to, or by 1.
  return mean(weights_N) * jnp.maximum(weights_N.sum(), 1.0) / count


def _projected(features, projection):
  return wide(features) @ projection["kernel"]
