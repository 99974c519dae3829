"""The protocols: how a student is trained on a set.

Each is a pure function of a set and a key, which `evaluate` maps over students.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gmdistill import errors, fields
from gmdistill.data import batches
from gmdistill.evaluation import posterior
from gmdistill.evaluation import readings as reading
from gmdistill.sets import synthetic
from gmdistill.students import problems
from gmdistill.teachers import live, rationales
from gmdistill.training import fitting, optimizers
from gmdistill.training import replays as replay_steps

SyntheticSet = synthetic.SyntheticSet

Rate = float | tuple[float, float]  # of a student, or of its body and its head

TEACHINGS = ("none", "moving_average", "peer")


class Protocol(NamedTuple):
  """How a student is trained on a set, and what it then says of a row.

  `train(problem, synthetic set, key, rate) -> params`, a pure function.
  `rates` are the learning rates every row may choose from; a set that brings
  its own step sizes, under a protocol that `replays`, has none to choose.
  Students of one that is `fresh` start from random weights, whatever is
  pretrained.
  `logits` reads what `train` returned, be it one student or many samples of
  one; `readings` name what else `calibration` reports, as its mean over rows.
  `identity` is all that made it: what is measured under another one is another
  row. Without one, nothing that it measures is kept.
  """

  train: Callable[..., Any]
  rates: tuple[Rate, ...]
  num_students: int
  replays: bool = False
  fresh: bool = False
  logits: reading.Reading = reading.logits
  readings: tuple[tuple[str, reading.Reading], ...] = ()
  identity: Mapping[str, Any] | None = None


def fine_tuning(
  *,
  num_steps: fields.Schedule = 200,
  batch_size: fields.Count = 64,
  weight_decay: fields.Decay = 0.01,
  warmup: fields.Fraction = 0.5,
  rates: Sequence[fields.Rate] = (1e-4,),
  num_students: fields.Count = 10,
  teaching: str = "none",
  decay: fields.Fraction = 0.99,
  curriculum: fields.Share = 0.0,
  fresh: bool = False,
) -> Protocol:
  """AdamW, linear warm-up, cosine decay, clip 1.0.

  The protocol `finetune` of a pretrained student with these defaults, and
  `scratch` of a `fresh` one, from random weights, with larger rates. With
  `teaching`, a teacher that changes with the student joins in, and a criterion
  says what the student loses to it: `moving_average`, by `decay`, or `peer`.
  Over the share `curriculum` of the steps, real rationales count from their end
  on.

  Args:
    num_steps: Of AdamW.
    batch_size: Examples a step, drawn at random from a larger set.
    weight_decay: AdamW's.
    warmup: The share of the steps in which the rate grows.
    rates: The highest learning rates, one of which the selection split chooses.
    num_students: Students that are trained and reported.
    teaching: A student's own teacher while it trains: `none`, `moving_average`
      of itself, or `peer`, a second student.
    decay: Of the moving average.
    curriculum: See above.
    fresh: Whether students start from random weights.

  Raises:
    ValueError: an unknown teaching, or a decay that is not from 0 to below 1.
  """
  identity = {"kind": "fine_tuning", **locals()}
  errors.choice("teaching", teaching, TEACHINGS)
  if not 0 <= decay < 1:
    raise ValueError(f"decay={decay} must be from 0 to below 1.")

  schedule = optimizers.FineTuning(num_steps, weight_decay, warmup)
  train = _fine_tuned(schedule, batch_size, teaching, decay, curriculum, fresh)
  return Protocol(
    train, tuple(rates), num_students, fresh=fresh, identity=identity
  )


# The same fields are the same function, which is traced and compiled once.
@functools.lru_cache(maxsize=16)
def _fine_tuned(schedule, batch_size, teaching, decay, curriculum, fresh):
  def train(problem, syn: SyntheticSet, key, rate):
    problem = _seen_by_student(problem, fresh)
    optimizer = schedule.optimizer(rate)
    changing = {
      "none": lambda: None,
      "moving_average": lambda: live.moving_average(decay),
      "peer": lambda: live.peer(optimizer),
    }[teaching]()
    seen = rationales.curriculum(curriculum)
    course = fitting.Course(schedule.num_steps, batch_size, changing, seen)
    return fitting.fit_course(problem, syn.batch, optimizer, course, key=key)

  return train


def untrained() -> Protocol:
  """Students as they are drawn: what a pretrained one says of itself.

  Of a task whose students all say the same before any training; one is enough.
  """

  def train(problem, syn: SyntheticSet, key, rate):
    del syn, rate
    return problems.first_student(problem, key)

  return Protocol(train, (0.0,), 1, identity={"kind": "untrained"})


def _seen_by_student(problem, fresh):
  return problem.replace(initial=None) if fresh else problem


def replaying(
  *,
  num_steps: int,
  rates: Sequence[fields.Rate] = (0.01, 0.03, 0.1, 0.3),
  head_scales: Sequence[fields.Size] = (1.0,),
  normalised: bool = False,
  schedule: str = "constant",
  num_students: fields.Count = 20,
) -> Protocol:
  """The set's own T SGD steps from a fresh student: the protocol `replay`.

  A set without learned step sizes takes `num_steps` steps of one size, or sizes
  that fall by a `schedule` of `replays`, and its head steps of the first size
  times one of `head_scales`: both are chosen on the selection split like any
  row's learning rate. `normalised` steps go by distance, which the tensors
  share evenly.

  Args:
    num_steps: T, of a set without sizes.
    rates: Sizes of the body's steps that a row without its own chooses from.
    head_scales: The same for the head's, times the body's size.
    normalised: Whether steps go by distance.
    schedule: `constant`, or `linear`, in equal parts towards zero.
    num_students: Students that are trained and reported.

  Raises:
    ValueError: an unknown schedule.
  """
  identity = {"kind": "replaying", **locals()}
  train = _replayed(num_steps, normalised, schedule)
  pairs = tuple((rate, rate * scale) for rate in rates for scale in head_scales)
  return Protocol(train, pairs, num_students, replays=True, identity=identity)


@functools.lru_cache(maxsize=16)
def _replayed(num_steps, normalised, schedule):
  falling_T = replay_steps.schedule(schedule, num_steps)

  def train(problem, syn: SyntheticSet, key, rate):
    params = problems.first_student(problem, key)
    if syn.learning_rates is not None:
      steps = syn.steps
    else:
      sizes, head_sizes = jnp.broadcast_to(rate[:, None], (2, num_steps))
      sizes = sizes * falling_T
      shares = None
      if normalised:
        shares = jnp.tile(problem.roles.even_shares(params), (num_steps, 1))
      steps = replay_steps.Steps(sizes, head_sizes, syn.order, shares)
    return replay_steps.replay(problem, params, syn.batch, steps)

  return train


def bayesian(
  start: Protocol,
  *,
  strength: fields.Size = 1.0,
  prior_std: fields.Positive = 0.05,
  num_students: fields.Count = 5,
  **chain: Any,
) -> Protocol:
  """SGLD from where `start` ends: the protocol `bayes`.

  A student is a chain of samples of its posterior on the set. An example's
  true label is its likeliest class, and its label, made a distribution, is
  what the teacher of `posterior.dirichlet_loss` says of it; the Gaussian
  prior stands around the student as it was before it saw the set.

  Args:
    start: How a chain's first state is trained; its rates are this one's.
    strength: Of the teacher's prior: how many rows of its class an example's
      label is worth.
    prior_std: Of the Gaussian prior, of every parameter.
    num_students: Chains.
    **chain: The fields of `posterior.Chain`.

  Raises:
    ValueError: a field that is out of its range.
  """
  sampled = posterior.Chain(**chain)
  _check_chain(sampled, strength, prior_std, num_students)
  identity = {
    "kind": "bayesian",
    "start": start.identity,
    "strength": strength,
    "prior_std": prior_std,
    "num_students": num_students,
    "chain": sampled._asdict(),
  }

  train = _sampling(start.train, start.fresh, sampled, strength, prior_std)
  return Protocol(
    train,
    start.rates,
    num_students,
    start.replays,
    start.fresh,
    posterior.posterior_logits,
    (("interval_width", posterior.interval_width),),
    identity,
  )


@functools.lru_cache(maxsize=16)
def _sampling(start, fresh, chain, strength, prior_std):
  def loss(problem, params, rows):
    batch, said_BxC = rows
    logits_BxC = problem.apply(params, batch).logits
    return posterior.dirichlet_loss(
      logits_BxC, batch.labels, said_BxC, strength=strength
    )

  def train(problem, syn: SyntheticSet, key, rate):
    problem = _seen_by_student(problem, fresh)
    start_key, chain_key = jax.random.split(key)
    energy = posterior.energy(
      functools.partial(loss, problem),
      problems.first_student(problem, start_key),
      num_rows=len(syn.batch),
      prior_std=prior_std,
    )
    return posterior.posterior_samples(
      energy,
      start(problem, syn, start_key, rate),
      _truth_and_teacher(syn.batch),
      chain,
      key=chain_key,
    )

  return train


def _truth_and_teacher(batch):
  """Returns a batch of one-hot labels, and distributions made of its own."""
  labels_MxC = batch.class_labels
  classes_MxC = jax.nn.one_hot(labels_MxC.argmax(-1), labels_MxC.shape[-1])
  # Unrestricted labels may be negative: no distribution, and no bound below.
  said_MxC = jnp.maximum(labels_MxC, 0.0)
  said_MxC /= jnp.maximum(said_MxC.sum(axis=-1, keepdims=True), 1e-9)
  if batch.weights is not None:
    classes_MxC *= batch.weights[:, None]
    said_MxC *= batch.weights[:, None]
  return batches.Batch(batch.inputs, batch.mask, classes_MxC), said_MxC


def _check_chain(chain, strength, prior_std, num_students):
  numbers = {"num_students": num_students, **chain._asdict()}
  for name in ("num_students", "samples", "thin", "batch_size", "burn_in"):
    least = int(name != "burn_in")
    if numbers[name] < least:
      raise ValueError(f"{name}={numbers[name]} must be at least {least}.")
  if strength < 0 or prior_std <= 0 or chain.step_size <= 0:
    raise ValueError(
      f"strength={strength} must be at least 0, prior_std={prior_std} and "
      f"step_size={chain.step_size} above it."
    )
