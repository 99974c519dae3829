"""The main job, end to end, on the embedded corpus."""

import functools
import gc
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
import tiny_config
from conftest import make_problem, make_synthetic

from gmdistill import errors
from gmdistill.data import overlap
from gmdistill.reports import finished
from gmdistill.runs import distill, finish, first_set, jobs, states, workdirs
from gmdistill.runs import outer as outer_loop
from gmdistill.runs.config import assembly, row_fields, schedule, settings
from gmdistill.sets import set_files
from gmdistill.system import checkpoints, devices, waits

HERE = pathlib.Path(__file__).parents[1]
ROWS = {"random", "herding", "k_centers", "distilled", "full"}


def tensors(workdir):
  return safetensors.numpy.load_file(workdir / "set" / "set.safetensors")


def assert_same_run(one, two):
  a, b = tensors(one), tensors(two)
  assert set(a) == set(b)
  for name in a:
    np.testing.assert_array_equal(a[name], b[name], err_msg=name)
  steps = []
  for workdir in (one, two):
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    steps.append([json.loads(line) for line in lines])
    for line in steps[-1]:
      del line["time"]
  assert steps[0] == steps[1]


def test_a_run_leaves_everything_it_promises(finished_run):
  workdir, step = finished_run
  for name in (
    "config.json environment.json metrics.jsonl checkpoints summary.json "
    "set/set.safetensors set/card.json analysis.json report.html space"
  ).split():
    assert (workdir / name).exists(), name
  assert step == 12
  summary = json.loads((workdir / "summary.json").read_text())
  assert (
    list(summary)
    == (
      "schema dataset student data_per_class sequence_length seed selection "
      "protocols cost gradient_cosine"
    ).split()
  )
  chosen = summary["selection"]
  assert set(chosen) == {"step", "accuracy", "protocol", "start_accuracy"}
  assert 0 <= chosen["start_accuracy"] <= 1
  assert set(summary["protocols"]) == {"scratch", "replay"}
  for protocol in summary["protocols"].values():
    rows = {name: x for name, x in protocol.items() if name != "unit"}
    assert set(rows) == ROWS and protocol["unit"] == "accuracy"
    for row in rows.values():
      assert set(row) == {"mean", "std", "n"} and 0 <= row["mean"] <= 1
  assert set(summary["cost"]) == set(
    "distill_seconds peak_memory_bytes student_seconds_set "
    "student_seconds_full set_bytes real_text_bytes break_even_students".split()
  )
  # None of a run that took no more than one before it in the same process.
  peak = summary["cost"]["peak_memory_bytes"]
  assert peak is None or peak > 2**20
  card = json.loads((workdir / "set" / "card.json").read_text())
  assert card["results"] == summary["protocols"]
  assert "the command" in (workdir / "report.html").read_text()


def test_the_set_has_the_promised_shapes_and_has_moved(finished_run):
  workdir, _ = finished_run
  found = tensors(workdir)
  classes = len(
    json.loads((workdir / "set/card.json").read_text())["label_names"]
  )
  assert found["embeddings"].shape == (2 * classes, 6, 16)
  assert found["labels"].shape == (2 * classes, classes)
  assert found["learning_rates"].shape == (2,)
  assert (found["learning_rates"] > 0).all()
  assert not np.isin(found["labels"], [0.0, 1.0]).all()


def test_metrics_have_one_line_a_step(finished_run):
  run = finished.load_run(finished_run[0])
  np.testing.assert_array_equal(run.metrics["step"], np.arange(1, 13))
  np.testing.assert_array_equal(
    run.metrics["outer/stage"], np.repeat([0.0, 1.0], 6)
  )
  steps, _ = finished.series(run, "selection/accuracy")
  assert steps.tolist() == [4, 8, 12]


