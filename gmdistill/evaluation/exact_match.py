"""Exact match: what a language model answers, beside the rows' own answers.

An answer is generated greedily and read in two ways, and both are told: a
strict reading asks for the form as well, a flexible one finds the answer in
whatever stands around it.
"""

import dataclasses
import decimal
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from gmdistill import errors, fields, trees
from gmdistill.data import batches, plain_tokens
from gmdistill.evaluation import measuring, readings
from gmdistill.sets import spaces
from gmdistill.students import generation, problems
from gmdistill.system import devices, units

SEED = 0  # of which rows are asked

_NUMBER = r"(?:(?<!\w)-)?\d+(?:,\d{3})*(?:\.\d+)?"

# What a worked solution ends with (Cobbe et al. 2021).
_RESULT = re.compile(rf"####\s*\$?({_NUMBER})")


@dataclasses.dataclass(frozen=True)
class Options:
  """Answers that students of `task.kind=next_token` generate, beside nats.

  Attributes:
    num_rows: Rows of the reported split that the first student of each row of
      the table answers, the same ones every time; 0: none.
    num_tokens: Of the longest answers.
  """

  num_rows: fields.FromZero = 0
  num_tokens: fields.Count = 64

  def __post_init__(self) -> None:
    """Checks the numbers.

    Raises:
      InputError: one is out of its range.
    """
    fields.require(self, "exact_match")


class Question(NamedTuple):
  """A row to be answered."""

  row: int  # of its split
  prompt: list[int]
  answer: str  # the row's own


class Questions(NamedTuple):
  """The rows of a split that are asked."""

  asked: list[Question]
  stops: tuple[int, ...]  # tokens that end an answer
  num_cut: int  # rows whose own answer lost its end, left out


class Reading(NamedTuple):
  """Whether an answer is right."""

  strict: bool
  flexible: bool


def questions(
  examples: batches.Examples,
  tokenizer: plain_tokens.PlainTokenizer,
  num_rows: int,
) -> Questions:
  """Returns rows of a split, of the first answer of each.

  Args:
    examples: Rows of prompts and answers, whose tokens count where an answer
      is.
    tokenizer: Of the language model.
    num_rows: At most so many, drawn at random, the same ones every time.

  Raises:
    InputError: the rows are texts, in which nothing is asked.
  """
  tokens = examples.tokens
  assert tokens is not None and tokens.weights is not None
  counts_NxL = np.asarray(tokens.weights) > 0
  first_N = counts_NxL.argmax(axis=1)
  if not first_N.any():
    raise errors.InputError(
      "exact_match.num_rows asks for answers, and these rows are texts without "
      "a prompt; use 0, or rows of prompt and completion."
    )
  control = {tokenizer.tokens.index(x) for x in tokenizer.control_tokens}
  targets = np.asarray(tokens.targets)
  used = np.unique(targets[counts_NxL]).tolist()
  stops = tuple(sorted(control.intersection(used)))
  asked: list[Question] = []
  num_cut = 0
  for row in np.random.default_rng(SEED).permutation(len(first_N)).tolist():
    if len(asked) == num_rows:
      break
    first = int(first_N[row])
    answer, is_whole = _answer(targets[row], counts_NxL[row], first, stops)
    if stops and not is_whole:
      num_cut += 1
      continue
    read = examples.token_ids[row, : first + 1][examples.mask[row, : first + 1]]
    text = tokenizer.decode(answer, control=False)
    asked.append(Question(row, read.tolist(), text))
  return Questions(asked, stops, num_cut)


def require_answers(
  problem: problems.Problem, corpus: batches.Corpus, options: Options
) -> None:
  """Checks that rows ask something, and that answers have room.

  Raises:
    InputError: they do not.
  """
  if options.num_rows:
    asked = of_corpus(corpus, options)
    prompts = [x.prompt for x in asked.asked]
    generation.require_room(problem, prompts, options.num_tokens)


def of_corpus(corpus: batches.Corpus, options: Options) -> Questions:
  """Returns the reported rows that are asked."""
  tokenizer = corpus.tokenizer
  assert isinstance(tokenizer, plain_tokens.PlainTokenizer)
  return questions(corpus.reported, tokenizer, options.num_rows)


def _answer(targets_L, counts_L, first, stops):
  """Returns the ids of the answer that begins there, and whether it ends."""
  ids: list[int] = []
  for token, counts in zip(targets_L[first:], counts_L[first:], strict=True):
    if not counts:
      return ids, True
    if token in stops:
      return ids, True
    ids.append(int(token))
  return ids, False


def read(own: str, said: str) -> Reading:
  """Returns whether an answer is right, by a row's own.

  Where that ends in `#### n`, strictly: the answer does, with the same number;
  flexibly: the last number of the answer is n. Of a number alone: the answer
  is that number; its last number is. Of any other text, whatever its case and
  its punctuation: the answer is that text; its words stand in the answer, one
  after the other.
  """
  if (result := _result(own)) is not None:
    return Reading(_result(said) == result, _last_number(said) == result)
  if re.fullmatch(rf"\$?({_NUMBER})\.?", own.strip()):
    number = _last_number(own)
    alone = re.fullmatch(rf"\$?({_NUMBER})\.?", said.strip())
    right = _last_number(said) == number
    return Reading(bool(alone) and right, right)
  words, theirs = _words(own), _words(said)
  if not words:  # of marks alone
    return Reading(own.strip() == said.strip(), own.strip() in said)
  places = range(len(theirs) - len(words) + 1)
  inside = any(theirs[i : i + len(words)] == words for i in places)
  return Reading(words == theirs, inside)


