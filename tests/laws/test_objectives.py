"""Laws of every objective, with every parameterization.

An objective without an entry in `LAWS` fails the first test. One program is
compiled for each pair: the loss and its gradient with respect to the set's
parameters, in double precision, of a set some of whose positions are masked.
"""

import functools
from typing import NamedTuple

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
  make_small_problem,
  make_synthetic,
)

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
from gmdistill.sets import synthetic, wrappers
from gmdistill.training import optimizers

TRAJECTORY = trajectories.trajectory(optax.sgd(0.1), max_age=4, steps_between=2)


class Law(NamedTuple):
  """How an objective is made here, and which laws are not its own."""

  make: object
  num_steps: int = 3  # that the set brings
  # Of a transformer; else of a student that is compiled in a fifth of the time.
  whole: bool = False
  # Its derivative is that of its value; else one that is said to be another.
  exact: bool = True


def _expanded(make, *, whole=False, **variants):
  return {
    name: Law(functools.partial(make, **fields), whole=whole)
    for name, fields in variants.items()
  }


# By the names of `schedule.OBJECTIVES`, and what varies after a dash.
LAWS = {
  **_expanded(
    look_ahead.look_ahead,
    whole=True,
    look_ahead={},
  ),
  **_expanded(
    look_ahead.look_ahead,
    **{
      "look_ahead-centred": dict(centred=True),
      "look_ahead-bank": dict(start="bank"),
    },
  ),
  **_expanded(
    functools.partial(gradient_matching.gradient_matching, TRAJECTORY),
    whole=True,  # with layers, and tensors that have no gradient
    **{
      f"gradient_matching-neuron_cosine-{matched}": dict(
        distance_kind="neuron_cosine", matched=matched
      )
      for matched in ("all", "last_1")
    },
  ),
  **_expanded(
    functools.partial(gradient_matching.gradient_matching, TRAJECTORY),
    **{
      f"gradient_matching-{kind}-{matched}": dict(
        distance_kind=kind, matched=matched
      )
      for kind, matched in (
        *((kind, "all") for kind in distances.KINDS if kind != "neuron_cosine"),
        ("tensor_cosine", "head"),
      )
    },
  ),
  "gradient_matching-bank": Law(gradient_matching.expert_matching),
  # Of its first step: no derivative goes from a step to the next.
  "step_matching": Law(
    functools.partial(step_matching.step_matching, 1), num_steps=1
  ),
  "finetune_ahead": Law(
    functools.partial(
      finetune_ahead.finetune_ahead,
      optimizers.FineTuning(num_steps=4),
      1e-2,
      finetune_ahead.Windows(window=2, skip=1),
    ),
    exact=False,  # a smoother Adam's; see test_unrolled
  ),
  "travelling": Law(
    lambda: travelling.drawn(
      [look_ahead.look_ahead(), look_ahead.look_ahead(centred=True)]
    )
  ),
  **_expanded(
    displacements.trajectory_matching,
    trajectory_matching=dict(constant_memory=False),
  ),
  "trajectory_matching-constant_memory": Law(
    displacements.trajectory_matching, exact=False
  ),
  **_expanded(
    displacements.task_vector_matching,
    task_vector_matching=dict(constant_memory=False),
  ),
  "distribution_matching": Law(first_order.distribution_matching),
  "token_distance": Law(first_order.token_distance),
}
SUM = "look_ahead+0.1*gradient_matching"
LAWS[SUM] = Law(
  lambda: contract.weighted(
    [
      (1.0, look_ahead.look_ahead()),
      (0.1, gradient_matching.gradient_matching(TRAJECTORY)),
    ]
  )
)

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
  # With steps of another kind; see `program`.
  "normalised_steps": lambda: wrappers.with_soft_labels(
    synthetic.direct(), "unrestricted"
  ),
}

