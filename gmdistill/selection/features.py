"""A student's features of rows, by which coresets choose."""

import jax
import numpy as np

from gmdistill import trees
from gmdistill.data import batches, lengths
from gmdistill.students import problems
from gmdistill.system import devices


def features(
  problem: problems.Problem,
  params: trees.Params,
  examples: batches.Examples,
  rows: int = 128,
) -> np.ndarray:
  """Returns a student's features [N, F] of real rows (float32)."""
  parts = []
  for start in range(0, len(examples.labels), rows):
    ids = examples.token_ids[start : start + rows]
    mask = examples.mask[start : start + rows]
    missing = rows - len(ids)
    # The last chunk is padded to the one compiled shape.
    ids = np.pad(ids, ((0, missing), (0, 0)))
    mask = np.pad(mask, ((0, missing), (0, 0)))
    # A base that processes hold together leaves its features on all of them.
    chunk_features = devices.host(_chunk(problem, params, ids, mask))
    parts.append(chunk_features[: rows - missing])
  return np.concatenate(parts)


def features_by_length(
  problem: problems.Problem, params: trees.Params, examples: batches.Examples
) -> np.ndarray:
  """Returns what `features` does, short rows at less cost."""
  parts = [
    (
      rows,
      features(problem, params, _cut(batches.take(examples, rows), length)),
    )
    for length, rows in lengths.lots(examples.mask)
  ]
  order = np.concatenate([rows for rows, _ in parts])
  return np.concatenate([of_part for _, of_part in parts])[np.argsort(order)]


def _cut(examples, length):
  return examples._replace(
    token_ids=examples.token_ids[:, :length], mask=examples.mask[:, :length]
  )


def mean_vectors(
  problem: problems.Problem, examples: batches.Examples, rows: int = 4096
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
