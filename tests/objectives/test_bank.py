"""The expert bank: what it holds, who may read it, how it survives a kill."""

import dataclasses
import functools
import gc
import json
import shutil
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny_config

from gmdistill import errors, main
from gmdistill.data import samplers
from gmdistill.objectives import (
  bank,
  bank_building,
  bank_walks,
  contract,
  gradient_matching,
  trajectories,
)
from gmdistill.runs import distill, first_set, jobs, workdirs
from gmdistill.runs.config import assembly, schedule, settings
from gmdistill.sets import set_files
from gmdistill.students import (
  adapters,
  decoder_weights,
  decoders,
  problems,
  tasks,
)
from gmdistill.system import devices
from gmdistill.training import fitting, optimizers

FIELDS = dict(
  num_trajectories=2,
  ages=(0, 1, 3),
  rows_per_class=6,
  batch_rows_per_class=4,
  precision="float32",
)


@pytest.fixture(scope="module")
def setup():
  return assembly.setup(settings.recipe(tiny_config.get_config()))


@pytest.fixture(scope="module")
def built(tmp_path_factory, setup):
  folder = tmp_path_factory.mktemp("banks") / "bank"
  bank_building.build(folder, setup, bank.Options(**FIELDS))
  return folder


@pytest.fixture
def own(tmp_path, built):
  """A copy that a test may spoil."""
  return shutil.copytree(built, tmp_path / "bank")


def config_of(folder, **fields):
  config = tiny_config.get_config()
  config.objective = "gradient_matching"
  config.bank.update(dir=str(folder), **FIELDS)
  config.update(fields)
  return config


def test_a_bank_holds_the_states_of_ordinary_training(built, setup):
  opened = bank.Bank(built, setup)
  sampler = samplers.class_balanced_sampler(
    setup.corpus.train, rows_per_class=4, num_classes=4, seed=0
  )
  problem, optimizer = setup.problem, optax.adamw(1e-4)
  params = problem.init(jax.random.fold_in(jax.random.key(0), 1))
  state = optimizer.init(params)
  gradient = jax.jit(jax.grad(problem.loss))
  for step in range(3):
    # Trajectory 1 of 2, whose oldest state has taken three steps.
    grads = gradient(params, sampler(3 + step))
    updates, state = optimizer.update(grads, state, params)
    params = optax.apply_updates(params, updates)
  found = opened.expert(1, 2, ("params",)).params
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), found, params
  )


def test_targets_are_the_mean_gradients_of_each_class(built, setup):
  expert = bank.Bank(built, setup).expert(0, 1, ("params", "targets", "losses"))
  sampler = samplers.class_balanced_sampler(
    setup.corpus.train, rows_per_class=6, num_classes=4, seed=1
  )
  split = contract.by_group(sampler(1), 4)  # trajectory 0, second state
  both = jax.jit(jax.value_and_grad(setup.problem.loss))
  for label in range(4):
    rows = jax.tree.map(lambda x, c=label: x[c], split)
    loss, grads = both(expert.params, rows)
    np.testing.assert_allclose(expert.losses[label], loss, rtol=1e-5)
    kept = setup.problem.roles.keep(grads, "all")
    jax.tree.map(
      lambda a, b, c=label: np.testing.assert_allclose(a[c], b, atol=1e-6),
      expert.targets,
      kept,
    )
  assert "position" not in expert.targets


def test_chunks_do_not_change_a_gradient(setup, monkeypatch):
  sampler = samplers.class_balanced_sampler(
    setup.corpus.train, rows_per_class=6, num_classes=4, seed=1
  )
  params = setup.problem.init(jax.random.key(0))

  def gradients(chunk):
    monkeypatch.setattr(bank_walks, "CHUNK", chunk)
    return jax.jit(
      functools.partial(bank_walks.group_gradients(4, "head"), setup.problem)
    )(params, sampler(0), jax.random.key(0))

  for whole, part in zip(
    *map(jax.tree.leaves, (gradients(32), gradients(4))), strict=True
  ):
    np.testing.assert_allclose(whole, part, atol=1e-6)


