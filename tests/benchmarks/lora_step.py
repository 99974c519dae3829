"""An outer step on the adapter of a decoder, compiled; its weights random."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gmdistill.data import batches
from gmdistill.objectives import contract, look_ahead, step_matching
from gmdistill.runs import outer, states
from gmdistill.runs.config import schedule
from gmdistill.sets import synthetic, wrappers
from gmdistill.students import (
  adapters,
  bases,
  decoder_weights,
  decoders,
  problems,
  tasks,
)
from gmdistill.system import costs, devices

OBJECTIVES = ("look_ahead", "matching")


class Sizes(NamedTuple):
  """What a step is made of."""

  rank: int = 8
  rows: int = 8  # of the set, and of each real batch
  length: int = 64
  num_steps: int = 2  # that look-ahead takes


def random_rows(vocabulary: int, *shape: int) -> batches.Batch:
  """Returns rows of tokens, each of which says the next."""
  *axes, length = shape
  rng = np.random.default_rng(1)
  ids = rng.integers(0, vocabulary, (*axes, length + 1)).astype(np.int32)
  said = ids[..., 1:]
  tokens = batches.Tokens(said, np.ones(said.shape, np.float32))
  return batches.Batch(ids[..., :-1], np.ones(said.shape, bool), tokens=tokens)


def make_problem(
  fields: dict[str, Any], rank: int, drawn: Callable[[Any], Any]
) -> problems.Problem:
  """Returns students that are adapters of a Llama.

  Args:
    fields: Of the decoder.
    rank: Of its adapters.
    drawn: Makes an array of a shape; or leaves it a shape, to be compiled for.
  """
  module = decoders.Llama(**fields)
  like = jax.ShapeDtypeStruct((module.vocabulary, module.width), jnp.float32)
  params = jax.tree.map(drawn, decoder_weights.shapes(module))
  problem = problems.Problem(
    drawn(like), None, module, asks=tasks.next_tokens()
  )
  problem = adapters.over(problem, adapters.lora(module, params, rank=rank))
  if isinstance(problem.embeddings, jax.ShapeDtypeStruct):
    return jax.eval_shape(bases.narrowed, problem)
  return bases.narrowed(problem)


def make_stage(objective: str) -> schedule.Stage:
  """Returns the stage of one of the objectives."""
  made = (
    look_ahead.look_ahead()
    if objective == "look_ahead"
    else step_matching.step_matching(1)
  )
  return schedule.Stage(made, optax.adam(1e-2), lambda _: 1e-2, 0, 1)


def stored_with(batch: batches.Batch, num_steps: int) -> Any:
  """Returns how a set that says a batch's tokens is stored, with its steps."""
  direct = synthetic.direct()

  def decode(params):
    decoded = direct.decode(params)
    said = dataclasses.replace(decoded.batch, tokens=batch.tokens)
    return dataclasses.replace(decoded, batch=said)

  return wrappers.with_learning_rates(
    direct._replace(decode=decode), num_steps, 0.1
  )


def compiled(
  problem: problems.Problem, objective: str, sizes: Sizes
) -> tuple[Any, costs.Cost, tuple[Any, ...]]:
  """Returns an outer step, its cost, and arguments but the state.

  The problem may be of shapes: then nothing but the cost is of use.
  """
  vocabulary, width = problem.embeddings.shape
  mesh = devices.build(1, devices=jax.devices()[:1])
  batch = random_rows(vocabulary, sizes.rows, sizes.length)
  num_steps = sizes.num_steps if objective == "look_ahead" else 1
  stored, stage = stored_with(batch, num_steps), make_stage(objective)
  inputs = jax.ShapeDtypeStruct((sizes.rows, sizes.length, width), jnp.float32)
  if isinstance(problem.embeddings, np.ndarray):
    inputs = jnp.asarray(problem.embeddings[batch.inputs])
  begin = stored.init
  if isinstance(inputs, jax.ShapeDtypeStruct):
    begin = functools.partial(jax.eval_shape, stored.init)
  params = begin(dataclasses.replace(batch, inputs=inputs))
  real = contract.Real(
    devices.put_own(
      mesh,
      random_rows(vocabulary, 1, 1, 1, sizes.rows, sizes.length),
      [0],
      1,
      devices.BATCHES,
    )
  )
  problem, key = devices.put(mesh, problem), jax.random.key(0)
  state = states.shapes(stage, problem, params, 1, mesh)
  steps = outer.outer_steps(stage, stored, 0.99, mesh)
  key = devices.put(mesh, key)
  program, cost = costs.program(steps, (problem, state, real, key))
  if not isinstance(inputs, jax.ShapeDtypeStruct):
    state = states.first_state(params, stage, problem, key, 1, mesh)
  return program, cost, (problem, state, real, key)


def build(
  fields: dict[str, Any], objective: str, sizes: Sizes
) -> tuple[Callable[[], float], costs.Cost]:
  """Returns `step()` -> loss over random weights, and what it costs."""
  rng = np.random.default_rng(0)
  problem = make_problem(
    fields,
    sizes.rank,
    lambda x: 0.02 * rng.standard_normal(x.shape, np.float32),
  )
  program, cost, (problem, state, real, key) = compiled(
    problem, objective, sizes
  )
  kept = [state]

  def step():
    kept[0], seen = program(problem, kept[0], real, key)
    return float(seen["outer/loss"][0])

  return step, cost
