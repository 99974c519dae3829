"""Laws of every objective, with every parameterization."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import (
  LENGTH,
  as_float64,
  make_problem,
  make_real,
  make_synthetic,
)

from gmdistill import data, distances, imitation, matching, synthetic, training

TRAJECTORY = matching.trajectory(optax.sgd(0.1), max_age=4, steps_between=2)
OBJECTIVES = {
  "look_ahead": matching.look_ahead,
  "look_ahead-centred": functools.partial(matching.look_ahead, centred=True),
  "distribution_matching": matching.distribution_matching,
  "expert_matching": matching.expert_matching,
  "trajectory_matching": functools.partial(
    imitation.trajectory_matching, constant_memory=False
  ),
  "task_vector_matching": functools.partial(
    imitation.task_vector_matching, constant_memory=False
  ),
  "weighted": lambda: matching.weighted(
    [
      (1.0, matching.look_ahead()),
      (0.1, matching.gradient_matching(TRAJECTORY)),
    ]
  ),
  **{
    f"gradient_matching-{kind}-{matched}": functools.partial(
      matching.gradient_matching,
      TRAJECTORY,
      distance_kind=kind,
      matched=matched,
    )
    for kind, matched in (
      *((kind, "all") for kind in distances.KINDS),
      ("neuron_cosine", "last_1"),
      ("tensor_cosine", "head"),
    )
  },
}
PARAMETERIZATIONS = {
  "hard": lambda: synthetic.direct(),
  "softmax": lambda: synthetic.with_soft_labels(synthetic.direct(), "softmax"),
  "unrestricted": lambda: synthetic.with_soft_labels(
    synthetic.direct(), "unrestricted"
  ),
  "factorized": lambda: synthetic.with_soft_labels(
    synthetic.factorized(3), "unrestricted"
  ),
  "attention": lambda: synthetic.with_attention_labels(
    synthetic.with_soft_labels(synthetic.direct(), "unrestricted"),
    # Far from a fresh student's even attention, whose queries' gradients are
    # too small for finite differences of their cosines.
    lambda batch: jnp.broadcast_to(
      jax.nn.softmax(jnp.arange(LENGTH, dtype=jnp.float32)),
      (len(batch.labels), 2, 2, LENGTH),
    ),
  ),
  # With steps of another kind; see outer_loss.
  "normalised_steps": lambda: synthetic.with_soft_labels(
    synthetic.direct(), "unrestricted"
  ),
}


def real_of(problem, objective):
  """Batches of real rows, and an expert, as an objective reads them."""
  batches = None
  if objective.num_batches:
    batches = make_real(objective.num_batches)
  return matching.Real(batches, make_expert(problem, objective.reads))


def make_expert(problem, reads, batch=None):
  """A state, two SGD steps on, and class gradients of a real batch."""
  start = jax.jit(problem.init)(jax.random.key(21))
  rows = jax.tree.map(lambda x: x[0], make_real(1)) if batch is None else batch
  gradient = jax.jit(jax.grad(problem.loss))
  later = start
  for _ in range(2):
    grads = gradient(later, rows)
    later = jax.tree.map(lambda p, g: p - 0.3 * g, later, grads)
  targets = [
    distances.keep(
      gradient(start, jax.tree.map(lambda x, c=c: x[c], split)), "all"
    )
    for split in [matching.by_class(rows, 2)]
    for c in range(2)
  ]
  whole = matching.Expert(
    params=start,
    targets=jax.tree.map(lambda *xs: jnp.stack(xs), *targets),
    later=later,
  )
  return matching.Expert(**{name: getattr(whole, name) for name in reads})


def outer_loss(objective, parameterization, problem, normalised=False):
  """The loss as a function of the set's parameters, and those parameters."""
  shares = None
  if normalised:
    shapes = jax.eval_shape(problem.init, jax.random.key(0))
    shares = training.even_shares(shapes)
  stored = synthetic.with_learning_rates(parameterization, 3, 0.1, 0.3, shares)
  params = stored.init(make_synthetic())
  student = jax.jit(objective.init)(
    problem, jax.random.key(1), jnp.float32(0.0)
  )
  real = real_of(problem, objective)

  def loss(params, student, real):
    value, _ = objective.loss(
      problem, stored.decode(params), student, real, jax.random.key(2)
    )
    return value

  return loss, params, student, real