def test_the_size_told_beforehand_is_that_of_the_arrays(built, setup):
  opened = bank.Bank(built, setup)
  fields = ("params", "targets", "losses")
  total = sum(
    leaf.nbytes
    for h in range(2)
    for i in range(3)
    for leaf in jax.tree.leaves(opened.expert(h, i, fields))
  )
  assert bank.num_bytes(setup, opened.options) == total


def test_halves_take_half_the_room_and_stay_near(tmp_path, built, setup):
  fields = FIELDS | dict(precision="bfloat16")
  halves = bank.Options(**fields)
  folder = bank_building.build(tmp_path / "halves", setup, halves)
  whole = bank.Bank(built, setup).expert(0, 1, ("targets",)).targets
  half = bank.Bank(folder, setup).expert(0, 1, ("targets",)).targets
  for a, b in zip(*map(jax.tree.leaves, (whole, half)), strict=True):
    assert b.nbytes * 2 == a.nbytes
    np.testing.assert_allclose(a, b.astype(np.float32), rtol=1e-2, atol=1e-6)


def test_few_bits_a_number_stay_near(tmp_path, built, setup):
  few = bank.Options(**FIELDS | dict(precision="int8"))
  folder = bank_building.build(tmp_path / "few", setup, few)
  both = ("params", "targets")
  whole = bank.Bank(built, setup).expert(0, 1, both)
  near = bank.Bank(folder, setup).expert(0, 1, both)
  assert 5 * bank.num_bytes(setup, few) < bank.num_bytes(
    setup, bank.Options(**FIELDS)
  )
  for a, b in zip(*map(jax.tree.leaves, (whole, near)), strict=True):
    assert a.shape == b.shape and b.dtype == np.float32
  for a, b in zip(
    *map(jax.tree.leaves, (whole.params, near.params)), strict=True
  ):
    assert np.abs(a - b).max() <= 0.005 * np.abs(a).max()
  a, b = (
    np.concatenate([x.ravel() for x in jax.tree.leaves(expert.targets)])
    for expert in (whole, near)
  )
  assert a @ b / np.linalg.norm(a) / np.linalg.norm(b) > 0.99


def test_fifty_adapters_of_a_small_language_model_take_little_room():
  # SmolLM2-135M, rank 8: 2.44 million numbers a state, as many a gradient.
  module = decoders.Llama(
    width=576,
    num_layers=30,
    num_heads=9,
    num_key_value_heads=3,
    hidden=1536,
    vocabulary=49152,
  )
  table = jax.ShapeDtypeStruct((49152, 576), np.float32)
  problem = problems.Problem(table, None, module, asks=tasks.next_tokens())
  adapted = adapters.lora(module, decoder_weights.shapes(module), rank=8)
  setup = types.SimpleNamespace(problem=adapters.over(problem, adapted))
  fifty = functools.partial(
    bank.Options, num_trajectories=10, ages=(0, 1, 2, 3, 4)
  )
  assert len(fifty().names) == 50
  assert bank.num_bytes(setup, fifty(precision="int8")) < 200e6
  assert 480e6 < bank.num_bytes(setup, fifty(precision="bfloat16")) < 500e6


def test_an_interrupted_bank_is_finished_to_the_same_bits(own, setup, capfd):
  before = {p.name: p for p in (own / "entries").iterdir()}
  opened = bank.Bank(own, setup)
  first = opened.expert(1, 2, ("params", "targets"))
  for name in ("000-00003", "001-00001", "001-00003"):
    shutil.rmtree(before[name])
  with pytest.raises(errors.InputError, match="lacks 3 of its 6 states"):
    bank.Bank(own, setup)
  bank_building.build(own, setup, opened.options)
  assert "3 to compute" in capfd.readouterr().err.replace("\n", " ")
  again = bank.Bank(own, setup).expert(1, 2, ("params", "targets"))
  jax.tree.map(np.testing.assert_array_equal, first, again)


