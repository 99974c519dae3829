"""What is matched, and on which students: the objectives.

An objective is a pair of pure functions over one `Problem`. It differentiates
through students' gradients, always by `mixed_mode.grad`, so every objective is
a few lines of plain JAX under one outer `jax.grad`.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from gmdistill import data, distances, mixed_mode, synthetic, training
from gmdistill import problem as problems

Params = Any
PyTree = Any
Metrics = dict[str, jax.Array]


class Expert(NamedTuple):
  """A student on a trajectory of real training, and what the real data say.

  One entry of an expert bank; what nobody reads is left out as None.
  """

  params: Params | None = None  # theta
  targets: Params | None = None  # real gradients [C, ...] of matched tensors
  losses: Any = None  # [C], real loss of each class (nats)
  later: Params | None = None  # theta on the same trajectory, some steps on


class Real(NamedTuple):
  """What the real data give one student in one outer step."""

  batches: data.Batch | None  # N class-balanced ones, leaves [N, C * rows, ...]
  expert: Expert = Expert()


class Objective(NamedTuple):
  """What is matched, written for one student.

  `init(problem, key, phase)` returns the inner state of one student; `phase`
  in [0, 1) is its place among the students of a run. `loss` takes (problem,
  synthetic set, inner state, `Real`, key) and returns (loss, (inner state,
  metrics)). The caller maps over students and averages the gradients with
  respect to the *set*; students' own gradients are never averaged.
  """

  init: Callable[[problems.Problem, jax.Array, jax.Array], PyTree]
  loss: Callable[..., tuple[jax.Array, tuple[PyTree, Metrics]]]
  num_batches: int  # N, batches of real rows in class order
  reads: tuple[str, ...] = ()  # the fields of `Expert` that it needs


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
  _check(distance_kind, matched)
  gap = functools.partial(
    _gap,
    distance_kind=distance_kind,
    matched=matched,
    sum_weight=sum_weight,
    rule=rule,
  )

  def loss(problem, syn: synthetic.SyntheticSet, student, real, key):
    num_classes = syn.batch.labels.shape[-1]
    first = jax.tree.map(lambda x: x[0], real.batches)

    def real_gradient(batch):
      return jax.grad(problem.loss)(student.params, batch)

    value, metrics = gap(
      problem, student.params, syn, by_class(first, num_classes), real_gradient
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
  return Objective(along.init, loss, 1 + extra)


def expert_matching(
  *,
  distance_kind: str = "neuron_cosine",
  matched: str = "all",
  sum_weight: float = 1.0,
  rule: str = "mixed",
) -> Objective:
  """Gradient matching against the stored gradients of an expert bank.

  `gradient_matching`'s equation at a bank's states: nothing of it depends on
  the set but the synthetic gradient, so that is all that is computed.

  Raises:
    ValueError: an unknown distance or matched set.
  """
  _check(distance_kind, matched)

  def loss(problem, syn: synthetic.SyntheticSet, student, real, key):
    value, metrics = _gap(
      problem,
      real.expert.params,
      syn,
      real.expert.targets,
      lambda targets: targets,
      distance_kind=distance_kind,
      matched=matched,
      sum_weight=sum_weight,
      rule=rule,
    )
    return value, (student, metrics)

  return Objective(no_state, loss, 0, ("params", "targets"))


def _gap(
  problem,
  params,
  syn,
  real,
  real_gradient,
  *,
  distance_kind,
  matched,
  sum_weight,
  rule,
):
  """Returns the distance at one student, class by class plus the sum.

  `real_gradient` turns one class of `real` [C, ...] into its real gradient.
  """
  gradient = mixed_mode.grad(problem.loss, rule)
  between = functools.partial(
    distances.between, kind=distance_kind, matched=matched
  )

  def one_class(pair):
    syn_class, real_class = pair
    syn_grads = distances.keep(gradient(params, syn_class), matched)
    real_grads = distances.keep(real_gradient(real_class), matched)
    return (
      between(syn_grads, real_grads),
      distances.cosine(syn_grads, real_grads, matched),
      (syn_grads, real_grads),
    )

  num_classes = syn.batch.labels.shape[-1]
  pairs = (by_class(syn.batch, num_classes), real)
  gaps_C, cosines_C, grads = jax.lax.map(one_class, pairs)
  syn_sum, real_sum = jax.tree.map(lambda x: x.sum(axis=0), grads)
  value = gaps_C.mean() + sum_weight * between(syn_sum, real_sum)
  return value, {
    "matching/cosine": cosines_C.mean(),
    "matching/cosine_of_sum": distances.cosine(syn_sum, real_sum, matched),
  }


def distribution_matching() -> Objective:
  """Matches class means of fresh students' features (Zhao and Bilen 2023).

      sum_c || mean_syn_c f(x) - mean_real_c f(x) ||^2

  First order: one pass through a student, no gradient of it.
  """

  def loss(problem, syn: synthetic.SyntheticSet, student, real, key):
    params = problem.init(key)
    num_classes = syn.batch.labels.shape[-1]

    def class_means(batch: data.Batch) -> jax.Array:
      features_BxF = problem.apply(params, batch).features
      return features_BxF.reshape(num_classes, -1, features_BxF.shape[-1]).mean(
        axis=1
      )

    first = jax.tree.map(lambda x: x[0], real.batches)
    gap_CxF = class_means(syn.batch) - class_means(first)
    return jnp.square(gap_CxF).sum(), (student, {})

  return Objective(no_state, loss, 1)


def token_distance() -> Objective:
  """Keeps embeddings near real tokens: the relative squared distance.

      mean_ml min_v || x_ml - E_v ||^2 / mean_v || E_v ||^2

  Meant as one term of a weighted sum; with the weight 0 it is off.
  """

  def loss(problem, syn: synthetic.SyntheticSet, student, real, key):
    table_VxD = problem.embeddings
    squares_V = jnp.square(table_VxD).sum(axis=1)

    def nearest(rows_LxD):  # one example at a time: [L, V] stays small
      products_LxV = rows_LxD @ table_VxD.T
      ids_L = (squares_V[None] - 2 * products_LxV).argmin(axis=1)
      return jnp.square(rows_LxD - table_VxD[ids_L]).sum(axis=1)

    gaps_MxL = jax.lax.map(nearest, syn.batch.inputs)
    gap = (gaps_MxL * syn.batch.mask).sum() / syn.batch.mask.sum()
    return gap / squares_V.mean(), (student, {})

  return Objective(no_state, loss, 0)


def look_ahead(*, centred: bool = False, rule: str = "mixed") -> Objective:
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
    rule: A rule of `mixed_mode.grad`.
  """

  def loss(problem, syn: synthetic.SyntheticSet, student, real, key):
    params = training.replay(
      problem,
      problem.init(key),
      syn.batch,
      syn.steps,
      rule=rule,
    )
    batch = jax.tree.map(lambda x: x[0], real.batches)
    if centred:
      value, logits_BxC = _centred_loss(problem, params, batch)
    else:
      value, logits_BxC = problem.loss_and_logits(params, batch)
    right_B = logits_BxC.argmax(axis=-1) == batch.labels.argmax(axis=-1)
    return value, (student, {"look_ahead/accuracy": right_B.mean()})

  return Objective(no_state, loss, 1)