# The two that differentiate twice with every parameterization, all with one.
MAIN = ("look_ahead", "gradient_matching-neuron_cosine-all")
PAIRS = [
  (name, stored)
  for name in LAWS
  for stored in PARAMETERIZATIONS
  if name in MAIN or stored == "unrestricted"
]
each_pair = pytest.mark.parametrize("name, stored", PAIRS)
each = pytest.mark.parametrize("name", LAWS)

# Four examples a class; of the first and the third, two positions are hidden.
PER_CLASS = 4
MASK = np.ones((2 * PER_CLASS, LENGTH), bool)
MASK[::2, -2:] = False


class Program(NamedTuple):
  """A compiled loss with its gradient, and where it is taken."""

  both: object  # (params, student, real) -> ((loss, student after), gradient)
  params: dict
  student: object
  real: contract.Real
  decode: object


# Which say something of a student's layers or tensors.
OF_STUDENTS = ("unrestricted", "attention", "normalised_steps")


def problem_of(name, stored="unrestricted"):
  whole = LAWS[name].whole and stored in OF_STUDENTS
  return as_float64(make_problem() if whole else make_small_problem())


@functools.cache
def program(name, stored="unrestricted"):
  """The program of a pair; call it in double precision."""
  law, problem = LAWS[name], problem_of(name, stored)
  objective = law.make()
  shares = None
  if stored == "normalised_steps":
    shapes = jax.eval_shape(problem.init, jax.random.key(0))
    shares = problem.roles.even_shares(shapes)
  parameterization = wrappers.with_learning_rates(
    PARAMETERIZATIONS[stored](), law.num_steps, 0.1, 0.3, shares
  )
  params = as_float64(parameterization.init(make_synthetic(PER_CLASS)))
  student = as_float64(
    jax.jit(objective.init)(problem, jax.random.key(1), jnp.float32(0.0))
  )
  key = jax.random.key(2)

  def decode(params):
    syn = parameterization.decode(params)
    return syn.replace(batch=syn.batch.replace(mask=jnp.asarray(MASK)))

  def loss(params, student, real):
    value, (after, _) = objective.loss(
      problem, decode(params), student, real, key
    )
    return value, after

  both = jax.jit(jax.value_and_grad(loss, has_aux=True))
  real = real_of(problem, objective)
  return Program(both, params, student, real, decode)


def real_of(problem, objective, batch=None):
  """Batches of embedded real rows, and an expert, as an objective reads them.

  All of them are `batch`, where it is given.
  """
  batches, num_batches = None, objective.num_batches
  if num_batches:
    batches = as_float64(make_real(num_batches))
    batches = batches.replace(inputs=problem.embeddings[batches.inputs])
    if batch is not None:
      batches = jax.tree.map(
        lambda x: jnp.broadcast_to(x, (num_batches, *x.shape)), batch
      )
  expert = as_float64(make_expert(problem, objective.reads, batch))
  return contract.Real(batches, expert)


def value_of(found, params):
  return found.both(params, found.student, found.real)[0][0]


def test_every_objective_of_a_config_has_its_laws():
  assert {name.split("-")[0] for name in LAWS} - {SUM} == {*schedule.OBJECTIVES}


@each_pair
def test_the_meta_gradient_equals_finite_differences(name, stored, x64):
  found = program(name, stored)
  _, grads = found.both(found.params, found.student, found.real)
  leaves = jax.tree.leaves(grads)
  assert all(np.isfinite(x).all() for x in leaves)
  assert max(np.abs(x).max() for x in leaves) > 1e-8
  if not LAWS[name].exact:
    return
  direction = jax.tree.map(_uphill, grads)
  if stored == "hard":  # fixed labels get no gradient, by design
    direction["base"]["labels"] *= 0.0
    assert not np.any(grads["base"]["labels"])
  exact = sum(
    jnp.vdot(a, b)
    for a, b in zip(*map(jax.tree.leaves, (grads, direction)), strict=True)
  )
  step = 1e-6

  def loss_at(steps):
    moved = jax.tree.map(
      lambda x, d: x + steps * step * d, found.params, direction
    )
    return value_of(found, moved)

  # Of the fourth order: cosines of tensors whose gradients are small bend.
  near, far = (loss_at(n) - loss_at(-n) for n in (1, 2))
  numeric = (8 * near - far) / (12 * step)
  np.testing.assert_allclose(exact, numeric, rtol=1e-5)
  assert abs(float(exact)) > 1e-8


