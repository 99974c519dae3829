"""The main job: `run` distils, evaluates and reports."""

import json
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from gmdistill import (
  checkpoint,
  errors,
  evaluate,
  finish,
  interrupts,
  metrics,
  objectives,
  outer,
  range_test,
  recipe,
  schedule,
  settings,
  spaces,
  synthetic,
  training,
  workdirs,
)

PyTree = Any
SELECTION_SEED = 1  # of the students that choose; the reported ones are others


def run(
  config: ml_collections.ConfigDict, workdir: str, command: str = ""
) -> outer.DistillState:
  """Distils, evaluates and reports; goes on where an earlier run ended.

  Args:
    config: As `settings.defaults`, changed.
    workdir: Where everything is left; see the README.
    command: How to start the same run again, for messages and the report.

  Raises:
    InputError: something the user can mend, before anything is written.
    NotFinite: the run diverged; the last good checkpoint is kept.
    Stopped: SIGINT or SIGTERM; everything is saved.
  """
  settings.check_numbers(config)
  stages = schedule.stages(config)
  protocols = recipe.protocols(config)
  folder = workdirs.check(workdir, config)
  setup = recipe.setup(config)
  parameterization = recipe.parameterization(config, setup.problem)
  params = outer.first_params(setup, config, parameterization)
  job = _Job(
    config=config,
    command=command,
    setup=setup,
    stages=stages,
    parameterization=parameterization,
    draws=[_real(setup, config, stage.objective) for stage in stages],
    select=_selector(setup, config, parameterization),
  )
  folder.mkdir(parents=True, exist_ok=True)
  with workdirs.held(folder):
    workdirs.claim(folder, config, command)
    return _run(job, folder, params, protocols)


def _run(job, folder, params, protocols):
  """Returns the last state; everything is checked and the folder is ours."""
  config, setup = job.config, job.setup
  metrics.say(
    f"{config.data.name}: {len(setup.corpus.train.labels)} training rows, "
    f"{len(setup.corpus.label_names)} classes; student {setup.student_name}"
  )
  keep = checkpoint.Checkpoints(folder / "checkpoints")
  state = _resumed(job, params, keep)
  step = int(state.step)
  to = _Outputs(
    folder=folder,
    keep=keep,
    writer=metrics.Writer(folder / "metrics.jsonl", step),
    progress=metrics.Progress(config.num_steps, step, config.eval_every),
    signals=interrupts.Signals(),
  )
  try:
    for index, stage in enumerate(job.stages):
      if int(state.step) < stage.last:
        state = _run_stage(job, index, state, to)
    seconds = to.writer.seconds
  finally:
    for part in (to.progress, to.writer, to.keep, to.signals):
      part.close()
  finish.finish(
    config=config,
    folder=folder,
    setup=setup,
    protocols=protocols,
    best=job.parameterization.decode(state.best),
    chosen={
      "step": int(state.best_step),
      "accuracy": float(state.best_accuracy),
      "protocol": config.selection.protocol,
    },
    distill_seconds=seconds,
  )
  return state


class _Job(NamedTuple):
  """What a run needs and never changes."""

  config: ml_collections.ConfigDict
  command: str
  setup: spaces.Setup
  stages: list[schedule.Stage]
  parameterization: synthetic.Parameterization
  draws: list[Callable[..., objectives.Real]]  # one a stage
  select: Callable[[PyTree], float]  # the set's parameters -> accuracy


class _Outputs(NamedTuple):
  """Where a run writes while it goes, and what may end it."""

  folder: pathlib.Path
  keep: checkpoint.Checkpoints
  writer: metrics.Writer
  progress: metrics.Progress
  signals: interrupts.Signals


def _resumed(job, params, keep):
  """Returns the last saved state, or the first one."""
  step = keep.latest() or 0
  # A state is saved in the shape of the stage that it ends, not the next one.
  stage = next(stage for stage in job.stages if step <= stage.last)
  state = outer.first_state(
    params,
    stage,
    job.setup.problem,
    jax.random.key(job.config.seed),
    job.config.num_students,
  )
  if step:
    state = keep.load(step, state)
    metrics.say(f"going on from step {step}")
  return state


