"""An objective over a range of ways to train, for sets that travel.

Every outer step draws one of several objectives: another learning rate or
optimiser, another depth or kind of student over the same table.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from gmdistill.objectives import contract
from gmdistill.sets import synthetic
from gmdistill.students import problems


def drawn(
  parts: Sequence[contract.Objective], opening: int = 0
) -> contract.Objective:
  """One of several objectives, drawn every outer step.

  Each part has students of its own, which wait while others are drawn. Parts
  read one real batch each and log the same metrics. Only the part that is drawn
  is computed, where students go one by one (`outer.students_at_once=1`).

  Args:
    parts: The objectives, the one to begin with first.
    opening: Outer steps over which the others come in, one after the other; 0:
      all from the first step on.
  """
  count = len(parts)

  def init(problem, key, phase):
    keys = jax.random.split(key, count)
    states = tuple(
      part.init(problem, keys[i], phase) for i, part in enumerate(parts)
    )
    return jnp.int32(0), states

  def loss(problem, syn: synthetic.SyntheticSet, student, real, key):
    taken, states = student
    draw_key, own_key = jax.random.split(key)
    index = _draw(draw_key, count, taken, opening)

    def one(i):
      def branch(syn):
        value, (state, seen) = parts[i].loss(
          problem, syn, states[i], real, own_key
        )
        after = (*states[:i], state, *states[i + 1 :])
        return value, (after, seen)

      return branch

    value, (states, seen) = jax.lax.switch(
      index, [one(i) for i in range(count)], syn
    )
    seen = {**seen, "travelling/way": index.astype(jnp.float32)}
    return value, ((taken + 1, states), seen)

  return contract.Objective(init, loss, 1)


def _draw(key, count, taken, opening):
  """Returns one of `count`, of those that have come in by now."""
  among: Any = count
  if opening:
    among = jnp.minimum(1 + taken * (count - 1) // opening, count)
  return jax.random.randint(key, (), 0, among)


def drawn_steps(
  make: Callable[[Any], contract.Objective],
  counts: Sequence[int],
  opening: int = 0,
) -> contract.Objective:
  """One objective along one of several numbers of steps, drawn every time.

  Each number has students of its own, which wait while others are drawn. All
  are one program, however many they are.

  Args:
    make: Returns the objective of a number of steps, which is traced.
    counts: The numbers, the one to begin with first.
    opening: Times over which the others come in, as in `drawn`.
  """

  def init(problem, key, phase):
    keys = jax.random.split(key, len(counts))
    states = [
      make(count).init(problem, keys[i], phase)
      for i, count in enumerate(counts)
    ]
    return jnp.int32(0), jax.tree.map(lambda *x: jnp.stack(x), *states)

  def loss(problem, syn: synthetic.SyntheticSet, student, real, key):
    taken, states = student
    draw_key, own_key = jax.random.split(key)
    index = _draw(draw_key, len(counts), taken, opening)
    steps = jnp.asarray(counts, jnp.int32)[index]
    state = jax.tree.map(lambda x: x[index], states)
    value, (state, seen) = make(steps).loss(problem, syn, state, real, own_key)
    states = jax.tree.map(lambda x, new: x.at[index].set(new), states, state)
    seen = {**seen, "travelling/steps": steps.astype(jnp.float32)}
    return value, ((taken + 1, states), seen)

  return contract.Objective(init, loss, 1)


def of_student(
  objective: contract.Objective, module: Callable[[problems.Problem], Any]
) -> contract.Objective:
  """The objective at another student over the same table.

  One of the run's own kind, with fewer layers, keeps the first of the run's
  pretrained ones; one of another kind starts from random weights.

  Args:
    objective: Any.
    module: Returns the student's Linen module from the run's problem.
  """

  def view(problem: problems.Problem) -> problems.Problem:
    initial, student = None, module(problem)
    if type(student) is type(problem.student) and problem.initial is not None:
      roles, layers = problem.roles, student.num_layers
      initial = jax.tree_util.tree_map_with_path(
        lambda path, x: x[:layers] if roles.is_stacked(path) else x,
        problem.initial,
      )
    return dataclasses.replace(problem, student=student, initial=initial)

  def init(problem, key, phase):
    return objective.init(view(problem), key, phase)

  def loss(problem, syn, state, real, key):
    return objective.loss(view(problem), syn, state, real, key)

  return objective._replace(init=init, loss=loss)
