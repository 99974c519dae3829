"""The commands that distil and prepare it: distill, plan, sweep, bank."""

import shlex
import time
from typing import Any

import jax

from gmdistill import errors
from gmdistill.objectives import bank_building
from gmdistill.runs import appending, jobs, outer, planning, states
from gmdistill.runs import distill as distillation
from gmdistill.runs import sweep as sweeps
from gmdistill.runs.commands import shared
from gmdistill.runs.config import assembly, checks, settings, teacher_fields
from gmdistill.runs.config import remedies as plans
from gmdistill.sets import set_files, synthetic
from gmdistill.students import families
from gmdistill.system import console, paths, processes, units


def distill(flags: Any, rest: list[str], command: str) -> None:
  """The main job: ends with the results table and the report."""
  shared.nothing_else(rest)
  if flags.config is None or not flags.workdir:
    raise errors.InputError("distill needs --config=NAME and --workdir=DIR.")
  distillation.run(flags.config, flags.workdir, command)
  folder = str(paths.path(flags.workdir)).rstrip("/")
  if not processes.is_first():
    return
  told = f"--set={shlex.quote(f'{folder}/set')}"
  if families.named(flags.config.student.kind).form is None:
    console.show(f"next: gmdistill evaluate {told}")
  else:
    console.show(
      f"next: gmdistill train {told} "
      f"--workdir={shlex.quote(f'{folder}-student')}"
    )


def plan(flags: Any, rest: list[str], command: str) -> None:
  """Says what a run would need of each device, and about how long its outer
  steps take, of which a few are timed; writes nothing."""
  del command
  shared.nothing_else(rest)
  if flags.config is None:
    raise errors.InputError("plan needs --config=NAME.")
  config = settings.recipe(flags.config)
  if flags.devices:
    _pretend(flags.devices)
  folder = planning.folder_of(config)
  if folder is None:
    job = jobs.prepare(config)
    mesh, problem = job.mesh, job.problem
    best = synthetic.embedded(
      jax.jit(job.parameterization.decode)(job.params), job.setup.problem.embed
    )
    set_bytes = set_files.num_bytes(best, config.stored_as)
    programs, costs = zip(*jobs.programs(job), strict=True)
  else:
    mesh, problem = planning.of_shape(config, folder)
    set_bytes, programs = planning.set_bytes(config, problem), None
    # Who plans for a model that is not here, has its devices elsewhere.
    costs = tuple(planning.stage_costs(config, problem, mesh))
  shapes = jax.eval_shape(type(problem).init, problem, jax.random.key(0))
  fields = {
    "parameters": sum(x.size for x in jax.tree.leaves(shapes)),
    "set_bytes": set_bytes,
  }
  seconds = None
  if programs and not flags.devices and all(x.needed <= x.room for x in costs):
    seconds = _seconds(job, programs)
  _tell_plan(config, flags.json, mesh, (costs, fields, seconds))


def _tell_plan(config, as_json, mesh, plan):
  """Prints what a run would need, as a table or as JSON."""
  if not processes.is_first():
    return
  costs, fields, seconds = plan
  names = [name.strip() for name in config.objective.split(",")]
  shape = dict(mesh.shape)
  if as_json:
    told = [{"mesh": shape, **fields, **x._asdict()} for x in costs]
    for one, name, cost in zip(told, names, costs, strict=True):
      one |= {"objective": name, "needed": cost.needed}
    console.data({"stages": told, "seconds": seconds})
    return
  remedies = plans.remedies(config, mesh)
  for name, cost in zip(names, costs, strict=True):
    console.show(f"{name}, on {plans.devices(shape)}:")
    console.show(plans.text(cost, **fields))
    if 0 < cost.room < cost.needed:
      console.show(f"to make it smaller: {', or '.join(remedies)}")
  if seconds is not None:
    console.show(
      f"{config.num_steps} outer steps take about {units.seconds(seconds)} "
      "here; evaluations come on top"
    )


def _seconds(job, programs):
  """Returns about how long the outer steps take: some of each stage do."""
  num_steps = outer.dispatch_size(job.config, job.stages)
  total = 0.0
  for index, (stage, steps) in enumerate(
    zip(job.stages, programs, strict=True)
  ):
    state = states.first_state(
      job.params,
      stage,
      job.problem,
      job.root_key,
      job.config.num_students,
      job.mesh,
    )
    for _ in range(2):  # the first makes ready what the others have
      began = time.perf_counter()
      state, _ = distillation.dispatch(job, index, steps, state)
      spent = time.perf_counter() - began
    total += spent / num_steps * (stage.last - stage.first)
  return total


def append(flags: Any, rest: list[str], command: str) -> None:
  """Distils on from a set for data with more rows or classes."""
  shared.nothing_else(rest)
  if flags.config is None or not flags.workdir or not flags.set:
    raise errors.InputError(
      "append needs --set=DIR, the set that grows, --config=NAME of the data "
      "with the new rows, and --workdir=DIR."
    )
  config, folder = shared.config_and_set(flags)
  appending.run(config, folder, flags.workdir, command, compare=flags.compare)


def _pretend(count):
  """Plans for so many devices; the processor stands for all of them."""
  try:
    jax.config.update("jax_num_cpu_devices", count)
    jax.config.update("jax_platforms", "cpu")
  except (RuntimeError, ValueError) as error:
    raise errors.InputError(
      f"--devices={count}: {str(error).splitlines()[0]} Use a number of "
      "devices, in a command of its own."
    ) from error


def sweep(flags: Any, rest: list[str], command: str) -> None:
  """Runs every run of a config of configs; reports on all of them."""
  shared.nothing_else(rest)
  if flags.config is None or not flags.workdir:
    raise errors.InputError("sweep needs --config=results and --workdir=DIR.")
  failed = sweeps.run(flags.config, flags.workdir, command)
  if failed:
    raise errors.InputError(
      f"{len(failed)} of the runs did not finish: "
      + "; ".join(f"{name}: {why}" for name, why in failed.items())
    )


def bank(flags: Any, rest: list[str], command: str) -> None:
  """Builds the expert bank of a config, or the rest of one."""
  shared.nothing_else(rest)
  if flags.config is None or not flags.workdir:
    raise errors.InputError("bank needs --config=NAME and --workdir=DIR.")
  config = settings.recipe(flags.config)
  checks.require_not_apart(config)
  checks.require_no_rows(config, "a bank draws its own")
  options = assembly.bank_options(config)
  setup = teacher_fields.for_a_bank(assembly.setup(config), config)
  checks.require_matched(setup, options.matched, "bank")
  folder = bank_building.build(flags.workdir, setup, options)
  console.show(
    f"next: gmdistill distill {shared.config_flags(command, 'data', 'student')}"
    f" --config.bank.dir={shlex.quote(str(folder))} "
    f"--workdir={shlex.quote(f'{folder}-run')}"
  )
