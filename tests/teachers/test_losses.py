"""Losses of a student to its teachers."""

import functools
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gmdistill.teachers import criteria, divergences, ensembles

GOLDEN = (
  pathlib.Path(__file__).parents[3] / "shared" / "golden" / "kd_losses.json"
)


def _of_registry(name):
  """A divergence as a function of both logits and a mask."""
  divergence, _ = criteria.LOSSES[name]
  return lambda student, teacher, mask: divergence(
    student, teacher, criteria.Row(mask, jnp.arange(len(mask)), 0.4)
  )


LOSSES = {name: _of_registry(name) for name in criteria.LOSSES}
each_loss = pytest.mark.parametrize("name", LOSSES)


def logits(seed, rows=4, classes=5):
  return jax.random.normal(jax.random.key(seed), (rows, classes)) * 2


@pytest.fixture
def golden():
  if not GOLDEN.is_file():
    pytest.skip(f"the reference values are not here: {GOLDEN}")
  return json.loads(GOLDEN.read_text())


def test_every_reference_value_is_met(golden, x64):
  names = ("student_logits", "teacher_logits", "second_teacher_logits")
  student, first, second = (np.array(golden[n], np.float64) for n in names)
  mask, labels = np.array(golden["mask"]), np.array(golden["labels"])
  both, even = np.stack([first, second]), np.full((2, 3), 0.5)
  rows = (student, first, mask)
  by_weight = lambda loss, name: {  # noqa: E731
    str(w): loss(*rows, **{name: w}) for w in (0.1, 0.5, 0.9)
  }
  found = {
    "forward_kl:": divergences.forward_kl(*rows),
    "forward_kl at temperature 2": divergences.forward_kl(
      *rows, temperature=2.0
    ),
    "reverse_kl": divergences.reverse_kl(*rows),
    "generalised_jsd": by_weight(divergences.jensen_shannon, "beta"),
    "skew_forward_kl": by_weight(divergences.skew_forward_kl, "alpha"),
    "skew_reverse_kl": by_weight(divergences.skew_reverse_kl, "alpha"),
    "total_variation": divergences.total_variation(*rows),
    "soft_cross_entropy": divergences.soft_cross_entropy(*rows),
    "bild k=3": divergences.bild_parts(*rows, k=3, temperature=3.0),
    "decoupled_kd": divergences.decoupled_parts(*rows, labels),
    "taid": divergences.taid(*rows, t=0.4),
    "forward_kl to two teachers": [
      divergences.forward_kl(
        student, ensembles.mean_of_probabilities(both, even), mask
      ),
      divergences.forward_kl(
        student, ensembles.mean_of_logits(both, even), mask
      ),
      ensembles.mean_of_losses(
        divergences.forward_kl, student, both, mask, even
      ),
    ],
    "confidence weights": ensembles.confidence_weights(both, labels)[0, :2],
    "entropy weights": ensembles.entropy_weights(both)[0, :2],
  }
  seen = set()
  for name, expected in golden["values"].items():
    (key,) = (key for key in found if name.startswith(key))
    seen.add(key)
    if isinstance(expected, dict):
      ours = [found[key][weight] for weight in expected]
      expected = list(expected.values())
    else:
      ours = found[key]
    np.testing.assert_allclose(ours, expected, atol=1e-6, err_msg=name)
  assert seen == set(found)


@each_loss
def test_a_masked_row_changes_nothing_and_an_empty_mask_gives_zero(name):
  loss, mask = LOSSES[name], jnp.array([1.0, 1.0, 0.0, 1.0])
  whole = loss(logits(0), logits(1), mask)
  torn = logits(0).at[2].set(jnp.nan), logits(1).at[2].set(jnp.inf)
  assert float(loss(*torn, mask)) == pytest.approx(float(whole), rel=1e-6)
  grad = jax.grad(loss)(logits(0), logits(1), jnp.zeros(4))
  assert not np.asarray(grad).any()
  assert float(loss(logits(0), logits(1), jnp.zeros(4))) == 0.0


