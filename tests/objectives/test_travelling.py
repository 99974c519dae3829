"""Objectives that draw a way to train every outer step."""

import pathlib

import conftest
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny_config
import tiny_language
from conftest import make_problem, make_real, make_synthetic

from gmdistill import errors
from gmdistill.objectives import contract, finetune_ahead, travelling
from gmdistill.runs.config import (
  assembly,
  outputs,
  recipe,
  schedule,
  settings,
  travellers,
)
from gmdistill.sets import synthetic
from gmdistill.students import small
from gmdistill.training import fitting, optimizers


def told(number):
  """An objective that returns its number, and counts how often it was drawn."""

  def init(problem, key, phase):
    return jnp.int32(0)

  def loss(problem, syn, student, real, key):
    return jnp.float32(number), (student + 1, {"seen": jnp.float32(number)})

  return contract.Objective(init, loss, 1)


def drawn_after(objective, steps):
  problem, syn = make_problem(), synthetic.SyntheticSet(make_synthetic())
  state = objective.init(problem, jax.random.key(0), jnp.float32(0))

  def step(state, key):
    value, (state, _) = objective.loss(problem, syn, state, None, key)
    return state, value

  keys = jax.random.split(jax.random.key(3), steps)
  state, values = jax.lax.scan(step, state, keys)
  return state, np.asarray(values)


def test_every_way_is_drawn_and_only_the_drawn_one_moves_on():
  (count, states), values = drawn_after(
    travelling.drawn([told(0), told(1), told(2)]), 60
  )
  assert int(count) == 60
  assert [int(x) for x in states] == [(values == i).sum() for i in range(3)]
  assert min(int(x) for x in states) > 8


def test_ways_come_in_one_after_the_other():
  _, values = drawn_after(
    travelling.drawn([told(0), told(1), told(2)], opening=40), 80
  )
  assert (values[:20] == 0).all()
  assert values[20:40].max() == 1
  assert values[40:].max() == 2


def test_numbers_of_steps_are_drawn_and_come_in_one_after_the_other():
  def make(steps):
    return told(0)._replace(
      loss=lambda problem, syn, student, real, key: (
        jnp.float32(steps),
        (student + 1, {}),
      )
    )

  (count, states), values = drawn_after(
    travelling.drawn_steps(make, [8, 2, 4], opening=40), 80
  )
  assert int(count) == 80
  assert (values[:20] == 8).all() and set(values[20:40]) == {8, 2}
  assert set(values[40:]) == {8, 2, 4}
  assert [int(x) for x in states] == [(values == n).sum() for n in (8, 2, 4)]


@pytest.mark.parametrize("num_steps", [2, 7, 50])
@pytest.mark.parametrize("warmup", [0.0, 0.3, 0.9])
def test_rates_of_drawn_steps_are_those_of_that_number(num_steps, warmup):
  known = optimizers.FineTuning(num_steps, warmup=warmup)
  drawn = known._replace(num_steps=jnp.int32(num_steps))
  steps = jnp.arange(num_steps + 3) + 0.5
  expected = np.asarray(known.rate(0.1)(steps))
  np.testing.assert_allclose(drawn.rate(0.1)(steps), expected, atol=1e-7)


@pytest.mark.parametrize("kind", ["adamw", "sgd"])
def test_ways_of_several_lengths_are_one_program_and_each_its_own(kind):
  problem, counts = conftest.make_small_problem(), (2, 5)
  real = contract.Real(make_real(1))
  made = []

  def make(steps, window=5):
    made.append(steps)
    return finetune_ahead.along(
      optimizers.FineTuning(steps, kind=kind),
      0.1,
      finetune_ahead.Windows(window=window, skip=0),
      batch_size=64,
      centred=False,
      rule="mixed",
    )

  def slope(objective):
    def loss(inputs, state, key):
      syn = synthetic.SyntheticSet(make_synthetic().replace(inputs=inputs))
      return objective.loss(problem, syn, state, real, key)

    return jax.jit(jax.value_and_grad(loss, has_aux=True))

  objective = travelling.drawn_steps(make, counts)
  start = objective.init(problem, jax.random.key(0), jnp.float32(0))
  made.clear()
  program, seen = slope(objective), {}
  for seed in range(8):
    key = jax.random.key(seed)
    (value, (_, metrics)), grads = program(make_synthetic().inputs, start, key)
    seen[int(metrics["travelling/steps"])] = (value, grads, key)
  assert set(seen) == set(counts)
  assert program._cache_size() == 1 and len(made) == 1
  for i, steps in enumerate(counts):
    value, grads, key = seen[steps]
    state = jax.tree.map(lambda x, i=i: x[i], start[1])
    alone = slope(make(steps, window=steps))
    own_key = jax.random.split(key)[1]
    (expected, _), theirs = alone(make_synthetic().inputs, state, own_key)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    np.testing.assert_allclose(grads, theirs, rtol=1e-3, atol=1e-7)


