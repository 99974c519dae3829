"""Texts of many scripts: what differs to a reader differs, or is said."""

import subprocess
import sys
import unicodedata

import numpy as np
import pytest
from tokenizers import normalizers

from gmdistill import errors
from gmdistill.data import batches, remarks, tokenizing, vocabularies

# Two texts that differ in one mark alone, and so in what they say.
PAIRS = {
  "japanese": ("がくせいです", "かくせいです"),
  "thai": ("ดีมาก", "ดูมาก"),
  "hindi": ("कु में", "के में"),
  "vietnamese": ("tốt má", "tốt mà"),
  "german": ("ein schwüler Tag", "ein schwuler Tag"),
  "swedish": ("han får", "han far"),
  "korean": ("가다", "가자"),
  "spanish": ("el ano nuevo", "el año nuevo"),
  "russian": ("всё", "все"),
  "turkish": ("on yıl", "ön yıl"),
  "arabic": ("كَتَبَ", "كُتِبَ"),
  "hebrew": ("שָׁלוֹם", "שִׁלּוּם"),
  "greek": ("πότε", "ποτέ"),
  "persian": ("می\u200cخواهم", "میخواهم"),
  "tamil": ("கல்", "கால்"),
  "chinese": ("买东西", "卖东西"),
  "emoji": ("so 😀", "so 😞"),
  "flags": (
    "🏴\U000e0067\U000e0062\U000e0065\U000e007f",
    "🏴\U000e0067\U000e0062\U000e0073\U000e007f",
  ),
}

TEXTS = [text for pair in PAIRS.values() for text in pair]


@pytest.fixture(scope="module")
def tokenizer():
  return vocabularies.train(TEXTS * 3, 512)


def ids_of(tokenizer, text):
  return tokenizer.encode([text], 64)[0].tolist()


@pytest.mark.parametrize("script", PAIRS)
def test_texts_that_differ_to_a_reader_differ_in_ids(tokenizer, script):
  first, second = (ids_of(tokenizer, text) for text in PAIRS[script])
  assert first != second
  assert tokenizer.unknown_id not in first + second


@pytest.mark.parametrize("text", ["schwüler", "가다", "がく", "tốt", "शाळा"])
def test_texts_that_look_alike_have_the_same_ids(tokenizer, text):
  composed = unicodedata.normalize("NFC", text)
  decomposed = unicodedata.normalize("NFD", text)
  unseen = f"\ufeff{text[:1]}\u00ad{text[1:]}\u200e"
  found = [ids_of(tokenizer, x) for x in (composed, decomposed, unseen)]
  assert found[0] == found[1] == found[2]


def test_accents_and_case_are_taken_away_where_it_is_asked_for():
  plain = vocabularies.train(TEXTS, 512, strip_accents=True)
  for script in ("german", "vietnamese", "russian", "spanish"):
    first, second = (ids_of(plain, text) for text in PAIRS[script])
    assert first == second
  texts = ["a Polish word", "a polish word"]
  for lower_case in (True, False):
    found = vocabularies.train(texts, 128, lower_case=lower_case)
    assert (ids_of(found, texts[0]) == ids_of(found, texts[1])) == lower_case


def test_a_sentence_without_spaces_is_no_unknown_word(tokenizer):
  text = 60 * PAIRS["thai"][0]
  assert tokenizer.unknown_id not in ids_of(tokenizer, text)


def test_every_syllable_of_korean_is_known_from_a_few():
  # 19 first letters, 21 vowels, 27 last letters or none: 11,172 syllables.
  numbers = [588 * i for i in range(19)] + [28 * i for i in range(21)]
  texts = [chr(0xAC00 + number) for number in [*numbers, *range(28)]]
  found = vocabularies.train([" ".join(texts)], 512)
  every = [chr(code) for code in range(0xAC00, 0xD7A4, 13)]
  ids, _ = found.encode(every, 8)
  assert found.unknown_id not in ids
  assert len({tuple(row) for row in ids.tolist()}) == len(every)


def test_a_large_vocabulary_has_room_for_many_ideographs():
  every = [chr(0x4E00 + number) for number in range(2000)]
  found = vocabularies.train(["".join(every)], 4096)
  ids, _ = found.encode(every, 3)
  assert len({tuple(row) for row in ids.tolist()}) == 2000
  assert found.vocab_size < 2100  # none of them continues a word


def test_training_on_many_scripts_is_the_same_in_every_process(tokenizer):
  program = (
    "import sys; from gmdistill.data import vocabularies; "
    "texts = sys.stdin.read().split('|'); "
    "print(vocabularies.train(texts, 512).fingerprint)"
  )
  found = subprocess.run(
    [sys.executable, "-c", program],
    input="|".join(TEXTS * 3).encode(),
    capture_output=True,
    check=True,
  )
  assert found.stdout.decode().strip() == tokenizer.fingerprint


