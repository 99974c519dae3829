"""A writer taught by a reward of what it writes: policy gradient.

The reward R of a batch of texts is the cosine of their mean gradient and the
real rows', the mean over students (DiLM's aim, Maekawa et al. 2024, by
REINFORCE, Williams 1992). Row b's baseline is the reward R_-b of the others,
which does not depend on what b says: the sum over b of grad log p(b) (R - R_-b)
is, on average, the gradient of the expected reward.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gmdistill import errors, trees
from gmdistill.data import batches
from gmdistill.students import adapters, generation, next_token, problems
from gmdistill.system import waits
from gmdistill.teachers import writers
from gmdistill.training import fitting


class Judged(NamedTuple):
  """What texts of a batch come to."""

  advantages: np.ndarray  # [B], R - R_-b
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


def train(
  writer: writers.Writer,
  options: writers.Options,
  prompts: Callable[[int], Sequence[Sequence[int]]],
  judge: Callable[[int, list[str]], Judged],
) -> tuple[writers.Writer, list[float]]:
  """Returns the writer after steps of policy gradient, and their rewards.

  Args:
    writer: Of `with_adapter`, which is what is trained.
    options: Steps, rows and rate; texts are drawn at `top_p` 1, as whose
      probabilities are those of the softmax.
    prompts: The prompts of a step.
    judge: What the texts of a step come to.
  """
  options = dataclasses.replace(options, top_p=1.0)
  optimizer = optax.adam(options.reward_rate)
  stop_ids = writers.stops(writer.tokenizer)
  known = writer.tokenizer.vocab_size

  @jax.jit
  def update(problem, params, state, rows, is_drawn_BxL, advantages_B):
    def lost(params):
      logs_B = log_probabilities(
        problem,
        params,
        rows,
        is_drawn_BxL,
        temperature=options.temperature,
        known=known,
      )
      return surrogate(logs_B, advantages_B)

    return fitting.update(optimizer, jax.grad(lost)(params), state, params)

  # Not of the keys that candidates are drawn by.
  root = jax.random.fold_in(jax.random.key(options.seed), 2**32 - 1)
  state = optimizer.init(writer.params)
  rewards, count = [], options.reward_steps
  for step in waits.over(range(count), "rewarding", count, "steps"):
    keys = jax.random.split(jax.random.fold_in(root, step), options.reward_rows)
    drawn = writers.draw(writer, options, prompts(step), keys, stop_ids)
    found = judge(step, [line.line for line in drawn.lines(writer)])
    rewards.append(found.reward)
    rows, is_drawn_BxL = _joined(drawn)
    params, state = update(
      writer.problem,
      writer.params,
      state,
      rows,
      is_drawn_BxL,
      found.advantages.astype(np.float32),
    )
    writer = writer._replace(params=params)
  return writer, rewards


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