# Every objective with every parameterization; its variants with one.
MAIN = (
  "look_ahead",
  "gradient_matching-neuron_cosine-all",
  "distribution_matching",
)
PAIRS = [
  (name, stored)
  for name in OBJECTIVES
  for stored in PARAMETERIZATIONS
  if name in MAIN or stored == "unrestricted"
]


@pytest.mark.parametrize("name, stored", PAIRS)
def test_the_meta_gradient_equals_finite_differences(name, stored, x64):
  problem = as_float64(make_problem())
  objective = OBJECTIVES[name]()
  loss, *at = outer_loss(
    objective,
    PARAMETERIZATIONS[stored](),
    problem,
    normalised=stored == "normalised_steps",
  )
  params, student, real = (as_float64(x) for x in at)
  both = jax.jit(jax.value_and_grad(loss))  # one program, three times
  _, grads = both(params, student, real)
  direction = jax.tree.map(
    lambda x: jax.random.normal(jax.random.key(x.size), x.shape), params
  )
  if stored == "hard":  # fixed labels get no gradient, by design
    direction["base"]["labels"] *= 0.0
    assert not np.any(grads["base"]["labels"])
  exact = sum(
    jnp.vdot(a, b)
    for a, b in zip(*map(jax.tree.leaves, (grads, direction)), strict=True)
  )
  step = 1e-5
  move = lambda sign: jax.tree.map(  # noqa: E731
    lambda x, d: x + sign * step * d, params, direction
  )
  ahead, behind = (both(move(sign), student, real)[0] for sign in (1, -1))
  numeric = ahead - behind
  np.testing.assert_allclose(exact, numeric / (2 * step), rtol=1e-5)
  assert abs(float(exact)) > 1e-8


# At a set that equals the real rows; the others compare where steps lead.
ZERO_AT_REAL = [
  name
  for name in OBJECTIVES
  if name.startswith(("gradient", "distribution", "expert"))
]


@pytest.mark.parametrize("name", ZERO_AT_REAL)
def test_distance_and_gradient_are_zero_where_synthetic_is_real(name, x64):
  problem = as_float64(make_problem())
  objective = OBJECTIVES[name]()
  batch = as_float64(make_synthetic())
  batches = jax.tree.map(
    lambda x: jnp.broadcast_to(x, (objective.num_batches, *x.shape)), batch
  )
  real = matching.Real(batches, make_expert(problem, objective.reads, batch))
  student = as_float64(
    jax.jit(objective.init)(problem, jax.random.key(1), jnp.float32(0.0))
  )

  def loss(inputs):
    syn = synthetic.SyntheticSet(batch.replace(inputs=inputs))
    return objective.loss(problem, syn, student, real, jax.random.key(0))[0]

  value, grads = jax.jit(jax.value_and_grad(loss))(batch.inputs)
  np.testing.assert_allclose(value, 0.0, atol=1e-12)
  np.testing.assert_allclose(grads, 0.0, atol=1e-9)


@pytest.mark.parametrize("kind", distances.KINDS)
def test_zero_gradients_give_finite_distances_and_finite_derivatives(kind):
  grads = {"head": {"kernel": jnp.ones((3, 2)), "bias": jnp.zeros((2,))}}
  zeros = jax.tree.map(jnp.zeros_like, grads)
  measure = functools.partial(distances.between, kind=kind, matched="all")
  for a, b in ((zeros, grads), (grads, zeros), (zeros, zeros)):
    value, slope = jax.value_and_grad(measure)(a, b)
    assert np.isfinite(value)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(slope))
  assert float(measure(zeros, zeros)) == 0.0


def test_the_neuron_cosine_ignores_each_neurons_scale():
  kernel = jax.random.normal(jax.random.key(0), (4, 3))
  scaled = kernel * jnp.array([[1.0, 5.0, 0.1]])
  measure = functools.partial(distances.between, matched="all")
  a, b = {"head": {"kernel": kernel}}, {"head": {"kernel": scaled}}
  assert float(measure(a, b, kind="neuron_cosine")) == pytest.approx(
    0, abs=1e-6
  )
  assert float(measure(a, b, kind="tensor_cosine")) > 0.01


