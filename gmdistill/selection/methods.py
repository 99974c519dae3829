"""The methods of selection, by name."""

import inspect
from collections.abc import Callable

import numpy as np

from gmdistill import errors
from gmdistill.data import batches
from gmdistill.selection import greedy, pools, row_gradients, scores

# (pool, *, per_class, seed, options) -> [P] scores, the rows of the highest
# being taken first; NaN: never.
METHODS: dict[str, Callable[..., np.ndarray]] = {
  "random": greedy.random,
  "length_matched": greedy.length_matched,
  "herding": greedy.herding,
  "k_centers": greedy.k_centers,
  "matching": greedy.matching,
  "facility_location": greedy.facility_location,
  "el2n": scores.el2n,
  "grand": scores.grand,
  "less": scores.less,
  "shapley": scores.shapley,
  "ifd": scores.ifd,
}

DRAWN = ("random", "length_matched")  # afresh for every student of a table

# What they choose first of many rows they choose of few: of a budget of tokens
# they go on until one no longer fits.
IN_ORDER = ("random", "herding", "matching", "facility_location")

OF_GRADIENTS = ("matching", "grand", "less")  # of single rows

OF_LANGUAGE = ("ifd",)  # whose students are language models

OF_CLASSES = ("el2n",)  # whose students tell classes


def require(pool: pools.Pool, name: str, options: pools.Options) -> None:
  """Checks that a method can read such rows, and finds tensors to look at.

  Raises:
    InputError: it is of students of another kind.
  """
  matched = options.matched
  if name in OF_GRADIENTS and not row_gradients.size(pool.problem, matched):
    raise errors.InputError(
      f"subset.matched={matched} are no tensors of this student, whose "
      f"gradients --method={name} looks at; use subset.matched=all."
    )
  if name in OF_LANGUAGE:
    scores.require_language(pool)
  if name in OF_CLASSES and batches.is_language(pool.rows):
    raise errors.InputError(
      f"--method={name} compares probabilities of classes with labels, and "
      "these rows say tokens; use another method, such as ifd."
    )


def of_kind(pool: pools.Pool) -> list[str]:
  """Returns the methods that read rows of a pool's kind."""
  others: tuple[str, ...] = OF_LANGUAGE
  if batches.is_language(pool.rows):
    others = OF_CLASSES
    if scores.are_texts(pool.rows):
      others += OF_LANGUAGE
  return [name for name in METHODS if name not in others]


def about(name: str) -> str:
  """Returns what a method takes first, in a sentence."""
  told = inspect.getdoc(METHODS[name]) or ""
  return " ".join(told.split("\n\n")[0].split())


def memory(pool: pools.Pool, name: str, options: pools.Options) -> int:
  """Returns about how many bytes a method's gradients of rows take; 0: none.

  Sketches are held whole; gradients a chunk of rows at a time, three times:
  themselves, what they are made into, and the sketch's signs.
  """
  if name not in OF_GRADIENTS:
    return 0
  chunk = 3 * options.chunk * row_gradients.size(pool.problem, options.matched)
  held = {"matching": options.num_students, "less": 1}.get(name, 0)
  return 4 * (chunk + held * len(pool.rows.labels) * options.sketch)
