"""Objectives that take the set's own steps, and those steps."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import (
  as_float64,
  make_expert,
  make_problem,
  make_real,
  make_small_problem,
  make_synthetic,
)

from gmdistill.evaluation import protocols
from gmdistill.objectives import (
  contract,
  displacements,
  distances,
  finetune_ahead,
  look_ahead,
  step_matching,
)
from gmdistill.sets import synthetic, wrappers
from gmdistill.training import fitting, optimizers, replays

ONE = finetune_ahead.Windows(window=1, skip=0)


def test_look_ahead_takes_exactly_t_steps_of_the_learned_sizes():
  problem, real = make_small_problem(), contract.Real(make_real(1))
  batch = make_synthetic()
  rates = jnp.array([0.5, 0.1, 0.02])
  key = jax.random.key(4)
  params, gradient = problem.init(key), jax.jit(jax.grad(problem.loss))
  for rate in rates:
    grads = gradient(params, batch)
    params = jax.tree.map(lambda p, g, r=rate: p - r * g, params, grads)
  first = jax.tree.map(lambda x: x[0], real.batches)
  value, _ = jax.jit(look_ahead.look_ahead().loss)(
    problem, synthetic.SyntheticSet(batch, rates), (), real, key
  )
  np.testing.assert_allclose(value, problem.loss(params, first), rtol=1e-5)


def test_truncated_look_ahead_differentiates_its_last_steps_alone():
  problem, real = make_small_problem(), contract.Real(make_real(1))
  batch, key = make_synthetic(), jax.random.key(4)
  rates = jnp.array([0.5, 0.1, 0.02])
  first = replays.Steps(rates[:1])
  between = replays.replay(problem, problem.init(key), batch, first)
  whole = real._replace(expert=contract.Expert(params=between))

  def gradient(objective, rates, real):
    def loss(inputs):
      syn = synthetic.SyntheticSet(batch.replace(inputs=inputs), rates)
      return objective.loss(problem, syn, (), real, key)[0]

    return jax.jit(jax.value_and_grad(loss))(batch.inputs)

  found = gradient(look_ahead.look_ahead(last_steps=2), rates, real)
  resumed = look_ahead.look_ahead(start="bank")
  assert resumed.reads == ("params",)
  expected = gradient(resumed, rates[1:], whole)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-8),
    found,
    expected,
  )
  more = gradient(look_ahead.look_ahead(last_steps=9), rates, real)
  full = gradient(look_ahead.look_ahead(), rates, real)
  jax.tree.map(np.testing.assert_array_equal, more, full)
  assert not np.allclose(full[1], found[1])


def test_a_set_with_an_order_takes_only_those_rows():
  problem, batch = make_small_problem(), make_synthetic()
  params = problem.init(jax.random.key(0))
  gradient = jax.jit(jax.grad(problem.loss))
  order = jnp.array([[0, 2], [1, 3]])
  rates = jnp.array([0.3, 0.2])
  steps = replays.Steps(rates, order=order)
  ours = jax.jit(replays.replay)(problem, params, batch, steps)
  for rate, rows in zip(rates, order, strict=True):
    part = jax.tree.map(lambda x, r=rows: x[r], batch)
    grads = gradient(params, part)
    params = jax.tree.map(lambda p, g, r=rate: p - r * g, params, grads)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), ours, params
  )


def test_the_head_may_take_steps_of_its_own():
  problem, batch = make_small_problem(), make_synthetic()
  params = problem.init(jax.random.key(0))
  steps = replays.Steps(jnp.array([0.3]), jnp.array([2.0]))
  moved = jax.jit(replays.replay)(problem, params, batch, steps)
  grads = jax.jit(jax.grad(problem.loss))(params, batch)
  for name in params:
    rate = 2.0 if name == "head" else 0.3
    jax.tree.map(
      lambda p, g, m, r=rate: np.testing.assert_allclose(
        m, p - r * g, atol=1e-6
      ),
      params[name],
      grads[name],
      moved[name],
    )


def test_normalised_steps_move_each_tensor_by_its_distance():
  problem, batch = make_problem(), make_synthetic()
  params = problem.init(jax.random.key(0))
  shares = problem.roles.even_shares(params)
  assert np.square(shares).sum() == pytest.approx(1.0)
  stored = wrappers.with_learning_rates(synthetic.direct(), 1, 0.3, 2.0, shares)
  steps = stored.decode(stored.init(batch)).steps
  np.testing.assert_allclose(steps.tensor_shares[0], shares, rtol=1e-5)
  moved = jax.jit(replays.replay)(problem, params, batch, steps)
  grads = jax.jit(jax.grad(problem.loss))(params, batch)
  delta = jax.tree.map(lambda a, b: a - b, moved, params)
  for name in ("position", "token_type"):
    assert not np.any(delta[name])
  assert not np.any(delta["layers"]["attention"]["key"]["bias"])
  whole = delta["layers"]["intermediate"]["kernel"]
  grad = grads["layers"]["intermediate"]["kernel"]
  sizes = problem.roles.movable(params)
  expected = 0.3 * np.sqrt(whole[0].size / sizes.sum())
  for layer in range(2):
    np.testing.assert_allclose(
      whole[layer],
      -expected * grad[layer] / jnp.linalg.norm(grad[layer]),
      atol=1e-6,
    )
  below = {k: v for k, v in delta.items() if k != "head"}
  assert float(optax.tree.norm(below)) == pytest.approx(0.3, rel=1e-5)
  np.testing.assert_allclose(
    delta["head"]["kernel"], -2.0 * grads["head"]["kernel"], atol=1e-6
  )


def test_a_tensor_without_gradient_stays_and_gives_no_nan():
  problem, batch = make_small_problem(), make_synthetic()
  params = problem.init(jax.random.key(0))
  params["head"] = jax.tree.map(jnp.zeros_like, params["head"])
  shares = jnp.tile(problem.roles.even_shares(params), (1, 1))
  steps = replays.Steps(jnp.array([0.3]), jnp.array([1.0]), None, shares)

  def size(inputs):
    own = batch.replace(inputs=inputs)
    moved = replays.replay(problem, params, own, steps)
    return optax.tree.norm(moved), moved

  at = jax.jit(jax.value_and_grad(size, has_aux=True))
  (_, moved), grads = at(batch.inputs)
  below = {name: x for name, x in params.items() if name != "head"}
  jax.tree.map(
    np.testing.assert_array_equal, {name: moved[name] for name in below}, below
  )
  assert np.isfinite(grads).all()


def test_a_shift_of_all_logits_hardly_changes_the_centred_loss():
  problem = make_problem()
  batch = jax.tree.map(lambda x: x[0], make_real(1))
  params = problem.init(jax.random.key(0))
  head = {**params["head"], "bias": params["head"]["bias"] + jnp.array([3, 0])}
  shifted = {**params, "head": head}
  assert problem.loss(shifted, batch) - problem.loss(params, batch) > 0.5
  centred, _ = problem.loss_and_logits(shifted, batch, centred=True)
  before, _ = problem.loss_and_logits(params, batch, centred=True)
  # 0.01 times the square of (1.5, -1.5), the shift around its own mean.
  np.testing.assert_allclose(centred - before, 0.01 * 2 * 1.5**2, atol=2e-3)


@pytest.mark.parametrize("centred", [False, True])
def test_each_step_is_matched_at_the_student_that_the_last_one_left(centred):
  problem, real = make_small_problem(), contract.Real(make_real(3))
  batch, key = make_synthetic(), jax.random.key(4)
  rows = wrappers.cyclic_order(2, len(batch.labels) // 2, 1, 3)
  sizes = replays.Steps(jnp.array([0.5, 0.3, 0.1]), order=jnp.asarray(rows))
  objective = step_matching.step_matching(3, centred=centred)
  assert objective.num_batches == 3

  def real_loss(params, t):
    own = jax.tree.map(lambda x: x[t], real.batches)
    if centred:
      return problem.loss_and_logits(params, own, centred=True)[0]
    return problem.loss(params, own)

  # The students as they come, which no derivative reaches.
  students, gradient = [problem.init(key)], jax.jit(jax.grad(problem.loss))
  for t in range(3):
    own = jax.tree.map(lambda x, t=t: x[t], sizes)
    grads = gradient(students[-1], replays.rows_of(batch, own))
    students.append(replays.moved(students[-1], grads, own, problem.roles))

  def expected(inputs):
    whole = batch.replace(inputs=inputs)
    gaps = []
    for t, params in enumerate(students[:-1]):
      taken = jax.tree.map(lambda x, t=t: x[rows[t]], whole)
      pair = (
        jax.grad(problem.loss)(params, taken),
        jax.grad(real_loss)(params, t),
      )
      gaps.append(
        distances.between(
          *pair, problem.roles, kind="tensor_cosine", matched="all"
        )
      )
    return sum(gaps) / 3

  def found(inputs):
    syn = synthetic.SyntheticSet(
      batch.replace(inputs=inputs), sizes.learning_rates, sizes.order
    )
    return objective.loss(problem, syn, (), real, key)[0]

  (a, da), (b, db) = (
    jax.jit(jax.value_and_grad(f))(batch.inputs) for f in (found, expected)
  )
  np.testing.assert_allclose(a, b, rtol=1e-5)
  np.testing.assert_allclose(da, db, atol=1e-5 * float(jnp.abs(db).max()))


def test_matched_steps_keep_the_sizes_that_they_start_with():
  problem, real = make_small_problem(), contract.Real(make_real(4))
  stored = wrappers.with_learning_rates(
    synthetic.direct(), 4, 0.4, 0.1, schedule="linear"
  )
  params = stored.init(make_synthetic())
  syn = stored.decode(params)
  np.testing.assert_allclose(
    syn.learning_rates, [0.4, 0.3, 0.2, 0.1], rtol=1e-6
  )
  np.testing.assert_allclose(syn.head_learning_rates, 0.1, rtol=1e-6)

  def loss(params):
    own = stored.decode(params)
    objective = step_matching.step_matching(4)
    return objective.loss(problem, own, (), real, jax.random.key(0))[0]

  grads = jax.jit(jax.grad(loss))(params)
  assert not np.any(grads["step_sizes"]) and not np.any(
    grads["head_step_sizes"]
  )
  assert np.any(grads["base"]["embeddings"])


def test_trajectory_matching_is_zero_where_the_steps_lead_to_the_expert(x64):
  problem = as_float64(make_small_problem())
  batch, rates = as_float64(make_synthetic()), jnp.array([0.2, 0.1])
  start = as_float64(problem.init(jax.random.key(21)))
  later = replays.replay(problem, start, batch, replays.Steps(rates))
  real = contract.Real(None, contract.Expert(params=start, later=later))
  syn = synthetic.SyntheticSet(batch, rates)
  for make in (
    displacements.trajectory_matching,
    displacements.task_vector_matching,
  ):
    loss = jax.jit(make().loss)
    value, (_, metrics) = loss(problem, syn, (), real, jax.random.key(0))
    np.testing.assert_allclose(value, 0.0, atol=1e-12)
    np.testing.assert_allclose(metrics["matching/cosine"], 1.0, atol=1e-12)


def test_task_vectors_are_matched_in_direction_alone():
  problem = make_small_problem()
  expert = make_expert(problem, ("params", "later"))
  far = jax.tree.map(lambda a, b: a + 3 * (b - a), expert.params, expert.later)
  objective = displacements.task_vector_matching()
  syn = synthetic.SyntheticSet(make_synthetic(), jnp.array([0.2, 0.1]))
  values = [
    jax.jit(objective.loss)(
      problem, syn, (), contract.Real(None, found), jax.random.key(0)
    )[0]
    for found in (expert, expert._replace(later=far))
  ]
  np.testing.assert_allclose(*values, rtol=1e-4)


def test_finetuning_ahead_takes_the_protocols_steps():
  problem, batch = make_small_problem(), make_synthetic()
  protocol = optimizers.FineTuning(8, weight_decay=0.1, warmup=0.5)
  windows = finetune_ahead.Windows(window=2, skip=1)
  objective = finetune_ahead.finetune_ahead(protocol, 1e-2, windows=windows)
  real = contract.Real(make_real(1))
  syn, key = synthetic.SyntheticSet(batch), jax.random.key(3)
  state = objective.init(problem, jax.random.key(2), jnp.float32(0))
  loss = jax.jit(objective.loss)
  for _ in range(2):
    value, (state, _) = loss(problem, syn, state, real, key)
  descend = jax.jit(
    lambda rows: fitting.descend(
      problem.loss,
      problem.init(jax.random.key(2)),
      batch,
      protocol.optimizer(1e-2),
      rows=rows,
    )
  )
  rows = jnp.tile(jnp.arange(len(batch.labels)), (6, 1))
  # The window of the second call ends after the fifth step, its skip a later.
  first = jax.tree.map(lambda x: x[0], real.batches)
  expected = problem.loss(descend(rows[:5]), first)
  np.testing.assert_allclose(value, expected, rtol=1e-4)
  assert int(state.age) == 6
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5),
    state.params,
    descend(rows),
  )
  # Two more windows pass the protocol's end: a fresh student of that key.
  _, (state, _) = loss(problem, syn, state, real, key)
  assert int(state.age) == 0
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5),
    state.params,
    problem.init(key),
  )


def test_finetuning_ahead_ends_where_the_protocol_does():
  problem, batch = make_small_problem(), make_synthetic()
  options = dict(num_steps=6, weight_decay=0.1, warmup=0.5)
  objective = finetune_ahead.finetune_ahead(
    optimizers.FineTuning(**options),
    1e-2,
    windows=finetune_ahead.Windows(window=6, skip=0),
  )
  syn, key = synthetic.SyntheticSet(batch), jax.random.key(3)
  real = contract.Real(make_real(1))
  protocol = protocols.fine_tuning(**options)
  trained = jax.jit(protocol.train)(problem, syn, key, jnp.float32(1e-2))
  # A protocol's student is drawn from the first half of its key.
  student = objective.init(problem, jax.random.split(key)[0], jnp.float32(0))
  value, _ = jax.jit(objective.loss)(problem, syn, student, real, key)
  first = jax.tree.map(lambda x: x[0], real.batches)
  np.testing.assert_allclose(value, problem.loss(trained, first), rtol=1e-4)


def test_a_student_that_starts_late_moves_no_further_a_step():
  problem, syn = make_small_problem(), synthetic.SyntheticSet(make_synthetic())
  objective = finetune_ahead.finetune_ahead(
    optimizers.FineTuning(40, weight_decay=0.0), 1e-2, windows=ONE
  )
  start = objective.init(problem, jax.random.key(0), jnp.float32(0.5))
  assert int(start.age) == 20 and int(start.updates) == 0
  real = contract.Real(make_real(1))
  _, (after, _) = jax.jit(objective.loss)(
    problem, syn, start, real, jax.random.key(1)
  )
  moves = jax.tree.map(lambda a, b: a - b, after.params, start.params)
  # AdamW's first step is the rate, which is the highest here, or nothing.
  largest = max(float(jnp.abs(x).max()) for x in jax.tree.leaves(moves))
  assert largest == pytest.approx(1e-2, rel=1e-3)


@pytest.mark.parametrize("batch_size", [3, 4])
def test_finetuning_ahead_takes_some_of_a_large_set(batch_size):
  problem, batch = make_small_problem(), make_synthetic()
  real, key = contract.Real(make_real(1)), jax.random.key(1)
  objective = finetune_ahead.finetune_ahead(
    optimizers.FineTuning(9), 1e-2, windows=ONE, batch_size=batch_size
  )
  student = objective.init(problem, key, jnp.float32(0.5))

  def loss(inputs):
    syn = synthetic.SyntheticSet(batch.replace(inputs=inputs))
    return objective.loss(problem, syn, student, real, key)[0]

  grads = jax.jit(jax.grad(loss))(batch.inputs)
  assert (np.abs(grads).max(axis=(1, 2)) > 0).sum() == batch_size


def test_finetuning_ahead_differentiates_a_smoother_adam(x64):
  problem = as_float64(make_small_problem())
  batch = as_float64(make_synthetic())
  objective = finetune_ahead.finetune_ahead(
    optimizers.FineTuning(9, weight_decay=0.0), 1e-2, windows=ONE
  )
  real = contract.Real(make_real(1))
  key = jax.random.key(3)
  state = as_float64(objective.init(problem, key, jnp.float32(0.5)))
  second = jax.tree.map(lambda p: jnp.full_like(p, 1e-3), state.params)
  state = state._replace(second=second, updates=jnp.int32(4))
  gradient = jax.grad(problem.loss)
  rate = optax.warmup_cosine_decay_schedule(0.0, 1e-2, 4, 9)(4)
  first_batch = jax.tree.map(lambda x: x[0], real.batches)

  def moments(inputs):
    grads = gradient(state.params, batch.replace(inputs=inputs))
    shorter = 1 / jnp.maximum(1.0, optax.tree.norm(grads))
    m = jax.tree.map(lambda g: 0.1 * g * shorter / (1 - 0.9**5), grads)
    v = jax.tree.map(
      lambda g, v: (0.999 * v + 0.001 * (g * shorter) ** 2) / (1 - 0.999**5),
      grads,
      second,
    )
    return m, v

  m0, v0 = moments(batch.inputs)
  floor = jax.tree.map(jnp.mean, v0)
  reached = jax.tree.map(
    lambda p, m, v: p - rate * m / (jnp.sqrt(v) + 1e-8), state.params, m0, v0
  )
  slope = jax.grad(problem.loss)(reached, first_batch)

  def along_the_slope(inputs):
    smooth = jax.tree.map(
      lambda m, v, f: m / jnp.sqrt(v + f), *moments(inputs), floor
    )
    return -rate * optax.tree.vdot(slope, smooth)

  def ours(inputs):
    syn = synthetic.SyntheticSet(batch.replace(inputs=inputs))
    return objective.loss(problem, syn, state, real, key)[0]

  value, found = jax.jit(jax.value_and_grad(ours))(batch.inputs)
  expected = jax.jit(jax.grad(along_the_slope))(batch.inputs)
  np.testing.assert_allclose(value, problem.loss(reached, first_batch))
  np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-12)
  assert np.abs(found).max() > 1e-8


def test_a_stride_stands_for_several_steps_of_finetuning():
  problem, syn = make_problem(), synthetic.SyntheticSet(make_synthetic())
  protocol = optimizers.FineTuning(40, weight_decay=0.1)
  fine, coarse = (
    finetune_ahead.finetune_ahead(
      protocol,
      1e-3,
      windows=finetune_ahead.Windows(20 // stride, 0, stride, until=20),
    )
    for stride in (1, 4)
  )
  key, real = jax.random.key(1), contract.Real(make_real(1))
  start = fine.init(problem, key, jnp.float32(0))
  (exact, (fresh, _)), (near, (also_fresh, _)) = (
    jax.jit(objective.loss)(problem, syn, start, real, key)
    for objective in (fine, coarse)
  )
  first = jax.tree.map(lambda x: x[0], real.batches)
  moved = float(exact - problem.loss(start.params, first))
  assert abs(float(near - exact)) < 0.2 * abs(moved)
  assert int(fresh.age) == int(also_fresh.age) == 0
