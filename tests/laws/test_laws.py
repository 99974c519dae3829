"""Laws of every objective, with every parameterization."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import (
  LENGTH,
  as_float64,
  make_expert,
  make_problem,
  make_real,
  make_synthetic,
)

from gmdistill.objectives import (
  contract,
  displacements,
  distances,
  first_order,
  gradient_matching,
  look_ahead,
  trajectories,
)
from gmdistill.sets import synthetic, wrappers
from gmdistill.students import roles

TRAJECTORY = trajectories.trajectory(optax.sgd(0.1), max_age=4, steps_between=2)
OBJECTIVES = {
  "look_ahead": look_ahead.look_ahead,
  "look_ahead-centred": functools.partial(look_ahead.look_ahead, centred=True),
  "look_ahead-bank": functools.partial(look_ahead.look_ahead, start="bank"),
  "distribution_matching": first_order.distribution_matching,
  "expert_matching": gradient_matching.expert_matching,
  "trajectory_matching": functools.partial(
    displacements.trajectory_matching, constant_memory=False
  ),
  "task_vector_matching": functools.partial(
    displacements.task_vector_matching, constant_memory=False
  ),
  "weighted": lambda: contract.weighted(
    [
      (1.0, look_ahead.look_ahead()),
      (0.1, gradient_matching.gradient_matching(TRAJECTORY)),
    ]
  ),
  **{
    f"gradient_matching-{kind}-{matched}": functools.partial(
      gradient_matching.gradient_matching,
      TRAJECTORY,
      distance_kind=kind,
      matched=matched,
    )
    for kind, matched in (
      *((kind, "all") for kind in distances.KINDS),
      ("neuron_cosine", "last_1"),
      ("tensor_cosine", "head"),
    )
  },
}
PARAMETERIZATIONS = {
  "hard": lambda: synthetic.direct(),
  "softmax": lambda: wrappers.with_soft_labels(synthetic.direct(), "softmax"),
  "unrestricted": lambda: wrappers.with_soft_labels(
    synthetic.direct(), "unrestricted"
  ),
  "factorized": lambda: wrappers.with_soft_labels(
    synthetic.factorized(3), "unrestricted"
  ),
  "attention": lambda: wrappers.with_attention_labels(
    wrappers.with_soft_labels(synthetic.direct(), "unrestricted"),
    # Far from a fresh student's even attention, whose queries' gradients are
    # too small for finite differences of their cosines.
    lambda batch: jnp.broadcast_to(
      jax.nn.softmax(jnp.arange(LENGTH, dtype=jnp.float32)),
      (len(batch), 2, 2, LENGTH),
    ),
  ),
  # With steps of another kind; see outer_loss.
  "normalised_steps": lambda: wrappers.with_soft_labels(
    synthetic.direct(), "unrestricted"
  ),
}


def real_of(problem, objective):
  """Batches of real rows, and an expert, as an objective reads them."""
  batches = None
  if objective.num_batches:
    batches = make_real(objective.num_batches)
  return contract.Real(batches, make_expert(problem, objective.reads))


def outer_loss(objective, parameterization, problem, normalised=False):
  """The loss as a function of the set's parameters, and those parameters."""
  shares = None
  if normalised:
    shapes = jax.eval_shape(problem.init, jax.random.key(0))
    shares = roles.even_shares(shapes)
  stored = wrappers.with_learning_rates(parameterization, 3, 0.1, 0.3, shares)
  params = stored.init(make_synthetic())
  student = jax.jit(objective.init)(
    problem, jax.random.key(1), jnp.float32(0.0)
  )
  real = real_of(problem, objective)

  def loss(params, student, real):
    value, _ = objective.loss(
      problem, stored.decode(params), student, real, jax.random.key(2)
    )
    return value

  return loss, params, student, real


# The two that differentiate twice with every parameterization, all with one.
MAIN = ("look_ahead", "gradient_matching-neuron_cosine-all")
PAIRS = [
  (name, stored)
  for name in OBJECTIVES
  for stored in PARAMETERIZATIONS
  if name in MAIN or stored == "unrestricted"
]


@pytest.mark.parametrize("name, stored", PAIRS)
def test_the_meta_gradient_equals_finite_differences(name, stored, x64):
  problem = as_float64(make_problem())
  objective = OBJECTIVES[name]()
  loss, *at = outer_loss(
    objective,
    PARAMETERIZATIONS[stored](),
    problem,
    normalised=stored == "normalised_steps",
  )
  params, student, real = (as_float64(x) for x in at)
  both = jax.jit(jax.value_and_grad(loss))  # one program, three times
  _, grads = both(params, student, real)
  direction = jax.tree.map(
    lambda x: jax.random.normal(jax.random.key(x.size), x.shape), params
  )
  if stored == "hard":  # fixed labels get no gradient, by design
    direction["base"]["labels"] *= 0.0
    assert not np.any(grads["base"]["labels"])
  exact = sum(
    jnp.vdot(a, b)
    for a, b in zip(*map(jax.tree.leaves, (grads, direction)), strict=True)
  )
  step = 1e-5
  move = lambda sign: jax.tree.map(  # noqa: E731
    lambda x, d: x + sign * step * d, params, direction
  )
  ahead, behind = (both(move(sign), student, real)[0] for sign in (1, -1))
  numeric = ahead - behind
  np.testing.assert_allclose(exact, numeric / (2 * step), rtol=1e-5)
  assert abs(float(exact)) > 1e-8


# At a set that equals the real rows; the others compare where steps lead.
ZERO_AT_REAL = [
  name
  for name in OBJECTIVES
  if name.startswith(("gradient", "distribution", "expert"))
]


@pytest.mark.parametrize("name", ZERO_AT_REAL)
def test_distance_and_gradient_are_zero_where_synthetic_is_real(name, x64):
  problem = as_float64(make_problem())
  objective = OBJECTIVES[name]()
  batch = as_float64(make_synthetic())
  batches = jax.tree.map(
    lambda x: jnp.broadcast_to(x, (objective.num_batches, *x.shape)), batch
  )
  real = contract.Real(batches, make_expert(problem, objective.reads, batch))
  student = as_float64(
    jax.jit(objective.init)(problem, jax.random.key(1), jnp.float32(0.0))
  )

  def loss(inputs):
    syn = synthetic.SyntheticSet(batch.replace(inputs=inputs))
    return objective.loss(problem, syn, student, real, jax.random.key(0))[0]

  value, grads = jax.jit(jax.value_and_grad(loss))(batch.inputs)
  np.testing.assert_allclose(value, 0.0, atol=1e-12)
  np.testing.assert_allclose(grads, 0.0, atol=1e-9)


@pytest.mark.parametrize("kind", ["bilstm", "textcnn"])
def test_every_student_can_be_matched(kind):
  problem = make_problem(kind)
  objective = OBJECTIVES["gradient_matching-neuron_cosine-all"]()
  loss, params, student, real = outer_loss(
    objective, PARAMETERIZATIONS["unrestricted"](), problem
  )
  grads = jax.jit(jax.grad(loss))(params, student, real)
  assert float(jnp.abs(grads["base"]["base"]["embeddings"]).max()) > 0
