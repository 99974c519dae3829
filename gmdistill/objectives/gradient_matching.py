"""Gradient matching: a set's gradients are those of the real rows."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gmdistill import fields
from gmdistill.objectives import class_plans, contract, distances, trajectories
from gmdistill.sets import synthetic
from gmdistill.students import roles as tensor_roles
from gmdistill.training import mixed_mode


class Matching(NamedTuple):
  """How gradients of one student are compared; see `gradient_matching`."""

  distance_kind: str
  matched: str
  sum_weight: float
  class_chunk: int
  rule: str

  def check(self) -> None:
    """Raises ValueError where a choice is unknown, or the chunk negative."""
    distances.check_kind(self.distance_kind)
    tensor_roles.check_matched(self.matched)
    if self.class_chunk < 0:
      raise ValueError(f"class_chunk={self.class_chunk} must be at least 0.")

  def between(self, a: Any, b: Any, roles: tensor_roles.Roles) -> jax.Array:
    """Returns the distance of two gradients."""
    return distances.between(
      a, b, roles, kind=self.distance_kind, matched=self.matched
    )

  def cosine(self, a: Any, b: Any, roles: tensor_roles.Roles) -> jax.Array:
    """Returns the cosine of two gradients, to be logged."""
    return distances.cosine(a, b, roles, self.matched)


def gradient_matching(
  along: trajectories.Trajectory,
  *,
  distance_kind: str = "neuron_cosine",
  matched: str = "all",
  sum_weight: fields.Size = 1.0,
  class_chunk: fields.FromZero = 0,
  rule: str = "mixed",
) -> contract.Objective:
  """Matches the synthetic set's gradients to the real ones (Zhao et al. 2021).

      mean_c D(g(theta, syn_c), g(theta, real_c))
      + w D(sum_c g(theta, syn_c), sum_c g(theta, real_c))

  Args:
    along: The trajectory of the student theta.
    distance_kind: One of `distances.KINDS`.
    matched: `head`, `last_K` or `all`; see `Roles.select`.
    sum_weight: w, the weight of the sum over classes beside class by class.
    class_chunk: How many classes at most are computed side by side. Fewer
      than there are: memory holds the gradients of so many alone, which are
      computed again where they are differentiated. All: one pass of larger
      products. 0: one class after the other, the gradients of all kept.
    rule: A rule of `mixed_mode.grad`.

  Raises:
    ValueError: an unknown distance or matched set, or a negative chunk.
  """
  matching = Matching(distance_kind, matched, sum_weight, class_chunk, rule)
  matching.check()

  def loss(problem, syn: synthetic.SyntheticSet, student, real, key):
    first = jax.tree.map(lambda x: x[0], real.batches)

    def real_gradient(batch):
      return jax.grad(problem.loss)(student.params, batch)

    value, metrics = _gap(
      matching,
      problem,
      student.params,
      syn,
      contract.by_group(first, problem.groups),
      real_gradient,
    )
    if along.train_on == "real":
      batches = jax.tree.map(lambda x: x[1:], real.batches)
    else:
      batches = jax.tree.map(
        lambda x: jnp.broadcast_to(x, (along.num_steps, *x.shape)),
        jax.lax.stop_gradient(syn.batch),
      )
    student = along.advance(problem, student, batches, key)
    return value, (student, metrics)

  extra = along.num_steps if along.train_on == "real" else 0
  return contract.Objective(along.init, loss, 1 + extra)


def expert_matching(
  *,
  distance_kind: str = "neuron_cosine",
  matched: str = "all",
  sum_weight: fields.Size = 1.0,
  class_chunk: fields.FromZero = 0,
  rule: str = "mixed",
) -> contract.Objective:
  """Gradient matching against the stored gradients of an expert bank.

  `gradient_matching`'s equation at a bank's states: nothing of it depends on
  the set but the synthetic gradient, so that is all that is computed.

  Raises:
    ValueError: an unknown distance or matched set, or a negative chunk.
  """
  matching = Matching(distance_kind, matched, sum_weight, class_chunk, rule)
  matching.check()

  def loss(problem, syn: synthetic.SyntheticSet, student, real, key):
    value, metrics = _gap(
      matching,
      problem,
      real.expert.params,
      syn,
      real.expert.targets,
      lambda targets: targets,
    )
    return value, (student, metrics)

  return contract.Objective(contract.no_state, loss, 0, ("params", "targets"))


def _gap(matching, problem, params, syn, real, real_gradient):
  """Returns the distance at one student, class by class plus the sum.

  `real_gradient` turns one class of `real` [C, ...] into its real gradient.
  """
  matched, roles = matching.matched, problem.roles
  gradient = mixed_mode.grad(problem.loss, matching.rule)

  def one_class(pair):
    syn_class, real_class = pair
    syn_grads = roles.keep(gradient(params, syn_class), matched)
    real_grads = roles.keep(real_gradient(real_class), matched)
    return (
      matching.between(syn_grads, real_grads, roles),
      matching.cosine(syn_grads, real_grads, roles),
      (syn_grads, real_grads),
    )

  groups = problem.groups
  pairs = (contract.by_group(syn.batch, groups), real)
  # Side by side, classes come second where a student's layers are stacked:
  # moving them to the front would copy every gradient.
  axes = 2 * (
    jax.tree_util.tree_map_with_path(
      lambda path, _: int(roles.is_stacked(path)),
      roles.keep(params, matched),
    ),
  )
  plan = class_plans.plan(matching.class_chunk, groups)
  gaps_C, cosines_C, (syn_sum, real_sum) = plan(one_class, pairs, axes)
  value = gaps_C.mean() + matching.sum_weight * matching.between(
    syn_sum, real_sum, roles
  )
  return value, {
    "matching/cosine": cosines_C.mean(),
    "matching/cosine_of_sum": matching.cosine(syn_sum, real_sum, roles),
  }