def test_the_neuron_cosine_is_the_sum_over_columns_of_a_dense_kernel():
  a, b = (jax.random.normal(jax.random.key(i), (4, 3)) for i in (0, 1))
  expected = np.mean(
    [
      1
      - a[:, j] @ b[:, j] / jnp.linalg.norm(a[:, j]) / jnp.linalg.norm(b[:, j])
      for j in range(3)
    ]
  )
  found = distances.between(
    {"head": {"kernel": a}},
    {"head": {"kernel": b}},
    kind="neuron_cosine",
    matched="all",
  )
  np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_tables_and_key_biases_are_left_out_by_name():
  params = make_problem().init(jax.random.key(0))
  names = [tensor.name for tensor in distances.select(params, "all")]
  every = [
    "/".join(part.key for part in path)
    for path, _ in jax.tree_util.tree_leaves_with_path(params)
  ]
  assert set(every) - set(names) == {
    "position",
    "token_type",
    "layers/attention/key/bias",
  }


def test_last_k_takes_the_last_layers_and_the_head():
  params = make_problem(num_layers=3).init(jax.random.key(0))
  chosen = {t.name: t for t in distances.select(params, "last_2")}
  kernel = params["layers"]["intermediate"]["kernel"]
  np.testing.assert_array_equal(
    chosen["layers/intermediate/kernel"].array, kernel[1:]
  )
  assert "head/kernel" in chosen and "embedding_norm/scale" not in chosen
  head = [t.name for t in distances.select(params, "head")]
  assert head == ["head/bias", "head/kernel"]


@pytest.mark.parametrize("matched", ["first_2", "last_0", "last_x", ""])
def test_an_unknown_matched_set_is_refused(matched):
  with pytest.raises(ValueError, match="head, last_K, all"):
    distances.select({"head": {}}, matched)


def test_last_k_is_refused_where_there_are_no_layers():
  params = make_problem("textcnn").init(jax.random.key(0))
  with pytest.raises(ValueError, match="no layers"):
    distances.select(params, "last_1")


@pytest.mark.parametrize("kind", ["bilstm", "textcnn"])
def test_every_student_can_be_matched(kind):
  problem = make_problem(kind)
  objective = OBJECTIVES["gradient_matching-neuron_cosine-all"]()
  loss, params, student, real = outer_loss(
    objective, PARAMETERIZATIONS["unrestricted"](), problem
  )
  grads = jax.jit(jax.grad(loss))(params, student, real)
  assert float(jnp.abs(grads["base"]["base"]["embeddings"]).max()) > 0


def test_a_trajectory_takes_its_steps():
  problem = make_problem()
  key = jax.random.key(7)
  state = TRAJECTORY.init(problem, key, jnp.float32(0.0))
  jax.tree.map(np.testing.assert_array_equal, state.params, problem.init(key))
  batches = make_real(2)
  moved = jax.jit(TRAJECTORY.advance)(problem, state, batches, key)
  params, gradient = state.params, jax.jit(jax.grad(problem.loss))
  for t in range(2):
    batch = jax.tree.map(lambda x, t=t: x[t], batches)
    grads = gradient(params, batch)
    params = jax.tree.map(lambda p, g: p - 0.1 * g, params, grads)
  assert int(moved.age) == 2
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6),
    moved.params,
    params,
  )


def test_a_reset_restores_the_initial_parameters_bit_for_bit():
  drawn, key = make_problem(), jax.random.key(7)
  problem = drawn.replace(initial=drawn.init(jax.random.key(1)))
  state = TRAJECTORY.init(problem, key, jnp.float32(0.0))
  advance = jax.jit(TRAJECTORY.advance)
  moved = advance(problem, state, make_real(2), jax.random.key(8))
  again = advance(problem, moved, make_real(2), key)
  assert int(moved.age) == 2 and int(again.age) == 0
  head = jax.jit(drawn.init)(key)["head"]
  np.testing.assert_allclose(
    again.params["head"]["kernel"], head["kernel"], rtol=1e-6
  )
  for name in set(problem.initial) - {"head"}:
    assert not np.array_equal(
      jax.tree.leaves(moved.params[name])[0],
      jax.tree.leaves(problem.initial[name])[0],
    )
    jax.tree.map(
      np.testing.assert_array_equal, again.params[name], problem.initial[name]
    )
  # Wherever it has been before, the same key draws the same student.
  older = TRAJECTORY.init(problem, jax.random.key(9), jnp.float32(0.75))
  other = advance(problem, older, make_real(2), key)
  jax.tree.map(np.testing.assert_array_equal, other, again)