def _uphill(grads):
  """A random direction that goes up everywhere: no two parts cancel out."""
  drawn = jax.random.normal(jax.random.key(grads.size), grads.shape)
  return jnp.where(grads == 0, drawn, jnp.abs(drawn) * jnp.sign(grads))


@each
def test_a_masked_position_changes_nothing(name, x64):
  found = program(name)
  grads = found.both(found.params, found.student, found.real)[1]
  inner = grads["base"]["base"]["embeddings"]
  assert not np.any(inner[~MASK]) and np.any(inner[MASK])
  other = jax.tree.map(lambda x: x, found.params)
  other["base"]["base"]["embeddings"] = jnp.where(
    MASK[:, :, None], other["base"]["base"]["embeddings"], 7.0
  )
  np.testing.assert_allclose(
    value_of(found, other), value_of(found, found.params), rtol=1e-12
  )


@each
def test_the_order_of_a_class_s_examples_changes_nothing(name, x64):
  found = program(name)
  order = jnp.array([2, 1, 0, 3, 6, 5, 4, 7])  # of those that are masked alike
  other = jax.tree.map(lambda x: x, found.params)
  stored = other["base"]
  stored["labels"] = stored["labels"][order]
  stored["base"]["embeddings"] = stored["base"]["embeddings"][order]
  np.testing.assert_allclose(
    value_of(found, other), value_of(found, found.params), rtol=1e-9
  )


@each
def test_an_outer_step_takes_what_the_last_one_left(name, x64):
  found = program(name)
  (_, after), _ = found.both(found.params, found.student, found.real)
  before = jax.tree.map(lambda x: (x.shape, x.dtype), found.student)
  assert before == jax.tree.map(lambda x: (x.shape, x.dtype), after)
  found.both(found.params, after, found.real)
  assert found.both._cache_size() == 1


# At a set that equals the real rows; the others compare where steps lead.
ZERO_AT_REAL = [
  name
  for name in LAWS
  if name.startswith(("gradient_matching", "distribution", "step_matching"))
]


@pytest.mark.parametrize("name", ZERO_AT_REAL)
def test_distance_and_gradient_are_zero_where_synthetic_is_real(name, x64):
  found = program(name)
  batch = found.decode(found.params).batch
  problem, objective = problem_of(name), LAWS[name].make()
  real = real_of(problem, objective, batch)
  (value, _), grads = found.both(found.params, found.student, real)
  assert found.both._cache_size() == 1  # the other laws' program
  np.testing.assert_allclose(value, 0.0, atol=1e-12)
  inner = grads["base"]["base"]["embeddings"]
  np.testing.assert_allclose(inner, 0.0, atol=1e-9)


@pytest.mark.parametrize("kind", ["bilstm", "textcnn"])
def test_every_student_can_be_matched(kind):
  problem = make_problem(kind)
  objective = LAWS["gradient_matching-neuron_cosine-all"].make()
  student = objective.init(problem, jax.random.key(1), jnp.float32(0.0))
  real = contract.Real(make_real(objective.num_batches))
  batch = make_synthetic()

  def loss(inputs):
    syn = synthetic.SyntheticSet(batch.replace(inputs=inputs))
    return objective.loss(problem, syn, student, real, jax.random.key(2))[0]

  grads = jax.jit(jax.grad(loss))(batch.inputs)
  assert float(jnp.abs(grads).max()) > 0
