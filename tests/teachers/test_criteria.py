"""What students lose to teachers in training."""

import dataclasses
import functools

import conftest
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import make_synthetic

from gmdistill.data import batches
from gmdistill.evaluation import protocols
from gmdistill.students import outputs as student_outputs
from gmdistill.teachers import criteria, divergences, live
from gmdistill.training import fitting, replays

# Three: of two, some losses are nothing.
BATCH = make_synthetic(classes=3)
make_problem = functools.partial(conftest.make_small_problem, classes=3)
make_layered = functools.partial(conftest.make_problem, classes=3)
ROWS, CLASSES = BATCH.labels.shape


def constant(value):
  return divergences.schedule("constant", value, value, 1)


def to_teachers(loss="forward_kl", weight=0.7, temperature=1.0, **fields):
  return criteria.to_teachers(
    loss, weight=constant(weight), temperature=constant(temperature), **fields
  )


def with_teachers(count=1, seed=3, **fields):
  shape = (ROWS, count, CLASSES)
  said = jax.random.normal(jax.random.key(seed), shape)
  return dataclasses.replace(told(BATCH, logits=said), **fields)


def told(batch, **said):
  """A batch whose teachers say so."""
  return dataclasses.replace(batch, teachers=batches.TeacherTargets(**said))


def problem_with(criterion, problem=None):
  return dataclasses.replace(problem or make_problem(), criterion=criterion)


def start(problem, batch=BATCH):
  params = problem.init(jax.random.key(1))
  return problem.with_criterion_params(params, batch, jax.random.key(2))


def grad(problem, params, batch):
  return jax.jit(jax.grad(problem.loss))(params, batch)


def equal(one, two, tolerance=1e-6):
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=tolerance), one, two
  )


def test_a_replay_says_how_far_it_is():
  steps = replays.Steps(jnp.full(4, 0.5))
  batch = with_teachers()

  def end(loss):
    problem = problem_with(to_teachers(loss=loss, weight=1.0))
    params = start(problem, batch)
    return jax.jit(replays.replay)(problem, params, batch, steps)

  gaps = jax.tree.map(
    lambda a, b: float(jnp.abs(a - b).max()), end("taid"), end("forward_kl")
  )
  # At its end alone is `taid` the divergence from the teacher itself.
  assert max(jax.tree.leaves(gaps)) > 1e-3


def test_forward_kl_has_the_gradient_of_soft_labels():
  plain, batch = make_problem(), with_teachers()
  taught = problem_with(to_teachers(weight=1.0))
  params = start(plain)
  labels = jax.nn.softmax(batch.teachers.logits[:, 0])
  soft = dataclasses.replace(BATCH, labels=labels)
  equal(grad(taught, params, batch), grad(plain, params, soft))


@pytest.mark.parametrize("centred", [False, True])
def test_what_the_outer_loop_asks_of_real_rows_hears_their_teachers(centred):
  taught = problem_with(to_teachers())
  params = start(taught)
  one, other = (
    taught.loss_and_logits(params, with_teachers(seed=seed), centred=centred)[0]
    for seed in (3, 4)
  )
  assert abs(one - other) > 1e-3
  # At no weight, what is left is the loss of the labels.
  silent = problem_with(to_teachers(weight=0.0))
  np.testing.assert_array_equal(
    silent.loss_and_logits(params, with_teachers(), centred=centred)[0],
    make_problem().loss_and_logits(params, BATCH, centred=centred)[0],
  )


def lost(criterion, batch, own=1.3):
  """What a student of fixed outputs loses, and the gradient of its logits."""
  logits, features = jax.random.normal(jax.random.key(8), (2, ROWS, CLASSES))

  def value(logits):
    outputs = student_outputs.Outputs(logits, features)
    return criterion.loss(own, {}, outputs, batch)

  return jax.value_and_grad(value)(logits)


@pytest.mark.parametrize("loss", criteria.LOSSES)
def test_weight_zero_is_no_teacher_bit_for_bit(loss):
  value, grads = lost(to_teachers(loss, weight=0.0), with_teachers())
  assert value == np.float32(1.3)
  np.testing.assert_array_equal(grads, 0.0)


@pytest.mark.parametrize("loss", criteria.LOSSES)
def test_equal_teachers_are_one_and_their_order_is_nothing(loss):
  one, three = with_teachers(1), with_teachers(3)
  twice = told(one, logits=jnp.tile(one.teachers.logits, (1, 2, 1)))
  turned = told(three, logits=three.teachers.logits[:, ::-1])
  for join in criteria.JOINS:
    taught = to_teachers(loss, join=join, weights="entropy")
    equal(lost(taught, one), lost(taught, twice))
    equal(lost(taught, three), lost(taught, turned))