def _run_stage(job, index, state, to):
  """Returns the state at the end of a stage; logs, chooses and saves."""
  config, stage = job.config, job.stages[index]
  root_key = jax.random.key(config.seed)
  step = int(state.step)
  if step == stage.first and index > 0:
    optimizer, students = outer.enter(
      stage,
      job.setup.problem,
      state.params,
      outer.stage_key(root_key, index),
      config.num_students,
    )
    state = state.replace(optimizer=optimizer, students=students)
  if config.outer.range_test:
    stage = _at_found_rate(job, index, state, to.folder)
  steps = outer.outer_steps(stage, job.parameterization, config.outer.ema)
  num_steps = outer.dispatch_size(config, job.stages)
  while step < stage.last:
    real = job.draws[index](step, num_steps)
    state, seen = steps(job.setup.problem, state, real, root_key)
    seen = jax.device_get(seen)
    metrics.check_finite(
      step + 1,
      seen["outer/loss"],
      {"set": state.params, "students": state.students},
      "Try a smaller outer.learning_rate or initial_step_size.",
    )
    step += num_steps
    accuracy = None
    if step % config.eval_every == 0 or step == config.num_steps:
      accuracy = job.select(state.ema)
      if accuracy >= float(state.best_accuracy):
        state = _with_best(state, accuracy)
    for k in range(num_steps):
      done = step - num_steps + k
      values = {name: value[k] for name, value in seen.items()}
      values["outer/learning_rate"] = stage.schedule(done - stage.first)
      values["outer/stage"] = index
      if accuracy is not None and k == num_steps - 1:
        values["selection/accuracy"] = accuracy
      to.writer.write(done + 1, values)
    to.progress.update(step, float(seen["outer/loss"][-1]), accuracy)
    if (
      step % config.checkpoint_every == 0
      or step in (stage.last, config.num_steps)
      or to.signals.received
    ):
      to.keep.save(step, state)
    if to.signals.received:
      raise errors.Stopped(
        f"saved at step {step}; go on with the same command: {job.command}",
        to.signals.status,
      )
  return state


def _at_found_rate(job, index, state, folder):
  """Returns a stage at the rate that the range test at its start found."""
  stage, path = job.stages[index], folder / "range_test.json"
  try:
    found = json.loads(path.read_text()) if path.is_file() else {}
  except ValueError:
    found = {}
  if int(state.step) == stage.first:
    found[str(index)] = range_test.find(
      job.setup.problem,
      stage,
      job.parameterization,
      state,
      job.draws[index](stage.first, range_test.CYCLE),
      jax.random.key(job.config.seed),
      job.config.outer,
    )
    workdirs.write_json(path, found)
  if str(index) not in found:
    raise errors.InputError(
      f"{path} does not say the rate that this run goes on at; restore it "
      "from a copy, or start in another --workdir."
    )
  rate = found[str(index)]["learning_rate"]
  return schedule.at_rate(stage, job.config.outer, rate)


def _with_best(state, accuracy):
  # A copy: the next dispatch donates the average.
  best = jax.tree.map(jnp.copy, state.ema)
  return state.replace(
    best=best,
    best_accuracy=jnp.float32(accuracy),
    best_step=jnp.copy(state.step),
  )


def _real(setup, config, objective):
  """Returns `draw(step, K)` -> Real, with the leading axes [K, S]."""
  batches = lambda step, num_steps: None  # noqa: E731
  if objective.num_batches:
    batches = _real_batches(setup, config, objective.num_batches)
  expert = None
  if objective.reads:
    expert = recipe.experts(setup, config, objective)
  count = config.num_students

  def draw(step, num_steps):
    found = objectives.Real(batches(step, num_steps))
    if expert is None:
      return found
    drawn = [expert(i) for i in range(step * count, (step + num_steps) * count)]
    return found._replace(expert=_stacked(drawn, num_steps, count))

  return draw


def _real_batches(setup, config, num_batches):
  """Returns `draw(step, K)` -> batches with the leading axes [K, S, N]."""
  each = config.num_students * num_batches
  sampler = recipe.sampler(setup, config, each)

  def draw(step, num_steps):
    batches = [
      sampler(i) for i in range(step * each, (step + num_steps) * each)
    ]
    return _stacked(batches, num_steps, config.num_students, num_batches)

  return draw


def _stacked(trees, *shape):
  """Returns one tree of the trees' leaves, with the leading axes `shape`."""
  return jax.tree.map(
    lambda *xs: np.stack(xs).reshape(*shape, *xs[0].shape), *trees
  )


def _selector(setup, config, parameterization):
  """Returns `select(params) -> accuracy` on the selection split."""
  protocol = recipe.protocol(config, config.selection.protocol)
  # A set without steps of its own is replayed at the rate that suits it.
  rates = protocol.rates if protocol.replays else protocol.rates[:1]
  protocol = protocol._replace(
    rates=rates, num_students=config.selection.num_students
  )
  at_once = min(config.students_at_once, config.selection.num_students)
  trainer = evaluate.Trainer(setup.problem, protocol, at_once)
  chosen = recipe.selection_rows(setup.corpus, config)
  buckets = training.length_buckets(chosen, len(setup.corpus.label_names))
  splits = evaluate.Splits(buckets, buckets)
  decode = jax.jit(parameterization.decode)

  def select(params):
    sets = evaluate.stacked(decode(params))
    found = evaluate.measure(trainer, sets, splits, seed=SELECTION_SEED)
    return float(found.accuracies.mean())

  return select
