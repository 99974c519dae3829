"""What a compiled outer step holds in memory, and what that depends on."""

import functools

import jax
import jax.numpy as jnp
import optax

from gmdistill import (
  data,
  distances,
  matching,
  objectives,
  outer,
  plan,
  schedule,
  students,
  synthetic,
)
from gmdistill import mesh as meshes
from gmdistill import problem as problems

LENGTH, WIDTH = 32, 64


def deep_problem(**fields):
  table = jax.random.normal(jax.random.key(11), (20, WIDTH))
  module = students.Transformer(
    2,
    width=WIDTH,
    num_heads=4,
    hidden=4 * WIDTH,
    max_positions=LENGTH,
    pooling="mean",
    **fields,
  )
  return problems.Problem(table, None, module)


@functools.cache
def cost(*, layers=2, rule="mixed", remat=False, steps=1):
  problem = deep_problem(num_layers=layers, remat=remat)
  objective = matching.expert_matching(distance_kind="tensor_cosine", rule=rule)
  stage = schedule.Stage(objective, optax.adam(1e-2), lambda _: 1e-2, 0, 1)
  mesh = meshes.build(1, devices=jax.devices()[:1])
  batch = data.Batch(
    jnp.ones((32, LENGTH, WIDTH)),
    jnp.ones((32, LENGTH), bool),
    jnp.repeat(jnp.eye(2), 16, axis=0),
  )
  stored = synthetic.direct()
  params = stored.init(batch)
  shapes = jax.eval_shape(problem.init, jax.random.key(0))
  kept = jax.eval_shape(lambda x: distances.keep(x, "all"), shapes)
  lie = meshes.sharding(mesh, meshes.EXPERTS)
  abstract = lambda tree, *axes: jax.tree.map(  # noqa: E731
    lambda x: jax.ShapeDtypeStruct(
      (steps, 1, *axes, *x.shape), x.dtype, sharding=lie
    ),
    tree,
  )
  expert = objectives.Expert(abstract(shapes), abstract(kept, 2))
  arguments = (
    problem,
    outer.shapes(stage, problem, params, 1, mesh),
    objectives.Real(None, expert),
    jax.random.key(0),
  )
  program = outer.outer_steps(stage, stored, 0.99, mesh)
  return plan.program(program, arguments)[1]


def test_mixed_mode_with_remat_takes_a_third_of_the_memory_at_12_layers():
  mixed = cost(layers=12, remat=True)
  reverse = cost(layers=12, remat=True, rule="reverse")
  assert 3 * mixed.temporary <= reverse.temporary


def test_memory_does_not_grow_with_the_steps_of_a_dispatch():
  few, many = cost(steps=2), cost(steps=8)
  assert many.temporary <= few.temporary + 2**16
  assert many.flops == few.flops
  # Only the bank's states that the dispatch reads are more.
  assert many.arguments - few.arguments <= 1.01 * (many.bank - few.bank)
