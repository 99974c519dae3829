"""Posteriors of students, their intervals, and calibration."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny_config
from conftest import (
  make_examples,
  make_problem,
  make_small_problem,
  make_synthetic,
)

from gmdistill import errors, main
from gmdistill.data import batches
from gmdistill.evaluation import (
  calibration,
  measuring,
  posterior,
  protocols,
  readings,
  trainers,
)
from gmdistill.runs.config import assembly, outputs, settings
from gmdistill.sets import set_files, synthetic
from gmdistill.training import fitting

# Compiled whole: one operation after the other takes far longer.
ERROR = jax.jit(calibration.expected_calibration_error, static_argnums=2)
NLL = jax.jit(calibration.negative_log_likelihood)
TEMPERATURE = jax.jit(calibration.fit_temperature)
DIRICHLET = jax.jit(posterior.dirichlet_loss)

CONFIG = f"--config={pathlib.Path(__file__).parents[1] / 'tiny_config.py'}"


def draws(rows=7, classes=3):
  keys = jax.random.split(jax.random.key(0), 3)
  logits, teacher = (
    scale * jax.random.normal(key, (rows, classes))
    for scale, key in zip((1.0, 3.0), keys, strict=False)
  )
  labels = jax.nn.one_hot(jnp.arange(rows) % classes, classes)
  return logits, labels, jax.nn.softmax(teacher)


# --- the posterior --------------------------------------------------------


def test_the_dirichlet_prior_is_cross_entropy_to_the_mixed_label():
  logits, labels, said = draws()
  for strength in (0.5, 4.0):
    mixed = (labels + strength * said) / (1 + strength)
    np.testing.assert_allclose(mixed.sum(-1), 1.0, rtol=1e-6)
    expected = (1 + strength) * optax.softmax_cross_entropy(logits, mixed)
    found = DIRICHLET(logits, labels, said, strength=strength)
    np.testing.assert_allclose(found, expected.mean(), rtol=1e-5)


def test_without_strength_it_is_the_problems_loss_bit_for_bit():
  problem, batch = make_small_problem(), make_synthetic()
  params = problem.init(jax.random.key(0))
  said = jax.nn.softmax(3.0 * batch.labels[:, ::-1])

  def ours(params):
    logits = problem.apply(params, batch).logits
    return posterior.dirichlet_loss(logits, batch.labels, said, strength=0.0)

  # Not in one program each: those may round the same sums differently.
  plain = jax.value_and_grad(lambda p: problem.loss(p, batch))
  jax.tree.map(
    np.testing.assert_array_equal,
    jax.value_and_grad(ours)(params),
    plain(params),
  )


def test_a_row_without_a_label_has_the_prior_alone():
  logits, labels, said = draws()
  found = DIRICHLET(logits, 0 * labels, said, strength=2.0)
  expected = 2.0 * optax.softmax_cross_entropy(logits, said).mean()
  np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_minibatches_of_an_epoch_have_the_mean_energy_of_the_whole_set():
  problem, batch = make_small_problem(), make_synthetic(per_class=4)
  init, loss = problem.init, jax.jit(problem.loss)
  start, params = map(init, jax.random.split(jax.random.key(0)))
  energy = jax.jit(
    posterior.energy(problem.loss, start, num_rows=8, prior_std=0.5)
  )
  rows = np.asarray(fitting.shuffled_rows(jax.random.key(1), 8, 4, 2))
  each = [
    energy(params, jax.tree.map(lambda x, r=r: x[r], batch)) for r in rows
  ]
  np.testing.assert_allclose(np.mean(each), energy(params, batch), rtol=1e-5)
  # And the energy is the sum over rows, and the prior's.
  squares = optax.tree.norm(optax.tree.sub(params, start), squared=True)
  expected = 8 * loss(params, batch) + squares / (2 * 0.5**2)
  np.testing.assert_allclose(energy(params, batch), expected, rtol=1e-6)


@pytest.mark.parametrize("step_size", [0.1, optax.linear_schedule(0.2, 0.0, 4)])
def test_without_noise_langevin_is_sgd(step_size):
  def run(optimizer):
    params = {"a": jnp.arange(3.0), "b": jnp.ones((2, 2))}
    state = optimizer.init(params)
    for _ in range(3):
      grads = jax.tree.map(jnp.sin, params)
      updates, state = optimizer.update(grads, state, params)
      params = optax.apply_updates(params, updates)
    return params

  half = 0.05 if step_size == 0.1 else lambda t: 0.5 * step_size(t)
  ours = posterior.sgld(step_size, noise=0.0, key=jax.random.key(0))
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6),
    run(ours),
    run(optax.sgd(half)),
  )


def test_the_noise_of_a_step_has_the_variance_of_its_size():
  zeros = {"a": jnp.zeros((200, 200)), "b": jnp.zeros((200, 200))}
  langevin = posterior.sgld(0.04, key=jax.random.key(0))
  state = langevin.init(zeros)
  one, state = langevin.update(zeros, state)
  two, state = langevin.update(zeros, state)
  drawn = np.stack([np.ravel(x) for t in (one, two) for x in t.values()])
  np.testing.assert_allclose(drawn.std(axis=1), 0.2, rtol=0.02)
  # No leaf and no step draws what another has drawn.
  assert np.abs(np.corrcoef(drawn) - np.eye(4)).max() < 0.02


def test_a_chain_that_is_saved_and_loaded_goes_on_to_the_same_bits():
  langevin = posterior.sgld(0.1, key=jax.random.key(3))

  @jax.jit
  def step(params, state):
    updates, state = langevin.update(jnp.sin(params), state)
    return optax.apply_updates(params, updates), state

  params = jnp.arange(4.0)
  state = langevin.init(params)
  for t in range(6):
    if t == 3:  # through the host, as a checkpoint does
      kept = (params, state.step, jax.random.key_data(state.key))
      kept = jax.tree.map(np.asarray, kept)
    params, state = step(params, state)
  params_then, count, bits = kept
  again = jnp.asarray(params_then)
  state = posterior.LangevinState(
    jnp.asarray(count), jax.random.wrap_key_data(jnp.asarray(bits))
  )
  for _ in range(3):
    again, state = step(again, state)
  np.testing.assert_array_equal(again, params)


def test_langevin_samples_the_posterior_that_quadrature_gives():
  """Logistic regression in two dimensions, against a fine grid."""
  rng = np.random.default_rng(0)
  x_Nx2 = rng.normal(size=(30, 2))
  y_N = rng.random(30) < 1 / (1 + np.exp(-x_Nx2 @ [1.5, -0.7]))
  rows = (jnp.asarray(x_Nx2, jnp.float32), jnp.asarray(y_N, jnp.float32))

  def loss(params, rows):
    x, y = rows
    return optax.sigmoid_binary_cross_entropy(x @ params, y).mean()

  energy = posterior.energy(loss, jnp.zeros(2), num_rows=30, prior_std=2.0)

  axis = np.linspace(-5, 8, 301)
  grid_Gx2 = np.stack(np.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2)
  values = jax.vmap(energy, (0, None))(jnp.asarray(grid_Gx2, jnp.float32), rows)
  weights = np.exp(-(np.asarray(values, np.float64) - float(values.min())))
  weights /= weights.sum()
  mean = weights @ grid_Gx2
  variance = weights @ (grid_Gx2 - mean) ** 2

  chain = posterior.Chain(0.02, samples=150, burn_in=300, thin=20)
  run = lambda key: posterior.posterior_samples(  # noqa: E731
    energy, jnp.zeros(2), rows, chain, key=key
  )
  keys = jax.random.split(jax.random.key(0), 64)
  samples = np.asarray(jax.jit(jax.vmap(run))(keys)).reshape(-1, 2)
  np.testing.assert_allclose(samples.mean(axis=0), mean, rtol=0.1)
  np.testing.assert_allclose(samples.var(axis=0), variance, rtol=0.1)
  # The cross term, too: the posterior is no product of its parameters.
  between = weights @ np.prod(grid_Gx2 - mean, axis=1)
  np.testing.assert_allclose(np.cov(samples.T)[0, 1], between, rtol=0.2)


def test_chains_under_vmap_are_the_chains_alone_and_keep_each_thinned_state():
  start = jnp.arange(3.0)
  rows = jnp.arange(12.0).reshape(12, 1)

  def energy(params, rows):
    return jnp.square(params[None] - rows).mean()

  def run(key, thin, samples):
    chain = posterior.Chain(1e-2, samples, burn_in=2, thin=thin, batch_size=4)
    return posterior.posterior_samples(energy, start, rows, chain, key=key)

  keys = jax.random.split(jax.random.key(5), 2)
  stacked = jax.jit(jax.vmap(lambda key: run(key, 3, 4)))(keys)
  assert stacked.shape == (2, 4, 3)
  np.testing.assert_allclose(stacked[1], run(keys[1], 3, 4), rtol=1e-6)
  every = run(keys[1], 1, 12)
  np.testing.assert_allclose(stacked[1], every[2::3], rtol=1e-6)


# --- predictions ----------------------------------------------------------


def test_intervals_hold_their_level_of_the_samples():
  probs = jax.nn.softmax(jax.random.normal(jax.random.key(0), (400, 5, 3)))
  found = jax.jit(posterior.predictive)(probs, 0.8)
  np.testing.assert_allclose(found.mean.sum(-1), 1.0, rtol=1e-5)
  np.testing.assert_allclose((probs < found.lower[None]).mean(axis=0), 0.1)
  np.testing.assert_allclose((probs > found.upper[None]).mean(axis=0), 0.1)


def test_the_posterior_logits_are_the_mean_prediction_of_the_samples():
  problem, batch = make_small_problem(), make_synthetic()
  keys = jax.random.split(jax.random.key(0), 3)
  samples = jax.jit(jax.vmap(problem.init))(keys)
  apply = jax.jit(problem.apply)
  samples = jax.tree.map(lambda x: 10 * x, samples)  # that they disagree
  each = [
    jax.nn.softmax(
      apply(jax.tree.map(lambda x, i=i: x[i], samples), batch).logits
    )
    for i in range(3)
  ]
  found = jax.jit(posterior.posterior_logits)(problem, samples, batch)
  np.testing.assert_allclose(jnp.exp(found), sum(each) / 3, rtol=1e-4)
  low, high = np.quantile(each, [0.05, 0.95], axis=0)
  width = jax.jit(posterior.interval_width)(problem, samples, batch)
  np.testing.assert_allclose(width, (high - low).mean(-1), atol=1e-6)
  assert width.min() > 0


# --- calibration ----------------------------------------------------------


def test_the_calibration_error_is_what_the_hand_computes():
  # Of 4 bins: (0.5, 0.75] holds rows 0, 1 and 3, (0.75, 1] holds row 2.
  probs = jnp.array([[0.7, 0.3], [0.6, 0.4], [0.1, 0.9], [0.25, 0.75]])
  labels = jnp.array([0, 1, 1, 1])
  first = abs(2 / 3 - (0.7 + 0.6 + 0.75) / 3)
  expected = 3 / 4 * first + 1 / 4 * abs(1.0 - 0.9)
  found = ERROR(probs, labels, 4)
  np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_rows_that_are_right_as_often_as_they_say_have_no_error():
  probs = np.repeat([[0.75, 0.25], [0.5, 0.5], [0.0, 1.0]], 4, axis=0)
  labels = np.array([0, 0, 0, 1, 0, 0, 1, 1, 1, 1, 1, 1])
  found = ERROR(probs, labels)
  np.testing.assert_allclose(found, 0.0, atol=1e-6)
  # And those that are sure and wrong have all of it.
  wrong = ERROR(np.eye(2), np.array([1, 0]))
  np.testing.assert_allclose(wrong, 1.0)


def calibrated(rows=4000, classes=3):
  """Logits whose softmax is what the labels are drawn from."""
  keys = jax.random.split(jax.random.key(0))
  logits = 1.5 * jax.random.normal(keys[0], (rows, classes))
  return logits, jax.random.categorical(keys[1], logits)


def test_logits_times_three_have_three_times_the_temperature():
  logits, labels = calibrated()
  one = TEMPERATURE(logits, labels)
  three = TEMPERATURE(3 * logits, labels)
  np.testing.assert_allclose(three, 3 * one, rtol=1e-3)
  np.testing.assert_allclose(one, 1.0, rtol=0.1)
  # It is the least of its neighbours, and mends the calibration.
  least = NLL(3 * logits / three, labels)
  for factor in (0.9, 1.1):
    assert least < NLL(3 * logits / (factor * three), labels)
  error = lambda z: ERROR(jax.nn.softmax(z), labels)  # noqa: E731
  assert error(3 * logits) > 0.1 and error(3 * logits / three) < 0.03


@pytest.mark.parametrize("kind", ["right", "wrong", "flat", "any", "huge"])
def test_a_temperature_never_raises_the_loss_nor_changes_a_prediction(kind):
  logits, labels = calibrated(50)
  logits, labels = {
    "right": (50 * jax.nn.one_hot(labels, 3), labels),
    "wrong": (-jax.nn.one_hot(labels, 3), labels),
    "flat": (jnp.zeros_like(logits), labels),
    "any": (logits, labels),
    "huge": (1e4 * logits, labels),
  }[kind]
  found = TEMPERATURE(logits, labels)
  lowest, highest = posterior.LOWEST, posterior.HIGHEST
  assert lowest * 0.99 <= found <= highest * 1.01
  assert NLL(logits / found, labels) <= NLL(logits, labels)
  np.testing.assert_array_equal((logits / found).argmax(-1), logits.argmax(-1))


# --- the protocols --------------------------------------------------------


@pytest.mark.parametrize("rows", [7, 64])
def test_values_hold_every_row_of_every_student_once(rows):
  problem, examples = make_small_problem(), make_examples(41)
  keys = jax.random.split(jax.random.key(0), 2)
  params = jax.jit(jax.vmap(problem.init))(keys)
  buckets = readings.length_buckets(examples, 2, rows=rows)
  found, classes = readings.values(problem, params, buckets)
  assert found.shape == (2, 41, 2)
  right = (found.argmax(-1) == classes[None]).mean(axis=1)
  np.testing.assert_allclose(
    right, readings.accuracies(problem, params, buckets)
  )
  batch = jax.tree.map(jnp.asarray, batches.as_batch(examples, 2))
  one = jax.tree.map(lambda x: x[1], params)
  expected = np.asarray(jax.jit(problem.apply)(one, batch).logits)
  by_row = lambda x: x[np.lexsort(x.T)]  # noqa: E731
  np.testing.assert_allclose(by_row(found[1]), by_row(expected), atol=1e-5)


START = protocols.fine_tuning(
  num_steps=20, batch_size=8, rates=(1e-2,), num_students=2
)
FIELDS = dict(
  strength=1.0,
  prior_std=0.1,
  num_students=3,
  step_size=1e-5,
  samples=4,
  burn_in=3,
  thin=2,
)


def test_a_chain_without_steps_to_speak_of_is_the_student_it_started_from():
  problem = make_problem("textcnn")
  syn = synthetic.SyntheticSet(make_synthetic(per_class=4))
  protocol = protocols.bayesian(START, **FIELDS | {"step_size": 1e-16})
  key = jax.random.key(0)
  samples = jax.jit(protocol.train)(problem, syn, key, 1e-2)
  start = jax.jit(START.train)(problem, syn, jax.random.split(key)[0], 1e-2)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(
      a, np.broadcast_to(b, a.shape), atol=1e-6
    ),
    samples,
    start,
  )
  logits = jax.jit(problem.apply)(start, syn.batch).logits
  np.testing.assert_allclose(
    jax.jit(protocol.logits)(problem, samples, syn.batch),
    jax.nn.log_softmax(logits),
    atol=1e-4,
  )


def test_bayes_is_measured_like_any_protocol_and_says_its_calibration():
  problem, examples = make_problem("textcnn"), make_examples(60)
  buckets = readings.length_buckets(examples, 2)
  splits = measuring.Splits(buckets, buckets)
  batch = jax.tree.map(jnp.asarray, batches.as_batch(examples, 2))
  sets = measuring.stacked(synthetic.SyntheticSet(batch))
  start = START._replace(rates=(3e-2,))
  fields = FIELDS | {"strength": 0.5}
  found = []
  for at_once in (1, 2):
    protocol = protocols.bayesian(start, **fields)
    trainer = trainers.Trainer(problem, protocol, at_once)
    row = measuring.measure(
      trainer, sets, splits, look=calibration.calibration
    ).row()
    assert row["n"] == 3 and row["mean"] > 0.9
    assert 0 < row["interval_width"] < 1 and row["temperature"] > 0
    # The same rows chose the temperature: it mends what there is to mend.
    assert row["ece_scaled"] <= row["ece"] + 0.02
    found.append(row)
  assert found[0] == pytest.approx(found[1], abs=1e-3)
  plain = measuring.measure(trainer, sets, splits).row()
  assert set(plain) == {"mean", "std", "n"}
  assert plain == {name: found[1][name] for name in plain}


def test_what_is_not_finite_is_said_and_not_reported():
  problem = make_problem("textcnn")
  buckets = readings.length_buckets(make_examples(30), 2)
  protocol = protocols.bayesian(START, **FIELDS | {"step_size": 1e30})
  sets = measuring.stacked(synthetic.SyntheticSet(make_synthetic()))
  with pytest.raises(errors.NotFinite, match="smaller steps"):
    measuring.measure(
      trainers.Trainer(problem, protocol, 3),
      sets,
      measuring.Splits(buckets, buckets),
      look=calibration.calibration,
    )


@pytest.mark.parametrize(
  "field, value, words",
  [
    ("strength", -1.0, "strength=-1.0 must be a number, from 0"),
    ("samples", 0, "samples=0 must be a whole number, from 1"),
    ("thin", 0, "thin=0 must be a whole number, from 1"),
    ("burn_in", -1, "burn_in=-1 must be a whole number, from 0"),
    ("step_size", 0.0, "step_size=0.0 must be a number, above 0"),
    ("prior_std", 0.0, "prior_std=0.0"),
    ("num_students", 0, "num_students=0 must be a whole number"),
    ("start", "full", "bayes.start=full is none of replay"),
  ],
)
def test_a_bad_field_of_bayes_is_refused(field, value, words):
  config = tiny_config.get_config()
  config.bayes[field] = value
  with pytest.raises(errors.InputError, match=words):
    assembly.protocol(settings.recipe(config), "bayes")


def test_evaluate_says_the_calibration_and_leaves_the_rows_of_runs_alone(
  tmp_path, capsys
):
  config = tiny_config.get_config()
  setup = assembly.setup(settings.recipe(config))
  protocol = assembly.protocol(settings.recipe(config), "replay")
  row, said = (
    outputs.table(setup, settings.recipe(config), calibrated).coreset(
      "replay", protocol, "herding"
    )
    for calibrated in (False, True)
  )
  assert row == {name: said[name] for name in row}
  assert set(said) - set(row) == {"ece", "temperature", "ece_scaled"}

  command = ["x", "evaluate", CONFIG, "--row=herding", f"--workdir={tmp_path}"]
  assert main.main([*command, "--protocol=replay"]) == 0
  found = json.loads((tmp_path / "evaluation.json").read_text())
  assert found == {"replay": {**said, "row": "herding", "unit": "accuracy"}}
  capsys.readouterr()
  for wrong, words in {
    "--config.bayes.thin=0": "bayes.thin=0 must be a whole number, from 1",
    "--protocol=bays": "is none of replay, finetune, scratch, bayes",
  }.items():
    assert main.main([*command, "--protocol=bayes", wrong]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line


def test_no_student_is_written_of_many_samples(tmp_path, capsys):
  folder = tmp_path / "set"
  syn = synthetic.SyntheticSet(make_synthetic())
  set_files.save(folder, syn, card={"embedding_space": "of nobody"})
  given = [CONFIG, f"--set={folder}", f"--workdir={tmp_path / 'student'}"]
  assert main.main(["x", "train", *given, "--protocol=bayes"]) == 2
  assert "many samples of one" in capsys.readouterr().err
  assert not (tmp_path / "student").exists()
