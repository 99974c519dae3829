"""Exact match: answers are read in two ways, and rows are asked whole."""

import jax
import numpy as np
import pytest
import tiny_lms

from gmdistill import errors
from gmdistill.data import batches
from gmdistill.evaluation import exact_match
from gmdistill.sets import spaces
from gmdistill.students import decoder_weights, generation, problems, tasks

READ = [
  # own, said, strict, flexible
  ("2 + 2 = 4\n#### 4", "It is 4.\n#### 4", True, True),
  ("2 + 2 = 4\n#### 4", "The answer is $4.00", False, True),
  ("#### 1,234", "so 1234\n#### 1,234 apples", True, True),
  ("#### 4", "#### 5 or 4", False, True),
  ("#### 4", "no number", False, False),
  ("#### -3", "10 - 3 = 7", False, False),
  ("#### -3", "it is -3", False, True),
  ("42", "42.", True, True),
  ("42", "The answer is 42", False, True),
  ("42", "142", False, False),
  ("4 stars", "4 Stars!", True, True),
  ("No", "No, they do not.", False, True),
  ("No", "Nothing", False, False),
  ("not equivalent", "not at all equivalent", False, False),
  ("d\u00e9j\u00e0 vu", "D\u00c9J\u00c0 VU", True, True),
  (":)", ":)", True, True),
  ("yes", "", False, False),
]


@pytest.mark.parametrize("own,said,strict,flexible", READ)
def test_an_answer_is_read_strictly_and_flexibly(own, said, strict, flexible):
  assert exact_match.read(own, said) == (strict, flexible)
  assert exact_match.read(own, own) == (True, True)


def test_rates_have_their_number_and_their_error():
  readings = [exact_match.Reading(i < 2, i < 5) for i in range(8)]
  told = exact_match.rates(readings)
  assert told["n"] == 8 and told["strict"] == 0.25
  np.testing.assert_allclose(told["strict_error"], (0.25 * 0.75 / 8) ** 0.5)
  assert told["flexible"] == 0.625
  assert exact_match.num_steps("a\n\nb\n#### 2") == 2
  assert exact_match.num_steps("a\nb") is None


def rows_of(pairs, tokenizer, length=24, whole=True):
  """Rows of prompts and answers, which end in </s>."""
  shape = (len(pairs), length)
  ids, targets = np.zeros((2, *shape), np.int32)
  mask, weights = np.zeros(shape, bool), np.zeros(shape, np.float32)
  for row, (prompt, answer) in enumerate(pairs):
    before, after = tokenizer.ids(prompt), tokenizer.ids(answer)
    all_ids = (before + after + [1] * whole)[: length + 1]
    count = len(all_ids) - 1
    ids[row, :count], targets[row, :count] = all_ids[:-1], all_ids[1:]
    mask[row, :count] = True
    weights[row, len(before) - 1 : count] = 1
  tokens = batches.Tokens(targets, weights)
  return batches.Examples(ids, mask, np.zeros(len(pairs), int), tokens=tokens)


PAIRS = [("the words", " of text"), ("end of", " the"), ("and", " so on" * 9)]


def test_questions_are_whole_rows_in_an_order_that_stays():
  tokenizer = tiny_lms.plain()
  rows = rows_of(PAIRS, tokenizer)
  asked = exact_match.questions(rows, tokenizer, 5)
  assert asked.stops == (1,) and asked.num_cut == 1
  texts = {(tokenizer.decode(x.prompt), x.answer, x.row) for x in asked.asked}
  assert texts == {(*PAIRS[0], 0), (*PAIRS[1], 1)}
  again = exact_match.questions(rows, tokenizer, 1)
  assert again.asked == asked.asked[:1]
  # Of a tokenizer that ends nothing, all that there is of an answer.
  endless = exact_match.questions(
    rows_of(PAIRS, tokenizer, whole=False), tokenizer, 5
  )
  assert len(endless.asked) == 3 and not endless.stops
  texts = rows._replace(
    tokens=batches.Tokens(rows.tokens.targets, rows.mask.astype(np.float32))
  )
  with pytest.raises(errors.InputError, match="texts without a prompt"):
    exact_match.questions(texts, tokenizer, 1)


@pytest.fixture(scope="module")
def setup(tmp_path_factory):
  """A tiny Llama and two rows for it to answer."""
  folder = tmp_path_factory.mktemp("model")
  read = decoder_weights.load(tiny_lms.write_model(folder))
  tokenizer = tiny_lms.plain()
  pairs = [("the words", " of"), ("end of", " the\n#### 7")]
  rows = rows_of(pairs, tokenizer)
  problem = problems.Problem(
    read.embeddings, dict(read.params), read.module, asks=tasks.next_tokens()
  )
  corpus = batches.Corpus(
    rows, rows, rows, (), ("text",), "", 0, 0, tokenizer, "rows"
  )
  return spaces.Setup(problem, corpus, "space", "llama")


def test_a_student_that_says_the_rows_own_answers_is_right(setup):
  problem, tokenizer = setup.problem, setup.corpus.tokenizer
  asked = exact_match.of_corpus(setup.corpus, exact_match.Options(5))
  params = problem.initial
  grouped = setup.corpus.reported._replace(groups=np.array([1, 0]))
  named = setup.corpus._replace(reported=grouped, group_names=("a", "b"))
  setup = setup._replace(corpus=named)
  poor = exact_match.measure(setup, params, asked, num_tokens=6)
  assert {k: x["n"] for k, x in poor["by_group"].items()} == {"a": 1, "b": 1}
  assert poor["n"] == 2 and not poor["strict"]
  assert sorted(poor["by_steps"]) == ["1"]
  # Its answers are what `generation` says; those of the rows are right.
  prompts = [x.prompt for x in asked.asked]
  said = generation.answers(
    problem, params, prompts, stops=asked.stops, num_tokens=6
  )
  own = [
    x._replace(answer=tokenizer.decode(ids, control=False))
    for x, ids in zip(asked.asked, said, strict=True)
  ]
  right = exact_match.measure(
    setup, params, asked._replace(asked=own), num_tokens=6
  )
  assert right["strict"] == right["flexible"] == 1.0
  # What the rows' own answers cost, a token.
  tokens = setup.corpus.reported.tokens
  batch = batches.as_batch(setup.corpus.reported, 0)
  logs = jax.nn.log_softmax(
    problem.apply(params, batch).logits.queries @ params["unembedding"].T
  )
  lost = -np.take_along_axis(np.asarray(logs), tokens.targets[..., None], -1)
  expected = (lost[..., 0] * tokens.weights).sum() / tokens.weights.sum()
  np.testing.assert_allclose(right["nats"], expected, rtol=1e-5)


def test_the_first_student_of_a_row_is_asked_once(setup):
  exam = exact_match.Exam(setup, exact_match.Options(num_rows=2, num_tokens=4))
  told, seen = {}, []
  look = exam.looking(lambda *args: seen.append(args), told)
  students = jax.tree.map(
    lambda x: np.stack([x, 0 * x]), dict(setup.problem.initial)
  )
  look(None, students, None)
  first = dict(told)
  look(None, jax.tree.map(np.zeros_like, students), None)
  assert told == first and len(seen) == 2 and told["n"] == 2
  words = exact_match.in_words(told | {"strict": 0.5, "strict_error": 0.25})
  assert words.startswith("50.0 \u00b1 25.0 strict, ")
  room = exact_match.Options(num_rows=2, num_tokens=32)
  with pytest.raises(errors.InputError, match="more than the student's 32"):
    exact_match.require_answers(setup.problem, setup.corpus, room)