def _centred_loss(problem, params, batch):
  """Returns the loss around the batch's mean logits, and the logits."""
  logits_BxC = problem.apply(params, batch).logits
  mean_1xC = logits_BxC.mean(axis=0, keepdims=True)
  log_probs_BxC = jax.nn.log_softmax(logits_BxC - mean_1xC)
  value = -(batch.labels * log_probs_BxC).sum(axis=-1).mean()
  shift_1xC = mean_1xC - mean_1xC.mean()
  return value + 0.01 * jnp.square(shift_1xC).sum(), logits_BxC


def weighted(parts: Sequence[tuple[float, Objective]]) -> Objective:
  """The weighted sum of objectives, each on its own students and batches.

  Args:
    parts: Pairs (weight, objective).
  """

  def init(problem, key, phase):
    keys = jax.random.split(key, len(parts))
    return tuple(
      part.init(problem, keys[i], phase) for i, (_, part) in enumerate(parts)
    )

  def loss(problem, syn: synthetic.SyntheticSet, student, real, key):
    keys = jax.random.split(key, len(parts))
    total, first = jnp.float32(0.0), 0
    students: list[PyTree] = []
    metrics: Metrics = {}
    for i, (weight, part) in enumerate(parts):
      own = slice(first, first + part.num_batches)
      batches = jax.tree.map(lambda x, own=own: x[own], real.batches)
      value, (state, seen) = part.loss(
        problem, syn, student[i], Real(batches, real.expert), keys[i]
      )
      total = total + weight * value
      students.append(state)
      metrics |= {**seen, f"part_{i}/loss": value}
      first = own.stop
    return total, (tuple(students), metrics)

  num_batches = sum(part.num_batches for _, part in parts)
  reads = {name: None for _, part in parts for name in part.reads}
  return Objective(init, loss, num_batches, tuple(reads))


def no_state(
  problem: problems.Problem, key: jax.Array, phase: jax.Array
) -> tuple[()]:
  """The `init` of an objective whose students have no state of their own."""
  return ()


def _check(distance_kind: str, matched: str) -> None:
  distances.check_kind(distance_kind)
  distances.check_matched(matched)


def by_class(batch: data.Batch, num_classes: int) -> data.Batch:
  """Splits rows in class order: leaves [C * rows, ...] to [C, rows, ...]."""
  return jax.tree.map(lambda x: x.reshape(num_classes, -1, *x.shape[1:]), batch)