@each_loss
def test_gradients_are_finite_where_logits_are_saturated(name):
  sure = 200.0 * jax.nn.one_hot(jnp.arange(4), 5)
  for pair in ((sure, -sure), (-sure, sure), (sure, sure)):
    value, grad = jax.value_and_grad(LOSSES[name])(*pair, jnp.ones(4))
    assert np.isfinite(value) and np.isfinite(grad).all()


@each_loss
def test_the_teacher_gets_no_gradient(name):
  grad = jax.grad(LOSSES[name], argnums=1)(logits(0), logits(1), jnp.ones(4))
  assert not np.asarray(grad).any()


@each_loss
def test_a_student_that_is_its_teacher_has_nothing_to_learn(name):
  student = logits(0)
  value, grad = jax.value_and_grad(LOSSES[name])(student, student, jnp.ones(4))
  if name != "soft_cross_entropy":  # whose least value is the entropy
    assert float(value) == pytest.approx(0.0, abs=1e-6)
  if name != "total_variation":  # which has a corner there
    np.testing.assert_allclose(grad, 0.0, atol=1e-6)


def test_the_gradient_of_forward_kl_is_that_of_soft_labels():
  grads = [
    jax.grad(loss)(logits(0), logits(1), jnp.ones(4))
    for loss in (divergences.forward_kl, divergences.soft_cross_entropy)
  ]
  np.testing.assert_allclose(*grads, atol=1e-6)


def test_at_high_temperature_forward_kl_matches_centred_logits(x64):
  student, teacher = logits(0).astype(float), logits(1).astype(float)
  gap = (student - student.mean(1, keepdims=True)) - (
    teacher - teacher.mean(1, keepdims=True)
  )
  limit = jnp.square(gap).sum(axis=1).mean() / (2 * 5)
  hot = divergences.forward_kl(student, teacher, jnp.ones(4), temperature=1e4)
  np.testing.assert_allclose(hot, limit, rtol=1e-3)


def test_bild_ignores_a_shift_and_the_order_of_the_vocabulary():
  loss, ones = functools.partial(divergences.bild, k=3), jnp.ones(4)
  student, teacher = logits(0), logits(1)
  whole = float(loss(student, teacher, ones))
  assert float(loss(student + 3.0, teacher - 5.0, ones)) == pytest.approx(
    whole, rel=1e-5
  )
  order = jnp.array([3, 1, 4, 0, 2])
  assert float(
    loss(student[:, order], teacher[:, order], ones)
  ) == pytest.approx(whole, rel=1e-5)
  with pytest.raises(ValueError, match="k=6 must be 3 to 5"):
    divergences.bild(student, teacher, ones, k=6)
  # Of two logits there is one difference, which no teacher says much of.
  with pytest.raises(ValueError, match="k=2 must be 3 to 5"):
    divergences.bild(student, teacher, ones, k=2)


def test_the_parts_of_decoupled_kd_make_forward_kl():
  student, teacher = logits(0, rows=1), logits(1, rows=1)
  label = jnp.array([2])
  target, rest = divergences.decoupled_parts(
    student, teacher, jnp.ones(1), label
  )
  weight = 1.0 - jax.nn.softmax(teacher)[0, 2]
  whole = divergences.forward_kl(student, teacher, jnp.ones(1))
  assert float(target + weight * rest) == pytest.approx(float(whole), rel=1e-5)


def test_features_of_zero_give_finite_gradients():
  projection = divergences.init_projection(jax.random.key(0), 3, 6)
  zeros, theirs = jnp.zeros((4, 3)), logits(1, classes=6)
  for loss in (divergences.feature_mse, divergences.feature_cosine):
    grad = jax.grad(loss)(zeros, theirs, jnp.ones(4), projection)
    assert np.isfinite(grad).all()
    own = theirs[:, :3]
    same = loss(own, own @ projection["kernel"], jnp.ones(4), projection)
    assert float(same) == pytest.approx(0.0, abs=1e-5)
  assert divergences.layer_map(3, 12) == [3, 7, 11]
  assert divergences.layer_map(6, 6) == [0, 1, 2, 3, 4, 5]


