"""What the rows of a corpus are to people: their texts."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse

from gmdistill import errors
from gmdistill.data import batches, loading

if TYPE_CHECKING:
  from gmdistill.data import split_rows

Text = str | tuple[str, str]

_AT_ONCE = 64  # texts whose overlap with every other stands in memory


def by_part(
  options: loading.Options, corpus: batches.Corpus
) -> "dict[str, split_rows.Texts]":
  """Returns the texts of every part, in the order of a corpus's rows.

  Raises:
    errors.InputError: the data are not those that the corpus was read from.
  """
  # Not at the top: TensorFlow Datasets takes its time to import.
  from gmdistill.data import parts, sources, splits

  source = sources.with_classes(loading.opened(options))
  rows, _, _ = parts.read(source, options.reported_split)
  reported = rows["reported"]
  few = splits.few_of(reported.labels, options.reported_rows)
  rows["reported"] = reported.take(few)
  for part, of_part in rows.items():
    if not np.array_equal(of_part.labels, getattr(corpus, part).labels):
      raise errors.InputError(
        f"the {part} rows of {options.name} have changed since they were read; "
        "clear the cache folder."
      )
  return {part: of_part.texts for part, of_part in rows.items()}


def nearest(
  texts: Sequence[Text], real: Sequence[Text]
) -> tuple[np.ndarray, np.ndarray]:
  """Returns the real row [M] whose words are most like each text's, and how.

  The overlap [M] is the share of words that both have among those that either
  has (Jaccard), from 0 to 1: that of two equal rows.
  """
  index: dict[str, int] = {}
  ours, theirs = (_words(x, index) for x in (texts, real))
  width = max(len(index), 1)
  ours, theirs = (_incidence(x, width) for x in (ours, theirs))
  sizes_N = np.asarray(theirs.sum(axis=1)).ravel()
  found, overlaps = [], []
  for first in range(0, len(texts), _AT_ONCE):
    some = ours[first : first + _AT_ONCE]
    both_BxN = (some @ theirs.T).toarray()
    sizes_Bx1 = np.asarray(some.sum(axis=1))
    overlap_BxN = both_BxN / np.maximum(sizes_Bx1 + sizes_N - both_BxN, 1)
    found.append(overlap_BxN.argmax(axis=1))
    overlaps.append(overlap_BxN.max(axis=1))
  return np.concatenate(found), np.concatenate(overlaps)


def _words(texts, index):
  """Returns the numbers of each text's words; new ones enter the index."""
  return [
    {
      index.setdefault(word, len(index))
      for word in joined(text).lower().split()
    }
    for text in texts
  ]


def _incidence(rows, width):
  columns = [word for row in rows for word in row]
  ends = np.cumsum([0, *map(len, rows)])
  ones = np.ones(len(columns), np.float32)
  return sparse.csr_matrix((ones, columns, ends), (len(rows), width))


def joined(text: Text) -> str:
  """Returns a text, or the two of a pair as one."""
  return text if isinstance(text, str) else " ".join(text)
