"""The commands that distil and prepare it: distill, plan, sweep, bank."""

import shlex
from typing import Any

import jax

from gmdistill import errors
from gmdistill.objectives import bank_building
from gmdistill.runs import distill as distillation
from gmdistill.runs import jobs
from gmdistill.runs import sweep as sweeps
from gmdistill.runs.commands import shared
from gmdistill.runs.config import assembly, checks, teacher_fields
from gmdistill.runs.config import remedies as plans
from gmdistill.sets import set_files
from gmdistill.system import paths, processes


def distill(flags: Any, rest: list[str], command: str) -> None:
  """The main job: ends with the results table and the report."""
  shared.nothing_else(rest)
  if flags.config is None or not flags.workdir:
    raise errors.InputError(
      "distill needs --config=configs/NAME.py and --workdir=DIR."
    )
  distillation.run(flags.config, flags.workdir, command)
  folder = str(paths.path(flags.workdir)).rstrip("/")
  if processes.is_first():
    print(
      f"next: gmdistill train --set={shlex.quote(f'{folder}/set')} "
      f"--workdir={shlex.quote(f'{folder}-student')}"
    )


def plan(flags: Any, rest: list[str], command: str) -> None:
  """Says what a run would need of each device; runs and writes nothing."""
  del command
  shared.nothing_else(rest)
  if flags.config is None:
    raise errors.InputError("plan needs --config=configs/NAME.py.")
  job = jobs.prepare(flags.config)
  shapes = jax.eval_shape(job.problem.init, jax.random.key(0))
  best = jax.jit(job.parameterization.decode)(job.params)
  fields = {
    "parameters": sum(x.size for x in jax.tree.leaves(shapes)),
    "set_bytes": set_files.num_bytes(best, flags.config.stored_as),
  }
  names = flags.config.objective.split(",")
  remedies = plans.remedies(flags.config, job.mesh)
  for name, cost in zip(names, jobs.costs(job), strict=True):
    print(f"{name.strip()}, on a mesh of {dict(job.mesh.shape)}:")
    print(plans.text(cost, **fields))
    if cost.needed > cost.room:
      print(f"to make it smaller: {', or '.join(remedies)}")


def sweep(flags: Any, rest: list[str], command: str) -> None:
  """Runs every run of a config of configs; reports on all of them."""
  shared.nothing_else(rest)
  if flags.config is None or not flags.workdir:
    raise errors.InputError(
      "sweep needs --config=configs/results.py and --workdir=DIR."
    )
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
    raise errors.InputError(
      "bank needs --config=configs/NAME.py and --workdir=DIR."
    )
  checks.require_not_apart(flags.config)
  checks.require_no_rows(flags.config, "a bank draws its own")
  options = assembly.bank_options(flags.config)
  setup = teacher_fields.with_taught_rows(
    assembly.setup(flags.config), flags.config
  )
  assembly.require_matched(setup, options.matched, "bank")
  folder = bank_building.build(flags.workdir, setup, options)
  print(
    f"next: gmdistill distill ... --config.bank.dir={shlex.quote(str(folder))}"
  )
