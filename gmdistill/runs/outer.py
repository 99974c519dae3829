"""The outer loop's inside: the state of a run, and its outer step."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax

from gmdistill import trees
from gmdistill.runs.config import recipe as recipes
from gmdistill.runs.config import schedule
from gmdistill.sets import synthetic
from gmdistill.students import problems
from gmdistill.system import devices
from gmdistill.training import fitting


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

  everywhere, by_student = devices.EVERYWHERE, devices.BY_STUDENT
  all_students = devices.over_students(
    mesh, own, (everywhere, by_student, by_student), by_student
  )

  def begin(problem, params, key):
    phases_S = jnp.arange(num_students) / num_students
    keys = jax.random.split(key, num_students)
    students = all_students(problem, keys, phases_S)
    return stage.optimizer.init(params), students

  return begin


def outer_steps(
  stage: schedule.Stage,
  parameterization: synthetic.Parameterization,
  ema: float,
  mesh: jax.sharding.Mesh,
  at_once: int = 1,
) -> Callable[..., tuple[DistillState, dict[str, jax.Array]]]:
  """Returns `steps(problem, state, real, key) -> (state, metrics)`, jitted.

  `real`, an `objectives.Real`, has the leading axes [K, S]: K outer steps a
  dispatch, S students, which are shared out over the mesh. A device computes
  `at_once` of its students side by side: memory holds so many graphs. The state
  is donated; metrics come stacked [K].
  """
  everywhere, by_student = devices.EVERYWHERE, devices.BY_STUDENT
  all_students = devices.over_students(
    mesh,
    _own_students(stage, parameterization, at_once),
    (everywhere, everywhere, by_student, by_student, by_student),
    (everywhere, by_student),
  )

  def one_step(problem, state, real, root_key):
    key = jax.random.fold_in(root_key, state.step)
    keys = jax.random.split(key, len(jax.tree.leaves(real)[0]))
    (grads, values), students = all_students(
      problem, state.params, state.students, real, keys
    )
    params, optimizer = fitting.update(
      stage.optimizer, grads, state.optimizer, state.params
    )
    # Early on, the average follows closely: it must not remember the start.
    decay = jnp.minimum(ema, (1.0 + state.step) / (10.0 + state.step))
    average = jax.tree.map(
      lambda old, new: decay * old + (1 - decay) * new, state.ema, params
    )
    values |= {"outer/grad_norm": optax.tree.norm(grads)}
    state = state.replace(
      step=state.step + 1,
      params=params,
      optimizer=optimizer,
      ema=average,
      students=students,
    )
    return state, values

  @functools.partial(
    jax.jit,
    donate_argnums=1,
    out_shardings=(layout(mesh), devices.sharding(mesh, everywhere)),
  )
  def steps(problem, state, real, root_key):
    step = lambda state, real: one_step(problem, state, real, root_key)  # noqa: E731
    return jax.lax.scan(step, state, real)

  return steps


def _own_students(stage, parameterization, at_once):
  """Returns what one group of devices computes for its students."""

  def own_students(problem, params, students, real, keys):
    """Returns the set's gradients, the mean over all students, and what else
    was seen; the students of this group of devices have moved on."""

    def one_student(student_real_key):
      student, own, key = student_real_key
      # A bank may store halves; objectives compute in float32.
      own = own._replace(expert=jax.tree.map(jnp.float32, own.expert))

      def loss(params):
        decoded = parameterization.decode(params)
        return stage.objective.loss(problem, decoded, student, own, key)

      return jax.value_and_grad(loss, has_aux=True)(params)

    (losses, (students, seen)), grads = jax.lax.map(
      one_student,
      (students, real, keys),
      batch_size=at_once if at_once > 1 else None,
    )
    values = {**seen, "outer/loss": losses}
    means = jax.tree.map(lambda x: x.mean(axis=0), (grads, values))
    # All that crosses between devices: no larger than the set.
    return devices.mean_over_groups(means), students

  return own_students


def layout(mesh: jax.sharding.Mesh) -> DistillState:
  """Returns where each part of a state lies: students on their own devices."""
  parts: dict[str, Any] = dict.fromkeys(
    DistillState.__dataclass_fields__,
    devices.sharding(mesh, devices.EVERYWHERE),
  )
  parts["students"] = devices.sharding(mesh, devices.BY_STUDENT)
  return DistillState(**parts)


def dispatch_size(
  config: recipes.Recipe, stages: Sequence[schedule.Stage]
) -> int:
  """Returns K: at most `steps_per_dispatch`, a divisor of every stretch.

  Stage ends, evaluations and saves then fall between dispatches, and each
  stage compiles one program for one shape.
  """
  stretch = int(
    np.gcd.reduce(
      [config.eval_every, config.checkpoint_every]
      + [stage.last - stage.first for stage in stages]
    )
  )
  most = max(1, config.steps_per_dispatch)
  return max(k for k in range(1, most + 1) if stretch % k == 0)


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
  new = lambda tree: devices.put(mesh, tree)  # noqa: E731
  return DistillState(
    step=new(np.int32(0)),
    params=new(params),
    optimizer=optimizer,
    ema=new(params),
    students=students,
    best=new(params),
    best_accuracy=new(np.float32(-1.0)),
    best_step=new(np.int32(0)),
  )


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