def test_another_student_is_looked_ahead_at():
  problem = make_problem()
  ahead = finetune_ahead.finetune_ahead(
    optimizers.FineTuning(num_steps=4, kind="sgd"),
    0.1,
    finetune_ahead.Windows(window=2, skip=0),
  )
  other = travelling.of_student(
    ahead, lambda own: small.TextCNN(2, width=8, max_positions=6)
  )
  state = other.init(problem, jax.random.key(0), jnp.float32(0))
  real = contract.Real(make_real(1))

  def loss(inputs):
    syn = synthetic.SyntheticSet(make_synthetic().replace(inputs=inputs))
    return other.loss(problem, syn, state, real, jax.random.key(1))[0]

  value, grads = jax.jit(jax.value_and_grad(loss))(make_synthetic().inputs)
  assert np.isfinite(value) and np.abs(grads).max() > 1e-8


@pytest.mark.parametrize("kind", ["adamw", "sgd"])
def test_a_step_of_the_objective_is_one_of_the_protocol(kind):
  protocol = optimizers.FineTuning(num_steps=8, kind=kind)
  params = {"w": jnp.arange(4.0)}
  grads = {"w": jnp.array([0.5, -2.0, 1.0, 3.0])}
  optimizer = protocol.optimizer(0.1)
  state, theirs = optimizer.init(params), params
  zeros = jax.tree.map(jnp.zeros_like, params)
  moments = optimizers.Moments(zeros, zeros, jnp.int32(0))
  ours = params
  for step in range(3):
    theirs, state = fitting.update(optimizer, grads, state, theirs)
    rate = protocol.rate(0.1)(step)
    ours, moments = protocol.step(ours, grads, moments, rate, 1)
  np.testing.assert_allclose(ours["w"], theirs["w"], rtol=1e-5)
  assert optax.tree.norm(ours) != pytest.approx(float(optax.tree.norm(params)))


def test_fewer_layers_keep_the_first_pretrained_ones():
  problem = make_problem()
  initial = problem.init(jax.random.key(5))
  problem = problem.replace(initial=initial)
  seen = []

  def init(problem, key, phase):
    seen.append(problem)
    return problem.init(key)

  own = contract.Objective(init, lambda *args: None, 1)
  other = travelling.of_student(
    own, lambda problem: problem.student.clone(num_layers=1)
  )
  params = other.init(problem, jax.random.key(0), jnp.float32(0))
  stacked = [
    (jax.tree.leaves(params[name]), jax.tree.leaves(initial[name]))
    for name in problem.roles.stacks
  ]
  for ours, whole in stacked:
    for x, y in zip(ours, whole, strict=True):
      np.testing.assert_array_equal(x, y[:1])
  assert seen[0].student.num_layers == 1


def test_a_window_that_is_the_whole_way_becomes_the_longest():
  windows = finetune_ahead.Windows(window=25, skip=0, stride=4, until=100)
  assert windows.whole(100, (50, 201)).window == 51
  short = windows._replace(window=2, until=0).whole(100, (50, 201))
  assert (short.window, short.until) == (2, 0)
  with pytest.raises(ValueError, match="use until=0"):
    windows.whole(200, (50,))


