"""The outer loop's inside: one outer step, and how many a dispatch takes."""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gmdistill import trees
from gmdistill.runs import states
from gmdistill.runs.config import recipe as recipes
from gmdistill.runs.config import schedule
from gmdistill.sets import synthetic
from gmdistill.students import problems
from gmdistill.system import devices
from gmdistill.training import fitting


def outer_steps(
  stage: schedule.Stage,
  parameterization: synthetic.Parameterization,
  ema: float,
  mesh: jax.sharding.Mesh,
  at_once: int = 1,
) -> Callable[..., tuple[states.DistillState, dict[str, jax.Array]]]:
  """Returns `steps(problem, state, real, key) -> (state, metrics)`, jitted.

  `real`, a `contract.Real`, has the leading axes [K, S]: K outer steps a
  dispatch, S students, which are shared out over the mesh. A device computes
  `at_once` of its students side by side: memory holds so many graphs. The state
  is donated; metrics come stacked [K].
  """
  everywhere, by_student = devices.EVERYWHERE, devices.BY_STUDENT
  all_students = problems.over_students(
    mesh,
    _own_students(stage, parameterization, at_once),
    (everywhere, by_student, by_student, by_student),
    (everywhere, by_student),
  )

  def one_step(problem, state, real, root_key):
    key = jax.random.fold_in(root_key, state.step)
    keys = jax.random.split(key, len(jax.tree.leaves(real)[0]))
    (grads, values), students = all_students(
      problem, state.params, state.students, real, keys
    )
    before = trees.learned(state.params)
    after, optimizer = fitting.update(
      stage.optimizer, grads, state.optimizer, before
    )
    # Early on, the average follows closely: it must not remember the start.
    decay = jnp.minimum(ema, (1.0 + state.step) / (10.0 + state.step))
    average = jax.tree.map(
      lambda old, new: decay * old + (1 - decay) * new,
      trees.learned(state.ema),
      after,
    )
    values |= {"outer/grad_norm": optax.tree.norm(grads)}
    state = state.replace(
      step=state.step + 1,
      params=trees.with_learned(state.params, after),
      optimizer=optimizer,
      ema=trees.with_learned(state.ema, average),
      students=students,
    )
    return state, values

  @functools.partial(
    jax.jit,
    donate_argnums=1,
    out_shardings=(states.layout(mesh), devices.sharding(mesh, everywhere)),
  )
  def steps(problem, state, real, root_key):
    def step(state, real):
      return one_step(problem, state, real, root_key)

    return jax.lax.scan(step, state, real)

  return steps


def _own_students(stage, parameterization, at_once):
  """Returns what one group of devices computes for its students."""

  def own_students(problem, params, students, real, keys):
    """Returns the set's gradients, the mean over all students, and what else
    was seen; the students of this group of devices have moved on."""

    def one_student(student_real_key):
      student, own, key = student_real_key
      own = own.widened()

      def loss(learned):
        decoded = parameterization.decode(trees.with_learned(params, learned))
        return stage.objective.loss(problem, decoded, student, own, key)

      gradient = jax.value_and_grad(loss, has_aux=True)
      return gradient(trees.learned(params))

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