def test_students_start_staggered():
  problem = make_problem()
  ages = [
    int(TRAJECTORY.init(problem, jax.random.key(0), jnp.float32(p)).age)
    for p in (0.0, 0.25, 0.5, 0.75)
  ]
  assert ages == [0, 1, 2, 3]


def test_training_on_the_set_reads_one_real_batch_a_step():
  along = matching.trajectory(
    optax.sgd(0.1), max_age=9, steps_between=3, train_on="synthetic"
  )
  objective = matching.gradient_matching(along)
  assert objective.num_batches == 1
  problem, syn = make_problem(), synthetic.SyntheticSet(make_synthetic())
  student = objective.init(problem, jax.random.key(0), jnp.float32(0))
  _, (moved, _) = jax.jit(objective.loss)(
    problem, syn, student, matching.Real(make_real(1)), jax.random.key(1)
  )
  params, gradient = student.params, jax.jit(jax.grad(problem.loss))
  for _ in range(3):
    grads = gradient(params, syn.batch)
    params = jax.tree.map(lambda p, g: p - 0.1 * g, params, grads)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6),
    moved.params,
    params,
  )


def test_the_sum_over_classes_is_weighted():
  problem, real = make_problem(), matching.Real(make_real(3))
  syn = synthetic.SyntheticSet(make_synthetic())
  values = []
  for weight in (0.0, 1.0, 2.0):
    objective = matching.gradient_matching(TRAJECTORY, sum_weight=weight)
    student = objective.init(problem, jax.random.key(0), jnp.float32(0))
    loss = jax.jit(objective.loss)
    values.append(
      float(loss(problem, syn, student, real, jax.random.key(1))[0])
    )
  assert values[1] - values[0] == pytest.approx(values[2] - values[1], rel=1e-4)
  assert values[1] > values[0]


def test_look_ahead_takes_exactly_t_steps_of_the_learned_sizes():
  problem, real = make_problem(), matching.Real(make_real(1))
  batch = make_synthetic()
  rates = jnp.array([0.5, 0.1, 0.02])
  key = jax.random.key(4)
  params, gradient = problem.init(key), jax.jit(jax.grad(problem.loss))
  for rate in rates:
    grads = gradient(params, batch)
    params = jax.tree.map(lambda p, g, r=rate: p - r * g, params, grads)
  first = jax.tree.map(lambda x: x[0], real.batches)
  value, _ = jax.jit(matching.look_ahead().loss)(
    problem, synthetic.SyntheticSet(batch, rates), (), real, key
  )
  np.testing.assert_allclose(value, problem.loss(params, first), rtol=1e-5)


def test_a_set_with_an_order_takes_only_those_rows():
  problem, batch = make_problem(), make_synthetic()
  params = problem.init(jax.random.key(0))
  gradient = jax.jit(jax.grad(problem.loss))
  order = jnp.array([[0, 2], [1, 3]])
  rates = jnp.array([0.3, 0.2])
  steps = training.Steps(rates, order=order)
  ours = jax.jit(training.replay)(problem, params, batch, steps)
  for rate, rows in zip(rates, order, strict=True):
    part = jax.tree.map(lambda x, r=rows: x[r], batch)
    grads = gradient(params, part)
    params = jax.tree.map(lambda p, g, r=rate: p - r * g, params, grads)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), ours, params
  )


def test_the_head_may_take_steps_of_its_own():
  problem, batch = make_problem(), make_synthetic()
  params = problem.init(jax.random.key(0))
  steps = training.Steps(jnp.array([0.3]), jnp.array([2.0]))
  moved = jax.jit(training.replay)(problem, params, batch, steps)
  grads = jax.jit(jax.grad(problem.loss))(params, batch)
  for name in params:
    rate = 2.0 if name == "head" else 0.3
    jax.tree.map(
      lambda p, g, m, r=rate: np.testing.assert_allclose(
        m, p - r * g, atol=1e-6
      ),
      params[name],
      grads[name],
      moved[name],
    )


