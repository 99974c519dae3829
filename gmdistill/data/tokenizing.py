"""Texts to rows of token ids: reading a tokenizer, or training one."""

import functools
import hashlib
import os
import re
import unicodedata
from collections.abc import Sequence
from typing import Any

import numpy as np
import tokenizers

from gmdistill import errors
from gmdistill.system import cache, paths, waits

# Another release of the library may train another vocabulary.
LIBRARY_VERSION = tokenizers.__version__

# By what they do: as BERT's tokenizers name them, and as RoBERTa's.
SPECIAL_TOKENS = {
  "pad": ("[PAD]", "<pad>"),
  "unk": ("[UNK]", "<unk>"),
  "cls": ("[CLS]", "<s>"),
  "sep": ("[SEP]", "</s>"),
  "mask": ("[MASK]", "<mask>"),
}

OF_BERT = [names[0] for names in SPECIAL_TOKENS.values()]

# A step of a rationale is a sentence or a line; "3.5 m" is none.
_NEXT_STEP = re.compile(r"(?<=[.!?;])\s+|\s*\n\s*")


class Tokenizer:
  """Texts to arrays of fixed length, by the `tokenizers` library.

  Of a pair, only ids and mask are kept: BERT's segment ids are not used, and
  the separator alone tells a student where the second text begins.
  """

  def __init__(self, tokenizer: tokenizers.Tokenizer):
    """Copies `tokenizer`, less its own settings of length and padding.

    One that puts nothing before and after a text gets its own [CLS] and [SEP]
    there, which students read; but byte-pair encodings, as decoders have them,
    stay as they stand, and may have no padding token either.

    Raises:
      errors.InputError: it has no padding token, nothing to frame by, or no
        token for an unknown word.
    """
    padding = tokenizer.padding
    self._tokenizer = tokenizers.Tokenizer.from_str(tokenizer.to_str())
    self._tokenizer.no_padding()
    self._tokenizer.no_truncation()
    vocabulary = self._tokenizer.get_vocab(with_added_tokens=True)
    self.tokens = [""] * (max(vocabulary.values()) + 1)  # [V], by id
    for token, index in vocabulary.items():
      self.tokens[index] = token
    self._require_any_text()
    self._complete(vocabulary, padding)

  def _require_any_text(self) -> None:
    """Checks that a word that no vocabulary has can be read."""
    try:
      # Letters of Osmanya, runes and N'Ko in one.
      self._tokenizer.encode("\U00010480\u16a0\u07ca", add_special_tokens=False)
    except Exception as error:  # The library raises nothing narrower.
      raise errors.InputError(
        f"The tokenizer cannot read every text ({error}); save it with its "
        "unknown token in its vocabulary"
      ) from error

  def _complete(self, vocabulary: dict[str, int], padding: Any) -> None:
    """Sees to what students need of a tokenizer beside its tokens."""
    names = [padding["pad_token"]] if padding else SPECIAL_TOKENS["pad"]
    known = [name for name in names if name in vocabulary]
    if not known and not self._is_bpe:
      raise errors.InputError(
        f"The tokenizer has no padding token; expected {' or '.join(names)}"
      )
    # Any will do: what is padded is masked, and not read.
    self.pad_id = int(vocabulary[known[0]]) if known else 0
    if not self._is_bpe and not self.frame(pair=False):
      self._tokenizer.post_processor = _framing(vocabulary)

  @functools.cached_property
  def _is_bpe(self) -> bool:
    """Whether it is of the kind that decoders have: it stays as it stands."""
    return isinstance(self._tokenizer.model, tokenizers.models.BPE)

  def _encoder(self) -> tokenizers.Tokenizer:
    """Returns a copy, whose settings are the caller's."""
    return tokenizers.Tokenizer.from_str(self.to_json())

  @classmethod
  def from_file(cls, path: str | os.PathLike[str]) -> "Tokenizer":
    """Reads a `tokenizer.json`.

    Raises:
      errors.InputError: there is no such file, or it is no tokenizer.
    """
    file = paths.path(path)
    if not file.is_file():
      raise errors.InputError(
        f"No tokenizer file {path}; give the path of a tokenizer.json"
      )
    try:
      return cls(tokenizers.Tokenizer.from_str(file.read_text()))
    except errors.InputError:
      raise
    except Exception as error:  # The library raises nothing narrower.
      raise errors.InputError(
        f"{path} is not a tokenizer.json of the tokenizers library"
      ) from error

  @classmethod
  def from_json(cls, text: str) -> "Tokenizer":
    """Reads what `to_json` returns."""
    return cls(tokenizers.Tokenizer.from_str(text))

  def to_json(self) -> str:
    """Returns the text of a `tokenizer.json`, which `from_file` reads."""
    return self._tokenizer.to_str()

  @property
  def vocab_size(self) -> int:
    """The number of token ids."""
    return len(self.tokens)

  @functools.cached_property
  def fingerprint(self) -> str:
    """A hash of everything that decides the ids of a text."""
    return hashlib.sha256(self.to_json().encode()).hexdigest()

  def encode(
    self, texts: Sequence[str] | Sequence[tuple[str, str]], length: int
  ) -> tuple[np.ndarray, np.ndarray]:
    """Encodes texts, or pairs of texts, in rows of `length` tokens.

    A pair that is too long loses tokens of its longer text first. An empty
    text is a row of the special tokens alone.

    Returns:
      Token ids [N, length] int32 and mask [N, length] bool.
    """
    encoder = self._encoder()
    encoder.enable_truncation(length, strategy="longest_first")
    encoder.enable_padding(
      length=length, pad_id=self.pad_id, pad_token=self.tokens[self.pad_id]
    )
    ids = cache.scratch((len(texts), length), np.int32)
    mask = cache.scratch((len(texts), length), np.bool_)
    starts = range(0, len(texts), 4096)
    for start in waits.over(starts, "tokenising", len(texts), "rows", 4096):
      encodings = encoder.encode_batch_fast(list(texts[start : start + 4096]))
      for row, encoding in enumerate(encodings, start):
        ids[row] = encoding.ids
        mask[row] = encoding.attention_mask
    return ids, mask

  def said(self, ids: Sequence[int]) -> str:
    """Returns what ids say: without special tokens, the parts of a word put
    together."""
    if self._is_bpe:
      text: str = self._tokenizer.decode([int(i) for i in ids])
      return text.strip()
    special = {name for names in SPECIAL_TOKENS.values() for name in names}
    tokens = [self.tokens[i] for i in ids]
    return " ".join(x for x in tokens if x not in special).replace(" ##", "")

  @functools.cached_property
  def unknown_id(self) -> int:
    """The id of what it has no token for; -1: it has one for everything."""
    known = [x for x in SPECIAL_TOKENS["unk"] if x in self.tokens]
    return self.tokens.index(known[0]) if known else -1

  def frame(self, pair: bool) -> int:
    """Returns how many tokens a row has beside those of its texts."""
    texts = ("", "") if pair else ("",)
    return len(self._tokenizer.encode(*texts).ids)

  def special_id(self, name: str) -> int:
    """Returns the id of BERT's token `name`, such as "mask".

    Raises:
      errors.InputError: the tokenizer has none.
    """
    token = f"[{name.upper()}]"
    if token not in self.tokens:
      raise errors.InputError(
        f"The tokenizer has no {token}, which rationales need; use one of the "
        "BERT family, or leave config.data.rationale_key empty"
      )
    return self.tokens.index(token)

  def encode_steps(
    self, texts: Sequence[str], length: int
  ) -> tuple[np.ndarray, np.ndarray]:
    """Encodes rationales, token by token, in rows of `length` tokens.

    Without special tokens but the [SEP] that ends each, the last of its tokens
    even where the text is cut; then padding. A text without tokens is padding
    alone.

    Returns:
      Token ids [N, length] int32, and steps [N, length] int32: of which
      sentence or line each token is, from 0; -1 of padding.
    """
    ids = np.full((len(texts), length), self.pad_id, np.int32)
    steps = np.full((len(texts), length), -1, np.int32)
    end = self.special_id("sep")
    encodings = self._tokenizer.encode_batch(
      list(texts), add_special_tokens=False
    )
    for row, (text, found) in enumerate(zip(texts, encodings, strict=True)):
      count = min(len(found.ids), length - 1)
      if not count:
        continue
      begins = [match.end() for match in _NEXT_STEP.finditer(text)]
      first = [start for start, _ in found.offsets[:count]]
      steps[row, :count] = np.searchsorted(begins, first, side="right")
      steps[row, count] = steps[row, count - 1]
      # An empty line, or a sentence of no known token, is no step.
      own = steps[row, : count + 1]
      own[:] = np.unique(own, return_inverse=True)[1]
      ids[row, :count], ids[row, count] = found.ids[:count], end
    return ids, steps


def _framing(vocabulary):
  """Returns what puts [CLS] before a text and [SEP] after each."""
  pairs = zip(SPECIAL_TOKENS["cls"], SPECIAL_TOKENS["sep"], strict=True)
  for cls, sep in pairs:
    if cls in vocabulary and sep in vocabulary:
      return tokenizers.processors.BertProcessing(
        (sep, vocabulary[sep]), (cls, vocabulary[cls])
      )
  raise errors.InputError(
    "The tokenizer puts no token before or after a text, and has no [CLS] and "
    "[SEP] to put there; save it with a post-processor that frames texts"
  )


def joins(character: str) -> bool:
  """Whether a character can continue a word; punctuation stands alone."""
  if character.isascii():
    return character.isalnum()
  # A mark, a symbol or a joiner does; where a word ends is all that matters.
  is_space = character.isspace()
  return not is_space and unicodedata.category(character)[0] not in "PZ"
