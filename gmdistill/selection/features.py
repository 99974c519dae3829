"""A student's features of rows, by which coresets choose."""

import jax
import numpy as np

from gmdistill import trees
from gmdistill.data import batches
from gmdistill.students import problems


def features(
  problem: problems.Problem,
  params: trees.Params,
  examples: batches.Examples,
  rows: int = 128,
) -> np.ndarray:
  """Returns a student's features [N, F] of real rows (float32)."""

  @jax.jit
  def chunk(problem, params, ids, mask):
    labels = np.zeros((len(ids), 1), np.float32)
    return problem.apply(params, batches.Batch(ids, mask, labels)).features

  parts = []
  for start in range(0, len(examples.labels), rows):
    ids = examples.token_ids[start : start + rows]
    mask = examples.mask[start : start + rows]
    missing = rows - len(ids)
    # The last chunk is padded to the one compiled shape.
    ids = np.pad(ids, ((0, missing), (0, 0)))
    mask = np.pad(mask, ((0, missing), (0, 0)))
    chunk_features = np.asarray(chunk(problem, params, ids, mask))
    parts.append(chunk_features[: rows - missing])
  return np.concatenate(parts)


def mean_vectors(
  problem: problems.Problem, examples: batches.Examples, rows: int = 4096
) -> np.ndarray:
  """Returns the mean of the table's vectors of each row's tokens, [N, D]."""
  table_VxD = np.asarray(problem.embeddings)
  parts = []
  for start in range(0, len(examples.labels), rows):
    mask = examples.mask[start : start + rows]
    ids = np.where(mask, examples.token_ids[start : start + rows], 0)
    summed = (table_VxD[ids] * mask[..., None]).sum(axis=1)
    parts.append(summed / np.maximum(mask.sum(axis=1), 1)[:, None])
  return np.concatenate(parts).astype(np.float32)
