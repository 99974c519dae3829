"""How sure a student is, and how far that can be trusted.

A student's posterior under a teacher-informed prior, sampled by Langevin
dynamics; the intervals of its predictions; calibration and its repair.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.flatten_util
import jax.numpy as jnp
import optax

from gmdistill import fields, trees
from gmdistill.data import batches
from gmdistill.students import problems
from gmdistill.teachers import ensembles
from gmdistill.training import fitting

Array = batches.Array

LEVEL = 0.9  # of the intervals that are reported

LOWEST, HIGHEST = 1e-2, 1e2  # temperatures that are looked for

# --- the posterior --------------------------------------------------------


def dirichlet_loss(
  logits_BxC: Array, labels_BxC: Array, teacher_BxC: Array, *, strength: float
) -> jax.Array:
  """Returns the penalised negative log-likelihood, the mean over rows (nats).

  The class distribution f(x) has the prior Dir(1 + strength p(x)) of a
  teacher's p: -sum_c y_c log f_c - strength sum_c p_c log f_c (Fang et al.
  2024). It is soft cross-entropy to (y + strength p) / (1 + strength), times
  1 + strength: distillation is the posterior's mode. Strength 0 is plain
  cross-entropy.

  Args:
    logits_BxC: The student's, of f.
    labels_BxC: The true labels y; a row of zeros has none, and only the prior.
    teacher_BxC: The teacher's probabilities p.
    strength: How many rows of that label the teacher's word is worth.
  """
  log_probs_BxC = jax.nn.log_softmax(logits_BxC)
  likelihood_B = -(log_probs_BxC * labels_BxC).sum(axis=-1)
  prior_B = -(log_probs_BxC * teacher_BxC).sum(axis=-1)
  return likelihood_B.mean() + strength * prior_B.mean()


def energy(
  loss: Callable[[trees.Params, Any], jax.Array],
  centre: trees.Params,
  *,
  num_rows: int,
  prior_std: float,
) -> Callable[[trees.Params, Any], jax.Array]:
  """Returns U(theta, rows), whose mean over minibatches is -log posterior.

  U = N loss(theta, rows) + |theta - centre|^2 / (2 prior_std^2), but for a
  constant: N times the mean of B rows is unbiased for the sum over all N.

  Args:
    loss: The mean over rows of the negative log-likelihood.
    centre: Of the Gaussian prior on the parameters; what is known before the
      rows are seen, so a student that has not trained on them.
    num_rows: N.
    prior_std: Of every parameter.
  """

  def value(params: trees.Params, rows: Any) -> jax.Array:
    squares = jax.tree.map(lambda p, c: jnp.square(p - c).sum(), params, centre)
    distance = sum(jax.tree.leaves(squares))
    return num_rows * loss(params, rows) + 0.5 * distance / prior_std**2

  return value


class LangevinState(NamedTuple):
  """All that `sgld` knows: saved and loaded, a chain goes on exactly."""

  step: jax.Array  # how many were taken
  key: jax.Array


def sgld(
  step_size: float | optax.Schedule, *, noise: float = 1.0, key: jax.Array
) -> optax.GradientTransformation:
  """Stochastic gradient Langevin dynamics (Welling and Teh 2011).

  Update t is -eps_t / 2 g + noise sqrt(eps_t) N(0, I): with g the gradient of
  an `energy` and small steps, the parameters wander over its posterior.

  Args:
    step_size: eps, or a schedule of it.
    noise: 1 samples the posterior, 0 is SGD at the rate eps / 2.
    key: Decides the noise of every step.
  """

  def init(params: trees.Params) -> LangevinState:
    del params
    return LangevinState(jnp.zeros((), jnp.int32), key)

  def update(grads, state, params=None):
    del params
    eps = step_size(state.step) if callable(step_size) else step_size
    step_key = jax.random.fold_in(state.key, state.step)
    # One draw for all leaves: a draw each is most of the program to compile.
    flat, unravel = jax.flatten_util.ravel_pytree(grads)
    drawn = unravel(jax.random.normal(step_key, flat.shape, flat.dtype))

    def move(grad, normal):
      return -0.5 * eps * grad + noise * jnp.sqrt(eps) * normal

    taken = optax.safe_increment(state.step)
    return jax.tree.map(move, grads, drawn), LangevinState(taken, state.key)

  return optax.GradientTransformation(init, update)


class Chain(NamedTuple):
  """How long a chain runs, and which of its states are kept.

  Attributes:
    step_size: Of every parameter.
    samples: States that are kept.
    burn_in: Steps before the first sample's.
    thin: Steps a sample.
    batch_size: Examples a step.
  """

  step_size: fields.Rate | optax.Schedule = 1e-5
  samples: fields.Count = 20
  burn_in: fields.StepsFromZero = 200
  thin: fields.Steps = 20
  batch_size: fields.Count = 64


def posterior_samples(
  energy: Callable[[trees.Params, Any], jax.Array],
  params: trees.Params,
  examples: Any,
  chain: Chain,
  *,
  key: jax.Array,
) -> trees.Params:
  """Returns parameters [samples, ...] along one chain of `sgld`.

  A pure function: `jax.vmap` it over keys and starts for several chains.

  Args:
    energy: U(params, rows), as `energy` makes it.
    params: Where the chain starts.
    examples: A pytree whose leaves are [N, ...]; a step takes rows of it.
    chain: Its lengths and steps.
    key: Decides the noise and the order of the rows.
  """
  noise_key, order_key = jax.random.split(key)
  optimizer = sgld(chain.step_size, key=noise_key)
  num_rows = len(jax.tree.leaves(examples)[0])
  num_steps = chain.burn_in + chain.samples * chain.thin
  rows_TxB = fitting.shuffled_rows(
    order_key, num_rows, num_steps, chain.batch_size
  )

  def step(t, carry):
    params, state = carry
    taken = jax.tree.map(lambda x: x[rows_TxB[t]], examples)
    grads = jax.grad(energy)(params, taken)
    return fitting.update(optimizer, grads, state, params)

  def sample(carry, first_and_stop):
    # One loop of any length, so that the step is compiled once.
    first, stop = first_and_stop
    carry = jax.lax.fori_loop(first, stop, step, carry)
    return carry, carry[0]

  stops = chain.burn_in + chain.thin * jnp.arange(1, chain.samples + 1)
  firsts = jnp.concatenate([jnp.zeros(1, stops.dtype), stops[:-1]])
  start = (params, optimizer.init(params))
  return jax.lax.scan(sample, start, (firsts, stops))[1]


# --- predictions ----------------------------------------------------------


class Predictive(NamedTuple):
  """What samples of a posterior say of N rows."""

  mean: jax.Array  # [N, C], a distribution
  lower: jax.Array  # [N, C], of each class's interval
  upper: jax.Array  # [N, C]


def predictive(probs_SxNxC: Array, level: float = LEVEL) -> Predictive:
  """Returns the mean over samples and each class's equal-tailed interval."""
  tail = 0.5 * (1.0 - level)
  lower, upper = jnp.quantile(probs_SxNxC, jnp.array([tail, 1 - tail]), axis=0)
  return Predictive(jnp.mean(probs_SxNxC, axis=0), lower, upper)


def posterior_logits(
  problem: problems.Problem, samples: trees.Params, batch: batches.Batch
) -> jax.Array:
  """Returns log mean_s p_s [B, C]: logits of the samples' mean prediction."""
  logits_SxBxC = _sample_logits(problem, samples, batch)
  weights = ensembles.equal_weights(logits_SxBxC)
  return ensembles.mean_of_probabilities(logits_SxBxC, weights)


def interval_width(
  problem: problems.Problem, samples: trees.Params, batch: batches.Batch
) -> jax.Array:
  """Returns the width [B] of `LEVEL` intervals, the mean over classes."""
  interval = predictive(jax.nn.softmax(_sample_logits(problem, samples, batch)))
  return (interval.upper - interval.lower).mean(axis=-1)


def _sample_logits(problem, samples, batch):
  # One after the other: all at once would hold S students' hidden states.
  return jax.lax.map(lambda p: problem.apply(p, batch).logits, samples)
