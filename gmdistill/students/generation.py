"""Answers of language models, a token at a time: the likeliest, or drawn.

Keys and values of the tokens before are kept, so that a token costs one pass
over itself. Shapes are static: a program for each shape of prompts and number
of tokens, however long the answers are.
"""

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

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


class Sampling(NamedTuple):
  """How tokens are drawn; a row's depend on its own key alone."""

  keys: jax.Array  # [B], one a row
  temperature: batches.Array | float  # above 0; what logits are divided by
  # Of the likeliest tokens, no more than have this share: the nucleus
  top_p: batches.Array | float
  known: batches.Array | int  # rows of the table that are tokens: the first


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

  def choose(logits_BxV, place):
    del place
    return logits_BxV.argmax(axis=-1)

  return _answered(problem, params, prompts, stops_K, num_tokens, choose)


@functools.partial(jax.jit, static_argnames="num_tokens")
def sampled(
  problem: problems.Problem,
  params: trees.Params,
  prompts: batches.Batch,
  stops_K: batches.Array,
  sampling: Sampling,
  *,
  num_tokens: int,
) -> Answers:
  """Returns tokens drawn one after the other, each given all before it.

  Args:
    problem: Of a decoder, or of adapters over one.
    params: A student.
    prompts: As of `greedy`.
    stops_K: As of `greedy`.
    sampling: How they are drawn.
    num_tokens: N, of the longest answers.
  """
  choose = functools.partial(draw, sampling)
  return _answered(problem, params, prompts, stops_K, num_tokens, choose)


def draw(
  sampling: Sampling, logits_BxV: jax.Array, place: jax.Array | int
) -> jax.Array:
  """Returns a token a row [B], drawn from its nucleus (Holtzman et al. 2020).

  That is the fewest of the likeliest tokens that have `top_p` together, with
  probabilities by softmax(logits / temperature).

  Args:
    sampling: How.
    logits_BxV: Of all tokens.
    place: Of the token in its answer: each has a draw of its own.
  """
  logs_BxV = nucleus(sampling, logits_BxV)
  keys_B = jax.vmap(jax.random.fold_in, (0, None))(sampling.keys, place)
  return jax.vmap(jax.random.categorical)(keys_B, logs_BxV)


def nucleus(sampling: Sampling, logits_BxV: jax.Array) -> jax.Array:
  """Returns the log-probabilities that are drawn by, up to a constant a row;
  -inf of what is outside of the nucleus."""
  is_token_V = jnp.arange(logits_BxV.shape[1]) < sampling.known
  logits_BxV = jnp.where(is_token_V[None], logits_BxV, -jnp.inf)
  logs_BxV = jax.nn.log_softmax(logits_BxV / sampling.temperature)
  sorted_BxV = -jnp.sort(-logs_BxV, axis=1)
  p_BxV = jnp.exp(sorted_BxV)
  before_BxV = jnp.cumsum(p_BxV, axis=1) - p_BxV
  # The first is always in; all are at 1, which sums may miss by rounding.
  inside_BxV = (before_BxV < sampling.top_p) | (sampling.top_p >= 1)
  least_Bx1 = jnp.where(inside_BxV, sorted_BxV, jnp.inf).min(
    axis=1, keepdims=True
  )
  return jnp.where(logs_BxV >= least_Bx1, logs_BxV, -jnp.inf)


def _answered(
  problem: problems.Problem,
  params: trees.Params,
  prompts: batches.Batch,
  stops_K: batches.Array,
  num_tokens: int,
  choose: Callable[[jax.Array, Any], jax.Array],
) -> Answers:
  """Returns what `choose(logits_BxV, place)` makes of prompts."""
  module, variables = module_of(problem), variables_of(problem, params)
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

  def chosen(hidden_BxD, place):
    return choose(next_token.logits(hidden_BxD, table_VxD), place)

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
    next_B = chosen(hidden_Bx1xD[:, 0], place + 1)
    return place + 1, ended_B, next_B, cache, answers

  hidden_BxPxD, cache = read({}, problem.embed(prompts), 0)
  first_B = chosen(decoders.last_states(hidden_BxPxD, mask_BxP), 0)
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
    batch = padded([prompts[row] for row in chosen], size, longest - num_tokens)
    said = greedy(problem, params, batch, stops_K, num_tokens=num_tokens)
    of_rows = zip(np.asarray(said.ids), np.asarray(said.mask), strict=True)
    for prompt, (answer, counts) in zip(chosen, of_rows, strict=False):
      result[prompt] = answer[counts].tolist()
  return result


def padded(
  prompts: Sequence[Sequence[int]], rows: int, longest: int
) -> batches.Batch:
  """Returns prompts of ids padded on the left, in one of a few shapes.

  Args:
    prompts: None longer than `longest`.
    rows: As many or more; the first are said again where there are fewer.
    longest: Tokens that a prompt may have.
  """
  parts = -(-max(map(len, prompts)) // LENGTH)
  length = min(LENGTH * 2 ** (parts - 1).bit_length(), longest)
  ids = np.zeros((rows, length), np.int32)
  mask = np.zeros((rows, length), bool)
  for row in range(rows):
    prompt = prompts[row % len(prompts)]
    ids[row, length - len(prompt) :] = prompt
    mask[row, length - len(prompt) :] = True
  return batches.Batch(ids, mask)


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


def variables_of(
  problem: problems.Problem, params: trees.Params
) -> dict[str, Any]:
  """Returns the variables of that decoder, as a student's parameters have it
  changed."""
  student = problem.student
  if isinstance(student, decoders.Decoder):
    return {"params": params}
  return student.variables(problem.frozen, params)
