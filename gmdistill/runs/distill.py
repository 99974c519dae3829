"""The main job: `run` distils, evaluates and reports."""

import contextlib
import json
from typing import NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from etils import epath

from gmdistill import errors
from gmdistill.runs import finish, jobs, outer, rate_search, workdirs
from gmdistill.runs.config import (
  assembly,
  checks,
  remedies,
  row_fields,
  schedule,
)
from gmdistill.system import (
  checkpoints,
  costs,
  devices,
  folders,
  interrupts,
  logs,
  processes,
)


@costs.memory_errors_named()
def run(
  config: ml_collections.ConfigDict, workdir: str, command: str = ""
) -> outer.DistillState:
  """Distils, evaluates and reports; goes on where an earlier run ended.

  Args:
    config: As `settings.defaults`, changed.
    workdir: Where everything is left; see the docs, reference/workdir.
    command: How to start the same run again, for messages and the report.

  Raises:
    InputError: something the user can mend, before anything is written.
    NotFinite: the run diverged; the last good checkpoint is kept.
    Stopped: SIGINT or SIGTERM; everything is saved.
  """
  before = devices.peak_memory()  # a process may have had other runs
  processes.require_agreement("the config", workdirs.digest(config))
  with processes.together():
    checks.require_numbers(config)
    protocols = assembly.reported_protocols(config)
    folder = workdirs.check(workdir, config)
    job = jobs.prepare(config, command)
    sources = jobs.sources(job)
    for cost in jobs.costs(job):
      costs.require_room(cost, remedies.remedies(config, job.mesh))
  if jax.process_count() > 1:
    what = "the data, the student and the first set"
    processes.require_agreement(what, jobs.digest(job, sources))
  with contextlib.ExitStack() as until_the_end:
    with processes.together():
      if processes.is_first():
        folder.mkdir(parents=True, exist_ok=True)
        until_the_end.enter_context(folders.held(folder))
        workdirs.check(workdir, config)  # another run may have come before
        workdirs.require_sources(folder, sources)
        workdirs.claim(folder, config, command)
    with processes.together():
      folders.require_shared(folder)
    return _run(job, folder, protocols, sources["teachers"], before)


def _run(job, folder, protocols, named, before):
  """Returns the last state; everything is checked and the folder is ours."""
  config, setup = job.config, job.setup
  logs.say(
    f"{config.data.name}: {len(setup.corpus.train.labels)} training rows, "
    f"{len(setup.corpus.label_names)} classes; student {setup.student_name}"
  )
  row_fields.say_remarks(setup.corpus, config)
  keep = checkpoints.Checkpoints(folder / "checkpoints")
  state = _resumed(job, keep)
  step = int(state.step)
  to = _Outputs(
    folder=folder,
    keep=keep,
    writer=logs.Writer(folder / "metrics.jsonl", step),
    progress=logs.Progress(config.num_steps, step, config.eval_every),
  )
  with contextlib.closing(interrupts.Signals()) as signals:
    try:
      for index, stage in enumerate(job.stages):
        if int(state.step) < stage.last:
          state = _run_stage(job, index, state, to, signals)
      seconds = to.writer.seconds
    finally:
      for part in (to.progress, to.writer, to.keep):
        part.close()
    peak = devices.peak_memory()
    whole = step == 0 and peak > before  # a part, or another run, had less
    _stop_if_asked(job, int(state.step), signals)  # during the last save
    signals.obey_at_once(_saved(job, int(state.step)))
    finish.finish(
      config=config,
      folder=folder,
      setup=setup,
      protocols=protocols,
      best=job.finished.decode(jax.device_get(state.best)),
      chosen={
        "step": int(state.best_step),
        "accuracy": float(state.best_accuracy),
        "protocol": config.selection.protocol,
      },
      distill_seconds=seconds,
      peak_bytes=peak if whole else finish.known_peak(folder),
      named=named,
      command=job.command,
    )
  return state


def _stop_if_asked(job, step, signals):
  """Ends all processes, at a step that is saved, where one was signalled."""
  if received := processes.largest(signals.received):
    raise errors.Stopped(_saved(job, step), interrupts.status(received))


def _saved(job, step):
  return f"saved at step {step}; go on with the same command: {job.command}"


class _Outputs(NamedTuple):
  """Where a run writes while it goes."""

  folder: epath.Path
  keep: checkpoints.Checkpoints
  writer: logs.Writer
  progress: logs.Progress


