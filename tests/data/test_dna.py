"""DNA: words of k letters, simulated rows, and motifs found again."""

import numpy as np
import pytest

from gmdistill import errors
from gmdistill.data import loading, vocabularies
from gmdistill.data.corpora import motifs


def words(k, *texts, length=10):
  tokenizer = vocabularies.kmers(k)
  ids, mask = tokenizer.encode(list(texts), length)
  return [
    [tokenizer.tokens[i] for i in row[held]]
    for row, held in zip(ids, mask, strict=True)
  ]


def test_dna_is_cut_into_words_from_its_first_letter_on():
  (said,) = words(3, "ACGTACGTaa")
  assert said == ["[CLS]", "ACG", "TAC", "GTA", "A", "[SEP]"]
  upper, lower = words(2, "ACGT", "acgt")
  assert upper == lower == ["[CLS]", "AC", "GT", "[SEP]"]


def test_a_word_with_another_letter_is_unknown_and_the_rest_stays():
  (said,) = words(3, "ACGNNNTTT")
  assert said == ["[CLS]", "ACG", "[UNK]", "TTT", "[SEP]"]


@pytest.mark.parametrize("k", [1, 2, 4])
def test_every_word_of_at_most_k_letters_is_one_token(k):
  tokenizer = vocabularies.kmers(k)
  of_dna = [x for x in tokenizer.tokens if x[0] != "["]
  assert len(of_dna) == sum(4**n for n in range(1, k + 1))
  assert len(set(tokenizer.tokens)) == tokenizer.vocab_size


def test_words_of_dna_are_read_of_any_data_but_not_by_an_encoder_of_words():
  corpus = loading.load(loading.Options(name="motifs", kmer=3, max_length=32))
  assert corpus.label_names == tuple(motifs.MOTIFS)
  assert (corpus.train.mask.sum(axis=1) == 32).all()  # 30 words, framed
  with pytest.raises(errors.InputError, match="kmer"):
    loading.Options(kmer=9)


def test_a_row_holds_the_motif_of_its_class_but_for_changed_letters():
  of_split = motifs.rows()
  assert of_split == motifs.rows()
  consensus = list(motifs.MOTIFS.values())
  whole, least = 0, []
  for row in of_split["train"]:
    motif = consensus[row["label"]]
    starts = range(motifs.LENGTH - len(motif) + 1)
    misses = [
      sum(a != b for a, b in zip(motif, row["text"][at:], strict=False))
      for at in starts
    ]
    least.append(min(misses))
    whole += not least[-1]
  assert max(least) <= 5 and np.mean(least) < 1
  # Nine letters, each itself with a chance of 0.9 and a quarter of 0.1.
  assert 0.4 < whole / len(of_split["train"]) < 0.7


def test_the_words_of_a_motif_are_found_where_a_set_says_them():
  def example(label, text):
    said = [text[i : i + 3] for i in range(0, len(text), 3)]
    return {
      "label": label,
      "tokens": [[{"token": x, "cosine": 1.0}] for x in said],
    }

  rng = np.random.default_rng(0)
  noise = "".join(rng.choice(list("ACGT"), 60))
  saying = [
    example(label, noise + motif[shift:] * 3)
    for label, motif in enumerate(motifs.MOTIFS.values())
    for shift in range(3)
  ]
  found = motifs.rediscovered(saying, 3)
  assert list(found) == list(motifs.MOTIFS)
  for one in found.values():
    assert len(one.found) > 3 * one.expected
  silent = [example(label, noise) for label in range(4)]
  assert not any(x.found for x in motifs.rediscovered(silent, 3).values())
