"""What a language model loses to its teachers at every token.

Teachers tell their k likeliest tokens a place, and what all others have
together (`Tokens.teacher_ids` and `teacher_logs`). The student is read on the
same k + 1 outcomes, so that every divergence of two distributions is one here.
At k = V there are no others, and it is that of the whole distributions.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from gmdistill.data import batches
from gmdistill.students import next_token
from gmdistill.students import outputs as student_outputs
from gmdistill.teachers import ensembles

# (student [N, C], teacher [N, C], mask [N], labels [N]) -> loss
Divergence = Callable[..., jax.Array]


def lost(
  outputs: student_outputs.Outputs,
  tokens: batches.Tokens,
  divergence: Divergence,
  *,
  temperature: Any,
  weights: str,
) -> jax.Array:
  """Returns what each row [B] loses a token, by the tokens' weights.

  Args:
    outputs: Hidden states and the unembedding of a student.
    tokens: Whose teachers say something.
    divergence: Of outcomes; a label is the outcome of the token that follows,
      or of a target that is no token the teacher's likeliest.
    temperature: Divides the logs of both.
    weights: Of several teachers, the mean of whose losses is taken.
  """
  assert tokens.weights is not None and tokens.teacher_ids is not None
  ids_BxRxKxk = jnp.asarray(tokens.teacher_ids)
  theirs_BxRxKxC = jnp.asarray(tokens.teacher_logs)
  unembedding = outputs.unembedding
  said: Any = outputs.logits  # `tasks.Said`: queries, before any logits
  assert unembedding is not None
  ours_BxRxKxC = next_token.outcomes(
    said.queries,
    unembedding,
    ids_BxRxKxk,
    others=theirs_BxRxKxC.shape[-1] > ids_BxRxKxk.shape[-1],
  )
  labels_BxRxK = _labels(tokens.targets, ids_BxRxKxk)
  top = ids_BxRxKxk.shape[-1]
  shares_BxRxK = _shares(weights, theirs_BxRxKxC, labels_BxRxK, top)
  weights_BxR = jnp.asarray(tokens.weights)

  def of_row(ours_RxC, theirs_RxC, mask_R, labels_R):
    value = divergence(ours_RxC, theirs_RxC, mask_R, labels_R)
    # Divergences are means over their mask; a mean over tokens comes last.
    return value * jnp.maximum(mask_R.sum(), 1.0)

  of_teachers = jax.vmap(jax.vmap(of_row, in_axes=1))
  lost_BxK = of_teachers(
    ours_BxRxKxC / temperature,
    theirs_BxRxKxC / temperature,
    weights_BxR[:, :, None] * shares_BxRxK,
    labels_BxRxK,
  )
  total_B = weights_BxR.sum(axis=1)
  safe_B = jnp.where(total_B > 0, total_B, 1.0)
  return lost_BxK.sum(axis=1) / safe_B


def _labels(targets, ids_BxRxKxk):
  """Returns the outcome [B, R, K] that each teacher numbers a target by."""
  if not jnp.issubdtype(targets.dtype, jnp.integer):
    return jnp.zeros(ids_BxRxKxk.shape[:-1], jnp.int32)
  same = ids_BxRxKxk == jnp.asarray(targets)[:, :, None, None]
  return jnp.where(
    same.any(axis=-1), same.argmax(axis=-1), ids_BxRxKxk.shape[-1]
  )


def _shares(kind, logs_BxRxKxC, labels_BxRxK, top):
  """Returns what each teacher counts at each place [B, R, K]."""
  rows, places, count, outcomes = logs_BxRxKxC.shape
  logs_KxNxC = logs_BxRxKxC.reshape(-1, count, outcomes).swapaxes(0, 1)
  if kind == "confidence":
    labels_KxN = labels_BxRxK.reshape(-1, count).T
    said_KxNx1 = jnp.take_along_axis(logs_KxNxC, labels_KxN[..., None], axis=-1)
    # One of the others is at most as likely as the last of those that are told,
    # however much all others have together.
    said_KxN = jnp.where(
      labels_KxN < top,
      said_KxNx1[..., 0],
      jnp.minimum(said_KxNx1[..., 0], logs_KxNxC[..., top - 1]),
    )
    shares_KxN = ensembles.confidence_of_losses(-said_KxN)
  else:
    shares_KxN = ensembles.weights(kind, logs_KxNxC, logs_KxNxC[0])
  return shares_KxN.T.reshape(rows, places, count)
