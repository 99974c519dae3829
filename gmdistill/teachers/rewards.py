"""A writer taught by a reward of what it writes: policy gradient.

The reward R of a batch of texts is the cosine of their mean gradient and the
real rows', the mean over students (DiLM's aim, Maekawa et al. 2024, by
REINFORCE, Williams 1992). Row b's baseline is the reward Q of the others, which
does not depend on what b says: the sum over b of grad log p(b) (R - Q) is, on
average, the gradient of the expected reward.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gmdistill import errors, trees
from gmdistill.data import batches
from gmdistill.students import adapters, generation, next_token, problems
from gmdistill.teachers import writers
from gmdistill.training import fitting


class Judged(NamedTuple):
  """What texts of a batch come to."""

  advantages: np.ndarray  # [B], R - Q
  reward: float  # R


def judged(rows_SxBxK: np.ndarray, target_SxK: np.ndarray) -> Judged:
  """Returns the reward of a batch, and what each row has in it.

  Args:
    rows_SxBxK: The gradient of each row at S students, or sketches of them.
    target_SxK: That of real rows.
  """
  total_Sx1xK = rows_SxBxK.sum(axis=1, keepdims=True)
  without_SxBxK = total_Sx1xK - rows_SxBxK
  reward = _cosines(total_Sx1xK, target_SxK)[0]
  return Judged(reward - _cosines(without_SxBxK, target_SxK), float(reward))


def _cosines(rows_SxBxK, target_SxK):
  """Returns the mean over students of the cosine [B]; of zeros 0."""
  lengths_SxB = np.linalg.norm(rows_SxBxK, axis=2)
  lengths_SxB = lengths_SxB * np.linalg.norm(target_SxK, axis=1)[:, None]
  products_SxB = np.einsum("sbk,sk->sb", rows_SxBxK, target_SxK)
  return (products_SxB / np.maximum(lengths_SxB, 1e-20)).mean(axis=0)


def surrogate(logs_B: jax.Array, advantages_B: batches.Array) -> jax.Array:
  """Returns what has minus the policy gradient: minus the sum of the texts'
  log-probabilities, each times its advantage."""
  return -(logs_B * advantages_B).sum()


def log_probabilities(
  problem: problems.Problem,
  params: trees.Params,
  rows: batches.Batch,
  is_drawn_BxL: batches.Array,
  *,
  temperature: float,
  known: int,
) -> jax.Array:
  """Returns the log-probability [B] of the drawn tokens of each row.

  Args:
    problem: Of a decoder, or of adapters over one.
    params: The writer's.
    rows: Prompts and what was drawn after them.
    is_drawn_BxL: Which tokens were drawn; not the first.
    temperature: They were drawn by.
    known: Rows of the table that are tokens, the first.
  """
  variables = generation.variables_of(problem, params)
  hidden_BxLxD: Any = generation.module_of(problem).apply(
    variables, problem.embed(rows), rows.mask, method="encode"
  )
  whole_VxD = variables["params"].get("unembedding", problem.embeddings)
  losses = next_token.losses(
    hidden_BxLxD[:, :-1] / temperature,
    whole_VxD[:known],
    jnp.asarray(rows.inputs)[:, 1:],
  )
  return -(losses * is_drawn_BxL[:, 1:]).sum(axis=1)


class Progress(NamedTuple):
  """How far a writer's training has come."""

  params: trees.Params  # the adapter
  state: optax.OptState
  rewards: list[float]  # of each step so far


def with_adapter(
  writer: writers.Writer, options: writers.Options
) -> writers.Writer:
  """Returns the writer with a new adapter, which changes nothing yet.

  Raises:
    InputError: a rank that is none.
  """
  base: trees.Params = writer.params
  module = generation.module_of(writer.problem)
  adapted = errors.named(
    "writer.reward_rank",
    lambda: adapters.lora(module, base, rank=options.reward_rank),
  )
  key = jax.random.key(options.seed)
  params = adapted.student.init(key)["params"]
  problem = adapters.over(writer.problem, adapted)
  return writer._replace(problem=problem, params=params)


def begun(writer: writers.Writer, options: writers.Options) -> Progress:
  """Returns where the training of a writer of `with_adapter` starts."""
  state = optax.adam(options.reward_rate).init(writer.params)
  return Progress(writer.params, state, [])


def train(
  writer: writers.Writer,
  options: writers.Options,
  prompts: Callable[[int], Sequence[Sequence[int]]],
  judge: Callable[[int, list[str]], Judged],
  progress: Progress,
  num_steps: int,
) -> Progress:
  """Goes on with steps of policy gradient.

  Args:
    writer: Of `with_adapter`.
    options: Rows and rate; texts are drawn at `top_p` 1, as whose probabilities
      are those of the softmax.
    prompts: The prompts of a step.
    judge: What the texts of a step come to.
    progress: So far.
    num_steps: When it stops, counted from the start.
  """
  options = dataclasses.replace(options, top_p=1.0)
  stop_ids = writers.stops(writer.tokenizer)
  # Not of the keys that candidates are drawn by.
  root = jax.random.fold_in(jax.random.key(options.seed), 2**32 - 1)
  for step in range(len(progress.rewards), num_steps):
    writer = writer._replace(params=progress.params)
    keys = jax.random.split(jax.random.fold_in(root, step), options.reward_rows)
    drawn = writers.draw(writer, options, prompts(step), keys, stop_ids)
    found = judge(step, [line.line for line in drawn.lines(writer)])
    rows, is_drawn_BxL = _joined(drawn)
    params, state = _step(
      writer.problem,
      progress[:2],
      (rows, is_drawn_BxL, found.advantages.astype(np.float32)),
      rate=options.reward_rate,
      temperature=options.temperature,
      known=writer.tokenizer.vocab_size,
    )
    progress = Progress(params, state, [*progress.rewards, found.reward])
  return progress


@functools.partial(jax.jit, static_argnames=("rate", "temperature", "known"))
def _step(problem, carry, judged_rows, *, rate, temperature, known):
  """Returns the adapter and the optimiser's state after a step."""
  params, state = carry
  rows, is_drawn_BxL, advantages_B = judged_rows

  def lost(params):
    logs_B = log_probabilities(
      problem,
      params,
      rows,
      is_drawn_BxL,
      temperature=temperature,
      known=known,
    )
    return surrogate(logs_B, advantages_B)

  return fitting.update(optax.adam(rate), jax.grad(lost)(params), state, params)


def _joined(drawn):
  """Returns prompts and answers as rows, and which of their tokens were drawn:
  those of a line, and the one that ended it."""
  prompts, (rows, length) = drawn.prompts, drawn.ids_BxN.shape
  counts_Bx1 = (drawn.counts + drawn.has_end)[:, None]
  is_drawn_BxN = np.arange(length)[None] < counts_Bx1
  before_BxP = np.zeros((rows, prompts.mask.shape[1]), bool)
  ids = np.concatenate([prompts.inputs, drawn.ids_BxN], axis=1)
  mask = np.concatenate([prompts.mask, is_drawn_BxN], axis=1)
  whole = batches.Batch(ids.astype(np.int32), mask)
  return whole, np.concatenate([before_BxP, is_drawn_BxN], axis=1)
