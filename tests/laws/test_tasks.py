"""Laws of every task: what is asked of a student."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import (
  CLASSES,
  VOCABULARY,
  WIDTH,
  make_examples,
  make_problem,
  make_synthetic,
)

from gmdistill.data import batches
from gmdistill.evaluation import protocols, readings
from gmdistill.sets import synthetic
from gmdistill.students import problems, tasks
from gmdistill.training import fitting

TASKS = {name: make(CLASSES) for name, make in tasks.TASKS.items()}


def asked(task):
  return dataclasses.replace(make_problem(), asks=task)


@pytest.mark.parametrize("name", TASKS)
def test_a_task_answers_row_by_row(name):
  problem = asked(TASKS[name])
  params, batch = problem.init(jax.random.key(0)), make_synthetic()

  @jax.jit
  def answers(params, batch):
    logits = problem.apply(params, batch).logits
    lost = problem.task.loss(logits, batch, problem.embeddings)
    return lost, problem.score(logits, batch), problem.task.counts(batch)

  whole = answers(params, batch)
  rows = jnp.array([2, 0])
  part = answers(params, batches.take_rows(batch, rows))
  for all_rows, chosen in zip(whole, part, strict=True):
    assert all_rows.shape == (len(batch),)
    np.testing.assert_allclose(all_rows[rows], chosen, rtol=1e-5)
  np.testing.assert_allclose(
    problem.loss(params, batch), whole[0].mean(), rtol=1e-5
  )


@pytest.mark.parametrize("name", TASKS)
def test_padding_counts_nothing(name):
  batch = batches.as_batch(make_examples(4), CLASSES)
  padded = batches.without_count(batch, np.array([1, 3]))
  counts = np.asarray(TASKS[name].counts(padded))
  assert (counts[[1, 3]] == 0).all() and (counts[[0, 2]] > 0).all()


@pytest.mark.parametrize("name", TASKS)
def test_training_on_rows_raises_their_score(name):
  problem = asked(TASKS[name])
  batch = make_synthetic()
  start, step = problem.init(jax.random.key(0)), jax.jit(jax.grad(problem.loss))
  params = start
  for _ in range(30):
    grads = step(params, batch)
    params = jax.tree.map(lambda p, g: p - 0.5 * g, params, grads)

  def score(params):
    return problem.score(problem.apply(params, batch).logits, batch).mean()

  assert score(params) > score(start)


@pytest.mark.parametrize("name", TASKS)
def test_a_mean_score_over_buckets_is_that_over_rows(name):
  problem, rows = asked(TASKS[name]), make_examples(10)
  params = problem.init(jax.random.key(0))
  batch = batches.as_batch(rows, CLASSES)
  scores = problem.score(problem.apply(params, batch).logits, batch)
  counts = problem.task.counts(batch)
  buckets = readings.length_buckets(rows, CLASSES, rows=4)
  stacked = jax.tree.map(lambda x: x[None], params)
  found = readings.accuracies(problem, stacked, buckets)
  np.testing.assert_allclose(
    found, [(scores * counts).sum() / counts.sum()], rtol=1e-5
  )


def test_a_student_of_a_key_is_one_student_whatever_it_is_trained_by():
  """Training of no step, and steps of no size, show where each starts."""
  problem, key = make_problem(), jax.random.key(4)
  first = problems.first_student(problem, key)
  batch = make_synthetic()
  still = fitting.fit(
    problem,
    batch,
    optax.sgd(0.0),
    num_steps=1,
    batch_size=99,
    key=key,
  )
  replayed = protocols.replaying(num_steps=1).train(
    problem,
    synthetic.SyntheticSet(batch),
    key,
    jnp.zeros(2),
  )
  for other in (still, replayed):
    jax.tree.map(np.testing.assert_array_equal, first, other)


# --- targets token by token --------------------------------------------------


def test_token_logits_are_a_property_of_the_task():
  table = jax.random.normal(jax.random.key(0), (VOCABULARY, WIDTH))
  queries = jax.random.normal(jax.random.key(1), (2, 3, WIDTH))
  plain = tasks.plain_token_logits(queries, table)
  np.testing.assert_allclose(plain, queries @ table.T, rtol=1e-5)
  length = np.sqrt(np.square(table).sum(axis=1).mean())
  np.testing.assert_allclose(
    tasks.scaled_token_logits(queries, table), plain / length, rtol=1e-5
  )
  task = tasks.classes(2)._replace(token_logits=tasks.plain_token_logits)
  problem = dataclasses.replace(make_problem(), embeddings=table, asks=task)
  np.testing.assert_array_equal(problem.token_logits(queries), plain)


@pytest.mark.parametrize(
  "token_logits", [tasks.plain_token_logits, tasks.scaled_token_logits]
)
def test_the_token_loss_is_the_weighted_cross_entropy(token_logits):
  table = jax.random.normal(jax.random.key(0), (VOCABULARY, WIDTH))
  queries = jax.random.normal(jax.random.key(1), (2, 3, WIDTH))
  ids = jnp.array([[1, 2, 3], [4, 5, 6]])
  weights = jnp.array([[0.5, 0.5, 0.0], [1.0, 0.0, 2.0]])
  logs = jax.nn.log_softmax(token_logits(queries, table))
  expected = [
    -sum(float(weights[b, r] * logs[b, r, ids[b, r]]) for r in range(3))
    for b in range(2)
  ]
  hard = batches.Tokens(ids, weights)
  found = tasks.token_loss(queries, hard, table, token_logits)
  np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_queries_that_are_sure_of_a_token_ask_for_it():
  table = jnp.eye(VOCABULARY)
  queries = jax.random.normal(jax.random.key(1), (2, 3, VOCABULARY))
  ids, weights = jnp.array([[1, 2, 3], [4, 5, 6]]), jnp.ones((2, 3))
  sure = 1e3 * jax.nn.one_hot(ids, VOCABULARY)
  hard, soft = (
    tasks.token_loss(
      queries, batches.Tokens(x, weights), table, tasks.plain_token_logits
    )
    for x in (ids, sure)
  )
  np.testing.assert_allclose(hard, soft, rtol=1e-5)
