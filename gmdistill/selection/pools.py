"""What methods of selection choose from, and how much they may choose."""

import dataclasses
import itertools
from typing import NamedTuple

import numpy as np

from gmdistill import fields
from gmdistill.data import batches
from gmdistill.selection import diversity
from gmdistill.students import problems


@dataclasses.dataclass(frozen=True)
class Options:
  """How `gmdistill select` chooses rows; each method reads what it needs.

  Attributes:
    tokens_per_class: A budget of tokens a class, instead of `data_per_class`
      rows; 0: rows.
    num_students: Students by whom scores are averaged.
    num_steps: Of the AdamW that warms each of them up on the pool.
    checkpoints: Of such a training, evenly spaced, the last at its end: `less`
      looks at each of them.
    batch_size: Rows of a step.
    learning_rate: Of that AdamW.
    sgd_rate: Of the SGD along which `shapley` counts, at most: longer gradients
      than 1 are cut to it.
    epochs: Of that SGD, over the pool.
    matched: Whose gradients are looked at: `head`, `last_K` or `all` tensors.
    sketch: Numbers that a row's gradient is projected to, where it has more.
    chunk: Rows whose gradients stand in memory at once.
  """

  tokens_per_class: fields.FromZero = 0
  num_students: fields.Count = 3
  num_steps: fields.Schedule = 40
  checkpoints: fields.Count = 4
  batch_size: fields.Count = 32
  learning_rate: fields.Rate = 1e-3
  sgd_rate: fields.Rate = 0.1
  epochs: fields.Count = 2
  matched: str = "head"
  sketch: fields.Count = 1024
  chunk: fields.Count = 32


class Pool(NamedTuple):
  """Real rows to choose from, and what says which are good."""

  problem: problems.Problem  # whose fresh students look at rows
  rows: batches.Examples  # [P]
  validation: batches.Examples  # on which a choice is to be good
  num_classes: int

  @property
  def lengths(self) -> np.ndarray:
    """The tokens of each row, [P]."""
    return self.rows.mask.sum(axis=1)


def as_batch(pool: Pool, rows: batches.Examples) -> batches.Batch:
  """Returns rows, of the pool or for it, as one batch on the host."""
  return batches.as_batch(rows, pool.num_classes)


def most_rows(pool: Pool, per_class: int, tokens: int) -> int:
  """Returns how many rows a class are chosen: of `tokens`, so many as average
  rows have; never more than the smallest class has."""
  counts = np.bincount(pool.rows.labels, minlength=pool.num_classes)
  if tokens:
    per_class = max(int(tokens / max(pool.lengths.mean(), 1)), 1)
  return min(per_class, int(counts[counts > 0].min()))


def rows_within(pool: Pool, tokens: int) -> int:
  """Returns how many rows a class at most are `tokens` of it: its shortest
  ones; never more than the smallest class has."""
  most, smallest = 1, len(pool.lengths)
  for label in np.unique(pool.rows.labels):
    lengths = np.sort(pool.lengths[pool.rows.labels == label])
    within = int(np.searchsorted(np.cumsum(lengths), tokens, side="right"))
    most, smallest = max(most, within), min(smallest, len(lengths))
  return min(most, smallest)


def best(
  scores_P: np.ndarray,
  pool: Pool,
  per_class: int,
  tokens: int = 0,
  diverse: diversity.Diversity | None = None,
) -> np.ndarray:
  """Returns the rows of the highest scores in each class, in class order.

  Args:
    scores_P: NaN: never taken. Of equal ones the first.
    pool: The rows.
    per_class: Rows a class at most.
    tokens: A class, instead, where above 0: a row that no longer fits is
      passed over.
    diverse: What counts beside the scores, of all rows.
  """
  chosen = []
  for label in range(pool.num_classes):
    rows = np.flatnonzero((pool.rows.labels == label) & ~np.isnan(scores_P))
    own = None if diverse is None else diverse.take(rows)
    order = diversity.ordered(scores_P[rows], own)
    if not tokens:
      first = list(itertools.islice(order, per_class))
      chosen.append(rows[np.array(first, np.int64)])
      continue
    left, taken = tokens, []
    for row in rows[list(order)]:
      if pool.lengths[row] <= left:
        left -= pool.lengths[row]
        taken.append(row)
    chosen.append(np.array(taken, np.int64))
  return np.concatenate(chosen).astype(np.int64)
