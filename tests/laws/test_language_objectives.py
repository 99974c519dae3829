"""Every objective teaches a set of a language model: its slope is one."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gmdistill.data import batches
from gmdistill.objectives import (
  contract,
  displacements,
  distances,
  finetune_ahead,
  first_order,
  gradient_matching,
  look_ahead,
  step_matching,
  trajectories,
  travelling,
)
from gmdistill.runs.config import schedule
from gmdistill.sets import following_tokens, synthetic, wrappers
from gmdistill.students import adapters, decoders, problems, tasks
from gmdistill.training import optimizers

WIDTH, LENGTH, VOCABULARY, STEPS = 8, 6, 12, 2

MODULE = decoders.Llama(
  width=WIDTH,
  num_layers=1,
  num_heads=2,
  hidden=16,
  max_positions=16,
  vocabulary=VOCABULARY,
)


def make_problem():
  """LoRA over a random decoder."""
  table = jax.random.normal(jax.random.key(0), (VOCABULARY, WIDTH))
  inputs = (jnp.zeros((1, 2, WIDTH)), jnp.ones((1, 2), bool))
  base = MODULE.init(jax.random.key(1), *inputs)["params"]
  whole = problems.Problem(table, base, MODULE, asks=tasks.next_tokens())
  return adapters.over(whole, adapters.lora(MODULE, base, rank=2))


def make_batch(seed, rows):
  ids = np.random.default_rng(seed).integers(
    VOCABULARY, size=(rows, LENGTH + 1)
  )
  weights = np.ones((rows, LENGTH), np.float32)
  weights[:, 0] = 0.0  # a prompt
  tokens = batches.Tokens(ids[:, 1:].astype(np.int32), weights)
  mask = np.ones((rows, LENGTH), bool)
  inputs = ids[:, :-1].astype(np.int32)
  return jax.tree.map(jnp.asarray, batches.Batch(inputs, mask, tokens=tokens))


def make_set(problem, soft=False):
  """The parameterization of a set of two sequences, and its parameters."""
  batch = make_batch(3, 2)
  tokens = batch.tokens
  if soft:
    queries = 3.0 * problem.embeddings[tokens.targets]
    tokens = dataclasses.replace(tokens, targets=queries)
  noise = jax.random.normal(jax.random.key(7), (2, LENGTH, WIDTH))
  inputs = problem.embeddings[batch.inputs] + 0.01 * noise
  start = dataclasses.replace(batch, inputs=inputs, tokens=tokens)
  shapes = jax.eval_shape(problem.init, jax.random.key(0))
  stored = wrappers.with_learning_rates(
    following_tokens.with_following_tokens(synthetic.direct(), soft=soft),
    STEPS,
    0.5,
    shares=problem.roles.even_shares(shapes),
  )
  return stored, stored.init(start)


def make_expert(problem):
  """A trained state, and another some steps on: their B are not zero."""
  params = problem.init(jax.random.key(2))
  batch, states = make_batch(5, 4), []
  grad = jax.jit(jax.grad(problem.loss))
  for _ in range(4):
    grads = grad(params, batch)
    params = jax.tree.map(lambda p, g: p - 0.1 * g, params, grads)
    states.append(params)
  targets = jax.tree.map(lambda x: x[None], grad(states[0], batch))
  return contract.Expert(states[0], targets, None, states[-1])


OBJECTIVES = {
  "look_ahead": look_ahead.look_ahead(),
  "step_matching": step_matching.step_matching(STEPS),
  "gradient_matching": gradient_matching.gradient_matching(
    trajectories.trajectory(optax.adamw(1e-2), steps_between=1)
  ),
  "expert_matching": gradient_matching.expert_matching(),
  "finetune_ahead": finetune_ahead.finetune_ahead(
    optimizers.FineTuning(8), 1e-2, finetune_ahead.Windows(), batch_size=2
  ),
  "trajectory_matching": displacements.trajectory_matching(),
  "task_vector_matching": displacements.task_vector_matching(),
  "distribution_matching": first_order.distribution_matching(),
  "token_distance": first_order.token_distance(),
  "travelling": travelling.drawn(
    [
      finetune_ahead.finetune_ahead(
        optimizers.FineTuning(8, kind="sgd"),
        1.0,
        finetune_ahead.Windows(window=1, skip=0, stride=2),
      )
    ]
  ),
}


def test_every_objective_of_a_config_teaches_language_models():
  assert {*schedule.OBJECTIVES} <= {*OBJECTIVES}


# What is soft is the batch's, not the objective's.
@pytest.mark.parametrize(
  "name, soft", [*((name, False) for name in OBJECTIVES), ("look_ahead", True)]
)
def test_an_objective_has_a_finite_slope_in_all_that_is_learned(name, soft):
  problem, objective = make_problem(), OBJECTIVES[name]
  stored, params = make_set(problem, soft)
  each = max(objective.num_batches, 1)
  real = [make_batch(10 + i, 4) for i in range(each)]
  given = contract.Real(
    jax.tree.map(lambda *xs: jnp.stack(xs), *real), make_expert(problem)
  )
  student = objective.init(problem, jax.random.key(4), jnp.float32(0))

  @jax.jit
  def slope(embeddings, targets, problem, student, given):
    base = {
      **params["base"],
      "base": {"embeddings": embeddings, "labels": None},
    }
    if soft:
      base["targets"] = targets
    syn = stored.decode({**params, "base": base})
    return objective.loss(problem, syn, student, given, jax.random.key(6))[0]

  inputs = params["base"]["base"]["embeddings"]
  value, grads = jax.value_and_grad(slope, argnums=(0, 1) if soft else (0,))(
    inputs, params["base"]["targets"], problem, student, given
  )
  assert np.isfinite(value)
  for grad in grads:
    assert np.isfinite(grad).all() and np.abs(grad).max() > 1e-6


def test_tensors_that_are_zero_on_both_sides_are_in_no_mean():
  """At B = 0 the gradient of A is zero whatever the rows: half of the tensors
  say nothing of how near two gradients are, and must not make them nearer."""
  problem = make_problem()
  params = problem.init(jax.random.key(2))
  grad = jax.jit(jax.grad(problem.loss))
  a, b = (grad(params, make_batch(seed, 4)) for seed in (5, 6))
  whole = distances.between(
    a, b, problem.roles, kind="tensor_cosine", matched="all"
  )
  gaps = []
  for name, pair in adapters.pairs(a["layers"]).items():
    other = adapters.pairs(b["layers"])[name]
    np.testing.assert_array_equal(pair["A"], 0.0)
    for x, y in zip(pair["B"], other["B"], strict=True):
      cosine = (x * y).sum() / np.sqrt((x * x).sum() * (y * y).sum())
      gaps.append(1 - cosine)
  np.testing.assert_allclose(whole, np.mean(gaps), rtol=1e-5)
