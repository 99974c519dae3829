"""Which of a corpus's rows a run draws from, and which it chooses on."""

from collections.abc import Sequence

import ml_collections
import numpy as np

from gmdistill import data, errors, labelling, metrics


def training_rows(
  corpus: data.Corpus, config: ml_collections.ConfigDict
) -> data.Examples:
  """Returns the rows that the outer loop may draw, of any length.

  With `selection.apart`, none that shares so many consecutive tokens with a
  row on which choices are made: of phrases of one sentence, in several splits,
  the accuracy says little.

  Raises:
    InputError: none is apart.
  """
  train, apart = labelling.taught(corpus, config), config.selection.apart
  if apart:
    chosen_on = data.without_slots(selection_rows(corpus, config))
    shared = data.sharing(data.without_slots(train), chosen_on, apart)
    train = data.take(train, np.flatnonzero(~shared))
    if not len(train.labels):
      raise errors.InputError(
        f"selection.apart={apart} leaves no training row; use more tokens, or "
        "0 to keep all."
      )
    metrics.say(
      f"{shared.sum()} training rows share {apart} tokens with the selection "
      "split and are left out of the outer loop"
    )
  return train


def selection_rows(
  corpus: data.Corpus, config: ml_collections.ConfigDict
) -> data.Examples:
  """Returns the rows on which iterations and learning rates are chosen.

  Raises:
    InputError: a class has none long enough.
  """
  options = config.selection
  found = long_rows(
    corpus.selection,
    options.min_tokens,
    "selection.min_tokens",
    corpus.label_names,
  )
  order = np.random.default_rng(0).permutation(len(found.labels))
  return data.take(found, order[: options.rows])


def long_rows(
  examples: data.Examples,
  min_tokens: int,
  field: str,
  label_names: Sequence[str],
) -> data.Examples:
  """Returns the rows of at least `min_tokens` tokens.

  Raises:
    InputError: a class that has rows has none so long; names the field.
  """
  lengths_N = data.without_slots(examples).mask.sum(axis=1)
  found = data.take(examples, np.flatnonzero(lengths_N >= min_tokens))
  counts = np.bincount(found.labels, minlength=len(label_names))
  # A class too rare for the split is no fault of the lengths.
  had = np.bincount(examples.labels, minlength=len(label_names)) > 0
  if not counts[had].all():
    raise errors.InputError(
      f"{field}={min_tokens} leaves no row of class "
      f"{label_names[int(np.where(had, counts, 1).argmin())]}; use a smaller "
      "one."
    )
  return found
