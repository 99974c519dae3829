"""Rows with classes as a language model reads them: a template around texts."""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from gmdistill import errors
from gmdistill.data import batches, plain_tokens

if TYPE_CHECKING:
  from gmdistill.data import split_rows

_FIELD = re.compile(r"\{(\w*)\}")


class Template(NamedTuple):
  """What stands around a row's texts, so that a word follows its last token."""

  tokenizer: plain_tokens.PlainTokenizer
  text: str  # with {name} for each text; empty: a line each, then "Label:"

  @property
  def identity(self) -> list[Any]:
    """What decides the tokens of a row."""
    return [self.text, self.tokenizer.fingerprint, self.tokenizer.special]

  def pieces(self, keys: Sequence[str]) -> list[str]:
    """Returns what stands before, between and after the places of texts, and
    the names of these, in turn.

    Raises:
      errors.InputError: it names no text of the rows, or not all of them.
    """
    pieces = _FIELD.split(spelled(self.text, keys))
    if sorted(pieces[1::2]) != sorted(keys):
      wanted = " and ".join(f"{{{key}}}" for key in keys)
      raise errors.InputError(
        f"task.template={self.text!r} must name {wanted}, the texts that are "
        "read, each once"
      )
    return pieces

  def rows(
    self, rows: "split_rows.Rows", keys: Sequence[str], length: int
  ) -> tuple[batches.Examples, int]:
    """Returns rows of `length` tokens, and how many were cut.

    A row that is too long loses the end of its longest text: the template
    stays whole, and what is asked stands at the end.

    Raises:
      errors.InputError: the template alone fills the length.
    """
    pieces = self.pieces(keys)
    frame = len(self.tokenizer.row("".join(pieces[::2]))[0])
    if frame >= length:
      raise errors.InputError(
        f"task.template has {frame} tokens beside the texts, which fill "
        f"config.data.max_length={length}; use more"
      )
    found, cut = [], 0
    for value in rows.texts:
      of_key = dict(
        zip(keys, [value] if len(keys) == 1 else value, strict=True)
      )
      whole, spans = "", []
      for i, piece in enumerate(pieces):
        if i % 2:
          piece = str(of_key[piece])
          spans.append((len(whole), len(whole) + len(piece)))
        whole += piece
      ids, offsets = self.tokenizer.row(whole)
      cut += len(ids) > length
      found.append(_shortened(ids, offsets, spans, length))
    shape = (len(found), length)
    ids_NxL = np.full(shape, self.tokenizer.pad_id, np.int32)
    mask_NxL = np.zeros(shape, bool)
    for i, row in enumerate(found):
      ids_NxL[i, : len(row)], mask_NxL[i, : len(row)] = row, True
    groups = rows.groups
    return batches.Examples(ids_NxL, mask_NxL, rows.labels, groups=groups), cut

  def words(self, words: Sequence[str], names: Sequence[str]) -> list[int]:
    """Returns the token of each class's word; no words: those of the names.

    Raises:
      errors.InputError: one is not one token, or they are not one a class.
    """
    words = words or [f" {name}" for name in names]
    if len(words) != len(names):
      raise errors.InputError(
        f"task.words has {len(words)} words, the data {len(names)} classes: "
        f"{', '.join(names)}; give one each, in that order"
      )
    ids = []
    for word in words:
      own = self.tokenizer.ids_after(word)
      if len(own) != 1:
        raise errors.InputError(
          f"task.words: {word!r} is {len(own)} tokens of this model; use words "
          "of one token, most of which begin with a space"
        )
      ids += own
    if twice := [
      x for x, i in zip(words, ids, strict=True) if ids.count(i) > 1
    ]:
      raise errors.InputError(
        f"task.words: two classes have the token of {twice[0]!r}; use another"
      )
    return ids


def spelled(template: str, keys: Sequence[str]) -> str:
  """Returns a template that names each text by its key."""
  text = template or "\n".join(f"{{{key}}}" for key in keys) + "\nLabel:"
  return text.replace("{text}", f"{{{keys[0]}}}") if len(keys) == 1 else text


def _shortened(ids, offsets, spans, length):
  """Returns a row without the last tokens of its longest text; of two, then
  without those of the other."""
  while len(ids) > length:
    inside = [
      [
        i
        for i, (a, b) in enumerate(offsets)
        if first <= a and b <= last and b > a
      ]
      for first, last in spans
    ]
    longest = max(inside, key=len)
    second = sorted(map(len, inside))[-2] if len(inside) > 1 else 0
    count = min(len(ids) - length, max(len(longest) - second, 1))
    gone = set(longest[len(longest) - count :])
    if not gone:
      return ids[-length:]
    ids = [x for i, x in enumerate(ids) if i not in gone]
    offsets = [x for i, x in enumerate(offsets) if i not in gone]
  return ids
