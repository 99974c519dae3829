"""The commands that distil and prepare it: distill, plan, sweep, bank."""

import shlex
from typing import Any

import jax

from gmdistill import errors
from gmdistill.objectives import bank_building
from gmdistill.runs import appending, jobs
from gmdistill.runs import distill as distillation
from gmdistill.runs import sweep as sweeps
from gmdistill.runs.commands import shared
from gmdistill.runs.config import assembly, checks, settings, teacher_fields
from gmdistill.runs.config import remedies as plans
from gmdistill.sets import set_files
from gmdistill.system import console, paths, processes


def distill(flags: Any, rest: list[str], command: str) -> None:
  """The main job: ends with the results table and the report."""
  shared.nothing_else(rest)
  if flags.config is None or not flags.workdir:
    raise errors.InputError("distill needs --config=NAME and --workdir=DIR.")
  distillation.run(flags.config, flags.workdir, command)
  folder = str(paths.path(flags.workdir)).rstrip("/")
  if processes.is_first():
    console.show(
      f"next: gmdistill train --set={shlex.quote(f'{folder}/set')} "
      f"--workdir={shlex.quote(f'{folder}-student')}"
    )


def plan(flags: Any, rest: list[str], command: str) -> None:
  """Says what a run would need of each device; runs and writes nothing."""
  del command
  shared.nothing_else(rest)
  if flags.config is None:
    raise errors.InputError("plan needs --config=NAME.")
  config = settings.recipe(flags.config)
  job = jobs.prepare(config)
  shapes = jax.eval_shape(job.problem.init, jax.random.key(0))
  best = jax.jit(job.parameterization.decode)(job.params)
  fields = {
    "parameters": sum(x.size for x in jax.tree.leaves(shapes)),
    "set_bytes": set_files.num_bytes(best, config.stored_as),
  }
  names = config.objective.split(",")
  remedies = plans.remedies(config, job.mesh)
  for name, (_, cost) in zip(names, jobs.programs(job), strict=True):
    console.show(f"{name.strip()}, on a mesh of {dict(job.mesh.shape)}:")
    console.show(plans.text(cost, **fields))
    if cost.needed > cost.room:
      console.show(f"to make it smaller: {', or '.join(remedies)}")


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
  del command
  shared.nothing_else(rest)
  if flags.config is None or not flags.workdir:
    raise errors.InputError("bank needs --config=NAME and --workdir=DIR.")
  config = settings.recipe(flags.config)
  checks.require_not_apart(config)
  checks.require_no_rows(config, "a bank draws its own")
  options = assembly.bank_options(config)
  setup = teacher_fields.for_a_bank(assembly.setup(config), config)
  assembly.require_matched(setup, options.matched, "bank")
  folder = bank_building.build(flags.workdir, setup, options)
  console.show(
    f"next: gmdistill distill ... --config.bank.dir={shlex.quote(str(folder))}"
  )
