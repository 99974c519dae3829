"""What each objective does, beside the laws of all."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import (
  make_real,
  make_small_problem,
  make_synthetic,
)

from gmdistill.data import batches as row_batches
from gmdistill.objectives import (
  contract,
  first_order,
  gradient_matching,
  look_ahead,
  trajectories,
)
from gmdistill.sets import synthetic, wrappers

TRAJECTORY = trajectories.trajectory(optax.sgd(0.1), max_age=4, steps_between=2)


def test_a_trajectory_takes_its_steps():
  problem = make_small_problem()
  key = jax.random.key(7)
  state = TRAJECTORY.init(problem, key, jnp.float32(0.0))
  jax.tree.map(np.testing.assert_array_equal, state.params, problem.init(key))
  batches = make_real(2)
  moved = jax.jit(TRAJECTORY.advance)(problem, state, batches, key)
  params, gradient = state.params, jax.jit(jax.grad(problem.loss))
  for t in range(2):
    batch = jax.tree.map(lambda x, t=t: x[t], batches)
    grads = gradient(params, batch)
    params = jax.tree.map(lambda p, g: p - 0.1 * g, params, grads)
  assert int(moved.age) == 2
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6),
    moved.params,
    params,
  )


def test_a_reset_restores_the_initial_parameters_bit_for_bit():
  drawn, key = make_small_problem(), jax.random.key(7)
  problem = drawn.replace(initial=drawn.init(jax.random.key(1)))
  state = TRAJECTORY.init(problem, key, jnp.float32(0.0))
  advance = jax.jit(TRAJECTORY.advance)
  moved = advance(problem, state, make_real(2), jax.random.key(8))
  again = advance(problem, moved, make_real(2), key)
  assert int(moved.age) == 2 and int(again.age) == 0
  head = drawn.init(key)["head"]
  np.testing.assert_allclose(
    again.params["head"]["kernel"], head["kernel"], rtol=1e-6
  )
  for name in set(problem.initial) - {"head"}:
    assert not np.array_equal(
      jax.tree.leaves(moved.params[name])[0],
      jax.tree.leaves(problem.initial[name])[0],
    )
    jax.tree.map(
      np.testing.assert_array_equal, again.params[name], problem.initial[name]
    )
  # Wherever it has been before, the same key draws the same student.
  older = TRAJECTORY.init(problem, jax.random.key(9), jnp.float32(0.75))
  other = advance(problem, older, make_real(2), key)
  jax.tree.map(np.testing.assert_array_equal, other, again)


def test_students_start_staggered():
  problem = make_small_problem()
  ages = [
    int(TRAJECTORY.init(problem, jax.random.key(0), jnp.float32(p)).age)
    for p in (0.0, 0.25, 0.5, 0.75)
  ]
  assert ages == [0, 1, 2, 3]


def test_training_on_the_set_reads_one_real_batch_a_step():
  along = trajectories.trajectory(
    optax.sgd(0.1), max_age=9, steps_between=3, train_on="synthetic"
  )
  objective = gradient_matching.gradient_matching(along)
  assert objective.num_batches == 1
  problem, syn = make_small_problem(), synthetic.SyntheticSet(make_synthetic())
  student = objective.init(problem, jax.random.key(0), jnp.float32(0))
  _, (moved, _) = jax.jit(objective.loss)(
    problem, syn, student, contract.Real(make_real(1)), jax.random.key(1)
  )
  params, gradient = student.params, jax.jit(jax.grad(problem.loss))
  for _ in range(3):
    grads = gradient(params, syn.batch)
    params = jax.tree.map(lambda p, g: p - 0.1 * g, params, grads)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6),
    moved.params,
    params,
  )


def test_the_sum_over_classes_is_weighted():
  problem, real = make_small_problem(), contract.Real(make_real(3))
  syn = synthetic.SyntheticSet(make_synthetic())

  @jax.jit
  def value(weight):
    objective = gradient_matching.gradient_matching(
      TRAJECTORY, sum_weight=weight
    )
    student = objective.init(problem, jax.random.key(0), jnp.float32(0))
    return objective.loss(problem, syn, student, real, jax.random.key(1))[0]

  values = [float(value(weight)) for weight in (0.0, 1.0, 2.0)]
  assert values[1] - values[0] == pytest.approx(values[2] - values[1], rel=1e-4)
  assert values[1] > values[0]


def test_class_chunks_change_neither_loss_nor_gradient():
  problem = make_small_problem(classes=4)
  real = contract.Real(make_real(3, classes=4))
  key = jax.random.key(1)

  @functools.partial(jax.jit, static_argnums=1)
  def measured(batch, class_chunk):
    objective = gradient_matching.gradient_matching(
      TRAJECTORY, class_chunk=class_chunk
    )
    student = objective.init(problem, key, jnp.float32(0))

    def loss(inputs):
      syn = synthetic.SyntheticSet(batch.replace(inputs=inputs))
      return objective.loss(problem, syn, student, real, key)

    return jax.value_and_grad(loss, has_aux=True)(batch.inputs)

  batch = make_synthetic(classes=4)
  (loss, (_, seen)), grads = measured(batch, 0)
  for chunk in (1, 3, 9):  # of four classes: one, two and all at a time
    (other_loss, (_, other_seen)), other_grads = measured(batch, chunk)
    np.testing.assert_allclose(other_loss, loss, rtol=1e-6)
    np.testing.assert_allclose(other_grads, grads, rtol=1e-4, atol=1e-7)
    for name, value in seen.items():
      np.testing.assert_allclose(other_seen[name], value, rtol=1e-5)


def test_by_group_undoes_group_order():
  batch = make_synthetic(per_class=3)
  split = contract.by_group(batch, 2)
  assert isinstance(split, row_batches.Batch)
  for label in range(2):
    assert (np.asarray(split.labels[label]).argmax(-1) == label).all()


def test_unknown_names_are_refused():
  with pytest.raises(ValueError, match="neuron_cosine"):
    gradient_matching.gradient_matching(TRAJECTORY, distance_kind="cos")
  with pytest.raises(ValueError, match="class_chunk=-1 must be at least 0"):
    gradient_matching.gradient_matching(TRAJECTORY, class_chunk=-1)
  with pytest.raises(ValueError, match="real, synthetic"):
    trajectories.trajectory(optax.sgd(0.1), train_on="both")


def test_the_sum_of_objectives_is_weighted_and_gives_each_its_own_batches():
  problem = make_small_problem()
  syn = synthetic.SyntheticSet(make_synthetic(), jnp.array([0.1, 0.1]))
  parts = [first_order.distribution_matching(), look_ahead.look_ahead()]
  real = contract.Real(make_real(2))
  objective = contract.weighted([(2.0, parts[0]), (0.5, parts[1])])
  key = jax.random.key(3)
  assert objective.num_batches == 2
  value, (_, metrics) = jax.jit(objective.loss)(
    problem, syn, ((), ()), real, key
  )
  alone = []
  for i, part in enumerate(parts):
    own = jax.tree.map(lambda x, i=i: x[i : i + 1], real.batches)
    own_key = jax.random.split(key, 2)[i]
    alone.append(part.loss(problem, syn, (), contract.Real(own), own_key)[0])
  np.testing.assert_allclose(value, 2 * alone[0] + 0.5 * alone[1], rtol=1e-5)
  np.testing.assert_allclose(metrics["part_1/loss"], alone[1], rtol=1e-5)


def test_the_token_distance_is_zero_at_tokens_and_pulls_towards_them():
  problem = make_small_problem()
  ids = jnp.array([[0, 3, 5, 7, 2, 1]] * 4)
  batch = make_synthetic()
  tokens = batch.replace(inputs=problem.embeddings[ids])

  def distance(inputs):
    syn = synthetic.SyntheticSet(batch.replace(inputs=inputs))
    objective = first_order.token_distance()
    real = contract.Real(None)
    return objective.loss(problem, syn, (), real, jax.random.key(0))[0]

  at = jax.jit(jax.value_and_grad(distance))
  np.testing.assert_allclose(at(tokens.inputs)[0], 0.0, atol=1e-6)
  value, grads = at(batch.inputs)
  assert float(value) > 0.1
  closer, _ = at(batch.inputs - 0.5 * grads)
  assert float(closer) < float(value)


def test_more_weight_on_the_token_distance_brings_the_set_nearer():
  problem, key = make_small_problem(), jax.random.key(2)
  stored = wrappers.with_learning_rates(synthetic.direct(), 2, 0.1)
  real = contract.Real(make_real())
  distance = first_order.token_distance().loss
  optimizer = optax.adam(0.05)

  @jax.jit
  def gap(weight):
    objective = contract.weighted(
      [(1.0, look_ahead.look_ahead()), (weight, first_order.token_distance())]
    )

    def step(carry, _):
      params, state = carry

      def loss(params):
        syn = stored.decode(params)
        return objective.loss(problem, syn, ((), ()), real, key)[0]

      updates, state = optimizer.update(jax.grad(loss)(params), state)
      return (optax.apply_updates(params, updates), state), None

    params = stored.init(make_synthetic())
    carry = (params, optimizer.init(params))
    params = jax.lax.scan(step, carry, None, 40)[0][0]
    return distance(problem, stored.decode(params), (), real, key)[0]

  gaps = [float(gap(weight)) for weight in (0.0, 0.3, 30.0)]
  assert gaps[0] > gaps[1] > gaps[2] > 0