def test_every_state_comes_once_an_epoch(built, setup):
  opened = bank.Bank(built, setup)
  sample = opened.sampler(("losses",), max_age=1, span=1, seed=0)
  drawn = [tuple(sample(step).losses.tolist()) for step in range(8)]
  assert len(set(drawn[:4])) == len(set(drawn[4:])) == 4  # 2 students, 2 ages
  assert tuple(sample(5).losses.tolist()) == drawn[5]


def test_a_curriculum_lets_older_states_in_one_after_the_other(built, setup):
  opened = bank.Bank(built, setup)
  ages = {
    float(opened.expert(h, i, ("losses",)).losses.sum()): i
    for h in range(2)
    for i in range(3)
  }
  options = dict(max_age=9, span=1, seed=0)
  sample = opened.sampler(("losses",), curriculum=60, **options)
  drawn = [ages[float(sample(step).losses.sum())] for step in range(66)]
  assert set(drawn[:20]) == {0} and set(drawn[20:40]) == {0, 1}
  assert set(drawn[40:60]) == {0, 1, 2}
  whole = opened.sampler(("losses",), **options)
  for step in range(60, 66):
    np.testing.assert_array_equal(sample(step).losses, whole(step).losses)


def test_later_is_the_state_span_ages_on(built, setup):
  opened = bank.Bank(built, setup)
  pair = opened.expert(0, 0, ("params", "later"), 2)
  jax.tree.map(
    np.testing.assert_array_equal,
    pair.later,
    opened.expert(0, 2, ("params",)).params,
  )
  with pytest.raises(errors.InputError, match="experts.span=3 places on"):
    opened.sampler(("later",), max_age=9, span=3, seed=0)


@pytest.mark.parametrize(
  "objective",
  [
    "gradient_matching",
    "trajectory_matching,task_vector_matching",
    "gradient_matching+0.1*look_ahead",  # which starts at the bank's states
  ],
)
def test_a_run_reads_the_bank(tmp_path, built, objective):
  config = config_of(built, objective=objective, num_steps=4)
  config.look_ahead.start = "bank"
  config.experts.curriculum = 0.5
  state = distill.run(config, str(tmp_path / "run"))
  assert int(state.step) == 4
  summary = json.loads((tmp_path / "run" / "summary.json").read_text())
  assert summary["protocols"]["replay"]["distilled"]["n"] == 3


def test_matching_a_bank_reads_no_training_row(built, setup):
  config = config_of(built)
  (stage,) = schedule.stages(settings.recipe(config))
  assert stage.objective.num_batches == 0
  without = setup._replace(corpus=setup.corpus._replace(train=None))
  mesh = devices.build(config.num_students)
  real = jobs.real_data(
    without, settings.recipe(config), stage.objective, mesh
  )(0, 2)
  assert real.batches is None
  head = real.expert.targets["head"]["kernel"]
  assert head.shape[:3] == (2, 2, 4)  # outer steps, students, classes


def test_matching_a_bank_equals_matching_its_rows(built, setup):
  """The bank's targets give the loss that the rows themselves give."""
  expert = bank.Bank(built, setup).expert(0, 1, ("params", "targets"))
  sampler = samplers.class_balanced_sampler(
    setup.corpus.train, rows_per_class=6, num_classes=4, seed=1
  )
  config = config_of(built)
  problem = setup.problem
  parameterization = assembly.parameterization(
    settings.recipe(config), setup.problem
  )
  syn = parameterization.decode(
    first_set.first_params(setup, settings.recipe(config), parameterization)
  )
  ours, _ = jax.jit(gradient_matching.expert_matching().loss)(
    problem, syn, (), contract.Real(None, expert), jax.random.key(0)
  )
  along = trajectories.trajectory(optax.sgd(0.1), train_on="synthetic")
  student = trajectories.StudentState(expert.params, (), jnp.int32(0))
  student = student._replace(optimizer=optax.sgd(0.1).init(expert.params))
  batches = jax.tree.map(lambda x: jnp.asarray(x)[None], sampler(1))
  theirs, _ = jax.jit(gradient_matching.gradient_matching(along).loss)(
    problem, syn, student, contract.Real(batches), jax.random.key(0)
  )
  np.testing.assert_allclose(ours, theirs, rtol=1e-5)


