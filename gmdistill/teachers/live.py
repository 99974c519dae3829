"""Teachers that train beside their student: its moving average, or a peer."""

import jax
import optax

from gmdistill.training import fitting


def moving_average(decay: float) -> fitting.Teaching:
  """The student's own past: mean <- decay mean + (1 - decay) student.

  Tarvainen and Valpola 2017.
  """

  def update(problem, mean, params, batch):
    del problem, batch
    return jax.tree.map(lambda m, p: decay * m + (1 - decay) * p, mean, params)

  return fitting.Teaching(
    lambda problem, params, key: params,
    lambda problem, mean, batch: problem.apply(mean, batch).logits,
    update,
  )


def peer(optimizer: optax.GradientTransformation) -> fitting.Teaching:
  """A second student, which learns from the first as the first from it.

  Deep mutual learning (Zhang et al. 2018).
  """

  def init(problem, params, key):
    # What the criterion learns beside the student starts as the first's does.
    theirs = {**params, **problem.init(key)}
    return theirs, optimizer.init(theirs)

  def update(problem, state, params, batch):
    theirs, inner = state
    said_BxC = problem.apply(params, batch).logits
    grads = jax.grad(problem.loss)(
      theirs, fitting.with_teacher(batch, said_BxC)
    )
    return fitting.update(optimizer, grads, inner, theirs)

  return fitting.Teaching(
    init,
    lambda problem, state, batch: problem.apply(state[0], batch).logits,
    update,
  )