def _resumed(job, keep):
  """Returns the last state that can be read, or the first one."""
  rest = (job.config.num_students, job.mesh)
  steps = processes.of_first(keep.steps())
  for step in steps:
    # A state is saved in the shape of the stage that it ends, not the next one.
    stage = next(stage for stage in job.stages if step <= stage.last)
    like = outer.shapes(stage, job.problem, job.params, *rest)
    try:
      with processes.together():
        state = keep.load(step, like)
    except errors.InputError as error:
      logs.say(f"{error}; trying the one before it")
      continue
    logs.say(f"going on from step {step}")
    return state
  if steps:
    raise errors.InputError(
      "no checkpoint of this run can be read; restore one from a copy, or "
      "start in another --workdir."
    )
  return outer.first_state(
    job.params, job.stages[0], job.problem, job.root_key, *rest
  )


def _run_stage(job, index, state, to, signals):
  """Returns the state at the end of a stage; logs, chooses and saves."""
  config, stage = job.config, job.stages[index]
  step = int(state.step)
  if step == stage.first and index > 0:
    optimizer, students = outer.enter(
      stage,
      job.problem,
      state.params,
      outer.stage_key(job.root_key, index),
      config.num_students,
      job.mesh,
    )
    state = state.replace(optimizer=optimizer, students=students)
  if config.outer.range_test:
    stage = _at_found_rate(job, index, state, to.folder)
    job.stages[index] = stage
    job.programs.pop(index, None)  # compiled for another rate
  steps, _ = jobs.program(job, index)
  num_steps = outer.dispatch_size(config, job.stages)
  while step < stage.last:
    real = job.draws[index](step, num_steps)
    state, seen = steps(job.problem, state, real, job.root_key)
    seen = jax.device_get(seen)
    logs.check_finite(
      step + 1,
      seen["outer/loss"],
      {"set": state.params, "students": state.students},
      "Try a smaller outer.learning_rate or initial_step_size.",
    )
    step += num_steps
    accuracy = None
    if step % config.eval_every == 0 or step == config.num_steps:
      accuracy = job.select(state.ema)
      # As it is kept: of equal ones, the later.
      if np.float32(accuracy) >= np.float32(state.best_accuracy):
        state = _with_best(state, accuracy, job.mesh)
    for k in range(num_steps):
      done = step - num_steps + k
      values = {name: value[k] for name, value in seen.items()}
      values["outer/learning_rate"] = stage.schedule(done - stage.first)
      values["outer/stage"] = index
      if accuracy is not None and k == num_steps - 1:
        values["selection/accuracy"] = accuracy
      to.writer.write(done + 1, values)
    to.progress.update(step, float(seen["outer/loss"][-1]), accuracy)
    received = processes.largest(signals.received)  # by any process
    if (
      step % config.checkpoint_every == 0
      or step in (stage.last, config.num_steps)
      or received
    ):
      to.writer.keep()  # not fewer lines than the state has steps
      to.keep.save(step, state)
    if received:
      raise errors.Stopped(_saved(job, step), interrupts.status(received))
  return state


def _at_found_rate(job, index, state, folder):
  """Returns a stage at the rate that the range test at its start found."""
  stage, path = job.stages[index], folder / "range_test.json"
  try:
    found = json.loads(path.read_text()) if path.is_file() else {}
  except ValueError:
    found = {}
  found = processes.of_first(found)
  if int(state.step) == stage.first:
    found[str(index)] = rate_search.find(
      job.problem,
      stage,
      job.parameterization,
      state,
      job.draws[index](stage.first, rate_search.CYCLE),
      job.root_key,
      job.config.outer,
      job.mesh,
    )
    if processes.is_first():
      folders.write_json(path, found)
  if str(index) not in found:
    raise errors.InputError(
      f"{path} does not say the rate that this run goes on at; restore it "
      "from a copy, or start in another --workdir."
    )
  rate = found[str(index)]["learning_rate"]
  return schedule.at_rate(stage, job.config.outer, rate)


def _with_best(state, accuracy, mesh):
  # A copy: the next dispatch donates the average.
  best = jax.tree.map(jnp.copy, state.ema)
  return state.replace(
    best=best,
    best_accuracy=devices.put(mesh, np.float32(accuracy)),
    best_step=jnp.copy(state.step),
  )