def test_a_finished_run_started_again_ends_with_the_same_set(
  finished_run, tmp_path
):
  workdir = shutil.copytree(finished_run[0], tmp_path / "run")
  before = tensors(workdir)
  summary = json.loads((workdir / "summary.json").read_text())
  distill.run(tiny_config.get_config(), str(workdir), "the command")
  for name, value in tensors(workdir).items():
    np.testing.assert_array_equal(value, before[name])
  # The memory is the outer loop's, which did not run again.
  again = json.loads((workdir / "summary.json").read_text())
  peak = "peak_memory_bytes"
  assert again["cost"][peak] == summary["cost"][peak]


def test_a_run_begun_before_a_field_was_known_goes_on(finished_run, tmp_path):
  folder = tmp_path / "run"
  folder.mkdir()
  for name, gone in (
    ("config.json", ("joined_rows", "outer.ema")),
    ("sources.json", ("space",)),
  ):
    found = json.loads((finished_run[0] / name).read_text())
    for field in gone:
      *where, last = field.split(".")
      del functools.reduce(dict.__getitem__, where, found)[last]
    if name == "config.json":
      found["outer"]["range_test"] = False  # that was a field once
    (folder / name).write_text(json.dumps(found))
  config = tiny_config.get_config()
  workdirs.check(str(folder), settings.recipe(config))
  sources = json.loads((finished_run[0] / "sources.json").read_text())
  workdirs.require_sources(folder, sources)
  config.joined_rows = 0.5
  with pytest.raises(errors.InputError, match="joined_rows is 0.0 there, 0.5"):
    workdirs.check(str(folder), settings.recipe(config))
  sources["space"] = "another"
  with pytest.raises(errors.InputError, match="a run of other space"):
    workdirs.require_sources(folder, sources)


def test_of_equally_good_sets_the_later_is_kept(tmp_path, monkeypatch):
  job = jobs.prepare(tiny_config.get_config())
  monkeypatch.setattr(jobs, "prepare", lambda *_: job._replace(select=select))
  monkeypatch.setattr(finish, "finish", only_the_set)
  # 0.8 in float32 is more than in float64; the last is of the start.
  said = [0.3, 0.8, 0.8, 0.1]
  select = lambda params: said.pop(0)  # noqa: E731
  state = distill.run(tiny_config.get_config(), str(tmp_path), "the command")
  assert int(state.best_step) == 12


def only_the_set(job, folder, outcome):
  """What these tests compare; measuring it takes the longest."""
  set_files.save(folder / "set", outcome.best, {})


@pytest.mark.parametrize("saves", [1, 3, 4])
def test_resume_equals_uninterrupted(
  finished_run, tmp_path, monkeypatch, saves
):
  # Saves 1, 3 and 4: within a stage, at the stage's end, and just after it.
  whole, count = checkpoints.Checkpoints.save, []

  def save(self, step, state):
    whole(self, step, state)
    count.append(step)
    if len(count) == saves:
      signal.raise_signal(signal.SIGTERM)

  monkeypatch.setattr(checkpoints.Checkpoints, "save", save)
  monkeypatch.setattr(finish, "finish", only_the_set)
  config = tiny_config.get_config()
  with pytest.raises(
    errors.Stopped, match="go on with the same command"
  ) as stop:
    distill.run(config, str(tmp_path), "the command")
  assert stop.value.status == 0
  assert not (tmp_path / "set").exists()
  monkeypatch.setattr(checkpoints.Checkpoints, "save", whole)
  distill.run(config, str(tmp_path), "the command")
  assert_same_run(finished_run[0], tmp_path)


def damage(folder):
  """Cuts every file of a checkpoint's arrays in half."""
  files = [x for x in folder.rglob("*") if x.is_file() and "/d/" in str(x)]
  for path in files:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
  assert files


