"""A student's features of rows, by which coresets choose."""

import jax
import numpy as np

from gmdistill import trees
from gmdistill.data import batches, lengths
from gmdistill.students import problems
from gmdistill.system import devices, waits


def features(
  problem: problems.Problem,
  params: trees.Params,
  examples: batches.Examples,
  rows: int = 128,
) -> np.ndarray:
  """Returns a student's features [N, F] of real rows (float32).

  They are read `rows` at a time, short ones with little padding.
  """
  chunks = [
    (length, lot[start : start + rows])
    for length, lot in lengths.lots(examples.mask, rows)
    for start in range(0, len(lot), rows)
  ]
  parts = []
  for length, chosen in waits.over(
    chunks, "features", len(examples.mask), "rows", rows
  ):
    missing = rows - len(chosen)
    # The last chunk is padded to the one compiled shape.
    ids = np.pad(examples.token_ids[chosen, :length], ((0, missing), (0, 0)))
    mask = np.pad(examples.mask[chosen, :length], ((0, missing), (0, 0)))
    # A base that processes hold together leaves its features on all of them.
    chunk_features = devices.host(_chunk(problem, params, ids, mask))
    parts.append(chunk_features[: len(chosen)])
  order = np.concatenate([chosen for _, chosen in chunks])
  return np.concatenate(parts)[np.argsort(order)]


def mean_vectors(
  problem: problems.Problem, examples: batches.Examples, rows: int = 256
) -> np.ndarray:
  """Returns the mean of the table's vectors of each row's tokens, [N, D]."""
  table_VxD = devices.host(problem.embeddings)
  parts = []
  for start in range(0, len(examples.labels), rows):
    mask = examples.mask[start : start + rows]
    ids = np.where(mask, examples.token_ids[start : start + rows], 0)
    summed = (table_VxD[ids] * mask[..., None]).sum(axis=1)
    parts.append(summed / np.maximum(mask.sum(axis=1), 1)[:, None])
  return np.concatenate(parts).astype(np.float32)


@jax.jit
def _chunk(problem, params, ids, mask):
  labels = np.zeros((len(ids), 1), np.float32)
  return problem.apply(params, batches.Batch(ids, mask, labels)).features
