"""Real rows made of two, for teachers to label: there are more of them.

An outer loop sees the same rows many times, and a set comes to know them by
heart. Of two short ones in a row there are as many as pairs.
"""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from gmdistill import errors
from gmdistill.data import batches, samplers

SAME_CLASS = 0.7  # how often both parts are of one class

LEAST = 5  # tokens of a part, its frame of two included

# What teachers say of rows: token ids [B, L], mask [B, L] and the truth [B, C]
# to labels [B, C], and logits [B, K, C] where a student loses to them.
Labeller = Callable[
  [np.ndarray, np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray | None]
]


def sampler(
  plain: samplers.Sampler,
  examples: batches.Examples,
  label: Labeller,
  *,
  share: float,
  label_names: Sequence[str],
  seed: int,
) -> samplers.Sampler:
  """Returns the batches of `plain`, a share of whose rows are made of two.

  One part of a row is of the class whose place it takes; the truth of the row
  is the mean of its parts'. Pure in `(seed, step)`, if `plain` is.

  Args:
    plain: Batches of equally many rows of each class, class by class.
    examples: Rows [N, L]. Parts are those of which two fit in L; of a class
      where they are fewer than a tenth, all, cut.
    label: See `Labeller`.
    share: Of each class's rows, from 0 to 1.
    label_names: The classes.
    seed: Of what is drawn.

  Raises:
    InputError: a class has no row of a few tokens.
  """
  classes = len(label_names)
  parts = _parts(examples, share, label_names)

  def sample(step: int) -> batches.Batch:
    batch = plain(step)
    rng = np.random.default_rng((seed, 3, step))
    per_class = len(batch) // classes
    count = round(share * per_class)
    if not count:
      return batch
    ids, mask, truth = _joined(examples, parts, count, rng)
    labels, logits = label(ids, mask, truth)
    place = np.concatenate(
      [np.arange(count) + c * per_class for c in range(classes)]
    )
    teachers = batch.teachers
    if teachers is not None:
      teachers = dataclasses.replace(
        teachers, logits=_put(teachers.logits, place, logits)
      )
    return dataclasses.replace(
      batch,
      inputs=_put(batch.inputs, place, ids),
      mask=_put(batch.mask, place, mask),
      labels=_put(batch.labels, place, labels),
      teachers=teachers,
    )

  return sample


def _parts(examples, share, label_names):
  """Returns the rows of each class that may be a part of another row."""
  lengths_N = examples.mask.sum(axis=1)
  fits_N = lengths_N - 2 <= _half(examples)
  parts = []
  for of_class, name in enumerate(label_names):
    long_N = (examples.labels == of_class) & (lengths_N >= LEAST)
    rows, every = np.flatnonzero(long_N & fits_N), np.flatnonzero(long_N)
    parts.append(every if len(rows) < len(every) / 10 else rows)
    if not len(every):
      raise errors.InputError(
        f"joined_rows={share}: no row of class {name} has "
        f"{LEAST} tokens; use joined_rows=0.0."
      )
  return parts


def _half(examples):
  """Returns how many tokens of a row's text there are for either part."""
  return (examples.token_ids.shape[1] - 2) // 2


def _joined(examples, parts, count, rng):
  """Returns ids and mask [C * count, L] of rows of two, and their truth."""
  classes, length = len(parts), examples.token_ids.shape[1]
  lengths_N, half = examples.mask.sum(axis=1), _half(examples)
  ids, mask = np.zeros((2, classes * count, length), np.int32)
  truth = np.zeros((classes * count, classes), np.float32)
  for i in range(classes * count):
    one = other = i // count
    if classes > 1 and rng.random() > SAME_CLASS:
      other = (one + int(rng.integers(1, classes))) % classes
    pair = [rng.choice(parts[one]), rng.choice(parts[other])]
    first, second = (
      examples.token_ids[row, : lengths_N[row]] for row in rng.permutation(pair)
    )
    texts = first[1:-1][:half], second[1:-1][:half]
    row = np.concatenate([first[:1], *texts, second[-1:]])  # in one frame
    ids[i, : len(row)], mask[i, : len(row)] = row, 1
    truth[i] = (np.eye(classes)[one] + np.eye(classes)[other]) / 2
  return ids, mask.astype(bool), truth


def _put(into, place, rows):
  """Returns an array with other rows in some places, where there are any."""
  if into is None or rows is None:
    return into
  whole = np.array(into)
  whole[place] = rows
  return whole