def test_a_config_draws_numbers_of_steps_and_refuses_other_ends():
  config = recipe.changed(
    settings.recipe(tiny_config.get_config()),
    objective="travelling",
    finetune__num_steps=4,
    finetune_ahead__window=2,
    finetune_ahead__stride=2,
    travelling__steps=(2, 4, 9),
    travelling__sgd_rates=(0.1,),
  )
  (stage,) = schedule.stages(config)
  problem = conftest.make_small_problem()
  _, ways = stage.objective.init(problem, jax.random.key(0), jnp.float32(0))
  assert len(ways) == 4  # three rates of AdamW, one of SGD
  leaves = jax.tree.leaves([students for _, students in ways])
  assert all(x.shape[0] == 3 for x in leaves)
  with pytest.raises(errors.InputError, match="use until=0"):
    schedule.stages(recipe.changed(config, finetune_ahead__until=2))


def test_other_depths_are_of_the_layers_that_a_pretrained_student_has(tmp_path):
  config = recipe.changed(
    settings.recipe(tiny_config.get_config()),
    data__name=str(tiny_language.write_rows(tmp_path, "classes")),
    student__pretrained=str(pathlib.Path(__file__).parents[1] / "tiny_bert"),
    student__num_layers=0,
    objective="travelling",
    travelling__rates=(1e-3,),
    travelling__students=("transformer",),
  )
  problem = assembly.setup(config).problem
  (stage,) = schedule.stages(config)

  def students(problem):
    return stage.objective.init(problem, jax.random.key(0), jnp.float32(0))

  _, (other,) = jax.eval_shape(students, problem)
  assert other.params == jax.eval_shape(problem.init, jax.random.key(0))
  deeper = ("own", f"transformer:{problem.student.num_layers + 1}")
  with pytest.raises(errors.InputError, match="has more layers than"):
    assembly.setup(recipe.changed(config, travelling__students=deeper))


def test_other_students_fit_the_table_and_the_rows_of_one_without_positions():
  problem = make_problem("textcnn")
  config = recipe.changed(
    settings.recipe(tiny_config.get_config()), student__width=24
  )
  other = travellers.builder("transformer:3", config)(problem)
  assert (other.width, other.num_layers, other.max_positions) == (8, 3, 16)
  same = travellers.builder("textcnn", config)(problem)
  assert (same.width, same.max_positions) == (24, 1 << 30)
  for student in (other, same):
    jax.eval_shape(problem.replace(student=student).init, jax.random.key(0))


@pytest.mark.parametrize("named, fields, said", [
  ("", {}, "travelling.students is empty; use own"),
  ("transformer:0", {}, "num_layers=0 means all layers"),
  ("transformer:1", {"student__num_heads": 3}, "width=8 does not divide into"),
  ("gpt2:1", {"data__max_length": 20}, "gpt2:1 would read 16 tokens, and rows"),
])  # fmt: skip
def test_students_that_cannot_be_are_refused(named, fields, said):
  config = settings.recipe(tiny_config.get_config())
  students = ("own", named) if named else ()
  with pytest.raises(errors.InputError, match=said):
    config = recipe.changed(config, travelling__students=students, **fields)
    travellers.require(make_problem("textcnn"), config)


def test_other_kinds_of_student_say_no_words(tmp_path):
  config = recipe.changed(
    settings.recipe(tiny_language.get_config(tmp_path, "classes")),
    objective="travelling",
    travelling__students=("own", "textcnn"),
  )
  with pytest.raises(errors.InputError, match="use own, or lora:16"):
    assembly.setup(config)
  assembly.setup(recipe.changed(config, travelling__students=("own",)))


def test_a_card_names_all_that_a_sum_of_objectives_learns_for():
  config = recipe.changed(
    settings.recipe(tiny_config.get_config()),
    objective="travelling+look_ahead",
    finetune__num_steps=7,
  )
  said = outputs.limits(config)
  assert "its own 2 steps" in said and "7 steps of several optimisers" in said
  assert "may get far less" not in said
  alone = outputs.limits(recipe.changed(config, objective="look_ahead"))
  assert "may get far less" in alone and "several" not in alone
