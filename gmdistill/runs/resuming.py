"""Where a run goes on from, and what it says where it ends before its end."""

from gmdistill import errors
from gmdistill.runs import jobs, states
from gmdistill.system import checkpoints, interrupts, logs, processes


def resumed(
  job: jobs.Job, keep: checkpoints.Checkpoints
) -> states.DistillState:
  """Returns the last state that can be read, or the first one."""
  rest = (job.config.num_students, job.mesh)
  steps = processes.of_first(keep.steps())
  for step in steps:
    # A state is saved in the shape of the stage that it ends, not the next one.
    stage = next(stage for stage in job.stages if step <= stage.last)
    like = states.shapes(stage, job.problem, job.params, *rest)
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
  return states.first_state(
    job.params, job.stages[0], job.problem, job.root_key, *rest
  )


def stop_if_asked(
  job: jobs.Job, step: int, signals: interrupts.Signals
) -> None:
  """Ends all processes, at a step that is saved, where one was signalled."""
  if received := processes.largest(signals.received):
    raise errors.Stopped(saved(job, step), interrupts.status(received))


def saved(job: jobs.Job, step: int) -> str:
  """Returns what to say where a step was saved."""
  return f"saved at step {step}; go on with the same command: {job.command}"


def kept(job: jobs.Job, step: int) -> str:
  """Returns what to say of a step that could not be awaited."""
  what = "nothing was saved yet; begin"
  if step:
    what = f"what was saved at step {step} is kept; go on"
  return f"interrupted; {what} with the same command: {job.command}"
