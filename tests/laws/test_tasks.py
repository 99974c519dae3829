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

from gmdistill import errors
from gmdistill.data import batches
from gmdistill.evaluation import protocols, readings
from gmdistill.objectives import distances
from gmdistill.sets import synthetic
from gmdistill.students import adapters, problems, tasks
from gmdistill.training import fitting

ARGUMENTS = {"classes": (CLASSES,), "label_words": ((3, 11),), "next_token": ()}

TASKS = {name: make(*ARGUMENTS[name]) for name, make in tasks.TASKS.items()}


def asked(name):
  """A student that can answer: of words, a decoder without a head."""
  problem = make_problem()
  if name != "classes":
    problem = make_problem("llama", classes=0, hidden=16)
  return dataclasses.replace(problem, asks=TASKS[name])


def rows_of(name, rows):
  """Rows with classes, or with a token to follow each of their own."""
  examples = make_examples(rows)
  if name != "next_token":
    return examples
  weights = examples.mask.astype(np.float32)
  weights[:, 0] = 0.5
  targets = np.roll(examples.token_ids, -1, axis=1)
  return examples._replace(tokens=batches.Tokens(targets, weights))


def batch_of(name):
  batch = make_synthetic()
  if name != "next_token":
    return batch
  targets = jnp.arange(24).reshape(4, 6) % 5
  weights = jnp.linspace(0.0, 1.0, 24).reshape(4, 6)
  tokens = batches.Tokens(targets, weights)
  return dataclasses.replace(batch, labels=None, tokens=tokens)


@pytest.mark.parametrize("name", TASKS)
def test_a_task_answers_row_by_row(name):
  problem, batch = asked(name), batch_of(name)
  params = problem.init(jax.random.key(0))

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
  batch = batches.as_batch(rows_of(name, 4), CLASSES)
  padded = batches.without_count(batch, np.array([1, 3]))
  counts = np.asarray(TASKS[name].counts(padded))
  assert (counts[[1, 3]] == 0).all() and (counts[[0, 2]] > 0).all()


@pytest.mark.parametrize("name", TASKS)
def test_training_on_rows_raises_their_score(name):
  problem, batch = asked(name), batch_of(name)
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
  problem, rows = asked(name), rows_of(name, 10)
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
  order = readings.order(rows)
  parts = {"first": np.arange(3), "rest": np.arange(3, len(order))}
  means = readings.means(problem, stacked, buckets, parts)
  for name, at in parts.items():
    chosen = order[at]
    mean = np.average(scores[chosen], weights=counts[chosen])
    np.testing.assert_allclose(means[name], [mean], rtol=1e-5)


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


# --- language models ---------------------------------------------------------


@pytest.mark.parametrize("tied", [True, False])
def test_words_are_read_from_the_unembedding(tied):
  problem = make_problem(
    "qwen3", classes=0, hidden=16, tied=tied, vocabulary=VOCABULARY
  )
  params = problem.init(jax.random.key(0))
  rows = rows_of("next_token", 4)
  batch = jax.tree.map(jnp.asarray, batches.as_batch(rows, CLASSES))
  hidden = problem.apply(params, batch).features
  table = problem.embeddings if tied else 9 * params["unembedding"]
  params = params if tied else {**params, "unembedding": table}
  words = dataclasses.replace(problem, asks=TASKS["label_words"])
  np.testing.assert_allclose(
    words.apply(params, batch).logits,
    (hidden @ table.T)[:, np.array([3, 11])],
    rtol=1e-5,
    atol=1e-5,
  )
  tokens = dataclasses.replace(problem, asks=TASKS["next_token"])
  said = tokens.apply(params, batch).logits
  logs = jax.nn.log_softmax(said.queries @ table.T)
  expected = tasks.token_loss(
    said.queries, batch.tokens, table, tasks.plain_token_logits
  ) / batch.tokens.weights.sum(axis=1)
  assert logs.shape == (4, 6, VOCABULARY)
  np.testing.assert_allclose(
    tokens.loss(params, batch), expected.mean(), rtol=1e-5
  )
  np.testing.assert_allclose(
    tokens.score(said, batch), -expected, rtol=1e-5, atol=1e-6
  )


def test_label_words_are_one_a_class():
  assert tasks.label_words([3, 11]) == TASKS["label_words"]
  with pytest.raises(ValueError, match="are not one a class"):
    tasks.label_words([3, 3])


def test_an_adapter_is_a_student_of_any_objective():
  """What is drawn, trained and told apart is the adapter; the base is there."""
  whole = make_problem("llama", hidden=16)
  base = whole.init(jax.random.key(3))
  base = {name: x for name, x in base.items() if name != "head"}
  adapted = adapters.lora(whole.student, base, rank=2, targets=("query", "up"))
  problem, batch = adapters.over(whole, adapted), make_synthetic()
  params = problem.init(jax.random.key(0))
  assert sorted(params) == ["head", "layers"]
  grads = jax.jit(jax.grad(problem.loss))(params, batch)
  own = problem.roles
  names = {x.name for x in own.select(grads, "all")}
  assert "layers/attention/query/A" in names and "head/kernel" in names
  gap = distances.between(
    grads, grads, own, kind="tensor_cosine", matched="last_1"
  )
  np.testing.assert_allclose(gap, 0.0, atol=1e-6)
  sizes = own.movable(params)
  assert len(sizes) == 2 * 4  # a pair of two matrices in two layers
  assert (
    problem.weights_id
    != adapters.over(
      whole, adapters.lora(whole.student, params, rank=2)
    ).weights_id
  )


@pytest.mark.parametrize("name", TASKS)
def test_a_choice_by_loss_is_by_what_students_lose(name):
  task = TASKS[name]
  by_loss = tasks.chosen_by("loss", task)
  problem, batch = asked(name), batch_of(name)
  said = problem.apply(problem.init(jax.random.key(1)), batch).logits
  lost = task.loss(said, batch, problem.embeddings)
  scores = by_loss.score(said, batch, problem.embeddings)
  assert by_loss.unit == "nats" and by_loss.smaller_is_better
  if name == "next_token":  # whose score that is
    assert by_loss is task
  else:
    np.testing.assert_array_equal(scores, -lost)
  assert tasks.chosen_by("score", task) is task
  with pytest.raises(errors.InputError, match="selection.by"):
    tasks.chosen_by("nats", task)
