"""Several teachers of one student: how their labels are joined and weighed.

Teachers' logits come stacked [K, N, C]. Weights [K, N] sum to 1 over the
teachers of each example; one teacher has weight 1, and permuting the teachers
permutes the weights and changes nothing else.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gmdistill import errors, fields
from gmdistill.teachers import divergences

Array = jax.Array | np.ndarray

WEIGHTS = ("equal", "confidence", "entropy")


def equal_weights(logits_KxNxC: Array) -> jax.Array:
  """Returns 1 / K for every example."""
  count = logits_KxNxC.shape[0]
  return jnp.full(logits_KxNxC.shape[:2], 1.0 / count)


def confidence_weights(logits_KxNxC: Array, labels: Array) -> jax.Array:
  """Returns (1 - softmax_k(CE_k)) / (K - 1): who knows the label counts more.

  CE_k is teacher k's cross-entropy of the true label (Zhang et al. 2022).

  Args:
    logits_KxNxC: The teachers'.
    labels: [N].
  """
  log_probs_KxNxC = _log_probs(logits_KxNxC)
  chosen = jnp.broadcast_to(labels, logits_KxNxC.shape[:2])[..., None]
  losses_KxN = -jnp.take_along_axis(log_probs_KxNxC, chosen, axis=-1)[..., 0]
  return confidence_of_losses(losses_KxN)


def confidence_of_losses(losses_KxN: Array) -> jax.Array:
  """Returns the weights of `confidence_weights` of the cross-entropies."""
  return _shared(jax.nn.softmax(losses_KxN, axis=0))


def entropy_weights(logits_KxNxC: Array) -> jax.Array:
  """Returns (1 - H_k / sum_k H_k) / (K - 1): who is sure counts more."""
  entropy_KxN = _entropy(_log_probs(logits_KxNxC))
  total_1xN = entropy_KxN.sum(axis=0, keepdims=True)
  # Where all are certain, all are so alike.
  even = 1.0 / entropy_KxN.shape[0]
  share = jnp.where(
    total_1xN > 0, entropy_KxN / jnp.where(total_1xN > 0, total_1xN, 1.0), even
  )
  return _shared(share)


def weights(kind: str, logits_KxNxC: Array, labels_NxC: Array) -> jax.Array:
  """Returns the weights [K, N] of a kind: one of `WEIGHTS`.

  Nobody is confident in a label that a row does not have: where none is the
  likeliest, the weights are equal.
  """
  if kind == "confidence":
    labels_NxC = jnp.asarray(labels_NxC)
    largest_Nx1 = labels_NxC.max(axis=-1, keepdims=True)
    labelled_N = (labels_NxC == largest_Nx1).sum(axis=-1) == 1
    own_KxN = confidence_weights(logits_KxNxC, labels_NxC.argmax(axis=-1))
    return jnp.where(labelled_N, own_KxN, equal_weights(logits_KxNxC))
  return {"equal": equal_weights, "entropy": entropy_weights}[kind](
    logits_KxNxC
  )


def gate_weights(gate: Any, features_NxF: Array) -> jax.Array:
  """Returns the weights of a learned gate: softmax_k(features kernel + bias).

  Args:
    gate: {"kernel": [F, K], "bias": [K]}, learned with the student.
    features_NxF: What the gate looks at: the student's features.
  """
  bias_1xK = gate["bias"][None]
  logits_NxK = jnp.asarray(features_NxF) @ gate["kernel"] + bias_1xK
  return jax.nn.softmax(logits_NxK, axis=-1).T


def init_gate(width: int, num_teachers: int) -> dict[str, jax.Array]:
  """Returns a gate that starts with equal weights."""
  return {
    "kernel": jnp.zeros((width, num_teachers)),
    "bias": jnp.zeros(num_teachers),
  }


def certainty(logits_NxC: Array) -> jax.Array:
  """Returns 1 - H(p) / log C [N], the weight of an example: 0 where the teacher
  is uniform, and so says nothing; 1 where it is certain."""
  log_probs_NxC = _log_probs(logits_NxC)
  most = np.log(log_probs_NxC.shape[-1])
  return jnp.clip(1.0 - _entropy(log_probs_NxC) / most, 0.0, 1.0)


def mean_of_probabilities(
  logits_KxNxC: Array, weights_KxN: Array, temperatures_K: Array | float = 1.0
) -> jax.Array:
  """Returns log sum_k w_k p_k [N, C]: logits of the mixture."""
  softened = logits_KxNxC / jnp.reshape(jnp.asarray(temperatures_K), (-1, 1, 1))
  log_probs_KxNxC = _log_probs(softened)
  # A weight of zero is no term at all, without a logarithm of zero.
  return jax.nn.logsumexp(
    log_probs_KxNxC, axis=0, b=jnp.asarray(weights_KxN)[:, :, None]
  )


def mean_of_logits(
  logits_KxNxC: Array, weights_KxN: Array, temperatures_K: Array | float = 1.0
) -> jax.Array:
  """Returns sum_k w_k z_k / tau_k [N, C]: a geometric mean of the teachers."""
  softened = logits_KxNxC / jnp.reshape(jnp.asarray(temperatures_K), (-1, 1, 1))
  return (jnp.asarray(weights_KxN)[:, :, None] * softened).sum(axis=0)


# What may be taken the mean of before the loss.
JOINS = {"probabilities": mean_of_probabilities, "logits": mean_of_logits}


def mean_of_losses(
  loss: Callable[..., jax.Array],
  student_NxC: Array,
  logits_KxNxC: Array,
  mask_N: Array,
  weights_KxN: Array,
  *others: Array,
) -> jax.Array:
  """Returns the loss to each teacher, weighed for each example.

  Args:
    loss: Any of `divergences` that takes logits of both and a mask.
    student_NxC: The student's logits.
    logits_KxNxC: The teachers'.
    mask_N: Rows that count.
    weights_KxN: Each example's weights.
    *others: What else the loss reads of a row, [N, ...].
  """

  def of_row(student_C, teacher_C, *others_C):
    rows = (x[None] for x in others_C)
    return loss(student_C[None], teacher_C[None], jnp.ones(1), *rows)

  def of_teacher(teacher_NxC):
    rows = (jnp.asarray(x) for x in others)
    return jax.vmap(of_row)(jnp.asarray(student_NxC), teacher_NxC, *rows)

  values_KxN = jax.vmap(of_teacher)(jnp.asarray(logits_KxNxC))
  # A masked row may be anything, NaN too: the mean leaves it out.
  total_N = (jnp.asarray(weights_KxN) * values_KxN).sum(axis=0)
  return divergences.masked_mean(total_N, mask_N)


@dataclasses.dataclass(frozen=True)
class Options:
  """How several teachers and the truth become one label.

  Attributes:
    alpha: The teachers' share, from 0, the truth alone, to 1.
    temperature: Of the teachers.
    temperatures: One for each of the teachers instead.
    join: `probabilities` or `logits`, whose mean is taken.
    weights: `equal`, `confidence` (in the true label; equal where a row has
      none) or `entropy`.
    certainty: Each row's share is alpha times the teachers' certainty, which is
      0 where what they say is uniform, and 1 where they name one class.
  """

  alpha: fields.Share = 1.0
  temperature: fields.Positive = 1.0
  temperatures: tuple[fields.Positive, ...] = ()
  join: str = "probabilities"
  weights: str = "equal"
  certainty: bool = False

  def __post_init__(self) -> None:
    """Checks the fields.

    Raises:
      ValueError: an unknown choice.
      InputError: a number out of its range.
    """
    fields.require(self, "teachers")
    errors.choice("join", self.join, JOINS)
    errors.choice("weights", self.weights, WEIGHTS)


def soft_labels(
  logits_KxNxC: np.ndarray, truth_NxC: np.ndarray, options: Options
) -> np.ndarray:
  """Returns alpha times what the teachers say, 1 - alpha times the truth.

  Args:
    logits_KxNxC: The teachers' logits.
    truth_NxC: The true labels, one-hot where they are hard.
    options: See `Options`.

  Returns:
    Labels [N, C], float32; each row sums to 1 where the truth does.

  Raises:
    ValueError: temperatures that are not one for each of the teachers.
  """
  count = len(logits_KxNxC)
  temperatures = options.temperatures or (options.temperature,) * count
  if len(temperatures) != count:
    raise ValueError(
      f"temperatures={options.temperatures} must be one for each of {count} "
      "teachers."
    )
  weights_KxN = weights(options.weights, logits_KxNxC, truth_NxC)
  joined_NxC = JOINS[options.join](
    logits_KxNxC, weights_KxN, np.asarray(temperatures, np.float32)
  )
  said_NxC = np.asarray(jax.nn.softmax(joined_NxC), np.float32)
  share_Nx1 = np.full((len(truth_NxC), 1), options.alpha, np.float32)
  if options.certainty:
    share_Nx1 *= np.asarray(certainty(joined_NxC))[:, None]
  mixed_NxC = share_Nx1 * said_NxC + (1 - share_Nx1) * truth_NxC
  return mixed_NxC.astype(np.float32)


def _log_probs(logits):
  return jax.nn.log_softmax(divergences.wide(logits))


def _entropy(log_probs):
  return -(jnp.exp(log_probs) * log_probs).sum(axis=-1)


def _shared(share_KxN):
  """Returns (1 - share) / (K - 1), which sums to 1; of one teacher, 1."""
  count = share_KxN.shape[0]
  if count == 1:
    return jnp.ones_like(share_KxN)
  return (1.0 - share_KxN) / (count - 1)
