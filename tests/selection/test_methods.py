"""Laws of every method of selection, and of each by itself on toys."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import CLASSES, LENGTH, make_examples, make_problem

from gmdistill import errors
from gmdistill.data import batches
from gmdistill.selection import (
  greedy,
  methods,
  pools,
  row_gradients,
  scores,
  warm_students,
)
from gmdistill.students import tasks
from gmdistill.training import optimizers

OPTIONS = pools.Options(
  num_students=1,
  num_steps=8,
  checkpoints=2,
  batch_size=16,
  learning_rate=0.02,
  sgd_rate=0.5,
  chunk=16,
  sketch=64,
)
PROBLEM = make_problem("textcnn")
OF_CLASSES = [x for x in methods.METHODS if x not in methods.OF_LANGUAGE]
each_method = pytest.mark.parametrize("name", OF_CLASSES)


def make_pool(rows=48, problem=PROBLEM, seed=0):
  return pools.Pool(
    problem, make_examples(rows, seed=seed), make_examples(16, seed=9), CLASSES
  )


def scored(name, pool, seed=1, per_class=3, options=OPTIONS):
  return methods.METHODS[name](
    pool, per_class=per_class, seed=seed, options=options
  )


@each_method
def test_rows_are_of_every_class_once_and_a_function_of_the_seed(name):
  pool = make_pool()
  scores_P = scored(name, pool)
  np.testing.assert_array_equal(scores_P, scored(name, pool))
  assert scores_P.shape == (48,) and not np.isinf(scores_P).any()
  chosen = pools.best(scores_P, pool, 3)
  assert pool.rows.labels[chosen].tolist() == [0, 0, 0, 1, 1, 1]
  assert len(set(chosen.tolist())) == 6
  for of_class in (chosen[:3], chosen[3:]):  # the most wanted first
    assert (np.diff(scores_P[of_class]) <= 0).all()
  tokens = int(1.5 * pool.lengths.mean())
  few = pools.best(scores_P, pool, 3, tokens)
  for label in range(CLASSES):
    own = few[pool.rows.labels[few] == label]
    assert 0 < pool.lengths[own].sum() <= tokens


@pytest.mark.parametrize("name", methods.IN_ORDER)
def test_rows_that_are_chosen_one_by_one_fill_a_budget_of_tokens(name):
  pool = make_pool(80)
  tokens = 7 * int(pool.lengths.max())
  within = pools.rows_within(pool, tokens)
  scores_P = scored(name, pool, per_class=within)
  if name != "random":  # which draws others
    np.testing.assert_array_equal(
      pools.best(scores_P, pool, 3),
      pools.best(scored(name, pool, per_class=3), pool, 3),
    )
  chosen = pools.best(scores_P, pool, within, tokens)
  for label in range(CLASSES):
    of_class = np.flatnonzero(pool.rows.labels == label)
    own = np.intersect1d(chosen, of_class)
    left = tokens - pool.lengths[own].sum()
    others = np.setdiff1d(of_class, own)
    assert 0 <= left < pool.lengths[others].max()


@pytest.mark.parametrize("name", methods.METHODS)
def test_a_method_says_what_it_takes_first(name):
  said = methods.about(name)
  assert said.endswith(".") and "\n" not in said and len(said) > 20


@pytest.mark.parametrize("name", ["less", "shapley"])
def test_mislabelled_rows_are_worth_the_least(name):
  pool = make_pool(60)
  labels = pool.rows.labels.copy()
  labels[:6] = 1 - labels[:6]
  pool = pool._replace(rows=pool.rows._replace(labels=labels))
  options = dataclasses.replace(OPTIONS, num_steps=16, sgd_rate=0.1, epochs=6)
  found = scored(name, pool, options=options)
  assert found[:6].mean() < found[6:].mean()


def test_the_hardest_rows_are_the_mislabelled_ones_to_el2n_and_grand():
  pool = make_pool(60)
  labels = pool.rows.labels.copy()
  labels[:6] = 1 - labels[:6]
  pool = pool._replace(rows=pool.rows._replace(labels=labels))
  options = dataclasses.replace(OPTIONS, num_steps=40)
  for name in ("el2n", "grand"):
    found = scored(name, pool, options=options)
    assert found[:6].min() > np.median(found[6:]), name


def test_el2n_is_the_mean_length_of_the_error():
  pool = make_pool(20)
  options = dataclasses.replace(OPTIONS, num_students=2)
  batch = batches.as_batch(pool.rows, CLASSES)
  lengths = []
  for seed in (1, 2):
    warm = warm_students.along_training(pool, options, seed)[-1]
    said = jax.nn.softmax(PROBLEM.apply(warm.params, batch).logits)
    lengths.append(np.linalg.norm(said - batch.labels, axis=1))
  found = scored("el2n", pool, options=options)
  np.testing.assert_allclose(found, np.mean(lengths, axis=0), rtol=1e-4)


def test_a_warm_up_takes_as_many_steps_as_it_is_told_however_often_it_is_seen():
  pool = make_pool(20)
  options = dataclasses.replace(OPTIONS, num_steps=10, checkpoints=4)
  seen = warm_students.along_training(pool, options, 1)
  assert [int(warm.updates) for warm in seen] == [2, 5, 7, 10]
  once = dataclasses.replace(options, checkpoints=1)
  (last,) = warm_students.along_training(pool, once, 1)
  for one, other in zip(
    jax.tree.leaves(seen[-1].params), jax.tree.leaves(last.params), strict=True
  ):
    np.testing.assert_allclose(one, other, atol=1e-6)


def test_a_rows_gradient_is_the_same_in_any_chunk():
  pool = make_pool(10)
  params = PROBLEM.init(jax.random.key(0))
  batch = batches.as_batch(pool.rows, CLASSES)

  def of_row(problem, params, row):
    return row_gradients.sketch(
      row_gradients.gradient(problem, params, row, "all"), 4096
    )

  few, many = (
    row_gradients.each(PROBLEM, params, batch, of_row, chunk)
    for chunk in (4, 64)
  )
  np.testing.assert_allclose(few, many, rtol=1e-4, atol=1e-6)
  whole = PROBLEM.roles.keep(jax.grad(PROBLEM.loss)(params, batch), "all")
  mean = np.concatenate([np.ravel(x) for x in jax.tree.leaves(whole)])
  assert row_gradients.size(PROBLEM, "all") == len(mean) <= 4096
  np.testing.assert_allclose(
    few.mean(axis=0)[: len(mean)], mean, rtol=1e-3, atol=1e-6
  )


def test_products_of_sketches_are_those_of_the_numbers_on_average():
  key = jax.random.key(3)
  a, b = (
    {"x": jax.random.normal(k, (40, 30)), "y": jax.random.normal(k, (50,))}
    for k in jax.random.split(key)
  )
  b = jax.tree.map(lambda x, y: x + y, a, b)
  exact = sum(
    float((x * y).sum())
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
  )
  sketched = [
    float(row_gradients.sketch(a, 128, i) @ row_gradients.sketch(b, 128, i))
    for i in range(30)
  ]
  error = np.std(sketched) / np.sqrt(30)
  assert abs(np.mean(sketched) - exact) < 3 * error
  assert np.std(sketched) < 0.5 * exact


def test_adams_direction_is_the_step_that_adam_would_take():
  tree = {"x": jnp.array([0.5, -2.0, 0.0])}
  adam = optax.adam(1.0, optimizers.B1, optimizers.B2, optimizers.EPSILON)
  state = adam.init(tree)
  for scale in (1.0, -0.3):
    _, state = adam.update(jax.tree.map(lambda x, s=scale: s * x, tree), state)
  grads = {"x": jnp.array([0.1, 0.2, 0.3])}
  moments = state[0]
  found = scores.adam_direction(grads, moments.mu, moments.nu, moments.count)
  updates, _ = adam.update(grads, state)
  np.testing.assert_allclose(found["x"], -updates["x"], rtol=1e-4)


def test_shares_of_a_step_add_up_to_what_it_takes_off_the_loss():
  pool = make_pool(8)
  rows = batches.as_batch(pool.rows, CLASSES)
  wanted = batches.as_batch(pool.validation, CLASSES)
  params = PROBLEM.init(jax.random.key(0))
  counts = np.array([1.0] * 6 + [0.0] * 2, np.float32)
  moved, shares = scores.sgd_step(PROBLEM, params, rows, wanted, counts, 2e-3)
  gain = PROBLEM.loss(params, wanted) - PROBLEM.loss(moved, wanted)
  assert float(gain) > 0
  np.testing.assert_allclose(shares.sum(), gain, rtol=0.05)
  np.testing.assert_array_equal(shares[6:], 0)


def test_shapley_values_of_a_run_are_what_the_run_takes_off_the_loss(
  monkeypatch,
):
  pool = make_pool(32)
  options = dataclasses.replace(OPTIONS, sgd_rate=2e-3, epochs=2)
  students, step = [], scores.sgd_step

  def watched(problem, params, *others):
    moved, gains = step(problem, params, *others)
    students.extend([params, moved])
    return moved, gains

  monkeypatch.setattr(scores, "sgd_step", watched)
  total = scored("shapley", pool, options=options).sum()
  wanted = batches.as_batch(pool.validation, CLASSES)
  before, after = (PROBLEM.loss(students[i], wanted) for i in (0, -1))
  assert float(before - after) > 0
  np.testing.assert_allclose(total, before - after, rtol=0.1)


def test_a_facility_is_the_middle_of_a_cloud_then_that_of_another(monkeypatch):
  # Two clouds of directions: around 0 and around 90 degrees, five and three.
  degrees = np.array([-8, -4, 0, 5, 9, 85, 90, 96])
  directions = np.stack([np.cos(degrees * np.pi / 180)] * 2, axis=1)
  directions[:, 1] = np.sin(degrees * np.pi / 180)
  monkeypatch.setattr(
    greedy.features, "features", lambda *_: directions.astype(np.float32)
  )
  rows = batches.take(make_examples(8), np.arange(8))
  pool = make_pool()._replace(
    rows=rows._replace(labels=np.zeros(8, np.int32)), num_classes=1
  )
  chosen = pools.best(scored("facility_location", pool, per_class=2), pool, 2)
  # The first is drawn a little to the others, from the middle of the five.
  assert chosen.tolist() in ([2, 6], [3, 6], [4, 6], [3, 7])


def test_matching_rows_go_the_classes_way_further_than_random_ones():
  pool = make_pool(80)
  params = warm_students.warmed_up(pool, OPTIONS, 1)[0]
  batch = batches.as_batch(pool.rows, CLASSES)

  def of_row(problem, params, row):
    return row_gradients.sketch(
      row_gradients.gradient(problem, params, row, "head"), 64
    )

  grads = row_gradients.each(PROBLEM, params, batch, of_row, 16)

  def cosine(rows):
    own = grads[rows[pool.rows.labels[rows] == 0]].mean(axis=0)
    whole = grads[pool.rows.labels == 0].mean(axis=0)
    return own @ whole / np.linalg.norm(own) / np.linalg.norm(whole)

  matched = cosine(pools.best(scored("matching", pool), pool, 3))
  drawn = [
    cosine(pools.best(scored("random", pool, seed=i), pool, 3))
    for i in range(5)
  ]
  assert matched > np.mean(drawn) and matched > 0.9


def test_length_matched_rows_are_as_long_as_their_class():
  pool = make_pool(200)
  gaps = []
  for seed in range(5):
    rows = pools.best(
      scored("length_matched", pool, seed, per_class=10), pool, 10
    )
    gaps.append(pool.lengths[rows].mean() - pool.lengths.mean())
  assert np.abs(gaps).max() < 0.3


# -- instruction-following difficulty -----------------------------------------


def language_pool():
  """Rows of a question of three tokens and an answer of two or three."""
  examples = make_examples(12)
  ids = np.where(examples.mask, examples.token_ids, 0)
  weights = np.zeros(ids.shape, np.float32)
  weights[:, 2:] = examples.mask[:, 2:]
  weights[:, -1] = 0  # nothing follows the last
  targets = np.roll(ids, -1, axis=1)
  rows = examples._replace(tokens=batches.Tokens(targets, weights))
  problem = make_problem("llama", classes=0, hidden=16)
  problem = dataclasses.replace(problem, asks=tasks.next_tokens())
  return make_pool()._replace(problem=problem, rows=rows)


def test_an_answer_alone_has_its_own_tokens_and_no_question():
  pool = language_pool()
  asked, alone = scores.with_and_without_question(pool.rows)
  row = int(pool.lengths.argmax())
  ids = pool.rows.token_ids[row]
  assert alone.token_ids[row, : LENGTH - 3].tolist() == ids[3:].tolist()
  assert not alone.mask[row, LENGTH - 3 :].any()
  counted = alone.tokens.weights[row] > 0
  assert alone.tokens.targets[row][counted].tolist() == ids[4:].tolist()
  # The same answers' tokens count in both.
  np.testing.assert_array_equal(
    asked.tokens.weights.sum(axis=1), alone.tokens.weights.sum(axis=1)
  )


def test_rows_whose_question_misleads_are_dropped():
  pool = language_pool()
  found = scored("ifd", pool)
  assert np.isnan(found).any() and (found[~np.isnan(found)] <= 1).all()
  asked, alone = scores.with_and_without_question(pool.rows)
  params = pool.problem.init(jax.random.key(1))
  row = int(np.flatnonzero(~np.isnan(found))[0])

  def loss(rows):
    one = batches.as_batch(batches.take(rows, [row]), CLASSES)
    return float(pool.problem.loss(params, one))

  assert found[row] == pytest.approx(loss(asked) / loss(alone), rel=1e-4)


def test_a_language_model_has_no_head_and_no_classes():
  pool = language_pool()
  with pytest.raises(errors.InputError, match="subset.matched=all"):
    methods.require(pool, "less", OPTIONS)
  methods.require(pool, "less", dataclasses.replace(OPTIONS, matched="all"))
  with pytest.raises(errors.InputError, match="el2n.*such as ifd"):
    methods.require(pool, "el2n", OPTIONS)


def test_a_student_of_classes_has_no_answers():
  with pytest.raises(errors.InputError, match="ifd.*language model"):
    scored("ifd", make_pool())


def test_texts_have_no_question_to_be_read_without():
  pool = language_pool()
  tokens = dataclasses.replace(
    pool.rows.tokens, weights=pool.rows.mask.astype(np.float32)
  )
  texts = pool._replace(rows=pool.rows._replace(tokens=tokens))
  with pytest.raises(errors.InputError, match="texts, which have none"):
    methods.require(texts, "ifd", OPTIONS)
  methods.require(pool, "ifd", OPTIONS)
  # All methods are those that read such rows.
  of_classes, of_answers, of_texts = (
    set(methods.METHODS) - set(methods.of_kind(x))
    for x in (make_pool(), pool, texts)
  )
  assert of_classes == {"ifd"} and of_answers == {"el2n"}
  assert of_texts == {"el2n", "ifd"}


def test_memory_is_that_of_a_chunk_and_of_the_sketches():
  pool = make_pool()
  assert methods.memory(pool, "el2n", OPTIONS) == 0
  small = methods.memory(pool, "grand", OPTIONS)
  assert small == 4 * 3 * 16 * row_gradients.size(PROBLEM, "head")
  assert methods.memory(pool, "less", OPTIONS) == small + 4 * 48 * 64
