"""Baselines on toys that can be checked by hand."""

import json
import tracemalloc

import jax
import numpy as np
import pytest
import tiny_config
from conftest import make_examples, make_problem

from gmdistill import errors
from gmdistill.data import batches, samplers
from gmdistill.evaluation import baselines
from gmdistill.runs.config import assembly, outputs, settings
from gmdistill.selection import coresets
from gmdistill.selection import features as student_features


def test_herding_follows_the_class_mean_on_a_hand_computed_toy():
  # Class 0: mean 3. The nearest row is 2; then (2 + x) / 2 is nearest to 3 for
  # x = 4; then (6 + x) / 3 = 3 for x = 3... of the rest 0 and 6, 6 gives 4 and
  # 0 gives 2: a tie that the first row wins.
  features = np.array([[0.0], [2.0], [4.0], [6.0], [10.0], [14.0]])
  labels = np.array([0, 0, 0, 0, 1, 1])
  assert coresets.herding(features, labels, 1).tolist() == [1, 4]
  assert coresets.herding(features[:4], labels[:4], 3).tolist() == [1, 2, 0]


def test_k_centers_takes_the_row_nearest_each_centroid():
  # Two clouds a class, around 0 and 10 and around 100 and 200; the middle row
  # of each three is nearest its centroid.
  clouds = [-1, 0, 1.2, 9, 10, 11.3, 99, 100, 101.2, 199, 200, 201.2]
  features = np.array(clouds)[:, None]
  labels = np.repeat([0, 1], 6)
  chosen = coresets.k_centers(features, labels, 2)
  assert sorted(chosen[:2].tolist()) == [1, 4]
  assert sorted(chosen[2:].tolist()) == [7, 10]


def test_k_centers_never_takes_a_row_twice():
  features = np.zeros((6, 2))
  features[3:] = 1.0
  labels = np.zeros(6, int)
  chosen = coresets.k_centers(features, labels, 4)  # and warns of nothing
  assert len(set(chosen.tolist())) == 4


def test_long_rows_are_preferred_where_there_are_enough():
  examples = make_examples(60)
  rows = coresets.choose_long(
    "random", make_problem(), examples, 6, per_class=2
  )
  assert (examples.mask[rows].sum(axis=1) == 6).all()
  few = batches.take(examples, np.flatnonzero(examples.mask.sum(axis=1) < 6))
  rows = coresets.choose_long("random", make_problem(), few, 6, per_class=2)
  assert len(rows) == 4


def test_features_are_those_of_the_student_whatever_the_chunk():
  problem, examples = make_problem(), make_examples(10)
  params = problem.init(jax.random.key(0))
  one = student_features.features(problem, params, examples, rows=4)
  two = student_features.features(problem, params, examples, rows=64)
  np.testing.assert_allclose(one, two, atol=1e-6)
  assert one.shape == (10, 8)


def test_features_of_short_rows_are_those_of_padded_ones():
  problem, examples = make_problem(), make_examples(10)
  params = problem.init(jax.random.key(0))
  one = student_features.features(problem, params, examples, rows=1)
  lengths_N = examples.mask.sum(axis=1)
  assert len(set(lengths_N)) > 1
  alone = [
    student_features.features(problem, params, batches.take(examples, [i]))
    for i in range(10)
  ]
  np.testing.assert_allclose(one, np.concatenate(alone), atol=1e-5)


def test_means_of_many_rows_vectors_are_taken_a_few_rows_at_a_time():
  problem, examples = make_problem(), make_examples(20)
  many = batches.take(examples, np.arange(4096) % 20)
  many = many._replace(
    token_ids=np.tile(many.token_ids, 20), mask=np.tile(many.mask, 20)
  )
  tracemalloc.start()
  found = student_features.mean_vectors(problem, many)
  _, peak = tracemalloc.get_traced_memory()
  tracemalloc.stop()
  mask = examples.mask[..., None]
  table = np.asarray(problem.embeddings)
  expected = (table[examples.token_ids] * mask).sum(1) / mask.sum(1)
  np.testing.assert_allclose(found[:20], expected, atol=1e-5)
  whole = many.token_ids.size * table.shape[1] * 4
  assert peak < whole / 4


def test_too_few_rows_and_unknown_methods_are_refused():
  examples = make_examples(6)
  with pytest.raises(errors.InputError, match="3 rows.*at most 3"):
    coresets.choose("random", make_problem(), examples, per_class=4)
  with pytest.raises(errors.InputError, match="random, herding, k_centers"):
    coresets.choose("nearest", make_problem(), examples, per_class=1)


def test_representatives_spread_over_a_class_and_are_refreshed():
  examples, problem = make_examples(80), make_problem()

  def build(rows_per_class, each=1):
    choice = coresets.representatives(
      problem,
      examples,
      rows_per_class=rows_per_class,
      num_classes=2,
      pool=30,
      seed=0,
    )
    return coresets.refreshed(choice, refresh=3, each=each)

  sampler = build(rows_per_class=4)
  batch = sampler(0)
  assert batch.labels.argmax(-1).tolist() == [0] * 4 + [1] * 4
  np.testing.assert_array_equal(batch.inputs, sampler(2).inputs)
  assert not np.array_equal(batch.inputs, sampler(3).inputs)
  np.testing.assert_array_equal(batch.inputs, sampler(0).inputs)
  several = build(rows_per_class=4, each=2)
  # Two batches a step, of two choices, for three steps.
  np.testing.assert_array_equal(several(0).inputs, several(4).inputs)
  assert not np.array_equal(several(0).inputs, several(1).inputs)
  assert not np.array_equal(several(0).inputs, several(6).inputs)
  with pytest.raises(errors.InputError, match="rows_per_class=41"):
    build(rows_per_class=41)
  # Their mean feature is nearer the class's than a random batch's is.
  params = problem.init(jax.random.key(0))
  features = student_features.features(problem, params, examples)
  random = samplers.class_balanced_sampler(
    examples, rows_per_class=4, num_classes=2, seed=0
  )

  def gap(draw):
    gaps = []
    for step in range(0, 60, 3):
      rows = draw(step)
      own = batches.Examples(rows.inputs, rows.mask, rows.labels.argmax(-1))
      found = student_features.features(problem, params, own)
      for label in (0, 1):
        mean = features[examples.labels == label].mean(axis=0)
        gaps.append(np.square(found[own.labels == label].mean(0) - mean).sum())
    return np.mean(gaps)

  assert gap(sampler) < 0.8 * gap(random)


@pytest.mark.parametrize("name", ["replay", "bayes"])
def test_a_cached_row_is_of_its_own_steps(name, monkeypatch):
  config = tiny_config.get_config()
  config.bayes.start = "replay"
  setup, kept = assembly.setup(settings.recipe(config)), []

  def cached(self, decides, protocol, measured):
    kept.append(json.dumps([decides, protocol.identity]))

  monkeypatch.setattr(baselines.Table, "_cached", cached)
  for changes in ({}, {"step_schedule": "linear"}, {"replay_steps": 3}):
    config.update(changes)
    protocol = assembly.protocol(settings.recipe(config), name)
    table = outputs.table(setup, settings.recipe(config))
    table.coreset(name, protocol, "herding")
  assert len(set(kept)) == 3
