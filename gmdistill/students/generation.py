"""Greedy answers of language models, a token at a time.

Keys and values of the tokens before are kept, so that a token costs one pass
over itself. Shapes are static: a program for each shape of prompts and number
of tokens, however long the answers are.
"""

import functools
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gmdistill import errors, trees
from gmdistill.data import batches
from gmdistill.students import decoders, next_token, problems
from gmdistill.system import waits

# At most so many prompts come at a time: a token costs a pass over all weights,
# whoever it is for. Their length is this times a power of two: few programs.
ROWS, LENGTH = 32, 16


class Answers(NamedTuple):
  """What follows prompts."""

  ids: jax.Array  # [B, N]
  mask: jax.Array  # [B, N], the tokens before one that stops


@functools.partial(jax.jit, static_argnames="num_tokens")
def greedy(
  problem: problems.Problem,
  params: trees.Params,
  prompts: batches.Batch,
  stops_K: batches.Array,
  *,
  num_tokens: int,
) -> Answers:
  """Returns the likeliest next token, given all before it, again and again.

  Args:
    problem: Of a decoder, or of adapters over one.
    params: A student.
    prompts: Of one token a row at least; they may be padded on either side.
    stops_K: Ids of tokens that end an answer.
    num_tokens: N, of the longest answers.
  """
  module, variables = module_of(problem), _variables(problem, params)
  whole = variables["params"].get("unembedding", problem.embeddings)
  table_VxD = whole.astype(module.compute)  # once, not a token
  mask_BxP = jnp.asarray(prompts.mask)
  count, length = mask_BxP.shape
  mask_BxS = jnp.pad(mask_BxP, ((0, 0), (0, num_tokens)), constant_values=True)

  def read(cache, x_BxLxD, start):
    return module.apply(
      {**variables, **cache},
      x_BxLxD,
      mask_BxS,
      start,
      method="encode",
      mutable=["cache"],
    )

  def likeliest(hidden_BxD):
    return next_token.logits(hidden_BxD, table_VxD).argmax(axis=-1)

  def goes_on(state):
    place, ended_B = state[0], state[1]
    return (place < num_tokens) & ~ended_B.all()

  def step(state):
    place, ended_B, next_B, cache, answers = state
    ended_B |= jnp.isin(next_B, stops_K)
    answers = Answers(
      answers.ids.at[:, place].set(next_B),
      answers.mask.at[:, place].set(~ended_B),
    )
    x_Bx1xD = problem.embeddings[next_B][:, None]
    hidden_Bx1xD, cache = read(cache, x_Bx1xD, length + place)
    return place + 1, ended_B, likeliest(hidden_Bx1xD[:, 0]), cache, answers

  hidden_BxPxD, cache = read({}, problem.embed(prompts), 0)
  first_B = likeliest(decoders.last_states(hidden_BxPxD, mask_BxP))
  empty = jnp.zeros((count, num_tokens), first_B.dtype)
  nothing = Answers(empty, empty.astype(bool))
  state = (0, jnp.zeros(count, bool), first_B, cache, nothing)
  return jax.lax.while_loop(goes_on, step, state)[-1]


def answers(
  problem: problems.Problem,
  params: trees.Params,
  prompts: Sequence[Sequence[int]],
  *,
  stops: Iterable[int],
  num_tokens: int,
) -> list[list[int]]:
  """Returns the ids of a student's answers, without the token that stops.

  Args:
    problem: Of a decoder, or of adapters over one.
    params: A student.
    prompts: Ids, of one token each at least.
    stops: Ids of tokens that end an answer.
    num_tokens: Of the longest answers.

  Raises:
    InputError: a prompt without a token, or without room for its answer.
  """
  require_room(problem, prompts, num_tokens)
  lengths = np.array([len(prompt) for prompt in prompts])
  longest = problem.student.max_positions
  stops_K = np.array(sorted(set(stops)), np.int32)
  result: list[list[int]] = [[] for _ in prompts]
  order = np.argsort(lengths, kind="stable").tolist()
  size = min(ROWS, len(order))
  steps = range(0, len(order), max(size, 1))
  for first in waits.over(steps, "answering", len(order), "rows", size):
    chosen = order[first : first + size]
    parts = -(-len(prompts[chosen[-1]]) // LENGTH)
    length = LENGTH * 2 ** (parts - 1).bit_length()
    length = min(length, longest - num_tokens)
    ids = np.zeros((size, length), np.int32)
    mask = np.zeros((size, length), bool)
    # The last rows are said again where there are fewer.
    for row in range(size):
      prompt = prompts[chosen[row % len(chosen)]]
      ids[row, length - len(prompt) :] = prompt
      mask[row, length - len(prompt) :] = True
    batch = batches.Batch(ids, mask)
    said = greedy(problem, params, batch, stops_K, num_tokens=num_tokens)
    of_rows = zip(np.asarray(said.ids), np.asarray(said.mask), strict=True)
    for prompt, (answer, counts) in zip(chosen, of_rows, strict=False):
      result[prompt] = answer[counts].tolist()
  return result


def require_room(
  problem: problems.Problem, prompts: Sequence[Sequence[int]], num_tokens: int
) -> None:
  """Checks that prompts have an answer, and the student positions for it.

  Raises:
    InputError: a prompt without a token, or without room for its answer.
  """
  lengths = [len(prompt) for prompt in prompts] or [1]
  positions = problem.student.max_positions
  if not min(lengths):
    raise errors.InputError(
      "an empty prompt has no token to go on from; give every row one."
    )
  if max(lengths) + num_tokens > positions:
    raise errors.InputError(
      f"a prompt of {max(lengths)} tokens and an answer of {num_tokens} are "
      f"more than the student's {positions} positions; use shorter ones."
    )


def module_of(problem: problems.Problem) -> decoders.Decoder:
  """Returns the decoder that a problem's students are, or change."""
  module: decoders.Decoder = getattr(problem.student, "module", problem.student)
  return module


def _variables(problem, params):
  student = problem.student
  if isinstance(student, decoders.Decoder):
    return {"params": params}
  return student.variables(problem.frozen, params)
