"""Students along real training: the states at which gradients are matched."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from gmdistill import errors, fields
from gmdistill.students import problems
from gmdistill.training import fitting


class StudentState(NamedTuple):
  """A student on its way along a training trajectory."""

  params: Any
  optimizer: Any
  age: jax.Array  # training steps since it was drawn


class Trajectory(NamedTuple):
  """Where along a student's training gradients are matched.

  `init(problem, key, phase) -> state` draws a student; `advance(problem, state,
  batches, key) -> state` takes one training step for each of the N batches
  (leaves [N, B, ...]), then draws a student that is too old afresh.
  """

  init: Callable[[problems.Problem, jax.Array, jax.Array], StudentState]
  advance: Callable[..., StudentState]
  num_steps: int
  train_on: str


def trajectory(
  optimizer: optax.GradientTransformation,
  *,
  max_age: fields.Steps = 100,
  steps_between: fields.FromZero = 5,
  train_on: str = "real",
) -> Trajectory:
  """Returns a trajectory that starts again every `max_age` training steps.

  Args:
    optimizer: What trains the student between two matches.
    max_age: Training steps after which a student is drawn afresh.
    steps_between: Training steps between two matches.
    train_on: `real`, or `synthetic`: the current set, as a constant.

  Raises:
    ValueError: `train_on` is neither.
  """
  errors.choice("train_on", train_on, ("real", "synthetic"))

  def init(problem, key, phase):
    params = problem.init(key)
    # Staggered: the first generation is reset at different steps, and all
    # later ones stay that far apart.
    age = (phase * max_age).astype(jnp.int32)
    return StudentState(params, optimizer.init(params), age)

  def advance(problem, state, batches, key):
    def step(carry, batch):
      params, opt_state = carry
      grads = jax.grad(problem.loss)(params, batch)
      return fitting.update(optimizer, grads, opt_state, params), None

    carry, _ = jax.lax.scan(step, (state.params, state.optimizer), batches)
    older = StudentState(*carry, state.age + steps_between)
    return jax.lax.cond(
      older.age >= max_age,
      lambda: init(problem, key, jnp.float32(0)),
      lambda: older,
    )

  return Trajectory(init, advance, steps_between, train_on)
