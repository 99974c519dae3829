"""What a compiled outer step holds in memory, and what that depends on."""

import functools

import jax
import jax.numpy as jnp
import optax

from gmdistill.data import batches
from gmdistill.objectives import contract, gradient_matching
from gmdistill.runs import outer, states
from gmdistill.runs.config import schedule
from gmdistill.sets import synthetic
from gmdistill.students import encoders, problems
from gmdistill.system import costs, devices

LENGTH, WIDTH = 32, 64


def deep_problem(classes=2, **fields):
  table = jax.random.normal(jax.random.key(11), (20, WIDTH))
  module = encoders.Transformer(
    classes,
    width=WIDTH,
    num_heads=4,
    hidden=4 * WIDTH,
    max_positions=LENGTH,
    pooling="mean",
    **fields,
  )
  return problems.Problem(table, None, module)


def step(
  *, layers=2, rule="mixed", remat="none", steps=1, classes=2, rows=16, chunk=0
):
  problem = deep_problem(classes, num_layers=layers, remat=remat)
  objective = gradient_matching.expert_matching(
    distance_kind="tensor_cosine", rule=rule, class_chunk=chunk
  )
  stage = schedule.Stage(objective, optax.adam(1e-2), lambda _: 1e-2, 0, 1)
  mesh = devices.build(1, devices=jax.devices()[:1])
  batch = batches.Batch(
    jnp.ones((classes * rows, LENGTH, WIDTH)),
    jnp.ones((classes * rows, LENGTH), bool),
    jnp.repeat(jnp.eye(classes), rows, axis=0),
  )
  stored = synthetic.direct()
  params = stored.init(batch)
  shapes = jax.eval_shape(problem.init, jax.random.key(0))
  kept = jax.eval_shape(lambda x: problem.roles.keep(x, "all"), shapes)
  lie = devices.sharding(mesh, devices.EXPERTS)
  abstract = lambda tree, *axes: jax.tree.map(  # noqa: E731
    lambda x: jax.ShapeDtypeStruct(
      (steps, 1, *axes, *x.shape), x.dtype, sharding=lie
    ),
    tree,
  )
  expert = contract.Expert(abstract(shapes), abstract(kept, classes))
  arguments = (
    problem,
    states.shapes(stage, problem, params, 1, mesh),
    contract.Real(None, expert),
    jax.random.key(0),
  )
  return outer.outer_steps(stage, stored, 0.99, mesh), arguments


@functools.cache
def cost(**fields):
  return costs.program(*step(**fields))[1]


def flops(**fields):
  program, arguments = step(**fields)
  return costs.matmul_flops(program.trace(*arguments).jaxpr.jaxpr)


def test_mixed_mode_with_remat_takes_a_third_of_the_memory_at_12_layers():
  mixed = cost(layers=12, remat="layers")
  reverse = cost(layers=12, remat="layers", rule="reverse")
  assert 3 * mixed.temporary <= reverse.temporary


def test_memory_does_not_grow_with_the_steps_of_a_dispatch():
  few, many = cost(steps=2), cost(steps=8)
  assert many.temporary <= few.temporary + 2**16
  assert many.flops == few.flops
  # Only the bank's states that the dispatch reads are more.
  assert many.arguments - few.arguments <= 1.01 * (many.bank - few.bank)


def test_with_class_chunks_memory_does_not_grow_with_the_classes():
  few = functools.partial(cost, classes=4, rows=1)
  many = functools.partial(cost, classes=8, rows=1)
  whole = many().temporary - few().temporary
  chunked = many(chunk=2).temporary - few(chunk=2).temporary
  kept = many().bank - few().bank  # read in float32, whatever the chunk
  assert chunked - kept < 0.1 * (whole - kept)
  assert many(chunk=2).temporary < many().temporary


def test_a_step_with_a_bank_costs_no_more_products_than_it_must():
  """In units of the forward pass: 3 for the gradients; 4 more for their
  derivative along the covector, 2 where the gradient is computed again. Of
  attention's own products both factors depend on the set: a little more."""
  layer = 2 * LENGTH * (12 * WIDTH**2 + 2 * LENGTH * WIDTH)
  forward = 32 * 2 * layer  # rows and layers
  assert 7.0 <= flops(rule="linearize") / forward < 7.2
  assert 9.0 <= flops() / forward < 9.3
  assert flops(chunk=2) == flops()  # side by side or in turn
  assert 12.0 <= flops(chunk=1) / forward < 12.3
