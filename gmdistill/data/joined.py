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
  length, classes = examples.token_ids.shape[1], len(label_names)
  lengths_N = examples.mask.sum(axis=1)
  half = (length - 2) // 2  # of a row's text
  fits_N = lengths_N - 2 <= half
  parts = []
  for of_class in range(classes):
    own_N = (examples.labels == of_class) & (lengths_N >= LEAST)
    rows, every = np.flatnonzero(own_N & fits_N), np.flatnonzero(own_N)
    parts.append(every if len(rows) < len(every) / 10 else rows)
    if not len(every):
      raise errors.InputError(
        f"joined_rows={share}: no row of class {label_names[of_class]} has "
        f"{LEAST} tokens; use joined_rows=0.0."
      )

  def sample(step: int) -> batches.Batch:
    batch = plain(step)
    rng = np.random.default_rng((seed, 3, step))
    per_class = len(batch) // classes
    count = round(share * per_class)
    if not count:
      return batch
    ids, mask = np.zeros((2, classes * count, length), np.int32)
    truth = np.zeros((classes * count, classes), np.float32)
    for i in range(classes * count):
      own = other = i // count
      if classes > 1 and rng.random() > SAME_CLASS:
        other = (own + int(rng.integers(1, classes))) % classes
      pair = [rng.choice(parts[own]), rng.choice(parts[other])]
      first, second = (
        examples.token_ids[row, : lengths_N[row]]
        for row in rng.permutation(pair)
      )
      texts = first[1:-1][:half], second[1:-1][:half]
      row = np.concatenate([first[:1], *texts, second[-1:]])  # in one frame
      ids[i, : len(row)], mask[i, : len(row)] = row, 1
      truth[i] = (np.eye(classes)[own] + np.eye(classes)[other]) / 2
    labels, logits = label(ids, mask.astype(bool), truth)
    place = np.concatenate(
      [np.arange(count) + c * per_class for c in range(classes)]
    )

    def put(into, own):
      if into is None or own is None:
        return into
      whole = np.array(into)
      whole[place] = own
      return whole

    teachers = batch.teachers
    if teachers is not None:
      teachers = dataclasses.replace(
        teachers, logits=put(teachers.logits, logits)
      )
    return dataclasses.replace(
      batch,
      inputs=put(batch.inputs, ids),
      mask=put(batch.mask, mask.astype(bool)),
      labels=put(batch.labels, labels),
      teachers=teachers,
    )

  return sample
