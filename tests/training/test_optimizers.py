"""The protocol's optimiser, and its step that can be differentiated."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gmdistill.training import fitting, optimizers

PROTOCOL = optimizers.FineTuning(num_steps=6, weight_decay=0.1, warmup=0.5)
START = {"a": jnp.array([1.0, -2.0]), "b": jnp.array([[0.3]])}
# The first is shortened by the clip, the others are not.
GRADS = [
  jax.tree.map(lambda x, s=s: s * jnp.sin(3 * x + s), START)
  for s in (9.0, 0.2, -0.4, 1e-3)
]


def moments():
  zeros = jax.tree.map(jnp.zeros_like, START)
  return optimizers.Moments(zeros, zeros, jnp.int32(0))


def step(params, grads, state, rate, **fields):
  return optimizers.adamw_step(
    params, grads, state, rate=rate, weight_decay=0.1, **fields
  )


def test_steps_equal_those_of_the_protocol_s_optimizer():
  optimizer, rate = PROTOCOL.optimizer(1e-2), PROTOCOL.rate(1e-2)
  theirs, state = START, optimizer.init(START)
  ours, remembered = START, moments()
  for t, grads in enumerate(GRADS):
    theirs, state = fitting.update(optimizer, grads, state, theirs)
    ours, remembered = step(ours, grads, remembered, rate(t))
    jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), ours, theirs
    )
  assert int(remembered.updates) == len(GRADS)
  assert float(jnp.abs(ours["a"] - START["a"]).max()) > 1e-3


def test_the_rate_rises_to_the_highest_and_falls_to_nothing():
  rate = PROTOCOL.rate(0.5)
  assert float(rate(0)) == 0.0 and float(rate(3)) == 0.5
  assert float(rate(6)) == pytest.approx(0.0, abs=1e-7)
  assert float(rate(1)) < float(rate(2)) and float(rate(5)) < float(rate(4))


def test_a_weight_of_next_to_no_gradient_has_next_to_no_derivative():
  grads = {"w": jnp.array([1e-6, 0.1])}
  start = {"w": jnp.zeros(2)}
  state = optimizers.Moments(start, start, jnp.int32(0))

  def moved(grads):
    return step(start, grads, state, 1.0)[0]["w"]

  slopes = jnp.diag(jax.jacobian(moved)(grads)["w"])
  # Adam moves both by the rate, and so its own derivative would be 10,000 for
  # the first and a millionth for the second.
  np.testing.assert_allclose(moved(grads), -1.0, rtol=0.02)
  assert np.isfinite(slopes).all() and abs(slopes[0]) < 100 * abs(slopes[1])


def test_a_stride_is_that_many_steps_along_one_gradient():
  fine, state = START, moments()
  for _ in range(3):
    fine, state = step(fine, GRADS[1], state, 1e-4)
  coarse, _ = step(START, GRADS[1], moments(), 1e-4, stride=3)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4), coarse, fine
  )


@pytest.mark.parametrize("stride", [1, 4])
def test_a_stride_of_sgd_goes_where_that_many_steps_go(stride):
  start = moments()._replace(first=jax.tree.map(jnp.cos, START))
  fine, state = START, start
  for _ in range(stride):
    fine, state = optimizers.sgd_step(fine, GRADS[0], state, rate=0.1)
  coarse, after = optimizers.sgd_step(
    START, GRADS[0], start, rate=0.1, stride=stride
  )
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5),
    (coarse, after.first),
    (fine, state.first),
  )
