"""Training students, one and many."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import (
  LENGTH,
  as_float64,
  make_examples,
  make_problem,
  make_small_problem,
  make_synthetic,
)

from gmdistill.data import batches, samplers
from gmdistill.evaluation import (
  gradient_cosine,
  measuring,
  protocols,
  readings,
  trainers,
)
from gmdistill.objectives import contract, distances
from gmdistill.sets import synthetic
from gmdistill.training import constant_memory, fitting, replays

NUM_STEPS = 5


def fit(problem, batch, key, batch_size=3):
  return fitting.fit(
    problem,
    batch,
    optax.adam(1e-2),
    num_steps=NUM_STEPS,
    batch_size=batch_size,
    key=key,
  )


def test_vmapped_training_equals_a_loop_over_seeds():
  problem, batch = make_small_problem(), make_synthetic()
  keys = jax.random.split(jax.random.key(0), 3)
  train = jax.jit(lambda key: fit(problem, batch, key))
  stacked = jax.jit(jax.vmap(train))(keys)
  other = make_synthetic(seed=9)
  for i, key in enumerate(keys):
    one = jax.tree.map(lambda x, i=i: x[i], stacked)
    alone = train(key)
    np.testing.assert_allclose(
      problem.apply(one, other).logits,
      problem.apply(alone, other).logits,
      atol=1e-4,
    )


def test_training_lowers_the_loss_and_depends_on_its_key_alone():
  problem, batch = make_small_problem(), make_synthetic()
  key = jax.random.key(0)
  train = jax.jit(lambda key: fit(problem, batch, key))
  one, two = train(key), train(key)
  jax.tree.map(np.testing.assert_array_equal, one, two)
  before = problem.loss(problem.init(jax.random.split(key)[0]), batch)
  assert problem.loss(one, batch) < before


def test_an_epoch_takes_every_row_once():
  rows = fitting.shuffled_rows(jax.random.key(0), 12, 6, 4)
  assert rows.shape == (6, 4)
  for epoch in (rows[:3], rows[3:]):
    assert sorted(np.ravel(epoch).tolist()) == list(range(12))
  whole = fitting.shuffled_rows(jax.random.key(0), 3, 2, 4)
  np.testing.assert_array_equal(whole, [[0, 1, 2], [0, 1, 2]])


@pytest.mark.parametrize("rows", [1, 7, 64])
def test_length_buckets_count_every_row_once(rows):
  problem, examples = make_small_problem(), make_examples(41)
  keys = jax.random.split(jax.random.key(0), 2)
  params = jax.jit(jax.vmap(problem.init))(keys)
  buckets = readings.length_buckets(examples, 2, rows=rows)
  found = readings.accuracies(problem, params, buckets)
  batch = batches.as_batch(examples, 2)
  for i in range(2):
    one = jax.tree.map(lambda x, i=i: x[i], params)
    logits = problem.apply(one, jax.tree.map(jnp.asarray, batch)).logits
    expected = (logits.argmax(-1) == examples.labels).mean()
    assert found[i] == pytest.approx(float(expected))


PROTOCOLS = {
  "scratch": protocols.fine_tuning(
    num_steps=4, batch_size=3, rates=(1e-2, 1e-1), num_students=5
  ),
  "replay": protocols.replaying(num_steps=3, rates=(0.1, 1.0), num_students=5),
}


def splits():
  buckets = readings.length_buckets(make_examples(30), 2)
  return measuring.Splits(
    buckets, readings.length_buckets(make_examples(26), 2)
  )


@pytest.mark.parametrize(
  "name, learned_steps",
  [("scratch", False), ("replay", False), ("replay", True)],
)
def test_chunks_of_students_equal_a_loop(name, learned_steps):
  problem = make_small_problem()
  rates = jnp.array([0.5, 0.1]) if learned_steps else None
  sets = measuring.stacked(synthetic.SyntheticSet(make_synthetic(), rates))
  found = []
  for at_once in (1, 2):
    trainer = trainers.Trainer(problem, PROTOCOLS[name], at_once)
    key = jax.random.key(3)
    keys = jax.random.split(key, 5)
    params = [
      trainer(sets, keys[i : i + at_once], PROTOCOLS[name].rates[0], i)[0]
      for i in range(0, 5 - 5 % at_once, at_once)
    ]
    stacked = jax.tree.map(lambda *xs: np.concatenate(xs)[:4], *params)
    # Logits, not parameters: Adam blows the key biases' rounding errors up.
    apply = jax.jit(jax.vmap(problem.apply, (0, None)))
    found.append(apply(stacked, make_synthetic(seed=9)).logits)
  np.testing.assert_allclose(*found, atol=1e-4)


def test_every_student_of_a_random_row_trains_on_its_own_set():
  problem = make_small_problem()
  sets = [synthetic.SyntheticSet(make_synthetic(seed=i)) for i in range(3)]
  stacked = jax.tree.map(lambda *xs: jnp.stack(xs), *sets)
  protocol = PROTOCOLS["replay"]
  trainer = trainers.Trainer(problem, protocol, 2)
  train = jax.jit(protocol.train)
  keys = jax.random.split(jax.random.key(0), 2)
  params, _ = trainer(stacked, keys, (0.1, 0.2), 2)
  for i, index in enumerate((2, 0)):
    alone = train(problem, sets[index], keys[i], jnp.array([0.1, 0.2]))
    jax.tree.map(
      lambda a, b, i=i: np.testing.assert_allclose(a[i], b, atol=1e-5),
      params,
      alone,
    )


def test_the_selection_split_chooses_the_rate():
  problem = make_small_problem()
  examples = make_examples(60)
  buckets = readings.length_buckets(examples, 2)
  batch = jax.tree.map(jnp.asarray, batches.as_batch(examples, 2))
  sets = measuring.stacked(synthetic.SyntheticSet(batch))
  protocol = protocols.fine_tuning(
    num_steps=60, batch_size=16, rates=(1e-9, 3e-2), num_students=2
  )
  found = measuring.measure(
    trainers.Trainer(problem, protocol, 2),
    sets,
    measuring.Splits(buckets, buckets),
  )
  assert found.rate == 3e-2
  assert found.row()["mean"] > 0.9
  assert found.row()["n"] == 2 and found.seconds > 0


@pytest.mark.parametrize("metrics", [(), ("nats", "macro_f1")])
def test_groups_and_metrics_read_every_row_once_and_change_no_accuracy(
  metrics, monkeypatch
):
  problem, examples = make_small_problem(), make_examples(41)
  examples = examples._replace(groups=np.arange(41) % 3)
  buckets = readings.length_buckets(examples, 2)
  groups = readings.groups(examples, "abc")
  sets = measuring.stacked(synthetic.SyntheticSet(make_synthetic()))
  protocol = protocols.replaying(num_steps=2, rates=(0.3,), num_students=2)
  trainer = trainers.Trainer(problem, protocol, 2)
  bare = measuring.measure(trainer, sets, measuring.Splits(buckets, buckets))
  passes = []
  for name in ("accuracies", "means", "values"):
    of = getattr(readings, name)
    monkeypatch.setattr(
      readings, name, lambda *x, of=of: passes.append(of) or of(*x)
    )
  splits = measuring.Splits(buckets, buckets, groups, metrics)
  told = measuring.measure(trainer, sets, splits)
  assert len(passes) == 1
  np.testing.assert_allclose(told.accuracies, bare.accuracies, atol=1e-6)
  sizes = [len(groups[name]) for name in "abc"]
  each = [told.by_group[name] for name in "abc"]
  assert np.average(each, weights=sizes) == pytest.approx(
    bare.accuracies.mean(), abs=1e-6
  )
  assert set(told.metrics) == set(metrics)
  assert set(told.metrics_by_group) == (set("abc") if metrics else set())


def test_a_diverged_student_is_right_of_nothing_and_reported_of_nobody():
  """64 % of the rows are of the class that a NaN would be taken for."""
  problem = make_small_problem()
  examples = make_examples(50)
  examples = examples._replace(labels=(np.arange(50) % 25 > 15).astype(int))
  buckets = readings.length_buckets(examples, 2)
  sets = measuring.stacked(
    synthetic.SyntheticSet(
      jax.tree.map(jnp.asarray, batches.as_batch(examples, 2))
    )
  )
  protocol = protocols.fine_tuning(
    num_steps=4, batch_size=16, rates=(1e30, 1e-3), num_students=2
  )
  parts = measuring.Splits(buckets, buckets)
  found = measuring.measure(trainers.Trainer(problem, protocol, 2), sets, parts)
  assert found.rate == 1e-3 and np.isfinite(found.accuracies).all()
  protocol = protocol._replace(rates=(1e30,))
  found = measuring.measure(trainers.Trainer(problem, protocol, 2), sets, parts)
  assert np.isnan(found.accuracies).all()
  assert measuring.chosen_by(found.accuracies, problem.task) == 0.0


def test_scratch_starts_from_random_weights_whatever_is_pretrained():
  problem, batch = make_small_problem(), make_synthetic()
  initial = problem.init(jax.random.key(5))
  pretrained = problem.replace(initial=initial)
  still = {"num_steps": 2, "rates": (0.0,), "weight_decay": 0.0}
  sets, key = synthetic.SyntheticSet(batch), jax.random.key(1)
  kernel = lambda p: p["conv_3"]["kernel"]  # noqa: E731
  fresh, tuned = (
    kernel(
      protocols.fine_tuning(fresh=x, **still).train(pretrained, sets, key, 0.0)
    )
    for x in (True, False)
  )
  np.testing.assert_array_equal(tuned, kernel(initial))
  drawn = problem.init(jax.random.split(key)[0])
  np.testing.assert_array_equal(fresh, kernel(drawn))


def test_a_set_with_its_own_steps_chooses_no_rate():
  problem = make_small_problem()
  syn = synthetic.SyntheticSet(make_synthetic(), jnp.array([0.5, 0.1]))
  found = measuring.measure(
    trainers.Trainer(problem, PROTOCOLS["replay"], 5),
    measuring.stacked(syn),
    splits(),
  )
  assert found.rate == PROTOCOLS["replay"].rates[0]


def test_the_gradient_cosine_of_real_rows_with_themselves_is_one():
  problem = make_problem()
  examples = make_examples(8)
  order = np.argsort(examples.labels, kind="stable")
  sampler = lambda step: batches.as_batch(batches.take(examples, order), 2)  # noqa: E731
  batch = jax.tree.map(jnp.asarray, sampler(0))
  walks = gradient_cosine.Walks(1e-2, num_students=2, num_steps=4, every=2)
  cosines, by_layer = gradient_cosine.gradient_cosines(
    problem, synthetic.SyntheticSet(batch), sampler, walks
  )
  np.testing.assert_allclose(cosines, 1.0, atol=1e-5)
  layers = ["embedding_norm", "layer 1", "layer 2", "pooler", "head"]
  assert list(by_layer) == layers
  np.testing.assert_allclose(list(by_layer.values()), 1.0, atol=1e-5)


def test_the_gradient_cosine_is_that_of_students_trained_step_by_step(capfd):
  problem, every = make_small_problem(), 2
  # Padding that no row needs is cut: it changes nothing.
  examples = make_examples()
  wide = lambda x: np.pad(x, ((0, 0), (0, 30)))  # noqa: E731
  examples = examples._replace(
    token_ids=wide(examples.token_ids), mask=wide(examples.mask)
  )
  long = problem.student.clone(max_positions=LENGTH + 30)
  problem = problem.replace(student=long)
  sampler = samplers.class_balanced_sampler(
    examples, rows_per_class=3, num_classes=2, seed=0
  )
  syn = make_synthetic()
  gradient, optimizer = jax.jit(jax.grad(problem.loss)), optax.adamw(1e-2)
  seen = []
  for student in range(2):
    params = problem.init(jax.random.key(student))
    state = optimizer.init(params)
    for t in range(2 * every):
      real = jax.tree.map(jnp.asarray, sampler(student * 2 * every + t))
      if t % every == 0:
        split = [contract.by_group(x, 2) for x in (syn, real)]
        for c in range(2):
          pair = (jax.tree.map(lambda x, c=c: x[c], part) for part in split)
          grads = [gradient(params, rows) for rows in pair]
          seen.append(distances.cosine(*grads, problem.roles, "all"))
      updates, state = optimizer.update(gradient(params, real), state, params)
      params = optax.apply_updates(params, updates)
  walks = gradient_cosine.Walks(1e-2, 2, num_steps=2 * every, every=every)
  cosines, _ = gradient_cosine.gradient_cosines(
    problem, synthetic.SyntheticSet(syn), sampler, walks
  )
  want = np.reshape(seen, (-1, 2)).mean(axis=0)
  np.testing.assert_allclose(cosines, want, atol=1e-4)
  assert "gradient cosines of 2 students" in capfd.readouterr().err


def test_constant_memory_gives_the_steps_and_the_gradient_of_each_step(x64):
  """Equal to the unrolled loop whose steps forget where they came from."""
  problem = as_float64(make_small_problem())
  batch = as_float64(make_synthetic())
  rates = jnp.array([0.3, 0.2, 0.1])
  order = jnp.array([[0, 2], [1, 3], [0, 3]])
  start = as_float64(problem.init(jax.random.key(0)))
  target = as_float64(problem.init(jax.random.key(1)))

  def distance(params):
    return sum(
      jnp.square(a - b).sum()
      for a, b in zip(*map(jax.tree.leaves, (params, target)), strict=True)
    )

  def ours(inputs, labels, rates, head_rates):
    own = dataclasses.replace(batch, inputs=inputs, labels=labels)
    steps = replays.Steps(rates, head_rates, order)
    return distance(constant_memory.replay(problem, start, own, steps))

  def forgetful(inputs, labels, rates, head_rates):
    params = start
    for rate, head, rows in zip(rates, head_rates, order, strict=True):
      own = dataclasses.replace(batch, inputs=inputs, labels=labels)
      taken = jax.tree.map(lambda x, r=rows: x[r], own)
      here = jax.lax.stop_gradient(params)
      grads = jax.grad(problem.loss)(here, taken)
      params = {
        name: jax.tree.map(
          lambda p, g, r=head if name == "head" else rate: p - r * g,
          params[name],
          grads[name],
        )
        for name in params
      }
    return distance(params)

  at = (batch.inputs, batch.labels, rates, 3 * rates)
  a, b = (
    jax.jit(jax.value_and_grad(f, argnums=(0, 1, 2, 3)))(*at)
    for f in (ours, forgetful)
  )
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-8), a, b)


def test_constant_memory_does_not_grow_with_the_steps():
  problem = make_small_problem()
  batch = make_synthetic()
  start = problem.init(jax.random.key(0))

  def temporary(steps, num_steps):
    def value(inputs):
      own = dataclasses.replace(batch, inputs=inputs)
      sizes = replays.Steps(jnp.full((num_steps,), 0.1))
      return optax.tree.norm(steps(problem, start, own, sizes))

    program = jax.jit(jax.grad(value)).lower(batch.inputs).compile()
    return program.memory_analysis().temp_size_in_bytes

  constant = constant_memory.replay
  assert temporary(constant, 64) < 1.05 * temporary(constant, 4) + 4096
  assert temporary(replays.replay, 64) > 2 * temporary(replays.replay, 4)
