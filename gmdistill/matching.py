"""What is matched, and on which students: the objectives.

An objective is a pair of pure functions over one `Problem`. It differentiates
through students' gradients, always by `mixed_mode.grad`, so every objective is
a few lines of plain JAX under one outer `jax.grad`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from gmdistill import data, distances, mixed_mode, synthetic, training
from gmdistill import problem as problems

Params = Any
PyTree = Any
Metrics = dict[str, jax.Array]


class Objective(NamedTuple):
  """What is matched, written for one student.

  `init(problem, key, phase)` returns the inner state of one student; `phase`
  in [0, 1) is its place among the students of a run. `loss` takes (problem,
  synthetic set, inner state, real, key) and returns (loss, (inner state,
  metrics)); `real` holds N class-balanced batches in class order, leaves
  [N, C * rows, ...]. The caller maps over students and averages the gradients
  with respect to the *set*; students' own gradients are never averaged.
  """

  init: Callable[[problems.Problem, jax.Array, jax.Array], PyTree]
  loss: Callable[..., tuple[jax.Array, tuple[PyTree, Metrics]]]
  num_batches: int  # N


# --- students along trajectories ---------------------------------------------


class StudentState(NamedTuple):
  """A student on its way along a training trajectory."""

  params: Params
  optimizer: PyTree
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
  max_age: int = 100,
  steps_between: int = 5,
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
  if train_on not in ("real", "synthetic"):
    raise ValueError(f"train_on={train_on!r} is none of real, synthetic.")

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
      updates, opt_state = optimizer.update(grads, opt_state, params)
      return (optax.apply_updates(params, updates), opt_state), None

    carry, _ = jax.lax.scan(step, (state.params, state.optimizer), batches)
    older = StudentState(*carry, state.age + steps_between)
    return jax.lax.cond(
      older.age >= max_age,
      lambda: init(problem, key, jnp.float32(0)),
      lambda: older,
    )

  return Trajectory(init, advance, steps_between, train_on)


# --- objectives --------------------------------------------------------------


def gradient_matching(
  along: Trajectory,
  *,
  distance_kind: str = "neuron_cosine",
  matched: str = "all",
  sum_weight: float = 1.0,
  rule: str = "mixed",
) -> Objective:
  """Matches the synthetic set's gradients to the real ones (Zhao et al. 2021).

      mean_c D(g(theta, syn_c), g(theta, real_c))
      + w D(sum_c g(theta, syn_c), sum_c g(theta, real_c))

  Args:
    along: The trajectory of the student theta.
    distance_kind: One of `distances.KINDS`.
    matched: `head`, `last_K` or `all`; see `distances.select`.
    sum_weight: w, the weight of the sum over classes beside class by class.
    rule: A rule of `mixed_mode.grad`.

  Raises:
    ValueError: an unknown distance or matched set.
  """
  if distance_kind not in distances.KINDS:
    kinds = ", ".join(distances.KINDS)
    raise ValueError(f"distance_kind={distance_kind!r} is none of {kinds}.")
  distances.check_matched(matched)

  def gap(a, b):
    return distances.between(a, b, kind=distance_kind, matched=matched)

  def loss(problem, syn: synthetic.SyntheticSet, student, real, key):
    gradient = mixed_mode.grad(problem.loss, rule)
    num_classes = syn.batch.labels.shape[-1]

    def one_class(pair):
      syn_class, real_class = pair
      syn_grads = gradient(student.params, syn_class)
      real_grads = jax.grad(problem.loss)(student.params, real_class)
      return (
        gap(syn_grads, real_grads),
        distances.cosine(syn_grads, real_grads, matched),
        (syn_grads, real_grads),
      )

    first = jax.tree.map(lambda x: x[0], real)
    pairs = (by_class(syn.batch, num_classes), by_class(first, num_classes))
    gaps_C, cosines_C, grads = jax.lax.map(one_class, pairs)
    syn_sum, real_sum = jax.tree.map(lambda x: x.sum(axis=0), grads)
    metrics = {
      "matching/cosine": cosines_C.mean(),
      "matching/cosine_of_sum": distances.cosine(syn_sum, real_sum, matched),
    }
    value = gaps_C.mean() + sum_weight * gap(syn_sum, real_sum)

    if along.train_on == "real":
      batches = jax.tree.map(lambda x: x[1:], real)
    else:
      batches = jax.tree.map(
        lambda x: jnp.broadcast_to(x, (along.num_steps, *x.shape)),
        jax.lax.stop_gradient(syn.batch),
      )
    student = along.advance(problem, student, batches, key)
    return value, (student, metrics)

  extra = along.num_steps if along.train_on == "real" else 0
  return Objective(along.init, loss, 1 + extra)


def look_ahead(*, rule: str = "mixed") -> Objective:
  """Minimises the real loss after the set's own T steps.

      L_real(theta_T),  theta_{t+1} = theta_t - eta_t g(theta_t, syn)

  from a freshly drawn student theta_0: what the `replay` protocol runs (Wang et
  al. 2018, unrolled; learned positive step sizes and labels as in Deng and
  Russakovsky 2022). In the engine's terms: the covector of the last synthetic
  gradient is -eta times the real gradient at theta_T.

  Args:
    rule: A rule of `mixed_mode.grad`.
  """

  def loss(problem, syn: synthetic.SyntheticSet, student, real, key):
    params = training.replay(
      problem,
      problem.init(key),
      syn.batch,
      syn.learning_rates,
      order=syn.order,
      rule=rule,
    )
    batch = jax.tree.map(lambda x: x[0], real)
    value, logits_BxC = problem.loss_and_logits(params, batch)
    right_B = logits_BxC.argmax(axis=-1) == batch.labels.argmax(axis=-1)
    return value, (student, {"look_ahead/accuracy": right_B.mean()})

  return Objective(lambda problem, key, phase: (), loss, 1)


def by_class(batch: data.Batch, num_classes: int) -> data.Batch:
  """Splits rows in class order: leaves [C * rows, ...] to [C, rows, ...]."""
  return jax.tree.map(lambda x: x.reshape(num_classes, -1, *x.shape[1:]), batch)
