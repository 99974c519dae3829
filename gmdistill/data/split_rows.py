"""The labelled rows of one split, before they are tokens."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from gmdistill.data import table_texts

# Held, or mapped from a file.
Texts = list[str] | list[tuple[str, str]] | table_texts.Texts


class _Singles:
  def __init__(self, texts: Texts):
    self._texts = texts

  def __iter__(self) -> Iterator[str]:
    for text in self._texts:
      yield from [text] if isinstance(text, str) else text


class Rows(NamedTuple):
  """The labelled rows of one split."""

  texts: Texts  # [N]
  labels: np.ndarray  # [N] int32
  dropped: int  # rows without a label, not among the N
  unseen: int  # of these, with one that no training row has
  rationales: list[str]  # [N], or none
  groups: np.ndarray | None = None  # [N] int64
  topics: list[list[str]] = []  # [N], or none
  group_names: tuple[str, ...] = ()  # of the groups, where these are words

  def single_texts(self) -> Iterable[str]:
    """Returns the texts one by one, as often as asked; a pair's are two."""
    return _Singles(self.texts)

  def take(self, chosen: np.ndarray) -> "Rows":
    """Returns the chosen rows, in the order chosen."""

    def pick(texts):
      if isinstance(texts, table_texts.Texts):
        return texts.take(chosen)
      return [texts[row] for row in chosen]

    return self._replace(
      texts=pick(self.texts),
      labels=self.labels[chosen],
      rationales=pick(self.rationales) if self.rationales else [],
      groups=None if self.groups is None else self.groups[chosen],
      topics=pick(self.topics) if self.topics else [],
    )