def corpus_of(texts, labels, tokenizer, length=8):
  ids, mask = tokenizer.encode(texts, length)
  rows = batches.Examples(ids, mask, np.array(labels, np.int32))
  return batches.Corpus(
    train=rows,
    selection=rows,
    reported=rows,
    label_names=("a", "b"),
    text_keys=("text",),
    label_key="label",
    train_bytes=0,
    dropped=0,
    tokenizer=tokenizer,
    fingerprint="",
  )


def said(corpus):
  return "\n".join(remarks.of_corpus(corpus, corpus.selection))


def test_rows_of_different_classes_with_the_same_tokens_are_counted():
  texts = ["Polish", "polish", "red", "red", "green"] * 8
  labels = [0, 1, 0, 0, 1] * 8
  found = vocabularies.train(texts, 128)
  lines = said(corpus_of(texts, labels, found))
  assert "16 rows of different classes have the same tokens (40 % of" in lines
  assert "data.lower_case" in lines
  kept = vocabularies.train(texts, 128, lower_case=False)
  assert said(corpus_of(texts, labels, kept)) == ""
  cut = corpus_of(["red green", "red blue"] * 20, [0, 1] * 20, kept, length=3)
  assert "40 rows of different classes" in said(cut)


def test_shares_of_rows_without_text_or_known_words_are_said():
  texts = ["red", " ", "", "語", "green"] * 8
  labels = [0, 0, 0, 1, 1] * 8
  lines = said(
    corpus_of(texts, labels, vocabularies.train(["red", "green"] * 9, 128))
  )
  assert "16 of 40 training rows have no text (40 %)" in lines
  assert "8 of 40 training rows have no word that is known (20 %)" in lines
  assert "8 of 40 reported rows have no word that is known (20 %)" in lines


def test_few_rows_to_choose_on_are_said_with_their_standard_error():
  found = vocabularies.train(["red", "green"] * 9, 128)
  assert said(corpus_of(["red", "green"] * 15, [0, 1] * 15, found)) == ""
  lines = said(corpus_of(["red", "green"] * 2, [0, 1] * 2, found))
  assert "choices are made on 4 rows" in lines and "25 points" in lines


# Tokenizers of others.


def test_a_tokenizer_of_before_reads_as_it_did():
  """Sets bring theirs, which lower-cased and took accents away."""
  now = vocabularies.train(["schwul", "tag"] * 5, 128)
  theirs = now._tokenizer
  theirs.normalizer = normalizers.BertNormalizer(lowercase=True)
  before = tokenizing.Tokenizer.from_json(theirs.to_str())
  assert before.to_json() == theirs.to_str()
  first, second = (ids_of(before, x) for x in ("Schwül", "schwul"))
  assert first == second


def test_a_tokenizer_that_frames_nothing_gets_its_own_tokens():
  whole = vocabularies.train(["red", "green"] * 5, 128)
  bare = tokenizing.Tokenizer.from_json(whole.to_json())._tokenizer
  bare.post_processor = None
  framed = tokenizing.Tokenizer(bare)
  for texts in (["red green"], [("red", "green")]):
    np.testing.assert_array_equal(
      framed.encode(texts, 8)[0], whole.encode(texts, 8)[0]
    )
  words = {"[PAD]": 0, "[UNK]": 1, "red": 2}
  model = type(bare.model)(words, unk_token="[UNK]")
  with pytest.raises(errors.InputError, match=r"no \[CLS\] and \[SEP\]"):
    tokenizing.Tokenizer(type(bare)(model))


def test_a_tokenizer_without_its_unknown_token_is_refused(tmp_path):
  """Its vocabulary lacks it: the first rare word would end the run."""
  text = vocabularies.train(["red", "green"] * 5, 128).to_json()
  path = tmp_path / "tokenizer.json"
  path.write_text(
    text.replace('"unk_token":"[UNK]"', '"unk_token":"[UNKNOWN]"')
  )
  with pytest.raises(errors.InputError, match="cannot read every text"):
    tokenizing.Tokenizer.from_file(path)


def test_a_damaged_tokenizer_is_refused_or_reads_every_text(tmp_path):
  whole = vocabularies.train([TEXTS[0], "red green"] * 5, 100).to_json()
  path, draw = tmp_path / "tokenizer.json", np.random.default_rng(0)
  found = []
  for _ in range(300):
    start = draw.integers(len(whole))
    end = start + draw.integers(1, 40)
    path.write_text(whole[:start] + draw.choice(list('0[]{}",')) + whole[end:])
    try:
      ids, _ = tokenizing.Tokenizer.from_file(path).encode(["a \uffee"], 8)
      found.append(ids.shape == (1, 8))
    except errors.InputError:
      found.append(False)
  assert 0 < sum(found) < 300


def test_a_file_of_a_hundred_thousand_brackets_is_no_tokenizer(tmp_path):
  path = tmp_path / "tokenizer.json"
  path.write_text(100_000 * "[")
  with pytest.raises(errors.InputError, match="is not a tokenizer.json"):
    tokenizing.Tokenizer.from_file(path)