def test_means_of_losses_of_probabilities_and_of_logits_are_three_things():
  values = {
    round(
      float(lost(to_teachers("reverse_kl", join=j), with_teachers(2))[0]), 6
    )
    for j in criteria.JOINS
  }
  assert len(values) == 3


@pytest.mark.parametrize("loss", criteria.LOSSES)
def test_certain_teachers_give_finite_gradients(loss):
  sure = 1e4 * jax.nn.one_hot(jnp.arange(ROWS) % CLASSES, CLASSES)
  batch = told(BATCH, logits=sure[:, None])
  value, grads = lost(to_teachers(loss, temperature=2.0), batch)
  assert np.isfinite(value) and np.isfinite(grads).all()


def test_temperature_keeps_the_size_of_the_gradient_near_the_teacher():
  logits = jax.random.normal(jax.random.key(8), (2, ROWS, CLASSES))[0]
  gap = jax.random.normal(jax.random.key(0), logits.shape)
  near = told(BATCH, logits=(logits + gap)[:, None])
  hot, _ = lost(to_teachers(weight=1.0, temperature=50.0), near)
  centred = gap - gap.mean(axis=-1, keepdims=True)
  # KL to second order, of uniform distributions: tau^2 undoes the softening.
  limit = jnp.square(centred).sum(axis=-1).mean() / (2 * CLASSES)
  np.testing.assert_allclose(hot, limit, rtol=0.1)


def test_the_gate_comes_to_trust_the_teacher_that_knows():
  right = 4.0 * (BATCH.labels - 0.5)
  wrong = -right
  batch = told(BATCH, logits=jnp.stack([wrong, right], axis=1))
  taught = problem_with(to_teachers(weights="gate"))
  params = start(taught, batch)
  before = params["gate"]
  np.testing.assert_array_equal(before["kernel"], 0.0)
  grads = grad(taught, params, batch)
  assert grads["gate"]["bias"][1] < 0 < grads["gate"]["bias"][0]
  # The student is not pulled towards features that please the gate.
  alone = problem_with(to_teachers(weight=0.0, weights="gate"))
  plain = grad(make_problem(), start(make_problem()), BATCH)
  gated = grad(alone, params, batch)
  gated.pop("gate")
  equal(gated, plain)


@pytest.mark.parametrize("kind", criteria.FEATURES)
def test_feature_distillation_comes_down_and_reads_the_mapped_layers(kind):
  teacher = jax.random.normal(jax.random.key(5), (ROWS, 4, 12))
  batch = told(BATCH, features=teacher)
  taught = problem_with(criteria.to_features(kind, weight=1.0), make_layered())
  params = start(taught, batch)
  assert params["projections"]["kernel"].shape == (2, 8, 12)
  loss = jax.jit(jax.value_and_grad(taught.loss))
  first, _ = loss(params, batch)
  for _ in range(30):
    value, grads = loss(params, batch)
    params = jax.tree.map(lambda p, g: p - 0.3 * g, params, grads)
  assert value < first
  # Of four layers, two students' layers go with the second and the last.
  for layer, read in enumerate([False, True, False, True]):
    moved = told(batch, features=teacher.at[:, layer].multiply(-1.0))
    assert (loss(params, moved)[0] != loss(params, batch)[0]) == read


def test_shallow_layers_learn_of_deep_ones_and_not_the_other_way():
  plain = make_layered(pooling="mean")
  taught = problem_with(criteria.to_deepest(weight=1.0), plain)
  # Far from a start, at which all layers say nearly the same.
  params = jax.tree.map(lambda x: 10.0 * x, start(taught))
  # Not in one program each: those may round the same sums differently.
  grads = jax.grad(taught.loss)(params, BATCH)
  others = jax.grad(plain.loss)(params, BATCH)
  assert taught.loss(params, BATCH) > plain.loss(params, BATCH)
  equal(grads["head"], others["head"])
  moved = jax.tree.map(
    lambda a, b: np.abs(a - b).reshape(len(a), -1).max(axis=1),
    grads["layers"]["output"],
    others["layers"]["output"],
  )
  assert moved["kernel"][0] > 1e-6  # the first of two layers
  assert moved["kernel"][1] == 0


