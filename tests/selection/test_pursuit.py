"""Matching pursuit: sketches keep products, and the rows make up the mean."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import make_examples, make_problem

from gmdistill.data import batches
from gmdistill.selection import pursuit, row_gradients


def test_a_sketch_keeps_inner_products_within_its_bound():
  rng = np.random.default_rng(0)
  x, y = rng.normal(size=(2, 3000))
  y = y + x  # so that there is a product to keep
  size, found = 256, []
  for seed in range(40):
    parts = [[v[:1000], v[1000:].reshape(40, 50)] for v in (x, y)]
    one, two = (
      row_gradients.sketch([jnp.asarray(p, jnp.float32) for p in v], size, seed)
      for v in parts
    )
    found.append(float(one @ two))
  bound = np.sqrt(2 * (x @ x) * (y @ y) / size)  # of one sketch's error
  errors = np.array(found) - x @ y
  assert errors.std() < bound
  assert abs(errors.mean()) < 3 * bound / np.sqrt(40)


def test_rows_that_make_up_the_mean_are_chosen_with_their_weights():
  # Of class 0: 3 of the mean's 4 parts point one way, the rest another.
  one, two, none = [4.0, 0, 0], [0, 4.0, 0], [0.1, 0.1, -4.0]
  own = np.array([one, none, one, two, one, none, none], float)
  own[[1, 5, 6]] *= 0.01
  labels = np.zeros(7, int)
  rows, weights = pursuit.pursue(own, labels, 2)
  assert set(rows) & {0, 2, 4} and 3 in rows
  heavy = weights[[own[r][0] == 4 for r in rows]]
  light = weights[[own[r][1] == 4 for r in rows]]
  assert heavy[0] / light[0] == pytest.approx(3, rel=0.05)
  assert weights.mean() == pytest.approx(1)


def test_rows_come_class_by_class_and_once_each():
  sketches = np.random.default_rng(1).normal(size=(20, 6)) + 1
  labels = np.arange(20) % 2
  rows, weights = pursuit.pursue(sketches, labels, 4)
  assert labels[rows].tolist() == [0] * 4 + [1] * 4
  assert len(set(rows)) == 8 and (weights > 0).all()


def test_a_rows_sketch_is_that_of_its_own_gradient():
  problem, examples = make_problem(), make_examples(rows=6)
  batch = batches.as_batch(examples, 2)
  params = problem.init(jax.random.key(1))
  found = pursuit.sketches(
    problem, [params], batch, matched="head", size=8, seed=5
  )
  grads = jax.grad(problem.loss)(
    params, batches.take_rows(batch, np.array([4]))
  )
  tensors = [x.array for x in problem.roles.select(grads, "head")]
  assert sum(x.size for x in tensors) > 8  # else nothing is sketched
  alone = row_gradients.sketch(tensors, 8, 5)
  np.testing.assert_allclose(found[4], alone, rtol=1e-4, atol=1e-6)
  # Linear: the mean row's sketch is the sketch of the mean gradient.
  mean = jax.grad(problem.loss)(params, batch)
  whole = row_gradients.sketch(
    [x.array for x in problem.roles.select(mean, "head")], 8, 5
  )
  np.testing.assert_allclose(found.mean(axis=0), whole, rtol=1e-3, atol=1e-6)


def agreement(problem, along, batch, width=8, chunk=4):
  sketched = row_gradients.Sketched("head", width, seed=5)
  return row_gradients.agreement(problem, along, batch, sketched, chunk=chunk)


@pytest.mark.parametrize("chunk", [4, 32])
def test_agreement_is_the_cosine_of_a_rows_sketches_with_its_classs_mean(chunk):
  problem, examples = make_problem(), make_examples(rows=11)
  batch = batches.as_batch(examples, 2)
  along = [problem.init(jax.random.key(i)) for i in range(2)]
  whole = pursuit.sketches(
    problem, along, batch, matched="head", size=8, seed=5
  )
  means = np.stack([whole[examples.labels == x].mean(axis=0) for x in (0, 1)])
  mean = means[examples.labels]
  lengths = np.linalg.norm(whole, axis=1) * np.linalg.norm(mean, axis=1)
  expected = (whole * mean).sum(axis=1) / lengths
  found = agreement(problem, along, batch, chunk=chunk)
  np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_rows_of_their_class_agree_more_than_rows_that_are_mislabelled():
  rng, problem = np.random.default_rng(2), make_problem()
  examples = make_examples(rows=40)
  # Of ten rows of a class, seven have its two tokens, three the other's.
  planted = np.arange(40) // 2 % 10 < 7
  kind = np.where(planted, examples.labels, 1 - examples.labels)
  ids = np.repeat(10 * kind[:, None], examples.token_ids.shape[1], axis=1)
  ids[:, -2:] += rng.integers(0, 2, (40, 2))
  examples = examples._replace(
    token_ids=ids.astype(np.int32), mask=np.ones_like(examples.mask)
  )
  batch = batches.as_batch(examples, 2)
  scores = agreement(problem, [problem.init(jax.random.key(0))], batch, 32, 32)
  for label in (0, 1):
    own = np.flatnonzero(examples.labels == label)
    best = own[np.argsort(-scores[own])[: planted[own].sum()]]
    assert planted[best].all()
