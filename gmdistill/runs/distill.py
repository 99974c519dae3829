"""The main job: `run` distils, evaluates and reports."""

import contextlib
import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gmdistill import errors
from gmdistill.runs import finish, jobs, outer, resuming, states, workdirs
from gmdistill.runs.config import remedies, row_fields, settings
from gmdistill.system import (
  checkpoints,
  costs,
  devices,
  folders,
  followers,
  interrupts,
  logs,
  processes,
)


@costs.memory_errors_named()
def run(config: Any, workdir: str, command: str = "") -> states.DistillState:
  """Distils, evaluates and reports; goes on where an earlier run ended.

  Args:
    config: As `settings.defaults`, changed; or a recipe.
    workdir: Where everything is left; see the docs, reference/workdir.
    command: How to start the same run again, for messages and the report.

  Raises:
    InputError: something the user can mend, before anything is written.
    NotFinite: the run diverged; the last good checkpoint is kept.
    Stopped: SIGINT or SIGTERM; everything is saved.
  """
  before = devices.peak_memory()  # a process may have had other runs
  config = settings.recipe(config)
  processes.require_agreement("the config", workdirs.digest(config))
  with processes.together():
    folder = workdirs.check(workdir, config)
    followers.require(config.log_to, folder)
    job = jobs.prepare(config, command)
    sources = jobs.sources(job)
    programs = jobs.programs(job)
    for _, cost in programs:
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
    return _run(job, [steps for steps, _ in programs], folder, before)


def _run(job, programs, folder, before):
  """Returns the last state; everything is checked and the folder is ours."""
  config, setup = job.config, job.setup
  corpus = setup.corpus
  what = (
    f"{corpus.num_classes} classes" if corpus.num_classes else "next tokens"
  )
  logs.say(
    f"{config.data.name}: {len(corpus.train.labels)} training rows, {what}; "
    f"student {setup.student_name}"
  )
  row_fields.say_remarks(corpus, config)
  keep = checkpoints.Checkpoints(folder / "checkpoints")
  state = resuming.resumed(job, keep)
  step = int(state.step)
  with contextlib.closing(interrupts.Signals()) as signals:
    signals.hold(resuming.kept(job, step))
    to = _Outputs(
      keep=keep,
      writer=_writer(config, folder, step),
      progress=logs.Progress(
        config.num_steps, step, config.eval_every, job.chosen_by.unit
      ),
      signals=signals,
    )
    try:
      for index, stage in enumerate(job.stages):
        if int(state.step) < stage.last:
          state = _run_stage(job, index, programs[index], state, to)
      seconds = to.writer.seconds
    finally:
      for part in (to.progress, to.writer, to.keep):
        part.close()
    peak = devices.peak_memory()
    whole = step == 0 and peak > before  # a part, or another run, had less
    # A signal may have come during the last save.
    resuming.stop_if_asked(job, int(state.step), signals)
    signals.obey_at_once(resuming.saved(job, int(state.step)))
    outcome = finish.Outcome(
      best=finish.as_embeddings(job, jax.device_get(state.best)),
      chosen=_told_of_choice(job, state),
      seconds=seconds,
      peak_bytes=peak if whole else finish.known_peak(folder),
    )
    finish.finish(job, folder, outcome)
  return state


def _writer(config, folder, step):
  """Returns where metrics are written, and shown beside that."""
  follow = functools.partial(
    followers.opened, config.log_to, folder, config.to_dict()
  )
  return logs.Writer(folder / "metrics.jsonl", step, follow)


def _told_of_choice(job, state):
  """Returns what the summary says of the step chosen, and of the start."""
  shown, unit = job.chosen_by.shown, job.chosen_by.unit
  return {
    "step": int(state.best_step),
    unit: float(shown(state.best_accuracy)),
    "protocol": job.config.selection.protocol,
    f"start_{unit}": float(shown(job.select(job.params))),
  }


