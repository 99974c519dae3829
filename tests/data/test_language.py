"""Rows of language as tokens, and rows with classes in a template."""

import dataclasses
import json

import numpy as np
import pytest
import test_chat
import tiny_language
from etils import epath

from gmdistill import errors
from gmdistill.data import batches as row_batches
from gmdistill.data import (
  chat,
  language,
  language_rows,
  language_tokens,
  loading,
  plain_tokens,
  split_rows,
  templates,
)
from gmdistill.students import made_up


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  return epath.Path(made_up.write(tmp_path_factory.mktemp("made") / "llama"))


@pytest.fixture(scope="module")
def tokenizer(folder):
  return plain_tokens.PlainTokenizer.of_folder(folder)


def row(value):
  return language_rows.Row(value, lambda: "here")


def said(tokenizer, examples, i=0):
  """The text of what counts in a row."""
  told = examples.tokens
  counts = np.asarray(told.weights)[i] > 0
  return tokenizer.decode(np.asarray(told.targets)[i][counts])


def test_a_text_is_cut_into_rows_that_say_each_token_but_the_first_once(
  tokenizer,
):
  text = tiny_language.text(3, 30)
  encoder = language_tokens.Encoder(tokenizer, None, 7)
  found = encoder.encode([row(text), row("")], "text")
  ids = tokenizer.ids(text)
  told = np.asarray(found.examples.tokens.targets)
  counts = np.asarray(found.examples.tokens.weights) > 0
  assert [int(x) for x in told[counts]] == ids[1:]
  assert found.dropped == 1 and len(found.groups) == -(-(len(ids) - 1) // 7)
  np.testing.assert_array_equal(counts, found.examples.mask)
  read = found.examples.token_ids[found.examples.mask]
  assert [int(x) for x in read] == ids[:-1]


def test_an_answer_alone_counts_and_its_end_with_it(tokenizer):
  encoder = language_tokens.Encoder(tokenizer, None, 40)
  found = encoder.encode([row(("world sports", "yes"))], "answers")
  assert said(tokenizer, found.examples) == " yes<|end|>"
  first = int(np.asarray(found.examples.tokens.weights)[0].argmax())
  ids = [int(x) for x in found.examples.token_ids[0][: first + 1]]
  assert ids == encoder.prompt("world sports")


def test_an_answer_that_is_too_long_is_cut_and_counted(tokenizer):
  encoder = language_tokens.Encoder(tokenizer, None, 6)
  found = encoder.encode([row(("no", " good bad" * 9))], "answers")
  assert found.cut == 1 and found.examples.mask.all()


def test_every_answer_of_a_conversation_counts(folder, tokenizer):
  template = chat.ChatTemplate.of_folder(folder)
  encoder = language_tokens.Encoder(tokenizer, template, 200)
  turns = ["good", "bad", "world", "yes"]
  messages = [
    {"role": ["user", "assistant"][i % 2], "content": x}
    for i, x in enumerate(turns)
  ]
  found = encoder.encode([row(messages)], "messages")
  assert said(tokenizer, found.examples) == " bad<|end|>\n yes<|end|>\n"
  # A prompt and its answer are such a conversation, of two turns.
  pair = encoder.encode([row(("good", "bad"))], "answers").examples
  both = encoder.encode([row(messages[:2])], "messages").examples
  np.testing.assert_array_equal(pair.token_ids, both.token_ids)
  np.testing.assert_array_equal(pair.tokens.weights, both.tokens.weights)


def test_a_template_that_refuses_a_row_names_it(tokenizer):
  source = test_chat.make_tiny_chats.PAIRS
  template = chat.ChatTemplate(source, {"bos_token": "<|end|>"})
  encoder = language_tokens.Encoder(tokenizer, template, 200)
  bad = [{"role": "assistant", "content": "first"}]
  with pytest.raises(errors.InputError, match="here: .*turns must alternate"):
    encoder.encode([row(bad)], "messages")


def test_parts_are_splits_or_cut_and_groups_have_names(folder, tmp_path):
  tokenizer = plain_tokens.PlainTokenizer.of_folder(folder)
  rows = tiny_language.write_rows(tmp_path / "rows", "answers")
  options = loading.Options(str(rows), max_length=80, group_key="task")
  corpus = language.load(options, tokenizer, folder)
  sizes = [len(x.labels) for x in (corpus.train, corpus.selection)]
  assert sizes == [40, 8] and corpus.num_classes == 0
  assert corpus.group_names == ("t0", "t1")
  assert set(corpus.reported.groups) == {0, 1}
  again = language.load(options, tokenizer, folder)
  assert again.fingerprint == corpus.fingerprint
  np.testing.assert_array_equal(
    again.train.tokens.weights, corpus.train.tokens.weights
  )
  asked = dataclasses.replace(options, reported_rows=5)
  some = language.load(asked, tokenizer, folder).reported
  assert len(some.labels) == len(some.groups) == len(some.tokens.targets) == 5
  (rows / "test.jsonl").rename(rows / "unseen.jsonl")
  options = loading.Options(str(rows), max_length=80, reported_split="unseen")
  unseen = language.load(options, tokenizer, folder)
  np.testing.assert_array_equal(
    unseen.reported.token_ids, corpus.reported.token_ids
  )
  alone = (rows / "train.jsonl").rename(tmp_path / "alone.jsonl")
  cut = language.load(loading.Options(str(alone)), tokenizer, folder)
  sizes = [len(x.labels) for x in (cut.train, cut.selection, cut.reported)]
  assert sum(sizes) == 40 and min(sizes) > 0
  assert any("cut as the reported split" in x for x in cut.notes)


def test_a_column_says_the_split_of_each_row_where_no_file_does(
  folder, tmp_path
):
  tokenizer = plain_tokens.PlainTokenizer.of_folder(folder)
  names = ["train", "test", "train", "dev"] * 5
  rows = [
    {"text": tiny_language.text(i), "split": x} for i, x in enumerate(names)
  ]
  path = tmp_path / "rows.jsonl"
  path.write_text("\n".join(map(json.dumps, rows)))
  options = loading.Options(str(path), max_length=80)
  corpus = language.load(options, tokenizer, folder)
  parts = (corpus.train, corpus.selection, corpus.reported)
  assert [len(x.labels) for x in parts] == [10, 5, 5]
  assert tokenizer.decode(
    corpus.reported.token_ids[0][corpus.reported.mask[0]]
  ) in tiny_language.text(1)
  path.write_text(path.read_text().replace('"dev"', '"tst"', 1))
  with pytest.raises(errors.InputError, match="rows.jsonl, line 4: 'split' is"):
    language.load(options, tokenizer, folder)
  # A column of other words says no split.
  path.write_text("\n".join(json.dumps({**x, "split": "a"}) for x in rows))
  assert any(
    "cut as the reported split" in note
    for note in language.load(options, tokenizer, folder).notes
  )


def test_rows_for_a_set_are_whole_where_they_can_be(tokenizer):
  encoder = language_tokens.Encoder(tokenizer, None, 40)
  rows = [row(("no" * (1 + i), "yes")) for i in range(12)]
  examples = encoder.encode(rows, "answers").examples
  fit = language_tokens.fitting(examples, 8)
  assert 0 < len(fit.labels) < 12 and fit.token_ids.shape[1] == 8
  assert all(said(tokenizer, fit, i) == " yes<|end|>" for i in range(3))
  texts = encoder.encode(
    [row(tiny_language.text(0, 60)), row("no yes")], "text"
  )
  cut = language_tokens.fitting(texts.examples, 8)
  assert len(cut.labels) == len(texts.groups) and cut.mask[0].all()
  with pytest.raises(errors.InputError, match="sequence_length=1 is shorter"):
    language_tokens.fitting(examples, 1)


def rows_of(texts):
  labels = np.arange(len(texts)) % 2
  return split_rows.Rows(texts, labels.astype(np.int32), 0, 0, [])


def test_a_template_keeps_what_is_asked_at_the_end_of_a_row(tokenizer):
  template = templates.Template(tokenizer, "Read: {text}\nanswer:")
  long, short = " good bad" * 20, " good"
  found, cut = template.rows(rows_of([long, short]), ("review",), 24)
  assert cut == 1
  ends = tokenizer.ids("\nanswer:")
  for i in range(2):
    ids = list(found.token_ids[i][found.mask[i]])
    assert ids[-len(ends) :] == ends
  assert found.mask[0].all()
  pair = templates.Template(tokenizer, "{a} or {b}?")
  found, _ = pair.rows(rows_of([(long, short)]), ("a", "b"), 24)
  assert " or  good?" in tokenizer.decode(found.token_ids[0])


BAD = {
  "another text": ("{body}:", (), "must name {review}"),
  "no text": ("Label:", (), "must name {review}"),
  "several tokens": ("{text}:", (" zebra", " yes"), "' zebra' is . tokens"),
  "too few": ("{text}:", (" yes",), "has 1 words, the data 2 classes"),
  "twice": ("{text}:", (" yes", " yes"), "two classes have the token"),
  "no room": ("no " * 40 + "{text}", (), "which fill config.data.max_length"),
}


@pytest.mark.parametrize("text, words, match", BAD.values(), ids=BAD)
def test_a_template_or_words_that_do_not_fit_are_one_line(
  tokenizer, text, words, match
):
  template = templates.Template(tokenizer, text)
  with pytest.raises(errors.InputError, match=match):
    template.rows(rows_of(["good"]), ("review",), 24)
    template.words(words, ("no", "yes"))


def test_no_words_are_the_names_of_the_classes(tokenizer):
  template = templates.Template(tokenizer, "")
  ids = template.words((), ("no", "yes"))
  assert [tokenizer.tokens[i] for i in ids] == ["\u0120no", "\u0120yes"]


def test_a_row_of_another_kind_is_named(folder, tmp_path):
  tokenizer = plain_tokens.PlainTokenizer.of_folder(folder)
  path = tmp_path / "rows.jsonl"
  bad = {"messages": [{"role": "user", "content": "good"}]}
  path.write_text(json.dumps(bad) + "\n")
  with pytest.raises(errors.InputError, match="rows.jsonl, line 1: 'messages'"):
    language.load(loading.Options(str(path)), tokenizer, folder)


def test_every_text_can_be_cut_and_answers_stay_whole_where_some_are():
  weights = np.zeros((4, 6), np.float32)
  weights[0] = 1  # a text
  weights[1, 2:5] = 1  # an answer that ends beyond four places
  weights[2, 2:4] = 1
  weights[3, :2] = 1  # a short text
  ids = np.arange(24, dtype=np.int32).reshape(4, 6)
  rows = row_batches.Examples(
    ids,
    np.ones((4, 6), bool),
    np.zeros(4, np.int32),
    tokens=row_batches.Tokens(ids, weights),
  )
  kept = language_tokens.fitting(rows, 4)
  np.testing.assert_array_equal(kept.token_ids, ids[[0, 2, 3], :4])
  np.testing.assert_array_equal(kept.tokens.weights, weights[[0, 2, 3], :4])
