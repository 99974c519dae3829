"""Tokenizers trained on a data set's own text."""

import itertools
import sys
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import tokenizers
from tokenizers import (
  decoders,
  models,
  normalizers,
  pre_tokenizers,
  processors,
  trainers,
)

from gmdistill.data import plain_tokens, tokenizing
from gmdistill.system import waits

LETTERS = "ACGT"  # of DNA

FORMAT = 3  # Raise it when the same texts come to train another tokenizer.

MOST_ROWS = 500_000  # that a vocabulary is learned from

ALPHABET = 1000  # characters, or half of a larger vocabulary; others: unknown

# A sentence of a script without spaces is one word of this many characters.
LONGEST_WORD = 1000

# What a reader does not see: controls, marks of direction, soft hyphens. Not
# spaces, nor the joiners that decide how letters and emoji are drawn.
_UNSEEN = r"(?![\s\x{200C}\x{200D}\x{E0020}-\x{E007F}])[\p{Cc}\p{Cf}]"


def normalizer(lower_case: bool = True, strip_accents: bool = False) -> Any:
  """Returns what a text goes through before it is cut into tokens.

  Accents and marks are kept, each a character of its own: two texts that look
  alike are the same, however they are composed, and the syllables of Korean
  need few characters. Ideographs stand alone.
  """
  return normalizers.Sequence(
    [
      normalizers.NFD(),
      normalizers.Replace(tokenizers.Regex(_UNSEEN), ""),
      *[normalizers.StripAccents()] * strip_accents,
      normalizers.BertNormalizer(
        clean_text=False, strip_accents=False, lowercase=lower_case
      ),
    ]
  )


def rows_of(num_rows: int) -> range:
  """Returns the rows of a data set that its vocabulary is learned from.

  All of up to MOST_ROWS; of more, every second, third or later one, as many as
  MOST_ROWS allows: what so many rows do not say is rare.
  """
  return range(0, num_rows, max(-(-num_rows // MOST_ROWS), 1))


def remark(num_rows: int) -> list[str]:
  """Returns what is said of a vocabulary that is not learned from all rows."""
  taken = len(rows_of(num_rows))
  if taken == num_rows:
    return []
  return [f"the vocabulary is learned from {taken} of {num_rows} training rows"]


def _characters(texts):
  """Returns how often each character stands in texts."""
  counts = np.zeros(sys.maxunicode + 1, np.int64)
  while some := list(itertools.islice(texts, 4096)):
    codes = np.frombuffer("".join(some).encode("utf-32-le"), np.uint32)
    counts += np.bincount(codes, minlength=len(counts))
  return {chr(code): int(counts[code]) for code in np.flatnonzero(counts)}


@waits.during("learning the vocabulary")
def train(
  texts: Iterable[str],
  vocab_size: int,
  *,
  lower_case: bool = True,
  strip_accents: bool = False,
) -> tokenizing.Tokenizer:
  """Trains a WordPiece tokenizer that frames texts as BERT does.

  Deterministic in its arguments. [PAD] is 0; then come [UNK],
  [CLS], [SEP] and [MASK]. The vocabulary holds every frequent character, and
  so may exceed a very small `vocab_size`.
  """
  if isinstance(texts, Iterator):  # which can be read but once
    texts = list(texts)
  normal = normalizer(lower_case, strip_accents)
  counts = _characters(map(normal.normalize_str, texts))
  frequent = sorted(
    counts, key=lambda character: (-counts[character], character)
  )
  alphabet = sorted(frequent[: max(ALPHABET, vocab_size // 2)])
  # The trainer numbers continuing characters in the order of a hash table, and
  # breaks ties by number: give them their numbers beforehand.
  continuing = [
    "##" + character
    for character in alphabet
    if tokenizing.joins(character)
    and " " not in normal.normalize_str(character)  # which stands alone
  ]
  learner = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))
  learner.normalizer = normal
  learner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
  trainer = trainers.WordPieceTrainer(
    vocab_size=vocab_size,
    special_tokens=tokenizing.OF_BERT + continuing,
    initial_alphabet=alphabet,
    limit_alphabet=len(alphabet),
    show_progress=False,
  )
  learner.train_from_iterator(texts, trainer)
  # Built anew, so that the continuing characters are no special tokens.
  tokenizer = tokenizers.Tokenizer(
    models.WordPiece(
      learner.get_vocab(),
      unk_token="[UNK]",
      max_input_chars_per_word=LONGEST_WORD,
    )
  )
  tokenizer.normalizer = normal
  tokenizer.pre_tokenizer = learner.pre_tokenizer
  tokenizer.decoder = decoders.WordPiece()
  tokenizer.add_special_tokens(tokenizing.OF_BERT)
  vocabulary = tokenizer.get_vocab()
  tokenizer.post_processor = processors.BertProcessing(
    ("[SEP]", vocabulary["[SEP]"]), ("[CLS]", vocabulary["[CLS]"])
  )
  return tokenizing.Tokenizer(tokenizer)


def kmers(k: int) -> tokenizing.Tokenizer:
  """Returns a tokenizer of DNA whose tokens are words of k letters.

  A row is cut from its first letter on, without overlap (as Dalla-Torre et al.
  2023 do with k = 6); an end of fewer letters is a token too. Small letters,
  which mark repeats, are read as large ones; a word with another letter than
  A, C, G or T is unknown. Framed by [CLS] and [SEP] as BERT's texts are.
  """
  words = [
    "".join(letters)
    for length in range(k, 0, -1)
    for letters in itertools.product(LETTERS, repeat=length)
  ]
  vocabulary = {x: n for n, x in enumerate([*tokenizing.OF_BERT, *words])}
  tokenizer = tokenizers.Tokenizer(
    models.WordLevel(vocabulary, unk_token="[UNK]")
  )
  tokenizer.normalizer = normalizers.Sequence(
    [normalizers.Replace(x.lower(), x) for x in LETTERS]
  )
  tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
    [
      pre_tokenizers.WhitespaceSplit(),
      pre_tokenizers.Split(tokenizers.Regex(f".{{1,{k}}}"), "isolated"),
    ]
  )
  tokenizer.add_special_tokens(tokenizing.OF_BERT)
  tokenizer.post_processor = processors.BertProcessing(
    ("[SEP]", vocabulary["[SEP]"]), ("[CLS]", vocabulary["[CLS]"])
  )
  return tokenizing.Tokenizer(tokenizer)


# What the tokens of `train_byte_pairs` do, by the names of a decoder's files.
BYTE_PAIR_SPECIAL = {"eos_token": "<|end|>"}


@waits.during("learning the vocabulary")
def train_byte_pairs(
  texts: Iterable[str], vocab_size: int
) -> plain_tokens.PlainTokenizer:
  """Trains a byte-level BPE, as decoders have them; every text has tokens.

  Deterministic in its arguments. <|end|>, the end of an answer, is 0; then come
  the 256 bytes, which a smaller `vocab_size` has too.
  """
  tokenizer = tokenizers.Tokenizer(models.BPE())
  tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
  tokenizer.decoder = decoders.ByteLevel()
  trainer = trainers.BpeTrainer(
    vocab_size=vocab_size,
    special_tokens=list(BYTE_PAIR_SPECIAL.values()),
    initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    show_progress=False,
  )
  tokenizer.train_from_iterator(texts, trainer)
  return plain_tokens.PlainTokenizer(tokenizer, BYTE_PAIR_SPECIAL)
