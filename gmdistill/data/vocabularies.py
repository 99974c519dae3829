"""Tokenizers trained on a data set's own text."""

import itertools
from collections import Counter
from collections.abc import Iterable

import tokenizers
from tokenizers import (
  decoders,
  models,
  normalizers,
  pre_tokenizers,
  processors,
  trainers,
)

from gmdistill.data import tokenizing


def train(texts: Iterable[str], vocab_size: int) -> tokenizing.Tokenizer:
  """Trains a lower-casing WordPiece tokenizer that frames texts as BERT does.

  Deterministic in `texts` and `vocab_size`. [PAD] is 0; then come [UNK],
  [CLS], [SEP] and [MASK]. The vocabulary holds every frequent character, and
  so may exceed a very small `vocab_size`.
  """
  texts = list(texts)
  normalizer = normalizers.BertNormalizer(lowercase=True)
  counts = Counter(
    itertools.chain.from_iterable(map(normalizer.normalize_str, texts))
  )
  frequent = sorted(
    counts, key=lambda character: (-counts[character], character)
  )
  alphabet = sorted(frequent[: tokenizing.ALPHABET])
  # The trainer numbers continuing characters in the order of a hash table, and
  # breaks ties by number: give them their numbers beforehand.
  continuing = [
    "##" + character for character in alphabet if tokenizing.joins(character)
  ]
  learner = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))
  learner.normalizer = normalizer
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
    models.WordPiece(learner.get_vocab(), unk_token="[UNK]")
  )
  tokenizer.normalizer = normalizer
  tokenizer.pre_tokenizer = learner.pre_tokenizer
  tokenizer.decoder = decoders.WordPiece()
  tokenizer.add_special_tokens(tokenizing.OF_BERT)
  vocabulary = tokenizer.get_vocab()
  tokenizer.post_processor = processors.BertProcessing(
    ("[SEP]", vocabulary["[SEP]"]), ("[CLS]", vocabulary["[CLS]"])
  )
  return tokenizing.Tokenizer(tokenizer)