def test_of_a_damaged_checkpoint_the_one_before_is_used(
  finished_run, tmp_path, monkeypatch, capsys
):
  monkeypatch.setattr(finish, "finish", only_the_set)
  folder = tmp_path / "run"
  shutil.copytree(finished_run[0], folder)
  saved = folder / "checkpoints"
  damage(saved / "12")
  distill.run(tiny_config.get_config(), str(folder), "the command")
  said = " ".join(capsys.readouterr().err.split())
  assert "the checkpoint of step 12" in said and "is damaged" in said
  assert "going on from step 10" in said
  assert_same_run(finished_run[0], folder)
  distill.run(tiny_config.get_config(), str(folder), "the command")
  assert "going on from step 12" in capsys.readouterr().err  # written anew
  for step in saved.iterdir():
    damage(step)
  with pytest.raises(errors.InputError, match="no checkpoint of this run can"):
    distill.run(tiny_config.get_config(), str(folder), "the command")
  gc.collect()  # what orbax leaves of such a load is not told of, then or later


def command_line(workdir):
  return [
    sys.executable,
    "-m",
    "gmdistill",
    "distill",
    f"--config={HERE / 'tiny_config.py'}",
    f"--workdir={workdir}",
  ]


KILLS = int(os.environ.get("GMDISTILL_KILLS", "1"))


def test_a_killed_run_goes_on_to_the_same_bits(
  finished_run, tmp_path, monkeypatch
):
  environment = os.environ | {"JAX_PLATFORMS": "cpu"}
  metrics = tmp_path / "run" / "metrics.jsonl"
  command = command_line(tmp_path / "run")
  count = lambda: metrics.read_text().count("\n") if metrics.is_file() else 0  # noqa: E731
  delays = random.Random(0)
  for _ in range(KILLS):
    before = count()
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline and process.poll() is None:
      if count() not in (0, before) or before == 12:
        break
      time.sleep(0.01)
    # A step and its save take a part of this: any moment of them is met.
    time.sleep(delays.uniform(0.0, 0.5))
    process.kill()
    assert process.wait() in (-signal.SIGKILL, 0)
    process.stderr.close()
  with metrics.open("a") as file:
    file.write('{"step": 5, "outer/lo')  # a torn line, as a kill may leave it
  monkeypatch.setattr(finish, "finish", only_the_set)
  distill.run(tiny_config.get_config(), str(tmp_path / "run"), "the command")
  assert_same_run(finished_run[0], tmp_path / "run")


def test_ctrl_c_saves_and_says_how_to_go_on(tmp_path):
  config = tiny_config.get_config("polish")
  before = signal.getsignal(signal.SIGINT)

  def interrupt():
    lines = tmp_path / "metrics.jsonl"
    while not (lines.is_file() and lines.stat().st_size):
      time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGINT)

  waiting = threading.Thread(target=interrupt)
  waiting.start()
  with pytest.raises(errors.Stopped, match="gmdistill distill --x") as stop:
    distill.run(config, str(tmp_path), "gmdistill distill --x")
  waiting.join()
  assert stop.value.status == 130
  assert signal.getsignal(signal.SIGINT) is before
  assert any((tmp_path / "checkpoints").iterdir())


def test_another_config_in_the_workdir_is_refused_by_field(finished_run):
  config = tiny_config.get_config()
  config.outer.learning_rate = 0.5
  config.seed = 9
  with pytest.raises(
    errors.InputError, match="outer.learning_rate is 0.01.*0.5.*seed is 0.*9"
  ):
    distill.run(config, str(finished_run[0]))


