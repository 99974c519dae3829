"""What an attacker who has a set learns of who was in its training rows."""

from typing import Any

import numpy as np
from scipy import stats

from gmdistill.data import batches
from gmdistill.sets import spaces
from gmdistill.students import tasks

OTHERS = 500  # training rows that a set did not start from


def unit(x: np.ndarray) -> np.ndarray:
  """Returns vectors [..., D] of length 1; zeros stay."""
  return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12)


def auc(positive: np.ndarray, negative: np.ndarray) -> float:
  """Returns how often a positive's score is above a negative's; ties are half
  (Mann and Whitney 1947)."""
  ranks = stats.rankdata(np.concatenate([positive, negative]))
  below = ranks[: len(positive)].sum() - len(positive) * (len(positive) + 1) / 2
  return float(below / (len(positive) * len(negative)))


def attacks(
  setup: spaces.Setup,
  batch: batches.Batch,
  members: np.ndarray,
  held: np.ndarray,
  rng: np.random.Generator,
) -> dict[str, Any]:
  """Returns what an attacker learns who has the set and a row.

  The score of a row is its likeness to the nearest example: the mean cosine
  of their embeddings, place by place; from the end where that is asked.

  Args:
    setup: Whose table measures likeness, and the data.
    batch: The set.
    members: The training rows [n] that it started from; may be none.
    held: Rows of the reported split.
    rng: Draws the rows to compare with.
  """
  corpus = setup.corpus
  every = np.arange(len(corpus.train.labels))
  outside = np.sort(rng.permutation(np.setdiff1d(every, members))[:OTHERS])
  outside_scores = _likeness(setup, batch, batches.take(corpus.train, outside))
  held_scores = _likeness(setup, batch, batches.take(corpus.reported, held))
  found = {
    "is": "area under the curve of telling rows apart by their likeness to the "
    "set; 0.5 is chance",
    "training_against_held_out": auc(outside_scores, held_scores)
    if len(outside)
    else None,
    "start_rows": len(members),
    "start_against_other_rows": None,
  }
  if len(members) and len(outside):
    inside = batches.take(corpus.train, np.unique(members))
    scores = _likeness(setup, batch, inside)
    found["start_against_other_rows"] = auc(scores, outside_scores)
  return found


def _likeness(setup, batch, examples):
  """Returns of each row [N] its likeness to the nearest example."""
  length = min(batch.mask.shape[1], examples.mask.shape[1])
  own, ids_NxL = np.asarray(setup.problem.embed(batch)), examples.token_ids
  own_mask, mask_NxL = np.asarray(batch.mask), examples.mask
  if tasks.asks_at_end(setup.problem.task):
    own, own_mask = batches.last(own, own_mask, length)
    ids_NxL, mask_NxL = batches.last(ids_NxL, mask_NxL, length)
  own_MxLxD = unit(own[:, :length]) * own_mask[:, :length, None]
  table = np.asarray(setup.problem.embeddings)
  scores = []
  for ids_L, mask_L in zip(ids_NxL, mask_NxL, strict=True):
    row_LxD = unit(table[ids_L[:length]]) * mask_L[:length, None]
    cosines_M = np.einsum("mld,ld->m", own_MxLxD, row_LxD)
    scores.append(cosines_M.max() / max(mask_L[:length].sum(), 1))
  return np.array(scores)
