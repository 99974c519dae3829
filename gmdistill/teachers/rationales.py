"""Rationales: what a student is told beside the label, token by token.

A student with slots says the rationale's tokens with a second head (Hsieh et
al. 2023, Distilling Step-by-Step). Which of them count, and from when on, is
decided here: weights that sum to 1 in each rationale, and masks over its steps
that only grow, the last step first (Feng et al. 2024, KPOD).
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from gmdistill import errors
from gmdistill.data import batches
from gmdistill.students import problems

WEIGHTS = ("uniform", "rare")


def token_weights(
  ids_NxR: np.ndarray, is_token_NxR: np.ndarray, kind: str = "uniform"
) -> np.ndarray:
  """Returns the weight of each token in its rationale.

  Args:
    ids_NxR: The tokens of all training rationales.
    is_token_NxR: Where they are; a row without any is no rationale.
    kind: `uniform`; `rare`: by smoothed inverse document frequency,
      log((1 + N) / (1 + n_v)) + 1 of a token in n_v of N rationales, so that
      what every rationale says counts least, and never nothing.

  Returns:
    [N, R] float32; a row sums to 1, or is 0 where there is no rationale.

  Raises:
    ValueError: another kind.
  """
  errors.choice("weights", kind, WEIGHTS)
  weights_NxR = is_token_NxR.astype(np.float64)
  if kind == "rare":
    rows, _ = np.nonzero(is_token_NxR)
    pairs = np.unique(np.stack([rows, ids_NxR[is_token_NxR]]), axis=1)
    counts_V = np.bincount(pairs[1], minlength=int(ids_NxR.max()) + 1)
    total = is_token_NxR.any(axis=1).sum()
    weights_NxR *= (np.log((1 + total) / (1 + counts_V)) + 1)[ids_NxR]
  sums_Nx1 = weights_NxR.sum(axis=1, keepdims=True)
  return (weights_NxR / np.maximum(sums_Nx1, 1e-9)).astype(np.float32)


def step_mask(
  steps_BxR: batches.Array,
  weights_BxR: batches.Array,
  progress: batches.Array | float,
) -> jax.Array:
  """Returns which tokens count: those of the last steps, more and more.

  Of K steps, the last max(1, ceil(K progress)): the last alone at 0, all from
  1 on; nothing that counted once stops to count (Feng et al. 2024).

  Args:
    steps_BxR: The step of each token, from 0.
    weights_BxR: Their weights; what has none is no token.
    progress: Share of the curriculum that is over, from 0.
  """
  is_token_BxR = jnp.asarray(weights_BxR) > 0
  count_Bx1 = jnp.where(is_token_BxR, steps_BxR + 1, 0).max(
    axis=1, keepdims=True
  )
  # Rounding must not keep the first step out at the end.
  let_in_Bx1 = jnp.ceil(count_Bx1 * jnp.clip(progress, 0.0, 1.0) - 1e-4)
  first_Bx1 = count_Bx1 - jnp.maximum(let_in_Bx1, 1)
  return is_token_BxR & (steps_BxR >= first_Bx1)


def curriculum(
  share: float,
) -> Callable[[batches.Batch], batches.Batch] | None:
  """Returns `seen(batch)`: what a training step sees of its batch.

  Over the first `share` of the steps, more and more of each rationale counts;
  the weights of what counts sum to 1 again. Batches without steps stay as they
  are. None where share is 0: all count from the start.
  """
  if not share:
    return None

  def seen(batch: batches.Batch) -> batches.Batch:
    tokens = batch.tokens
    if tokens is None or tokens.steps is None or batch.progress is None:
      return batch
    weights_BxR = tokens.weights
    assert weights_BxR is not None
    progress = batch.progress / share
    mask_BxR = step_mask(tokens.steps, weights_BxR, progress)
    kept_BxR = jnp.where(mask_BxR, weights_BxR, 0.0)
    sums_Bx1 = kept_BxR.sum(axis=1, keepdims=True)
    kept_BxR = kept_BxR / jnp.where(sums_Bx1 > 0, sums_Bx1, 1.0)
    tokens = dataclasses.replace(tokens, weights=kept_BxR)
    return dataclasses.replace(batch, tokens=tokens)

  return seen


def queries(
  problem: problems.Problem,
  ids_MxR: batches.Array,
  sure: float = 0.9,
  table: jax.Array | None = None,
) -> jax.Array:
  """Returns queries [M, R, D] whose softmax is near one-hot on each token.

  A multiple of the token's embedding: of some, the one that gives the token a
  probability nearest to `sure`, from which it can still be learned. A token
  with near copies in the table, or longer neighbours, stays below it. `table`:
  by whose products tokens are said, where that is not the embeddings.
  """
  said = problem.embeddings if table is None else table
  scales_S = jnp.geomspace(0.1, 1e3, 200)

  def one(token):
    rows_SxD = scales_S[:, None] * said[token][None]
    p_SxV = jax.nn.softmax(problem.task.token_logits(rows_SxD, said))
    return rows_SxD[jnp.abs(p_SxV[:, token] - sure).argmin()]

  shape = jnp.shape(ids_MxR)
  found_NxD = jax.jit(lambda ids: jax.lax.map(one, ids))(
    jnp.asarray(ids_MxR).reshape(-1)
  )
  return found_NxD.reshape(*shape, -1)