def test_a_diverging_run_names_the_step_and_keeps_its_checkpoint(
  tmp_path, monkeypatch
):
  sampler = assembly.sampler

  def poisoned(setup, config, each):
    draw = sampler(setup, config, each)
    poison = lambda i: np.float32(np.nan if i >= 6 * each else 1.0)  # noqa: E731
    return lambda i: draw(i).replace(labels=draw(i).labels * poison(i))

  monkeypatch.setattr(assembly, "sampler", poisoned)
  config = tiny_config.get_config("polish")
  with pytest.raises(errors.NotFinite, match=r"step 7: set/.* is not finite"):
    distill.run(config, str(tmp_path))
  assert not (tmp_path / "set").exists()
  setup = assembly.setup(settings.recipe(config))
  stored = assembly.parameterization(settings.recipe(config), setup.problem)
  like = states.first_state(
    first_set.first_params(setup, settings.recipe(config), stored),
    schedule.stages(settings.recipe(config))[0],
    setup.problem,
    jax.random.key(0),
    config.num_students,
    devices.build(config.num_students),
  )
  keep = checkpoints.Checkpoints(tmp_path / "checkpoints")
  assert keep.steps() == [6, 4]
  kept = keep.load(6, like)
  keep.close()
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(kept.params))


def small(mode=""):
  """The tiny config, of a student that is traced and compiled sooner."""
  config = tiny_config.get_config(mode)
  config.student.kind = "textcnn"
  return config


def test_the_outer_step_compiles_once():
  config = small("polish")
  setup = assembly.setup(settings.recipe(config))
  stage = schedule.stages(settings.recipe(config))[0]
  mesh = devices.build(config.num_students)
  stored = assembly.parameterization(settings.recipe(config), setup.problem)
  key = jax.random.key(0)
  params = first_set.first_params(setup, settings.recipe(config), stored)
  state = states.first_state(
    params, stage, setup.problem, key, config.num_students, mesh
  )
  steps = outer_loop.outer_steps(stage, stored, 0.99, mesh)
  draw = jobs.real_data(setup, settings.recipe(config), stage.objective, mesh)
  for step in range(0, 6, 2):
    state, seen = steps(setup.problem, state, draw(step, 2), key)
  assert steps._cache_size() == 1
  assert int(state.step) == 6 and seen["outer/loss"].shape == (2,)


@pytest.mark.parametrize("objective", schedule.OBJECTIVES)
def test_nothing_is_traced_from_what_programs_are_shared_over(objective):
  class Guarded:
    def __getattr__(self, name):
      assert name not in jobs.UNTRACED
      return getattr(recipe, name)

  config = tiny_config.get_config()
  config.objective = f"gradient_matching+{objective}"
  recipe = settings.recipe(config)
  assert jobs.UNTRACED <= set(recipe.to_dict())
  schedule.stages(Guarded())
  assembly.parameterization(Guarded(), make_problem())


def test_runs_that_differ_in_their_seed_alone_share_their_programs(monkeypatch):
  traced = []

  def program(*arguments):
    traced.append(arguments)
    return "steps", jobs.program_costs.Cost(*[0] * 8)

  monkeypatch.setattr(jobs, "_PROGRAMS", {})
  monkeypatch.setattr(jobs.program_costs, "program", program)
  for seed, rate, expected in ((0, 0.01, 1), (1, 0.01, 1), (1, 0.02, 2)):
    config = tiny_config.get_config("polish")
    config.seed, config.outer.learning_rate = seed, rate
    config.coreset_pool += seed
    jobs.programs(jobs.prepare(config))
    assert len(traced) == expected


def test_a_program_that_is_slow_to_compile_is_awaited_with_words(
  monkeypatch, capsys
):
  def program(*arguments):
    time.sleep(0.1)
    return "steps", jobs.program_costs.Cost(*[0] * 8)

  monkeypatch.setattr(jobs, "_PROGRAMS", {})
  monkeypatch.setattr(jobs.program_costs, "program", program)
  monkeypatch.setattr(waits.Count, "AFTER", 0.0)
  jobs.programs(jobs.prepare(tiny_config.get_config()))
  assert "compiling the outer steps, " in capsys.readouterr().err


