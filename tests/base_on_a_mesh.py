"""Outer steps over a base that devices hold together: `base_on_a_mesh.py OUT`.

Run with eight fake devices. Writes what each layout gave: the set's parameters
after its steps, and bytes that the compiled program says.
"""

import dataclasses
import functools
import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
from conftest import as_float64
from etils import epath

from gmdistill.data import batches
from gmdistill.objectives import contract, look_ahead
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
from gmdistill.system import costs, devices, parts

NUM_STUDENTS, NUM_STEPS, LENGTH = 8, 3, 6
# The last axis of each of its tensors divides over eight devices.
MODULE = decoders.Qwen2(
  width=32,
  num_layers=3,
  num_heads=4,
  num_key_value_heads=2,
  hidden=48,
  vocabulary=40,
  tied=False,
)


def write_base(folder):
  rng = np.random.default_rng(0)
  drawn = lambda x: 0.3 * rng.standard_normal(x.shape, np.float32)  # noqa: E731
  params = jax.tree.map(drawn, decoder_weights.shapes(MODULE))
  table = rng.standard_normal((40, 32), np.float32)
  decoder_weights.save(
    folder,
    decoder_weights.Decoder("qwen2", MODULE, params, jnp.asarray(table)),
    shard_bytes=30_000,
  )


def rows(rng, *axes):
  ids = rng.integers(0, 40, (*axes, LENGTH + 1)).astype(np.int32)
  tokens = batches.Tokens(ids[..., 1:], np.ones(ids[..., 1:].shape, np.float32))
  mask = np.ones(ids[..., 1:].shape, bool)
  return batches.Batch(ids[..., :-1], mask, tokens=tokens)


def problem_of(folder, mesh, kind, sharded):
  place = decoder_weights.whole
  if sharded:
    place = functools.partial(parts.spread, mesh)
  params, table = decoder_weights.read_weights(
    folder, "qwen2", MODULE, place=place
  )
  problem = problems.Problem(table, None, MODULE, asks=tasks.next_tokens())
  if kind == "lora":
    adapted = adapters.lora(MODULE, params, rank=2)
  else:
    adapted = adapters.last_layers(MODULE, params, 2)
  problem = adapters.over(problem, adapted)
  if kind == "lora":  # B is zero at first, and half of a gradient with it
    key = jax.random.key(7)
    drawn = jax.tree.map(
      lambda x: 0.1 * jax.random.normal(key, x.shape), problem.init(key)
    )
    problem = dataclasses.replace(problem, initial=drawn)
  return bases.spread(problem) if sharded else problem


def steps_on(folder, students, data, kind, sharded):
  mesh = devices.build(
    NUM_STUDENTS, students, data, jax.devices()[: students * data]
  )
  problem = problem_of(folder, mesh, kind, sharded)
  rng = np.random.default_rng(1)
  batch = rows(rng, 4)
  embedded = np.asarray(problem.embeddings)[batch.inputs]
  direct = synthetic.direct()

  def decode(params):
    decoded = direct.decode(params)
    said = dataclasses.replace(decoded.batch, tokens=batch.tokens)
    return dataclasses.replace(decoded, batch=said)

  stored = wrappers.with_learning_rates(direct._replace(decode=decode), 2, 0.1)
  params = stored.init(dataclasses.replace(batch, inputs=embedded))
  params, problem = as_float64(params), as_float64(problem)
  objective = look_ahead.look_ahead()
  stage = schedule.Stage(objective, optax.adam(1e-2), lambda _: 1e-2, 0, 1)
  problem = devices.put(mesh, problem, problem.layout)
  key = devices.put(mesh, jax.random.key(0))
  state = states.first_state(params, stage, problem, key, NUM_STUDENTS, mesh)
  real = contract.Real(
    devices.put_own(
      mesh,
      as_float64(rows(rng, NUM_STEPS, NUM_STUDENTS, 1, 4)),
      devices.own_students(mesh, NUM_STUDENTS),
      NUM_STUDENTS,
      devices.BATCHES,
    )
  )
  steps = outer.outer_steps(stage, stored, 0.99, mesh)
  program, cost = costs.program(steps, (problem, state, real, key))
  layout = program.input_shardings[0][0]
  base = sum(
    int(np.prod(where.shard_shape(x.shape))) * x.dtype.itemsize
    for x, where in zip(
      jax.tree.leaves((problem.embeddings, problem.frozen)),
      jax.tree.leaves((layout.embeddings, layout.frozen)),
      strict=True,
    )
  )
  first = np.concatenate([np.ravel(x) for x in jax.tree.leaves(params)])
  state, _ = program(problem, state, real, key)
  leaves = jax.tree.leaves(jax.device_get(state.params))
  return {
    "params": np.concatenate([x.ravel() for x in leaves]),
    "moved": np.concatenate([x.ravel() for x in leaves]) - first,
    "base": base,
    "kernels": program.as_text().count("f64[3,32,48]"),  # of all layers
    "temporary": cost.temporary,
    "arguments": cost.arguments,
  }


if __name__ == "__main__":
  out = pathlib.Path(sys.argv[1])
  jax.config.update("jax_enable_x64", True)
  folder = epath.Path(out / "base")
  write_base(folder)
  for name, *layout in (
    ("alone", 1, 1, "lora", False),
    ("students", 8, 1, "lora", True),
    ("data", 2, 4, "lora", True),
    ("part_alone", 1, 1, "part", False),
    ("part_students", 8, 1, "part", True),
  ):
    np.savez(out / f"{name}.npz", **steps_on(folder, *layout))