# --- what is refused ----------------------------------------------------------


def refused(config, folder):
  with pytest.raises(errors.InputError) as caught:
    distill.run(config, str(folder))
  assert not folder.exists()
  return str(caught.value)


def test_what_is_of_drawn_rows_is_refused_where_none_is_drawn(tmp_path, built):
  for fields in ({"joined_rows": 0.5}, {"real_rows": "representatives"}):
    said = refused(config_of(built, **fields), tmp_path / "run")
    assert "objective=gradient_matching draws none" in said
    assert next(iter(fields)) in said


def test_a_run_goes_on_only_with_its_own_bank(tmp_path, own):
  config = config_of(own)
  before = jobs.sources(jobs.prepare(config))
  workdirs.require_sources(tmp_path, before)
  about = json.loads((own / "bank.json").read_text())
  about["options"]["seed"] += 1
  (own / "bank.json").write_text(json.dumps(about))
  after = jobs.sources(jobs.prepare(config))
  with pytest.raises(errors.InputError, match="a run of other bank"):
    workdirs.require_sources(tmp_path, after)


def test_a_bank_of_another_student_is_refused(tmp_path, built):
  config = config_of(built)
  config.student.num_layers = 2
  said = refused(config, tmp_path / "run")
  assert "student is Transformer" in said and "num_layers = 2" in said


def test_a_bank_serves_students_that_compute_the_same(built, setup):
  def laid_out(**fields):
    student = setup.problem.student.clone(**fields)
    return setup._replace(problem=setup.problem.replace(student=student))

  assert bank.Bank(built, laid_out(remat="layers", unroll=2)).options
  with pytest.raises(errors.InputError, match="compute = 'bfloat16'"):
    bank.Bank(built, laid_out(compute="bfloat16"))


def test_rounded_states_lead_no_trajectory(tmp_path, setup):
  options = bank.Options(**FIELDS | dict(precision="bfloat16"))
  folder = bank_building.build(tmp_path / "halves", setup, options)
  config = config_of(folder, objective="trajectory_matching")
  said = refused(config, tmp_path / "run")
  assert "--config.bank.precision=float32" in said


def test_a_bank_of_other_data_is_refused(tmp_path, built):
  config = config_of(built)
  config.data.max_length = 10
  assert "data is" in refused(config, tmp_path / "run")


def test_a_bank_that_lacks_tensors_is_refused(tmp_path, setup):
  options = bank.Options(**FIELDS | dict(matched="head", ages=(0,)))
  folder = bank_building.build(tmp_path / "heads", setup, options)
  said = refused(config_of(folder), tmp_path / "run")
  assert "matched=head" in said and "bank.matched=all" in said


