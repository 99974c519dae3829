"""Objectives that draw a way to train every outer step."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import make_problem, make_real, make_synthetic

from gmdistill.objectives import contract, finetune_ahead, travelling
from gmdistill.sets import synthetic
from gmdistill.students import small
from gmdistill.training import fitting, optimizers


def told(number):
  """An objective that returns its number, and counts how often it was drawn."""

  def init(problem, key, phase):
    return jnp.int32(0)

  def loss(problem, syn, student, real, key):
    return jnp.float32(number), (student + 1, {"seen": jnp.float32(number)})

  return contract.Objective(init, loss, 1)


def drawn_after(objective, steps):
  problem, syn = make_problem(), synthetic.SyntheticSet(make_synthetic())
  state = objective.init(problem, jax.random.key(0), jnp.float32(0))

  def step(state, key):
    value, (state, _) = objective.loss(problem, syn, state, None, key)
    return state, value

  keys = jax.random.split(jax.random.key(3), steps)
  state, values = jax.lax.scan(step, state, keys)
  return state, np.asarray(values)


def test_every_way_is_drawn_and_only_the_drawn_one_moves_on():
  (count, states), values = drawn_after(
    travelling.drawn([told(0), told(1), told(2)]), 60
  )
  assert int(count) == 60
  assert [int(x) for x in states] == [(values == i).sum() for i in range(3)]
  assert min(int(x) for x in states) > 8


def test_ways_come_in_one_after_the_other():
  _, values = drawn_after(
    travelling.drawn([told(0), told(1), told(2)], opening=40), 80
  )
  assert (values[:20] == 0).all()
  assert values[20:40].max() == 1
  assert values[40:].max() == 2


def test_another_student_is_looked_ahead_at():
  problem = make_problem()
  ahead = finetune_ahead.finetune_ahead(
    optimizers.FineTuning(num_steps=4, kind="sgd"),
    0.1,
    finetune_ahead.Windows(window=2, skip=0),
  )
  other = travelling.of_student(
    ahead, lambda own: small.TextCNN(2, width=8, max_positions=6)
  )
  state = other.init(problem, jax.random.key(0), jnp.float32(0))
  real = contract.Real(make_real(1))

  def loss(inputs):
    syn = synthetic.SyntheticSet(make_synthetic().replace(inputs=inputs))
    return other.loss(problem, syn, state, real, jax.random.key(1))[0]

  value, grads = jax.jit(jax.value_and_grad(loss))(make_synthetic().inputs)
  assert np.isfinite(value) and np.abs(grads).max() > 1e-8


@pytest.mark.parametrize("kind", ["adamw", "sgd"])
def test_a_step_of_the_objective_is_one_of_the_protocol(kind):
  protocol = optimizers.FineTuning(num_steps=8, kind=kind)
  params = {"w": jnp.arange(4.0)}
  grads = {"w": jnp.array([0.5, -2.0, 1.0, 3.0])}
  optimizer = protocol.optimizer(0.1)
  state, theirs = optimizer.init(params), params
  zeros = jax.tree.map(jnp.zeros_like, params)
  moments = optimizers.Moments(zeros, zeros, jnp.int32(0))
  ours = params
  for step in range(3):
    theirs, state = fitting.update(optimizer, grads, state, theirs)
    rate = protocol.rate(0.1)(step)
    ours, moments = protocol.step(ours, grads, moments, rate, 1)
  np.testing.assert_allclose(ours["w"], theirs["w"], rtol=1e-5)
  assert optax.tree.norm(ours) != pytest.approx(float(optax.tree.norm(params)))


def test_fewer_layers_keep_the_first_pretrained_ones():
  problem = make_problem()
  initial = problem.init(jax.random.key(5))
  problem = problem.replace(initial=initial)
  seen = []

  def init(problem, key, phase):
    seen.append(problem)
    return problem.init(key)

  own = contract.Objective(init, lambda *args: None, 1)
  other = travelling.of_student(
    own, lambda problem: problem.student.clone(num_layers=1)
  )
  params = other.init(problem, jax.random.key(0), jnp.float32(0))
  stacked = [
    (jax.tree.leaves(params[name]), jax.tree.leaves(initial[name]))
    for name in problem.roles.stacks
  ]
  for ours, whole in stacked:
    for x, y in zip(ours, whole, strict=True):
      np.testing.assert_array_equal(x, y[:1])
  assert seen[0].student.num_layers == 1
