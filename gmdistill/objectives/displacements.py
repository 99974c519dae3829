"""Objectives that move a student of an expert bank as its expert moved.

The set's own T steps start at one state of a trajectory; the displacement is
compared with the expert's. No real row is read.
"""

import functools

import jax

from gmdistill.objectives import contract, distances
from gmdistill.sets import synthetic
from gmdistill.training import constant_memory as in_constant_memory
from gmdistill.training import replays


def trajectory_matching(
  *, constant_memory: bool = True, rule: str = "mixed"
) -> contract.Objective:
  """Matches the parameters that an expert reached (Cazenavette et al. 2022).

      || theta_T - later ||^2 / || theta_0 - later ||^2

  theta_0 and `later` are two states of one real trajectory; theta_T is
  theta_0 after the set's own steps. Embedding tables are left out.

  Args:
    constant_memory: Differentiate by `constant_memory.replay`,
      which leaves out how earlier steps move later ones (Cui et al. 2023);
      else through the whole unrolled loop.
    rule: A rule of `mixed_mode.grad`, where the loop is unrolled.
  """
  gap = functools.partial(distances.between, kind="l2", matched="all")
  replay = _replay(constant_memory, rule)

  def loss(problem, syn: synthetic.SyntheticSet, student, real, key):
    start, later, roles = real.expert.params, real.expert.later, problem.roles
    reached = replay(problem, start, syn)
    whole = gap(start, later, roles)
    moves = _minus(reached, start), _minus(later, start)
    return gap(reached, later, roles) / whole, (
      student,
      {"matching/cosine": distances.cosine(*moves, roles, "all")},
    )

  return contract.Objective(contract.no_state, loss, 0, ("params", "later"))


def task_vector_matching(
  *,
  distance_kind: str = "tensor_cosine",
  constant_memory: bool = True,
  rule: str = "mixed",
) -> contract.Objective:
  """Matches the direction in which fine-tuning moves a student.

      D(theta_T - theta_0, later - theta_0)

  The second displacement is the task vector (Ilharco et al. 2023) where the
  bank's span reaches from age 0 to the end of a trajectory. A cosine distance
  asks for its direction alone: how far the set's steps go is theirs to learn.

  Args:
    distance_kind: One of `distances.KINDS`.
    constant_memory: As in `trajectory_matching`.
    rule: A rule of `mixed_mode.grad`, where the loop is unrolled.

  Raises:
    ValueError: an unknown distance.
  """
  distances.check_kind(distance_kind)
  replay = _replay(constant_memory, rule)

  def loss(problem, syn: synthetic.SyntheticSet, student, real, key):
    start, later, roles = real.expert.params, real.expert.later, problem.roles
    reached = replay(problem, start, syn)
    moves = _minus(reached, start), _minus(later, start)
    value = distances.between(*moves, roles, kind=distance_kind, matched="all")
    return value, (
      student,
      {"matching/cosine": distances.cosine(*moves, roles, "all")},
    )

  return contract.Objective(contract.no_state, loss, 0, ("params", "later"))


def _replay(constant_memory, rule):
  if constant_memory:
    steps = in_constant_memory.replay
  else:
    steps = functools.partial(replays.replay, rule=rule)

  def replay(problem, params, syn):
    return steps(problem, params, syn.batch, syn.steps)

  return replay


def _minus(a, b):
  return jax.tree.map(lambda x, y: x - y, a, b)