class _Outputs(NamedTuple):
  """Where a run writes while it goes, and what may stop it."""

  keep: checkpoints.Checkpoints
  writer: logs.Writer
  progress: logs.Progress
  signals: interrupts.Signals


def _run_stage(job, index, steps, state, to):
  """Returns the state at the end of a stage; logs, chooses and saves."""
  state = enter_stage(job, index, state)
  while int(state.step) < job.stages[index].last:
    state, seen = dispatch(job, index, steps, state)
    state, accuracy = _chosen(job, state)
    _log(job, index, seen, int(state.step), accuracy, to)
    _save(job, index, state, to)
  return state


def enter_stage(
  job: jobs.Job, index: int, state: states.DistillState
) -> states.DistillState:
  """Returns a state whose optimiser and students are those of a stage."""
  stage = job.stages[index]
  if int(state.step) != stage.first or index == 0:
    return state
  optimizer, students = states.enter(
    stage,
    job.problem,
    state.params,
    states.stage_key(job.root_key, index),
    job.config.num_students,
    job.mesh,
  )
  return dataclasses.replace(state, optimizer=optimizer, students=students)


def dispatch(
  job: jobs.Job,
  index: int,
  steps: jax.stages.Compiled,
  state: states.DistillState,
) -> tuple[states.DistillState, dict[str, np.ndarray]]:
  """Returns the state some outer steps on, and what was seen [K] on the way.

  Raises:
    NotFinite: the run diverged.
  """
  num_steps = outer.dispatch_size(job.config, job.stages)
  first = int(state.step)
  real = job.draws[index](first, num_steps)
  state, seen = steps(job.problem, state, real, job.root_key)
  seen = jax.device_get(seen)
  logs.check_finite(
    first + 1,
    seen["outer/loss"],
    {"set": state.params, "students": state.students},
    "Try a smaller outer.learning_rate or initial_step_size.",
  )
  return state, seen


def _chosen(job, state):
  """Returns the state with the best set so far; and its score, if asked."""
  config, step = job.config, int(state.step)
  if step % config.eval_every and step != config.num_steps:
    return state, None
  accuracy = job.select(state.ema)
  # As it is kept: of equal ones, the later.
  if np.float32(accuracy) >= np.float32(state.best_accuracy):
    state = _with_best(state, accuracy, job.mesh)
  return state, job.chosen_by.shown(accuracy)


def _log(job, index, seen, step, accuracy, to):
  """Writes a line for each step of a dispatch that has come to `step`."""
  stage, num_steps = job.stages[index], len(seen["outer/loss"])
  for k in range(num_steps):
    done = step - num_steps + k
    values = {name: value[k] for name, value in seen.items()}
    values["outer/learning_rate"] = stage.schedule(done - stage.first)
    values["outer/stage"] = index
    if accuracy is not None and k == num_steps - 1:
      values[f"selection/{job.chosen_by.unit}"] = accuracy
    to.writer.write(done + 1, values)
  to.progress.update(step, float(seen["outer/loss"][-1]), accuracy)


def _save(job, index, state, to):
  """Saves a state where it is time to, or a signal came, which ends the run."""
  config, step = job.config, int(state.step)
  received = processes.largest(to.signals.received)  # by any process
  last = step in (job.stages[index].last, config.num_steps)
  if last or received or step % config.checkpoint_every == 0:
    to.writer.keep()  # not fewer lines than the state has steps
    to.keep.save(step, state)
    to.writer.tell()
    to.signals.hold(resuming.kept(job, step))
  if received:
    raise errors.Stopped(resuming.saved(job, step), interrupts.status(received))


def _with_best(state, accuracy, mesh):
  # A copy: the next dispatch donates the average.
  best = jax.tree.map(jnp.copy, state.ema)
  return state.replace(
    best=best,
    best_accuracy=devices.put(mesh, np.float32(accuracy)),
    best_step=jnp.copy(state.step),
  )
