"""The state of a run: everything that changes while it goes."""

import functools
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from gmdistill import trees
from gmdistill.runs.config import schedule
from gmdistill.students import problems
from gmdistill.system import devices


@flax.struct.dataclass
class DistillState:
  """Everything that changes during a run; one checkpoint."""

  step: jax.Array  # outer steps done
  params: trees.PyTree  # of the synthetic set
  optimizer: trees.PyTree
  ema: trees.PyTree  # moving average of params: what is evaluated and kept
  students: trees.PyTree  # inner state of each student, leading axis [S]
  best: trees.PyTree  # the average that the selection split liked best
  best_accuracy: jax.Array
  best_step: jax.Array


def layout(mesh: jax.sharding.Mesh) -> DistillState:
  """Returns where each part of a state lies: students on their own devices."""
  parts: dict[str, Any] = dict.fromkeys(
    DistillState.__dataclass_fields__,
    devices.sharding(mesh, devices.EVERYWHERE),
  )
  parts["students"] = devices.sharding(mesh, devices.BY_STUDENT)
  return DistillState(**parts)


def first_state(
  params: trees.PyTree,
  stage: schedule.Stage,
  problem: problems.Problem,
  root_key: jax.Array,
  num_students: int,
  mesh: jax.sharding.Mesh,
) -> DistillState:
  """Returns the state before the first step of a run, on the mesh."""
  optimizer, students = enter(
    stage,
    problem,
    params,
    stage_key(root_key, 0),
    num_students,
    mesh,
  )
  # Leaves of their own: the outer step donates the state, not `params`.
  new = functools.partial(devices.put, mesh)
  return DistillState(
    step=new(np.int32(0)),
    params=new(params),
    optimizer=optimizer,
    ema=new(params),
    students=students,
    best=new(params),
    best_accuracy=new(np.float32(-np.inf)),
    best_step=new(np.int32(0)),
  )


def enter(
  stage: schedule.Stage,
  problem: problems.Problem,
  params: trees.PyTree,
  key: jax.Array,
  num_students: int,
  mesh: jax.sharding.Mesh,
) -> tuple[trees.PyTree, trees.PyTree]:
  """Returns a stage's first optimiser state and students, on the mesh."""
  lie = layout(mesh)
  begin = jax.jit(
    _begin(stage, num_students, mesh),
    out_shardings=(lie.optimizer, lie.students),
  )
  return begin(problem, params, key)


def _begin(stage, num_students, mesh):
  """Returns `begin(problem, params, key) -> (optimiser, students)`."""

  def own(problem, keys, phases):
    init = functools.partial(stage.objective.init, problem)
    return jax.lax.map(lambda xs: init(*xs), (keys, phases))

  by_student = devices.BY_STUDENT
  all_students = problems.over_students(
    mesh, own, (by_student, by_student), by_student
  )

  def begin(problem, params, key):
    phases_S = jnp.arange(num_students) / num_students
    keys = jax.random.split(key, num_students)
    students = all_students(problem, keys, phases_S)
    return stage.optimizer.init(trees.learned(params)), students

  return begin


def shapes(
  stage: schedule.Stage,
  problem: problems.Problem,
  params: trees.PyTree,
  num_students: int,
  mesh: jax.sharding.Mesh,
) -> DistillState:
  """Returns the shapes of a state in `stage`, and where its parts lie."""

  def state(problem, params):
    optimizer, students = _begin(stage, num_students, mesh)(
      problem, params, jax.random.key(0)
    )
    zero = jnp.float32(0.0)
    count = jnp.int32(0)
    return DistillState(
      count, params, optimizer, params, students, params, zero, count
    )

  found = jax.eval_shape(state, problem, params)
  lie = layout(mesh)
  return DistillState(
    **{
      name: jax.tree.map(
        lambda x, name=name: jax.ShapeDtypeStruct(
          x.shape, x.dtype, sharding=getattr(lie, name)
        ),
        getattr(found, name),
      )
      for name in DistillState.__dataclass_fields__
    }
  )


def stage_key(root_key: jax.Array, index: int) -> jax.Array:
  """Returns the key that draws the students of a stage."""
  # Counted from the end of the range: outer steps fold in 0, 1, 2 ...
  return jax.random.fold_in(root_key, 2**32 - 1 - index)