# A read that fails leaves coroutines of tensorstore behind.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_truncated_entry_is_named(own, setup):
  entry = own / "entries" / "000-00000"
  largest = max(
    (p for p in entry.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size
  )
  largest.write_bytes(largest.read_bytes()[: largest.stat().st_size // 2])
  opened = bank.Bank(own, setup)
  with pytest.raises(errors.InputError, match="000-00000 is missing or dam"):
    opened.expert(0, 0, ("params", "targets"))
  gc.collect()


def test_a_damaged_description_is_refused(own, setup):
  (own / "bank.json").write_text('{"format": ')
  with pytest.raises(errors.InputError, match="bank.json is damaged"):
    bank.Bank(own, setup)


@pytest.mark.parametrize("options", [{}, {"options": {"new": 1}}])
def test_a_description_of_another_version_is_refused(own, setup, options):
  about = json.loads((own / "bank.json").read_text())
  del about["options"]
  (own / "bank.json").write_text(json.dumps(about | options))
  said = "is damaged, or of another version"
  with pytest.raises(errors.InputError, match=said):
    bank.Bank(own, setup)
  with pytest.raises(errors.InputError, match=said):
    bank_building.build(own, setup, bank.Options(**FIELDS))


@pytest.mark.parametrize(
  "fields",
  [
    {"seed": -1},
    {"learning_rate": -1.0},
    {"clip": float("nan")},
    {"ages": "x"},
    {"ages": (0, 1.5)},
  ],
)
def test_numbers_that_no_bank_has_are_refused(fields):
  (name,) = fields
  with pytest.raises(errors.InputError, match=f"bank.{name}="):
    bank.Options(**(FIELDS | fields))


def test_a_disk_without_room_is_told_before_anything_is_written(
  tmp_path, setup, monkeypatch
):
  usage = shutil.disk_usage(tmp_path)
  monkeypatch.setattr(shutil, "disk_usage", lambda p: usage._replace(free=10))
  with pytest.raises(errors.InputError, match="has 10 bytes free"):
    bank_building.build(tmp_path / "bank", setup, bank.Options(**FIELDS))
  assert not (tmp_path / "bank").exists()


def test_another_bank_in_the_folder_is_refused(own, setup):
  options = bank.Options(**FIELDS | dict(rows_per_class=5))
  with pytest.raises(errors.InputError, match="rows_per_class is 6 there, 5"):
    bank_building.build(own, setup, options)


def test_a_class_with_too_few_rows_is_refused(tmp_path, setup):
  options = bank.Options(**FIELDS | dict(rows_per_class=10**6))
  with pytest.raises(errors.InputError, match="use at most"):
    bank_building.build(tmp_path / "bank", setup, options)


@pytest.mark.parametrize(
  "field, value, said",
  [
    ("ages", (3, 1), "rising order"),
    ("ages", (), "rising order"),
    ("num_trajectories", 0, "whole number, from 1"),
    ("precision", "int4", "float32, bfloat16, int8"),
    ("rows", "herding", "random, k_centers"),
    ("matched", "tail", "head, last_K, all"),
  ],
)
def test_bad_options_are_refused(field, value, said):
  with pytest.raises(errors.InputError, match=said):
    bank.Options(**FIELDS | {field: value})


@pytest.fixture(scope="module")
def along(tmp_path_factory, finished_run, setup):
  """A bank along a finished run's set, and its options."""
  folder = tmp_path_factory.mktemp("banks") / "along"
  own = str(finished_run[0] / "set")
  fields = FIELDS | dict(along=own, along_steps=4, learning_rate=1e-2)
  options = bank.Options(**fields)
  bank_building.build(folder, setup, options)
  return folder, options


def test_a_bank_along_a_set_has_the_states_of_training_on_it(along, setup):
  folder, options = along
  syn, _ = set_files.load(options.along)
  opened = bank.Bank(folder, setup)
  optimizer = optimizers.FineTuning(num_steps=4).optimizer(1e-2)
  for trajectory in range(2):
    start = opened.expert(trajectory, 0, ("params",)).params
    reached = fitting.descend(
      setup.problem.loss,
      start,
      syn.batch,
      optimizer,
      rows=jnp.tile(jnp.arange(len(syn.batch.labels)), (3, 1)),
    )
    found = opened.expert(trajectory, 2, ("params",)).params
    jax.tree.map(
      lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6),
      found,
      reached,
    )
    assert any(
      np.any(x != y)
      for x, y in zip(
        jax.tree.leaves(start), jax.tree.leaves(found), strict=True
      )
    )


def test_a_bank_along_a_set_is_of_that_set(along, setup, tmp_path):
  folder, options = along
  copy = shutil.copytree(folder, tmp_path / "bank")
  bank_building.build(copy, setup, options)  # whole: nothing to do
  syn, card = set_files.load(options.along)
  moved = shutil.copytree(options.along, tmp_path / "set")
  batch = dataclasses.replace(syn.batch, inputs=syn.batch.inputs + 1)
  set_files.save(moved, dataclasses.replace(syn, batch=batch), card)
  about = json.loads((copy / "bank.json").read_text())
  about["options"]["along"] = str(moved)
  (copy / "bank.json").write_text(json.dumps(about))
  changed = dataclasses.replace(options, along=str(moved))
  with pytest.raises(errors.InputError, match="holds another bank: along is"):
    bank_building.build(copy, setup, changed)


def test_a_set_of_other_classes_is_refused(along, setup, tmp_path):
  _, options = along
  other = shutil.copytree(options.along, tmp_path / "set")
  card = json.loads((other / "card.json").read_text())
  card["label_names"] = ["a", "b", "c", "d"]
  (other / "card.json").write_text(json.dumps(card))
  with pytest.raises(errors.InputError, match="has the classes .*, the data"):
    bank_building.build(
      tmp_path / "bank", setup, dataclasses.replace(options, along=str(other))
    )


def test_a_set_longer_than_its_students_read_is_refused(along, setup):
  folder, options = along
  short = setup.problem.student.clone(max_positions=5)
  short = setup._replace(problem=setup.problem.replace(student=short))
  with pytest.raises(
    errors.InputError, match="of 6, but the student has 5 pos"
  ):
    bank_building.build(folder, short, options)


def test_a_set_s_students_lead_no_trajectory(along, setup):
  with pytest.raises(errors.InputError, match="build one without bank.along"):
    bank.Bank(along[0], setup).sampler(
      ("params", "later"), max_age=9, span=1, seed=0
    )


@pytest.mark.parametrize(
  "fields, said",
  [
    (dict(along_steps=2), "beyond bank.along_steps=2"),
    (dict(along_steps=1, ages=(0, 1)), "along_steps=1 must be at least 2"),
    (dict(clip=1.0), "leave one of both out"),
  ],
)
def test_what_does_not_go_with_a_set_is_refused(fields, said):
  with pytest.raises(errors.InputError, match=said):
    bank.Options(**FIELDS | dict(along="set") | fields)


@pytest.mark.parametrize(
  "objective, said",
  [
    ("trajectory_matching", "gmdistill bank"),
    ("look_ahead+x*gradient_matching", "no number"),
    ("gradient_matching+tail", "none of gradient_matching"),
  ],
)
def test_bad_objectives_are_refused(tmp_path, objective, said):
  config = tiny_config.get_config()
  config.objective = objective
  assert said in refused(config, tmp_path / "run")


def test_the_verb_builds_a_bank(tmp_path, capsys, setup):
  config = f"{tiny_config.__file__}"
  argv = ["gmdistill", "bank", f"--config={config}"]
  argv += ["--config.bank.num_trajectories=1", "--config.bank.ages=(0,1)"]
  argv += ["--config.bank.rows_per_class=4"]
  folder = tmp_path / "bank"
  assert main.main(argv) == 2
  assert "--workdir=DIR" in capsys.readouterr().err
  for field, said in (
    ("joined_rows=0.5", "joined_rows=0.5 is of the real rows that a run draws"),
    ("selection.apart=8", "selection.apart=8"),
  ):
    given = [*argv, f"--workdir={folder}", f"--config.{field}"]
    assert main.main(given) == 2
    assert said in capsys.readouterr().err
  assert not folder.exists()
  assert main.main([*argv, f"--workdir={folder}"]) == 0
  assert f"--config.bank.dir={folder}" in capsys.readouterr().out
  assert bank.Bank(folder, setup).options.ages == (0, 1)
