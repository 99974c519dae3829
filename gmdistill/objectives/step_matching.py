"""Step matching: a set's steps imitate real ones, step by step."""

import jax

from gmdistill.objectives import contract, distances
from gmdistill.sets import synthetic
from gmdistill.students import roles as tensor_roles
from gmdistill.training import mixed_mode, replays


def step_matching(
  num_steps: int,
  *,
  distance_kind: str = "tensor_cosine",
  matched: str = "all",
  centred: bool = False,
  rule: str = "mixed",
) -> contract.Objective:
  """Matches gradients at the students that the set's own steps come to.

      mean_t D(g(theta_t, syn_t), g(theta_t, real_t))
      theta_{t+1} = theta_t - eta_t g(theta_t, syn_t)

  from a freshly drawn theta_0: gradient matching along training on the set
  (Zhao et al. 2021), each of the T steps with the examples that it takes. The
  derivative of one step does not go through those before it; the sizes of the
  steps get none, and stay as they start.

  Args:
    num_steps: T; each step reads a real batch of its own.
    distance_kind: One of `distances.KINDS`.
    matched: `head`, `last_K` or `all`; see `Roles.select`.
    centred: As in `look_ahead`, of the real gradients. Those of a loss that is
      not centred mostly shift all logits, first one way and then back.
    rule: A rule of `mixed_mode.grad`.

  Raises:
    ValueError: an unknown distance or matched set.
  """
  distances.check_kind(distance_kind)
  tensor_roles.check_matched(matched)

  def loss(problem, syn: synthetic.SyntheticSet, student, real, key):
    gradient = mixed_mode.grad(problem.loss, rule)
    roles = problem.roles

    def real_loss(params, batch):
      return problem.loss_and_logits(params, batch, centred=centred)[0]

    def step(params, sizes_batch):
      sizes, batch = sizes_batch
      taken = replays.rows_of(syn.batch, sizes)
      syn_grads = gradient(params, taken)
      real_grads = jax.grad(real_loss)(params, batch)
      gap = distances.between(
        syn_grads, real_grads, roles, kind=distance_kind, matched=matched
      )
      cosine = distances.cosine(syn_grads, real_grads, roles, matched)
      moved = replays.moved(params, syn_grads, sizes, roles)
      return jax.lax.stop_gradient(moved), (gap, cosine)

    params = problem.init(key)
    _, seen = jax.lax.scan(step, params, (syn.steps, real.batches))
    gap, cosine = (x.mean() for x in seen)
    return gap, (student, {"matching/cosine": cosine})

  return contract.Objective(contract.no_state, loss, num_steps)