def test_normalised_steps_move_each_tensor_by_its_distance():
  problem, batch = make_problem(), make_synthetic()
  params = problem.init(jax.random.key(0))
  shares = training.even_shares(params)
  assert np.square(shares).sum() == pytest.approx(1.0)
  stored = synthetic.with_learning_rates(
    synthetic.direct(), 1, 0.3, 2.0, shares
  )
  steps = stored.decode(stored.init(batch)).steps
  np.testing.assert_allclose(steps.tensor_shares[0], shares, rtol=1e-5)
  moved = jax.jit(training.replay)(problem, params, batch, steps)
  grads = jax.jit(jax.grad(problem.loss))(params, batch)
  delta = jax.tree.map(lambda a, b: a - b, moved, params)
  for name in ("position", "token_type"):
    assert not np.any(delta[name])
  assert not np.any(delta["layers"]["attention"]["key"]["bias"])
  whole = delta["layers"]["intermediate"]["kernel"]
  grad = grads["layers"]["intermediate"]["kernel"]
  sizes = training.movable(params)
  expected = 0.3 * np.sqrt(whole[0].size / sizes.sum())
  for layer in range(2):
    np.testing.assert_allclose(
      whole[layer],
      -expected * grad[layer] / jnp.linalg.norm(grad[layer]),
      atol=1e-6,
    )
  below = {k: v for k, v in delta.items() if k != "head"}
  assert float(optax.tree.norm(below)) == pytest.approx(0.3, rel=1e-5)
  np.testing.assert_allclose(
    delta["head"]["kernel"], -2.0 * grads["head"]["kernel"], atol=1e-6
  )


def test_a_tensor_without_gradient_stays_and_gives_no_nan():
  problem, batch = make_problem(), make_synthetic()
  params = problem.init(jax.random.key(0))
  params["head"] = jax.tree.map(jnp.zeros_like, params["head"])
  shares = jnp.tile(training.even_shares(params), (1, 1))
  steps = training.Steps(jnp.array([0.3]), jnp.array([1.0]), None, shares)

  def size(inputs):
    own = batch.replace(inputs=inputs)
    moved = training.replay(problem, params, own, steps)
    return optax.tree.norm(moved), moved

  (_, moved), grads = jax.value_and_grad(size, has_aux=True)(batch.inputs)
  jax.tree.map(np.testing.assert_array_equal, moved["layers"], params["layers"])
  assert np.isfinite(grads).all()


def test_a_shift_of_all_logits_hardly_changes_the_centred_loss():
  problem = make_problem()
  batch = jax.tree.map(lambda x: x[0], make_real(1))
  params = problem.init(jax.random.key(0))
  head = {**params["head"], "bias": params["head"]["bias"] + jnp.array([3, 0])}
  shifted = {**params, "head": head}
  assert problem.loss(shifted, batch) - problem.loss(params, batch) > 0.5
  centred, _ = matching._centred_loss(problem, shifted, batch)
  before, _ = matching._centred_loss(problem, params, batch)
  # 0.01 times the square of (1.5, -1.5), the shift around its own mean.
  np.testing.assert_allclose(centred - before, 0.01 * 2 * 1.5**2, atol=2e-3)


def test_by_class_undoes_class_order():
  batch = make_synthetic(per_class=3)
  split = matching.by_class(batch, 2)
  assert isinstance(split, data.Batch)
  for label in range(2):
    assert (np.asarray(split.labels[label]).argmax(-1) == label).all()


def test_unknown_names_are_refused():
  with pytest.raises(ValueError, match="neuron_cosine"):
    matching.gradient_matching(TRAJECTORY, distance_kind="cos")
  with pytest.raises(ValueError, match="real, synthetic"):
    matching.trajectory(optax.sgd(0.1), train_on="both")


def test_the_sum_of_objectives_is_weighted_and_gives_each_its_own_batches():
  problem = make_problem()
  syn = synthetic.SyntheticSet(make_synthetic(), jnp.array([0.1, 0.1]))
  parts = [matching.distribution_matching(), matching.look_ahead()]
  real = matching.Real(make_real(2))
  objective = matching.weighted([(2.0, parts[0]), (0.5, parts[1])])
  key = jax.random.key(3)
  assert objective.num_batches == 2
  value, (_, metrics) = jax.jit(objective.loss)(
    problem, syn, ((), ()), real, key
  )
  alone = []
  for i, part in enumerate(parts):
    own = jax.tree.map(lambda x, i=i: x[i : i + 1], real.batches)
    own_key = jax.random.split(key, 2)[i]
    alone.append(part.loss(problem, syn, (), matching.Real(own), own_key)[0])
  np.testing.assert_allclose(value, 2 * alone[0] + 0.5 * alone[1], rtol=1e-5)
  np.testing.assert_allclose(metrics["part_1/loss"], alone[1], rtol=1e-5)