def test_steps_in_one_dispatch_equal_steps_one_by_one():
  config = small("polish")
  setup = assembly.setup(settings.recipe(config))
  stage = schedule.stages(settings.recipe(config))[0]
  mesh = devices.build(config.num_students)
  stored = assembly.parameterization(settings.recipe(config), setup.problem)
  key = jax.random.key(0)
  found = []
  for size in (1, 4):
    params = first_set.first_params(setup, settings.recipe(config), stored)
    state = states.first_state(
      params, stage, setup.problem, key, config.num_students, mesh
    )
    steps = outer_loop.outer_steps(stage, stored, 0.99, mesh)
    draw = jobs.real_data(setup, settings.recipe(config), stage.objective, mesh)
    for step in range(0, 4, size):
      state, _ = steps(setup.problem, state, draw(step, size), key)
    found.append(state.params)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), *found)


@pytest.mark.parametrize("recipe_name", ["", "polish"])
def test_students_side_by_side_are_students_one_by_one(recipe_name):
  # Adam divides small gradients by themselves: rounding shows in the update,
  # which has the size of the learning rate, 1e-2.
  config = small(recipe_name)
  setup = assembly.setup(settings.recipe(config))
  stage = schedule.stages(settings.recipe(config))[0]
  mesh = devices.build(1, devices=jax.devices()[:1])
  stored = assembly.parameterization(settings.recipe(config), setup.problem)
  key = jax.random.key(0)
  config.num_students = 3
  real = jobs.real_data(setup, settings.recipe(config), stage.objective, mesh)(
    0, 2
  )
  found = []
  for at_once in (1, 2, 3):
    params = first_set.first_params(setup, settings.recipe(config), stored)
    state = states.first_state(params, stage, setup.problem, key, 3, mesh)
    steps = outer_loop.outer_steps(stage, stored, 0.99, mesh, at_once)
    found.append(steps(setup.problem, state, real, key)[0].params)
  for other in found[1:]:
    jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), found[0], other
    )


def test_the_outer_loop_keeps_apart_from_the_rows_that_choose():
  config = tiny_config.get_config()
  setup = assembly.setup(settings.recipe(config))
  whole = row_fields.training_rows(setup, settings.recipe(config))
  config.selection.apart = 3
  apart = row_fields.training_rows(setup, settings.recipe(config))
  chosen = row_fields.selection_rows(setup.corpus, settings.recipe(config))
  assert 0 < len(apart.labels) < len(whole.labels)
  assert not overlap.sharing(apart, chosen, 3).any()
  config.selection.apart = 1  # every row has a token of the selection's
  with pytest.raises(errors.InputError, match="selection.apart=1 leaves no"):
    row_fields.training_rows(setup, settings.recipe(config))


def test_labels_and_step_sizes_have_learning_rates_of_their_own():
  config = tiny_config.get_config()
  moved = []
  for scales in ({}, {"label_scale": 3.0, "step_size_scale": 10.0}):
    config.outer.update(scales)
    stored = assembly.parameterization(settings.recipe(config), make_problem())
    params = stored.init(make_synthetic())
    optimizer = schedule.stages(settings.recipe(config))[0].optimizer
    state = optimizer.init(params)
    grads = jax.tree.map(jnp.ones_like, params)
    for _ in range(2):  # the first step has the learning rate 0
      updates, state = optimizer.update(grads, state, params)
    moved.append(updates)
  plain, scaled = moved
  factors = jax.tree.map(lambda a, b: float((b / a).mean()), plain, scaled)
  assert factors["step_sizes"] == pytest.approx(10.0)
  assert factors["head_step_sizes"] == pytest.approx(10.0)
  assert factors["base"]["labels"] == pytest.approx(3.0)
  assert factors["base"]["base"]["embeddings"] == pytest.approx(1.0)


@pytest.mark.parametrize(
  "every, steps, expected", [(4, 12, 4), (5, 10, 5), (4, 10, 2), (3, 7, 1)]
)
def test_a_dispatch_divides_every_stretch(every, steps, expected):
  config = tiny_config.get_config("polish")
  config.eval_every = config.checkpoint_every = every
  config.num_steps, config.steps_per_dispatch = steps, 5
  stages = schedule.stages(settings.recipe(config))
  assert outer_loop.dispatch_size(config, stages) == expected