def test_schedules_start_and_end_where_they_should():
  for kind in ("linear", "cosine"):
    value = divergences.schedule(kind, 4.0, 1.0, 10)
    assert float(value(0)) == 4.0 and float(value(25)) == 1.0
    assert float(value(5)) == pytest.approx(2.5)
  assert float(divergences.schedule("constant", 4.0, 1.0, 10)(7)) == 4.0
  with pytest.raises(ValueError, match="kind=step is none of"):
    divergences.schedule("step", 0, 1, 10)


WEIGHTS = {
  kind: lambda x, kind=kind: ensembles.weights(kind, x, np.eye(5)[:4])
  for kind in ensembles.WEIGHTS
}


@pytest.mark.parametrize("name", WEIGHTS)
def test_weights_sum_to_one_and_follow_their_teachers(name):
  three = jnp.stack([logits(i) for i in range(3)])
  weights = WEIGHTS[name](three)
  np.testing.assert_allclose(weights.sum(axis=0), 1.0, atol=1e-6)
  order = jnp.array([2, 0, 1])
  np.testing.assert_allclose(
    WEIGHTS[name](three[order]), weights[order], atol=1e-6
  )
  np.testing.assert_array_equal(WEIGHTS[name](three[:1]), np.ones((1, 4)))
  sure = 200.0 * jax.nn.one_hot(jnp.zeros((2, 4), int), 5)
  assert np.isfinite(WEIGHTS[name](sure)).all()


@pytest.mark.parametrize("name", ensembles.JOINS)
def test_one_teacher_is_itself_and_the_order_of_teachers_is_nothing(name):
  join = ensembles.JOINS[name]
  three = jnp.stack([logits(i) for i in range(3)])
  weights = ensembles.entropy_weights(three)
  alone = jax.nn.softmax(join(three[:1], jnp.ones((1, 4))))
  np.testing.assert_allclose(alone, jax.nn.softmax(three[0]), atol=1e-6)
  order = jnp.array([1, 2, 0])
  np.testing.assert_allclose(
    join(three[order], weights[order]), join(three, weights), atol=1e-5
  )
  loss = functools.partial(ensembles.mean_of_losses, divergences.forward_kl)
  ones = jnp.ones(4)
  assert float(
    loss(logits(5), three[:1], ones, jnp.ones((1, 4)))
  ) == pytest.approx(
    float(divergences.forward_kl(logits(5), three[0], ones)), rel=1e-5
  )


def test_a_gate_starts_even_and_learns():
  gate = ensembles.init_gate(6, 3)
  features = logits(3, classes=6)
  weights = ensembles.gate_weights(gate, features)
  np.testing.assert_allclose(weights, 1 / 3, atol=1e-6)
  three = jnp.stack([logits(i) for i in range(3)])

  def loss(gate):
    weights = ensembles.gate_weights(gate, features)
    return ensembles.mean_of_losses(
      divergences.forward_kl, logits(0), three, jnp.ones(4), weights
    )

  grads = jax.grad(loss)(gate)
  assert float(grads["bias"][0]) < 0 < float(grads["bias"][1:].min())


def test_a_uniform_teacher_has_no_weight():
  found = ensembles.certainty(
    jnp.array([[0.0, 0.0, 0.0], [300.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
  )
  assert float(found[0]) == pytest.approx(0.0, abs=1e-6)
  assert float(found[1]) == 1.0 and 0 < float(found[2]) < 1
  grad = jax.grad(lambda x: ensembles.certainty(x).sum())(jnp.zeros((2, 3)))
  assert np.isfinite(grad).all()


def test_every_layer_has_a_teacher_s_of_its_depth():
  assert divergences.layer_map(2, 4) == [1, 3]
  assert divergences.layer_map(4, 4) == [0, 1, 2, 3]
  assert divergences.layer_map(6, 2) == [0, 0, 0, 0, 1, 1]