def test_a_centred_loss_asks_shallow_layers_for_no_other_shift():
  plain = make_layered(pooling="mean")
  taught = problem_with(criteria.to_deepest(weight=1.0), plain)
  params = start(taught)
  shift = jnp.array([3.0, 0.0, 0.0])
  params["head"] = {**params["head"], "bias": params["head"]["bias"] + shift}

  @functools.partial(jax.jit, static_argnames="centred")
  def gap(centred):
    found = [
      problem.loss_and_logits(params, BATCH, centred=centred)[0]
      for problem in (taught, plain)
    ]
    return found[0] - found[1]

  np.testing.assert_allclose(gap(True), gap(False), atol=1e-5)


def test_a_student_without_layers_is_refused():
  taught = problem_with(criteria.to_deepest(weight=1.0))
  with pytest.raises(ValueError, match="has no layers"):
    jax.eval_shape(
      lambda key: taught.loss(taught.init(key), BATCH), jax.random.key(0)
    )


@pytest.mark.parametrize("name", sorted({*protocols.TEACHINGS} - {"none"}))
def test_a_teacher_that_changes_changes_the_student(name):
  taught = problem_with(to_teachers(weight=0.5, weights="gate"))
  optimizer = optax.adam(1e-2)
  teaching = {
    "moving_average": live.moving_average(0.9),
    "peer": live.peer(optimizer),
  }[name]
  plain = fitted(taught, BATCH, optimizer)
  changed = fitted(taught, BATCH, optimizer, teaching=teaching)
  assert set(changed) == set(taught.init(jax.random.key(0)))
  gap = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), plain, changed)
  assert max(jax.tree.leaves(gap)) > 1e-4
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(changed))


def fitted(problem, batch, optimizer, **fields):
  course = fitting.Course(num_steps=4, batch_size=99, **fields)

  def fit(key):
    return fitting.fit_course(problem, batch, optimizer, course, key=key)

  return jax.jit(fit)(jax.random.key(0))


def test_peers_of_one_start_are_one_student():
  # Equal peers say the same, and so lose nothing to each other.
  problem = problem_with(to_teachers(weight=0.5))
  optimizer = optax.sgd(0.1)
  same = live.peer(optimizer)._replace(
    init=lambda problem, params, key: (params, optimizer.init(params))
  )
  half = dataclasses.replace(BATCH, labels=0.5 * BATCH.labels)
  together = fitted(problem, BATCH, optimizer, teaching=same)
  equal(together, fitted(make_problem(), half, optimizer), 1e-5)


def test_a_moving_average_that_never_moves_is_the_first_student():
  problem = problem_with(to_teachers(weight=1.0))
  still = live.moving_average(1.0)
  taught = fitted(problem, BATCH, optax.sgd(0.1), teaching=still)
  first = problem.init(jax.random.split(jax.random.key(0))[0])
  equal(taught, first, 1e-5)  # there is nothing to learn from oneself


def test_weight_and_temperature_follow_the_training():
  share = divergences.schedule("linear", 0.0, 1.0, 1)
  taught = problem_with(
    criteria.to_teachers("forward_kl", weight=share, temperature=constant(1.0))
  )
  params, batch = start(taught), with_teachers()
  own = make_problem().loss(params, BATCH)
  at = lambda t: taught.loss(  # noqa: E731
    params, dataclasses.replace(batch, progress=jnp.asarray(t))
  )
  equal(at(0.0), own)
  equal(at(0.5), 0.5 * (at(0.0) + at(1.0)))
  equal(taught.loss(params, batch), at(1.0))


def test_training_says_how_far_it_is():
  seen = []

  def loss(params, batch):
    jax.debug.callback(lambda t: seen.append(float(t)), batch.progress)
    return jnp.square(params).sum()

  rows = jnp.zeros((4, 2), jnp.int32)
  fitting.descend(loss, jnp.ones(2), BATCH, optax.sgd(0.1), rows=rows)
  jax.effects_barrier()
  assert sorted(seen) == [0.0, 0.25, 0.5, 0.75]


@pytest.mark.parametrize(
  "fields, said",
  [
    ({"loss": "kl"}, "loss=kl is none of forward_kl"),
    ({"join": "votes"}, "join=votes is none of losses"),
    ({"weights": "age"}, "weights=age is none of equal"),
  ],
)
def test_unknown_names_are_refused(fields, said):
  with pytest.raises(ValueError, match=said):
    to_teachers(**fields)
