"""Look-ahead: a set's own steps lower the real loss."""

from typing import Any

import jax

from gmdistill import errors, fields
from gmdistill.objectives import contract
from gmdistill.sets import synthetic
from gmdistill.students import problems
from gmdistill.training import replays


def look_ahead(
  *,
  centred: bool = False,
  start: str = "fresh",
  last_steps: fields.FromZero = 0,
  rule: str = "mixed",
) -> contract.Objective:
  """Minimises the real loss after the set's own T steps.

      L_real(theta_T),  theta_{t+1} = theta_t - eta_t g(theta_t, syn)

  from a freshly drawn student theta_0: what the `replay` protocol runs (Wang et
  al. 2018, unrolled; learned positive step sizes and labels as in Deng and
  Russakovsky 2022). In the engine's terms: the covector of the last synthetic
  gradient is -eta times the real gradient at theta_T.

  Args:
    centred: Take the mean logits of the class-balanced real batch out of its
      loss, and add 0.01 times their square. A shift of all logits is the
      direction in which the loss is sharpest and a batch noisiest: it makes
      the jumps of the meta-gradient, and is easily learned beside the rest.
    start: `fresh`, or `bank`: theta_0 is a state of an expert bank.
    last_steps: Differentiate the last so many steps alone, as if the student
      had come to them from elsewhere (truncated backpropagation; Feng et al.
      2023). The steps before cost no second pass; their sizes, and examples
      that they alone take, get no gradient. 0: all T.
    rule: A rule of `mixed_mode.grad`.

  Raises:
    ValueError: `start` is neither, or `last_steps` is negative.
  """
  errors.choice("start", start, ("fresh", "bank"))
  if last_steps < 0:
    raise ValueError(f"last_steps={last_steps} must be at least 0 (all).")

  def loss(problem, syn: synthetic.SyntheticSet, student, real, key):
    steps, first = syn.steps, 0
    params = problem.init(key) if start == "fresh" else real.expert.params
    if last_steps:
      first = max(len(steps.learning_rates) - last_steps, 0)
      before = jax.tree.map(lambda x: x[:first], steps)
      params = replays.replay(problem, params, syn.batch, before)
      params = jax.lax.stop_gradient(params)
    steps = jax.tree.map(lambda x: x[first:], steps)
    params = replays.replay(problem, params, syn.batch, steps, rule=rule)
    value, metrics = real_loss(problem, params, real, centred)
    return value, (student, metrics)

  reads = ("params",) if start == "bank" else ()
  return contract.Objective(contract.no_state, loss, 1, reads)


def real_loss(
  problem: problems.Problem, params: Any, real: contract.Real, centred: bool
) -> tuple[jax.Array, contract.Metrics]:
  """Returns the loss of the first real batch, and its score to be logged."""
  batch = jax.tree.map(lambda x: x[0], real.batches)
  value, logits = problem.loss_and_logits(params, batch, centred=centred)
  score = problem.score(logits, batch).mean()
  task = problem.task
  return value, {f"look_ahead/{task.unit}": task.shown(score)}
