"""Which of a corpus's rows a run draws from, and which it chooses on."""

import numpy as np

from gmdistill import errors
from gmdistill.data import batches, formats, overlap, remarks, splits
from gmdistill.runs.config import recipe as recipes
from gmdistill.sets import spaces
from gmdistill.system import logs


def training_rows(
  setup: spaces.Setup, config: recipes.Recipe
) -> batches.Examples:
  """Returns the rows that the outer loop may draw, of any length.

  With `selection.apart`, none that shares so many consecutive tokens with a
  row on which choices are made: of phrases of one sentence, in several splits,
  the accuracy says little.

  Raises:
    InputError: none is apart.
  """
  train, apart = setup.rows, config.selection.apart
  if apart:
    chosen_on = formats.without_slots(selection_rows(setup.corpus, config))
    shared = overlap.sharing(formats.without_slots(train), chosen_on, apart)
    train = batches.take(train, np.flatnonzero(~shared))
    if not len(train.labels):
      raise errors.InputError(
        f"selection.apart={apart} leaves no training row; use more tokens, or "
        "0 to keep all."
      )
    logs.say(
      f"{shared.sum()} training rows share {apart} tokens with the selection "
      "split and are left out of the outer loop"
    )
  return train


def selection_rows(
  corpus: batches.Corpus, config: recipes.Recipe
) -> batches.Examples:
  """Returns the rows on which iterations and learning rates are chosen.

  Raises:
    InputError: a class has none long enough.
  """
  options = config.selection
  found = splits.long_rows(
    corpus.selection,
    options.min_tokens,
    "selection.min_tokens",
    corpus.strata,
  )
  order = np.random.default_rng(0).permutation(len(found.labels))
  return batches.take(found, order[: options.rows])


def say_remarks(corpus: batches.Corpus, config: recipes.Recipe) -> None:
  """Says what of the data no student could learn, and no choice rest on."""
  for line in remarks.of_corpus(corpus, selection_rows(corpus, config)):
    logs.say(line)
