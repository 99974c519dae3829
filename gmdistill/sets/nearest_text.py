"""Synthetic embeddings back to text: the nearest tokens of the table."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gmdistill.data import batches


@jax.jit
def _similarities(rows_NxD, table_VxD):
  return _unit(rows_NxD) @ _unit(table_VxD).T


def _unit(x_NxD):
  norm_Nx1 = jnp.linalg.norm(x_NxD, axis=-1, keepdims=True)
  return x_NxD / jnp.maximum(norm_Nx1, 1e-9)


def nearest_tokens(
  embeddings: batches.Array, table: jax.Array, k: int = 3
) -> tuple[np.ndarray, np.ndarray]:
  """Returns the ids and cosines [M, L, k] of the k nearest tokens.

  Args:
    embeddings: Word-level embeddings [M, L, D].
    table: The embedding table [V, D].
    k: How many, nearest first.
  """
  ids, cosines = [], []
  for rows_LxD in embeddings:  # one example at a time: [L, V] stays small
    top = jax.lax.top_k(_similarities(rows_LxD, table), k)
    cosines.append(np.asarray(top[0]))
    ids.append(np.asarray(top[1]))
  return np.stack(ids), np.stack(cosines)


def examples(
  synthetic_batch: Any, table: jax.Array, tokens: Sequence[str], classes: Any
) -> list[dict[str, Any]]:
  """Returns for every synthetic example its labels and nearest tokens.

  Args:
    synthetic_batch: A `batches.Batch` of embeddings [M, L, D].
    table: The embedding table [V, D].
    tokens: The token of each row of the table.
    classes: The class [M] that each example was started from.
  """
  # A table padded to a round number has more rows than there are tokens.
  ids, cosines = nearest_tokens(synthetic_batch.inputs, table[: len(tokens)])
  described = []
  labels = synthetic_batch.labels
  for m in range(len(ids)):
    positions = np.flatnonzero(np.asarray(synthetic_batch.mask[m]))
    said = (
      {}
      if labels is not None
      else {"says": _said(synthetic_batch, m, positions, tokens)}
    )
    described.append(
      {
        "label": int(classes[m]),
        "labels": [] if labels is None else [float(y) for y in labels[m]],
        **said,
        "tokens": [
          [
            {"token": tokens[i], "cosine": round(float(c), 4)}
            for i, c in zip(ids[m, p], cosines[m, p], strict=True)
          ]
          for p in positions
        ],
      }
    )
  return described


def _said(batch, m, positions, tokens):
  """Returns what each place of an example says: a token, or nothing that
  counts; of learned ones, no token."""
  told = batch.tokens
  targets, weights = np.asarray(told.targets[m]), np.asarray(told.weights[m])
  if not np.issubdtype(targets.dtype, np.integer):
    return ["" for _ in positions]
  return [tokens[int(targets[p])] if weights[p] > 0 else "" for p in positions]
