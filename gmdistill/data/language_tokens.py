"""Rows of language as tokens: what is read, what follows, and what counts.

A place reads a token and says the next one: rows of L places hold L + 1 tokens.
Of a text every next token counts; of an answer those of the answer alone.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np

from gmdistill import errors
from gmdistill.data import batches, chat, plain_tokens

if TYPE_CHECKING:
  from gmdistill.data import language_rows


class Encoded(NamedTuple):
  """Rows as tokens, and what became of them."""

  examples: batches.Examples
  groups: list[str]  # the name of each row's
  cut: int  # answers that lost their end
  dropped: int  # texts of no token


class Encoder:
  """How rows of language become tokens of one model."""

  def __init__(
    self,
    tokenizer: plain_tokens.PlainTokenizer,
    template: chat.ChatTemplate | None,
    length: int,
  ):
    """Keeps what decides the tokens.

    Args:
      tokenizer: The model's.
      template: How the model was shown conversations; of rows of prompt and
        completion, None: the one follows the other, and an end.
      length: Places L of a row.
    """
    self.tokenizer, self.template, self.length = tokenizer, template, length
    bos = tokenizer.special.get("bos_token")
    begin = tokenizer.beginning
    self._begin = (
      begin[:1] if begin and tokenizer.tokens[begin[0]] == bos else []
    )
    eos = tokenizer.special.get("eos_token")
    self._end = [i for i, x in enumerate(tokenizer.tokens) if x == eos][:1]

  def prompt(self, prompt: str) -> list[int]:
    """Returns the tokens before an answer."""
    if self.template is not None:
      user = [{"role": "user", "content": prompt}]
      return self.template.ids(self.tokenizer, user, ask=True)
    return self._begin + self.tokenizer.ids(prompt)

  def answer(
    self, prompt: str, completion: str
  ) -> tuple[list[int], list[bool]]:
    """Returns the tokens of a row, and which of them are the answer's."""
    if self.template is not None:
      user = {"role": "user", "content": prompt}
      said = {"role": "assistant", "content": completion}
      return self.messages([user, said])
    gap = _gap(prompt, completion)
    # The space belongs to the word after it, as byte-pair encodings have it.
    before = self.prompt(prompt)
    after = self.tokenizer.ids_after(gap + completion) + self._end
    return before + after, [False] * len(before) + [True] * len(after)

  def messages(
    self, messages: list[dict[str, Any]]
  ) -> tuple[list[int], list[bool]]:
    """Returns the tokens of a conversation, and which are the assistant's."""
    assert self.template is not None
    whole = self.template.ids(self.tokenizer, messages)
    told = [False] * len(whole)
    for i, message in enumerate(messages):
      if message["role"] != "assistant":
        continue
      before = self.template.ids(self.tokenizer, messages[:i], ask=True)
      after = self.template.ids(self.tokenizer, messages[: i + 1])
      # Templates may render a turn otherwise once others have come.
      first, last = _common(before, whole), _common(after, whole)
      told[first:last] = [True] * (last - first)
    return whole, told

  def encode(self, rows: Iterable["language_rows.Row"], kind: str) -> Encoded:
    """Returns rows of one of `language_rows.KINDS` as tokens.

    A text is cut into as many rows as it takes; an answer loses what is beyond
    the length.

    Raises:
      errors.InputError: an empty completion, a prompt that fills the length, or
        a conversation that the template refuses.
    """
    parts: list[tuple[list[int], list[bool]]] = []
    groups: list[str] = []
    cut = dropped = 0
    for row in rows:
      if kind == "text":
        ids = self._begin + self.tokenizer.ids(row.value)
        windows = [
          ids[first : first + self.length + 1]
          for first in range(0, max(len(ids) - 1, 0), self.length)
        ]
        dropped += not windows
        parts += [(window, [True] * len(window)) for window in windows]
        groups += [row.group] * len(windows)
        continue
      ids, told = self._told(row, kind)
      cut += len(ids) > self.length + 1
      parts.append((ids[: self.length + 1], told[: self.length + 1]))
      groups.append(row.group)
    return Encoded(self._arrays(parts), groups, cut, dropped)

  def _told(self, row, kind):
    if kind == "answers":
      prompt, completion = row.value
      if not completion.strip():
        raise errors.InputError(
          f"{row.where()}: the completion is empty; give every prompt an answer"
        )
      ids, told = self.answer(prompt, completion)
    else:
      try:
        ids, told = self.messages(row.value)
      except errors.InputError as error:
        raise errors.InputError(f"{row.where()}: {error}") from error
    if not any(told[1:]):
      raise errors.InputError(
        f"{row.where()}: the answer is empty; give every prompt an answer"
      )
    if not any(told[1 : self.length + 1]):
      first = told.index(True, 1)
      raise errors.InputError(
        f"{row.where()}: the prompt has {first} tokens, which fill "
        f"config.data.max_length={self.length}; use {first + 1} or more, or "
        "leave the row out"
      )
    return ids, told

  def _arrays(self, parts):
    shape = (len(parts), self.length)
    inputs = np.full(shape, self.tokenizer.pad_id, np.int32)
    targets = np.full(shape, self.tokenizer.pad_id, np.int32)
    mask, weights = np.zeros(shape, bool), np.zeros(shape, np.float32)
    for i, (ids, told) in enumerate(parts):
      count = len(ids) - 1
      inputs[i, :count], targets[i, :count] = ids[:-1], ids[1:]
      mask[i, :count], weights[i, :count] = True, told[1:]
    return batches.Examples(
      inputs,
      mask,
      np.zeros(len(parts), np.int32),
      tokens=batches.Tokens(targets, weights),
    )


def _gap(prompt, completion):
  """Returns what stands between them: a space, where neither has one."""
  joined = prompt[-1:].isspace() or completion[:1].isspace() or not prompt
  return "" if joined else " "


def _common(a, b):
  """Returns how many tokens two lists have in common from their start."""
  count = 0
  for x, y in zip(a, b, strict=False):
    if x != y:
      break
    count += 1
  return count


def fitting(examples: batches.Examples, length: int) -> batches.Examples:
  """Returns rows as a set of so many places could hold them.

  A text, which counts from its first place, is cut; of answers there are whole
  ones where there are any, else each is cut, which still says something.

  Raises:
    errors.InputError: no row says anything within the length.
  """
  tokens = examples.tokens
  assert tokens is not None and tokens.weights is not None
  weights_NxL = np.asarray(tokens.weights)
  within_N = weights_NxL[:, :length].sum(axis=1) > 0
  ends_N = weights_NxL[:, length:].sum(axis=1) == 0
  whole_N = within_N & (ends_N | (weights_NxL[:, 0] > 0))
  chosen_N = whole_N if whole_N.any() else within_N
  if not chosen_N.any():
    raise errors.InputError(
      f"sequence_length={length} is shorter than every row's prompt; use more"
    )
  kept = batches.take(examples, np.flatnonzero(chosen_N))
  return kept._replace(
    token_ids=kept.token_ids[:, :length],
    mask=kept.mask[:, :length],
    tokens=jax.tree.map(lambda x: np.asarray(x)[:, :length], kept.tokens),
  )


def longest(examples: batches.Examples, count: int) -> batches.Examples:
  """Returns the rows that fill nine tenths of their places; where few do, the
  longest, twenty for each of `count`."""
  lengths_N = examples.mask.sum(axis=1)
  enough = min(20 * count, len(lengths_N))
  least = np.sort(lengths_N)[-enough]
  least = min(least, 0.9 * examples.mask.shape[1])
  return batches.take(examples, np.flatnonzero(lengths_N >= least))
