"""The frozen base of adapters: how precise it lies, and on which devices."""

import dataclasses

import jax

from gmdistill import errors
from gmdistill.students import problems


def spread(problem: problems.Problem) -> problems.Problem:
  """Returns the problem whose frozen base all devices hold together.

  Raises:
    InputError: it has none.
  """
  frozen = problem.frozen or {}
  stacks = tuple(x for x in ("lower_layers", "layers") if x in frozen)
  if not stacks:
    raise errors.InputError(
      "mesh.base=sharded shares out a frozen base, and these students train "
      "all that they are; use student.adapter=lora, or mesh.base=replicated."
    )
  module = problem.student.module.clone(split=stacks)
  student = dataclasses.replace(problem.student, module=module)
  return dataclasses.replace(problem, student=student)


def narrowed(problem: problems.Problem) -> problems.Problem:
  """Returns the problem whose frozen matrices are as precise as products are.

  A product would round them so anyway: every number stays, and a step reads
  half of the bytes where products are in bfloat16.
  """
  compute = getattr(getattr(problem.student, "module", None), "compute", "")
  if problem.frozen is None or compute in ("", "float32"):
    return problem

  def one(path, x):
    return x.astype(compute) if path[-1].key == "kernel" else x

  frozen = jax.tree_util.tree_map_with_path(one, problem.frozen)
  return dataclasses.replace(problem, frozen=frozen)