def test_students_train_alone_and_only_the_sets_gradients_are_averaged():
  config = small()
  setup = assembly.setup(settings.recipe(config))
  stage = schedule.stages(settings.recipe(config))[0]
  mesh = devices.build(config.num_students)
  stored = assembly.parameterization(settings.recipe(config), setup.problem)
  params = first_set.first_params(setup, settings.recipe(config), stored)
  key = jax.random.key(0)
  state = states.first_state(
    params, stage, setup.problem, key, config.num_students, mesh
  )
  before = jax.device_get(state)
  real = jobs.real_data(setup, settings.recipe(config), stage.objective, mesh)(
    0, 1
  )
  steps = outer_loop.outer_steps(stage, stored, 0.99, mesh)
  after, _ = steps(setup.problem, state, real, key)
  keys = jax.random.split(jax.random.fold_in(key, 0), 2)
  loss = jax.jit(stage.objective.loss)
  for i in range(2):
    one = lambda x, i=i: jnp.asarray(x[i])  # noqa: E731
    _, (alone, _) = loss(
      setup.problem,
      stored.decode(before.params),
      jax.tree.map(one, before.students),
      jax.tree.map(lambda x, i=i: x[0, i], real),
      keys[i],
    )
    jax.tree.map(
      lambda a, b, i=i: np.testing.assert_allclose(a[i], b, atol=1e-6),
      after.students.params,
      alone.params,
    )
  kernels = jax.tree.leaves(after.students.params)[-1]
  assert not np.allclose(kernels[0], kernels[1])


def test_without_a_clip_the_gradient_is_as_it_is():
  outer = tiny_config.get_config().outer
  grads, found = {"embeddings": jnp.array([3.0, -4.0])}, []
  for clip in (0.0, 1e3):
    outer.clip = clip
    optimizer = schedule._optimizer(outer, lambda _: 1e-2)
    found.append(optimizer.update(grads, optimizer.init(grads))[0])
  assert np.all(found[0]["embeddings"])
  jax.tree.map(np.testing.assert_array_equal, *found)


def test_a_set_longer_than_its_rows_goes_on_with_rows_of_the_class():
  config = tiny_config.get_config()
  config.sequence_length = 16  # rows have 12 tokens at most
  setup = assembly.setup(settings.recipe(config))
  stored = assembly.parameterization(settings.recipe(config), setup.problem)
  inputs = stored.decode(
    first_set.first_params(setup, settings.recipe(config), stored)
  ).batch.inputs
  table = setup.problem.embeddings[None, None]
  gaps = jnp.abs(inputs[:, :, None] - table).sum(axis=-1)
  assert float(gaps.min(axis=-1).max()) == 0.0  # every position is a token's
  ids = np.asarray(gaps.argmin(axis=-1))
  assert (ids != setup.corpus.tokenizer.pad_id).all()
  train = setup.corpus.train
  for label in range(4):
    own = set(train.token_ids[train.labels == label].ravel().tolist())
    assert set(ids[2 * label : 2 * label + 2].ravel().tolist()) <= own


def test_the_finished_sets_labels_are_smoothed_and_the_objectives_are_not():
  config = tiny_config.get_config()
  config.labels, config.label_smoothing = "hard", 0.6
  job = jobs.prepare(config)
  seen = job.parameterization.decode(job.params).batch.labels
  left = job.finished.decode(job.params).batch.labels
  np.testing.assert_allclose(left, 0.4 * seen + 0.6 / 4, atol=1e-6)
  assert seen.max() == 1.0
  config.label_smoothing = 1.0
  with pytest.raises(errors.InputError, match="label_smoothing=1.0 must be"):
    distill.run(config, "unused")