def num_steps(own: str) -> int | None:
  """Returns the lines of a worked solution before its `####`; None: it is
  none."""
  if _result(own) is None:
    return None
  lines = own[: own.rindex("####")].splitlines()
  return sum(bool(line.strip()) for line in lines)


def _result(text: str) -> decimal.Decimal | None:
  results = _RESULT.findall(text)
  return _number(results[-1]) if results else None


def _last_number(text: str) -> decimal.Decimal | None:
  numbers = re.findall(_NUMBER, text)
  return _number(numbers[-1]) if numbers else None


def _number(text: str) -> decimal.Decimal:
  return decimal.Decimal(text.replace(",", ""))


def _words(text: str) -> list[str]:
  kept = (x if x.isalnum() else " " for x in text.casefold())
  return "".join(kept).split()


def rates(readings: Sequence[Reading]) -> dict[str, Any]:
  """Returns the shares that are right, their standard errors, and of how many.

  The error is that of a share of n rows, sqrt(p (1 - p) / n).
  """
  count = len(readings)
  told: dict[str, Any] = {}
  for name in Reading._fields:
    share = sum(getattr(x, name) for x in readings) / max(count, 1)
    told[name] = share
    told[f"{name}_error"] = (share * (1 - share) / max(count, 1)) ** 0.5
  return {**told, "n": count}


def measure(
  setup: spaces.Setup,
  params: trees.Params,
  asked: Questions,
  num_tokens: int,
) -> dict[str, Any]:
  """Returns `rates` of a student, and the nats a token of rows' own answers.

  `by_steps` too where rows are solutions, and `by_group` where they have some.

  Args:
    setup: Of a language model, and its rows.
    params: A student.
    asked: Reported rows.
    num_tokens: Of the longest answers.

  Raises:
    InputError: a prompt leaves no room for so long an answer.
  """
  problem, tokenizer = setup.problem, setup.corpus.tokenizer
  assert isinstance(tokenizer, plain_tokens.PlainTokenizer)
  ids = generation.answers(
    problem,
    params,
    [question.prompt for question in asked.asked],
    stops=asked.stops,
    num_tokens=num_tokens,
  )
  right = [
    read(question.answer, tokenizer.decode(answer, control=False))
    for question, answer in zip(asked.asked, ids, strict=True)
  ]
  told = rates(right)
  if asked.asked:
    told["nats"] = _nats(setup, params, [x.row for x in asked.asked])
  steps = [num_steps(question.answer) for question in asked.asked]
  told |= _by("by_steps", steps, right)
  if setup.corpus.reported.groups is not None:
    names = setup.corpus.group_names
    numbers = setup.corpus.reported.groups[[x.row for x in asked.asked]]
    groups = [names[i] if names else int(i) for i in numbers]
    told |= _by("by_group", groups, right)
  return told


def _by(name, kinds, right):
  """Returns the rates of each kind of row under a name; {} of no kind."""
  known = sorted({kind for kind in kinds if kind is not None})
  pairs = list(zip(kinds, right, strict=True))
  each = {str(x): rates([one for k, one in pairs if k == x]) for x in known}
  return {name: each} if each else {}


def _nats(setup, params, rows):
  buckets = readings.length_buckets(
    batches.take(setup.corpus.reported, rows), 0, generation.ROWS
  )
  counts = scores = 0.0
  for chunks in buckets:
    for i in range(len(chunks.mask)):
      batch = jax.tree.map(lambda x, i=i: x[i], chunks)
      scores += float(_total(setup.problem, params, batch))
      counts += float(setup.problem.task.counts(batch).sum())
  return float(setup.problem.task.shown(scores / counts))


_total = jax.jit(readings.total_score)


class Exam:
  """The reported rows that the students of a table are asked."""

  def __init__(self, setup: spaces.Setup, options: Options):
    """Chooses the rows."""
    self._setup, self._num_tokens = setup, options.num_tokens
    self._asked = of_corpus(setup.corpus, options)

  def looking(
    self, look: measuring.Look, told: dict[str, Any]
  ) -> measuring.Look:
    """Returns a look at a row's students that has the first one answer too.

    What `measure` says of it is put into `told`.
    """

    def asking(trainer, students, splits):
      if not told:
        # Every process has it, whichever device it was trained on.
        everywhere = devices.sharding(devices.whole(), devices.EVERYWHERE)
        take = jax.jit(
          lambda students: jax.tree.map(lambda x: x[0], students),
          out_shardings=everywhere,
        )
        first = jax.device_get(take(students))
        told.update(measure(self._setup, first, self._asked, self._num_tokens))
      return look(trainer, students, splits)

    return asking


def in_words(told: Mapping[str, Any]) -> str:
  """Returns shares and standard errors in words: `12.0 ± 2.3 strict, ...`."""
  shares = (
    f"{units.plus_minus(told[x], told[f'{x}_error'], 'accuracy')} {x}"
    for x in Reading._fields
  )
  return f"{', '.join(shares)}, % ({told['n']} rows)"
