"""Laws of what a row counts: one of weight 2 is two rows of weight 1."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import (
  CLASSES,
  LENGTH,
  WIDTH,
  make_problem,
  make_real,
  make_small_problem,
)

from gmdistill.data import batches
from gmdistill.evaluation import protocols
from gmdistill.objectives import contract, first_order
from gmdistill.sets import synthetic, text_sets, wrappers
from gmdistill.students import outputs as student_outputs
from gmdistill.students import tasks
from gmdistill.teachers import criteria, divergences

COUNTS = np.array([2, 1, 0, 3])
TIMES = np.repeat(np.arange(4), COUNTS)
VOCABULARY = 9


def drawn(seed, *shape):
  return jax.random.normal(jax.random.key(seed), (4, *shape))


def constant(value):
  return divergences.schedule("constant", value, value, 1)


def as_rows(batch):
  """Returns the batch with weights, and with its rows as often as they say."""
  weights = jnp.asarray(COUNTS / COUNTS.mean(), jnp.float32)
  weighed = batches.weighed(dataclasses.replace(batch, weights=weights))
  return weighed, batches.take_rows(batch, TIMES)


def equal(one, two):
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6),
    one,
    two,
  )


def batch_of_classes(classes, count=2):
  labels = jax.nn.one_hot(jnp.arange(4) % classes, classes)
  return batches.Batch(
    drawn(1, LENGTH, WIDTH),
    jnp.ones((4, LENGTH), bool),
    0.9 * labels + 0.1 / classes,
    teachers=batches.TeacherTargets(
      drawn(2, count, classes), drawn(3, 2, WIDTH)
    ),
  )


def to_teachers(loss, **fields):
  return criteria.to_teachers(
    loss, weight=constant(0.7), temperature=constant(2.0), **fields
  )


OF_CLASSES = {
  **{loss: to_teachers(loss) for loss in criteria.LOSSES},
  **{
    f"{join}-{weights}": to_teachers("reverse_kl", join=join, weights=weights)
    for join in criteria.JOINS
    for weights in criteria.WEIGHTS
  },
  **{
    kind: criteria.to_features(kind, weight=0.5) for kind in criteria.FEATURES
  },
  "deepest": criteria.to_deepest(weight=0.5),
  "in_turn": criteria.in_turn(
    [to_teachers("taid"), criteria.to_deepest(weight=0.5)]
  ),
}


@pytest.mark.parametrize("name", OF_CLASSES)
def test_every_criterion_counts_a_row_with_its_weight(name):
  criterion, classes = OF_CLASSES[name], 3
  batch = batch_of_classes(classes)
  kernel = jax.random.normal(jax.random.key(4), (WIDTH, classes))
  head = {"head": {"kernel": kernel, "bias": jnp.zeros(classes)}}
  outputs = student_outputs.Outputs(
    drawn(5, classes), drawn(6, WIDTH), layers=drawn(7, 2, WIDTH)
  )
  learned = criterion.init(jax.random.key(8), outputs, batch)

  def lost(logits, batch, times):
    told = outputs._replace(
      logits=logits[times],
      features=outputs.features[times],
      layers=outputs.layers[times],
    )
    return criterion.loss(1.3, {**head, **learned}, told, batch)

  weighed, repeated = as_rows(batch)
  slope = jax.value_and_grad(lost)
  equal(
    slope(outputs.logits, weighed, np.arange(4)),
    slope(outputs.logits, repeated, TIMES),
  )


def test_what_teachers_say_of_tokens_counts_with_their_rows_weight():
  shape = (4, LENGTH, 2, 3)
  logs = jax.nn.log_softmax(drawn(9, LENGTH, 2, 4))
  ids = jnp.broadcast_to(jnp.arange(3), shape)
  tokens = batches.Tokens(
    jnp.ones((4, LENGTH), int), jnp.ones((4, LENGTH)), None, ids, logs
  )
  batch = dataclasses.replace(
    batch_of_classes(CLASSES), teachers=None, tokens=tokens
  )
  criterion = to_teachers("forward_kl")
  table, queries = drawn(1, VOCABULARY, WIDTH)[0], drawn(2, LENGTH, WIDTH)

  def lost(batch, times):
    said = tasks.Said(queries[times], table)
    outputs = student_outputs.Outputs(said, queries[times], unembedding=table)
    return criterion.loss(1.3, {}, outputs, batch)

  weighed, repeated = as_rows(batch)
  equal(lost(weighed, np.arange(4)), lost(repeated, TIMES))


def test_labels_and_attention_count_with_their_rows_weight():
  problem = make_problem(num_layers=1)
  params = problem.init(jax.random.key(0))
  batch = dataclasses.replace(
    batch_of_classes(CLASSES),
    attention=jax.nn.softmax(drawn(2, 1, 2, LENGTH)),
    teachers=None,
  )
  loss = jax.jit(jax.value_and_grad(problem.loss))
  weighed, repeated = as_rows(batch)
  equal(loss(params, weighed), loss(params, repeated))


def test_rows_of_a_posterior_count_with_their_weight():
  weighed, repeated = as_rows(batch_of_classes(CLASSES))
  for one, other in zip(
    protocols._truth_and_teacher(weighed)[1:],
    protocols._truth_and_teacher(repeated)[1:],
    strict=True,
  ):
    equal(one.mean(axis=0), other.mean(axis=0))


def test_rows_count_with_their_weight_in_the_mean_of_their_class():
  problem, real = make_small_problem(), contract.Real(make_real(1))
  objective, key = first_order.distribution_matching(), jax.random.key(0)
  batch = dataclasses.replace(batch_of_classes(CLASSES), teachers=None)

  @jax.jit
  def lost(batch):
    syn = synthetic.SyntheticSet(batch)
    return objective.loss(problem, syn, (), real, key)[0]

  weighed, repeated = as_rows(batch)  # three rows of each class
  equal(lost(weighed), lost(repeated))
  assert abs(lost(weighed) - lost(batch)) > 1e-3


def test_weights_of_texts_learned_or_read_reach_the_students():
  labels = np.eye(2, dtype=np.float32)[[0, 1, 0]]
  weights = np.array([0.5, 2.0, 0.5], np.float32)
  base = wrappers.with_row_weights(synthetic.direct())
  batch = batches.Batch(
    drawn(1, LENGTH, WIDTH)[:3],
    jnp.ones((3, LENGTH), bool),
    jnp.asarray(labels * weights[:, None]),
  )
  learned = base.decode(base.init(batch)).batch
  equal(learned.weights, weights)
  equal(learned.labels, labels * weights[:, None])
  equal(batches.unweighed(learned).labels, labels)
  rows = text_sets.of_rows(range(3), "abc", labels, weights)
  equal(rows.weights, learned.weights)