def test_trajectory_matching_is_zero_where_the_steps_lead_to_the_expert(x64):
  problem = as_float64(make_problem())
  batch, rates = as_float64(make_synthetic()), jnp.array([0.2, 0.1])
  start = as_float64(problem.init(jax.random.key(21)))
  later = training.replay(problem, start, batch, training.Steps(rates))
  real = matching.Real(None, matching.Expert(params=start, later=later))
  syn = synthetic.SyntheticSet(batch, rates)
  for make in (imitation.trajectory_matching, imitation.task_vector_matching):
    loss = jax.jit(make().loss)
    value, (_, metrics) = loss(problem, syn, (), real, jax.random.key(0))
    np.testing.assert_allclose(value, 0.0, atol=1e-12)
    np.testing.assert_allclose(metrics["matching/cosine"], 1.0, atol=1e-12)


def test_task_vectors_are_matched_in_direction_alone():
  problem = make_problem()
  expert = make_expert(problem, ("params", "later"))
  far = jax.tree.map(lambda a, b: a + 3 * (b - a), expert.params, expert.later)
  objective = imitation.task_vector_matching()
  syn = synthetic.SyntheticSet(make_synthetic(), jnp.array([0.2, 0.1]))
  values = [
    jax.jit(objective.loss)(
      problem, syn, (), matching.Real(None, found), jax.random.key(0)
    )[0]
    for found in (expert, expert._replace(later=far))
  ]
  np.testing.assert_allclose(*values, rtol=1e-4)


@pytest.mark.parametrize("matched", ["head", "last_1", "all"])
def test_kept_tensors_are_read_like_a_whole_gradient(matched):
  grads = make_problem().init(jax.random.key(0))
  kept = distances.keep(grads, matched)
  pairs = zip(
    distances.select(grads, matched),
    distances.select(kept, matched),
    strict=True,
  )
  for whole, part in pairs:
    assert whole.name == part.name and whole.stacked == part.stacked
    np.testing.assert_array_equal(whole.array, part.array)


def test_what_contains_what():
  for outer, inner in (
    ("all", "all"),
    ("all", "last_3"),
    ("last_3", "last_2"),
    ("last_3", "head"),
    ("head", "head"),
  ):
    assert distances.contains(outer, inner)
    assert outer == inner or not distances.contains(inner, outer)


def test_the_token_distance_is_zero_at_tokens_and_pulls_towards_them():
  problem = make_problem()
  ids = jnp.array([[0, 3, 5, 7, 2, 1]] * 4)
  batch = make_synthetic()
  tokens = batch.replace(inputs=problem.embeddings[ids])

  def distance(inputs):
    syn = synthetic.SyntheticSet(batch.replace(inputs=inputs))
    objective = matching.token_distance()
    real = matching.Real(None)
    return objective.loss(problem, syn, (), real, jax.random.key(0))[0]

  at = jax.jit(jax.value_and_grad(distance))
  np.testing.assert_allclose(at(tokens.inputs)[0], 0.0, atol=1e-6)
  value, grads = at(batch.inputs)
  assert float(value) > 0.1
  closer, _ = at(batch.inputs - 0.5 * grads)
  assert float(closer) < float(value)


def test_more_weight_on_the_token_distance_brings_the_set_nearer():
  problem, key = make_problem(), jax.random.key(2)
  stored = synthetic.with_learning_rates(synthetic.direct(), 2, 0.1)
  real = matching.Real(make_real())
  distance = matching.token_distance().loss
  optimizer = optax.adam(0.05)
  gaps = []
  for weight in (0.0, 0.3, 30.0):
    objective = matching.weighted(
      [(1.0, matching.look_ahead()), (weight, matching.token_distance())]
    )

    def step(carry, _, objective=objective):
      params, state = carry

      def loss(params):
        syn = stored.decode(params)
        return objective.loss(problem, syn, ((), ()), real, key)[0]

      updates, state = optimizer.update(jax.grad(loss)(params), state)
      return (optax.apply_updates(params, updates), state), None

    params = stored.init(make_synthetic())
    carry = (params, optimizer.init(params))
    run = jax.jit(lambda carry, step=step: jax.lax.scan(step, carry, None, 40))
    syn = stored.decode(run(carry)[0][0])
    gaps.append(float(distance(problem, syn, (), real, key)[0]))
  assert gaps[0] > gaps[1] > gaps[2] > 0
