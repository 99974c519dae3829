"""The rule of differentiation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import (
  as_float64,
  make_problem,
  make_small_problem,
  make_synthetic,
)

from gmdistill.training import mixed_mode


def covector_product(problem, params, batch, covector, rule):
  """<g(theta, x), v> as a function of what is differentiated."""
  gradient = mixed_mode.grad(problem.loss, rule)

  def product(params, inputs, labels):
    grads = gradient(params, batch.replace(inputs=inputs, labels=labels))
    pairs = zip(jax.tree.leaves(grads), jax.tree.leaves(covector), strict=True)
    return sum(jnp.vdot(a, b) for a, b in pairs)

  return product, (params, batch.inputs, batch.labels)


@pytest.mark.parametrize("kind", ["transformer", "bilstm", "textcnn"])
@pytest.mark.parametrize("rule", sorted({*mixed_mode.RULES} - {"reverse"}))
def test_every_rule_equals_reverse_over_reverse(rule, kind):
  problem, batch = make_problem(kind), make_synthetic()
  params = problem.init(jax.random.key(0))
  covector = jax.tree.map(
    lambda x: jax.random.normal(jax.random.key(x.size), x.shape), params
  )
  results = []
  for name in (rule, "reverse"):
    product, at = covector_product(problem, params, batch, covector, name)
    results.append(jax.jit(jax.value_and_grad(product, (0, 1, 2)))(*at))
  # As one vector: single small entries are lost to float32 cancellation.
  ours, reference = (
    jnp.concatenate([x.ravel() for x in jax.tree.leaves(result)])
    for result in results
  )
  gap = jnp.linalg.norm(ours - reference) / jnp.linalg.norm(reference)
  assert float(gap) < 1e-5
  assert max(float(jnp.abs(x).max()) for x in jax.tree.leaves(results[0])) > 0


# The others equal these: of the transformer too, by the law above.
@pytest.mark.parametrize(
  "rule, kind",
  [("mixed", "transformer"), ("reverse", "textcnn"), ("linearize", "textcnn")],
)
def test_the_second_derivative_equals_finite_differences(rule, kind, x64):
  problem = as_float64(make_problem(kind))
  batch = as_float64(make_synthetic())
  params = as_float64(problem.init(jax.random.key(0)))
  covector = jax.tree.map(
    lambda x: jax.random.normal(jax.random.key(x.size), x.shape), params
  )
  product, at = covector_product(problem, params, batch, covector, rule)
  both = jax.jit(jax.value_and_grad(product, (0, 1, 2)))
  _, grads = both(*at)
  direction = jax.tree.map(
    lambda x: jax.random.normal(jax.random.key(x.size + 1), x.shape), at
  )
  step = 1e-6

  def moved(sign):
    return jax.tree.map(lambda x, d: x + sign * step * d, at, direction)

  numeric = (both(*moved(1))[0] - both(*moved(-1))[0]) / (2 * step)
  pairs = zip(jax.tree.leaves(grads), jax.tree.leaves(direction), strict=True)
  exact = sum(jnp.vdot(a, b) for a, b in pairs)
  np.testing.assert_allclose(exact, numeric, rtol=1e-6)


@pytest.mark.parametrize("rule", mixed_mode.RULES)
def test_the_gradient_itself_is_that_of_jax(rule):
  problem, batch = make_problem(), make_synthetic()
  params = problem.init(jax.random.key(0))
  ours = jax.jit(mixed_mode.grad(problem.loss, rule))(params, batch)
  reference = jax.jit(jax.grad(problem.loss))(params, batch)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=1e-7), ours, reference
  )


@pytest.mark.parametrize("rule", mixed_mode.RULES)
def test_rules_work_inside_scan_and_vmap(rule):
  problem, batch = make_small_problem(), make_synthetic()
  gradient = mixed_mode.grad(problem.loss, rule)

  def two_steps(inputs, key):
    def step(params, _):
      grads = gradient(params, batch.replace(inputs=inputs))
      return jax.tree.map(lambda p, g: p - 0.1 * g, params, grads), None

    params, _ = jax.lax.scan(step, problem.init(key), None, length=2)
    return problem.loss(params, batch)

  keys = jax.random.split(jax.random.key(0), 3)
  alone = jax.jit(jax.grad(two_steps))
  stacked = jax.jit(jax.vmap(alone, (None, 0)))(batch.inputs, keys)
  for one, key in zip(stacked, keys, strict=True):
    np.testing.assert_allclose(one, alone(batch.inputs, key), atol=1e-6)


def test_an_unknown_rule_is_refused():
  with pytest.raises(ValueError, match="mixed, reverse, linearize"):
    mixed_mode.grad(lambda p: p, "forward")
