"""The protocols: how good new students get on a set, over seeds.

Every row of a results table is measured by the same `measure`: the row's
learning rate is chosen on the selection split, then n students that no choice
has seen are trained and counted on the reported split, once.
"""

import functools
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gmdistill import (
  data,
  distances,
  errors,
  objectives,
  rationales,
  replays,
  synthetic,
  training,
  uncertainty,
)
from gmdistill import mesh as meshes
from gmdistill import problem as problems

SyntheticSet = synthetic.SyntheticSet
Rate = float | tuple[float, float]  # of a student, or of its body and its head
TEACHINGS = ("none", "moving_average", "peer")
TRIED_STUDENTS = 5  # of a row, with each learning rate


class Protocol(NamedTuple):
  """How a student is trained on a set, and what it then says of a row.

  `train(problem, synthetic set, key, rate) -> params`, a pure function.
  `rates` are the learning rates every row may choose from; a set that brings
  its own step sizes, under a protocol that `replays`, has none to choose.
  `logits` reads what `train` returned, be it one student or many samples of
  one; `readings` name what else `calibration` reports, as its mean over rows.
  """

  train: Callable[..., Any]
  rates: tuple[Rate, ...]
  num_students: int
  replays: bool = False
  logits: training.Reading = training.logits
  readings: tuple[tuple[str, training.Reading], ...] = ()


class Splits(NamedTuple):
  """The splits that a row is chosen and reported on, in length buckets."""

  selection: list[data.Batch]
  reported: list[data.Batch]
  groups: Mapping[str, list[data.Batch]] = {}  # parts of the reported one


def fine_tuning(
  *,
  num_steps: int = 200,
  batch_size: int = 64,
  weight_decay: float = 0.01,
  warmup: float = 0.5,
  rates: Sequence[float] = (1e-4,),
  num_students: int = 10,
  teaching: str = "none",
  decay: float = 0.99,
  curriculum: float = 0.0,
) -> Protocol:
  """AdamW, linear warm-up, cosine decay, clip 1.0.

  The protocol `finetune` of a pretrained student with these defaults, and
  `scratch` of a student from random initialisation with larger rates. With
  `teaching`, a teacher that changes with the student joins in, and a criterion
  says what the student loses to it: `moving_average`, by `decay`, or `peer`.
  Over the share `curriculum` of the steps, real rationales count from their end
  on.

  Raises:
    ValueError: an unknown teaching, or a decay that is not from 0 to below 1.
  """
  if teaching not in TEACHINGS or not 0 <= decay < 1:
    raise ValueError(
      f"teaching={teaching!r} is none of {', '.join(TEACHINGS)}, or "
      f"decay={decay} not from 0 to below 1."
    )

  def train(problem, syn: SyntheticSet, key, rate):
    schedule = optax.warmup_cosine_decay_schedule(
      0.0, 1.0, max(1, int(warmup * num_steps)), num_steps
    )
    optimizer = optax.chain(
      optax.clip_by_global_norm(1.0),
      optax.adamw(lambda t: rate * schedule(t), weight_decay=weight_decay),
    )
    changing = {
      "none": lambda: None,
      "moving_average": lambda: training.moving_average(decay),
      "peer": lambda: training.peer(optimizer),
    }[teaching]()
    return training.fit(
      problem,
      syn.batch,
      optimizer,
      num_steps=num_steps,
      batch_size=batch_size,
      key=key,
      teaching=changing,
      seen=rationales.curriculum(curriculum),
    )

  return Protocol(train, tuple(rates), num_students)


def replaying(
  *,
  num_steps: int,
  rates: Sequence[float] = (0.01, 0.03, 0.1, 0.3),
  head_scales: Sequence[float] = (1.0,),
  normalised: bool = False,
  num_students: int = 20,
) -> Protocol:
  """The set's own T SGD steps from a fresh student: the protocol `replay`.

  A set without learned step sizes takes `num_steps` steps of one size, and its
  head steps of that size times one of `head_scales`: both are chosen on the
  selection split like any row's learning rate. `normalised` steps go by
  distance, which the tensors share evenly.
  """

  def train(problem, syn: SyntheticSet, key, rate):
    # fit draws its student from the first half of the key; so does this.
    params = problem.init(jax.random.split(key)[0])
    if syn.learning_rates is not None:
      steps = syn.steps
    else:
      sizes, head_sizes = jnp.broadcast_to(rate[:, None], (2, num_steps))
      shares = None
      if normalised:
        shares = jnp.tile(replays.even_shares(params), (num_steps, 1))
      steps = replays.Steps(sizes, head_sizes, syn.order, shares)
    return replays.replay(problem, params, syn.batch, steps)

  pairs = tuple((rate, rate * scale) for rate in rates for scale in head_scales)
  return Protocol(train, pairs, num_students, replays=True)


def bayesian(
  start: Protocol,
  *,
  strength: float,
  prior_std: float,
  num_students: int,
  **chain: Any,
) -> Protocol:
  """SGLD from where `start` ends: the protocol `bayes`.

  A student is a chain of samples of its posterior on the set. An example's
  true label is its likeliest class, and its label, made a distribution, is
  what the teacher of `uncertainty.dirichlet_loss` says of it; the Gaussian
  prior stands around the student as it was before it saw the set.

  Args:
    start: How a chain's first state is trained; its rates are this one's.
    strength: Of the teacher's prior.
    prior_std: Of the Gaussian prior.
    num_students: Chains.
    **chain: The fields of `uncertainty.Chain`.

  Raises:
    ValueError: a field that is out of its range.
  """
  own = uncertainty.Chain(**chain)
  numbers = {"num_students": num_students, **own._asdict()}
  for name in ("num_students", "samples", "thin", "batch_size", "burn_in"):
    least = int(name != "burn_in")
    if numbers[name] < least:
      raise ValueError(f"{name}={numbers[name]} must be at least {least}.")
  if strength < 0 or prior_std <= 0 or own.step_size <= 0:
    raise ValueError(
      f"strength={strength} must be at least 0, prior_std={prior_std} and "
      f"step_size={own.step_size} above it."
    )

  def loss_of(problem):
    def loss(params, rows):
      batch, said_BxC = rows
      logits_BxC = problem.apply(params, batch).logits
      return uncertainty.dirichlet_loss(
        logits_BxC, batch.labels, said_BxC, strength=strength
      )

    return loss

  def train(problem, syn: SyntheticSet, key, rate):
    start_key, chain_key = jax.random.split(key)
    labels_MxC = syn.batch.labels
    classes_MxC = jax.nn.one_hot(labels_MxC.argmax(-1), labels_MxC.shape[-1])
    # Unrestricted labels may be negative: no distribution, and no bound below.
    said_MxC = jnp.maximum(labels_MxC, 0.0)
    said_MxC /= jnp.maximum(said_MxC.sum(axis=-1, keepdims=True), 1e-9)
    batch = data.Batch(syn.batch.inputs, syn.batch.mask, classes_MxC)
    energy = uncertainty.energy(
      loss_of(problem),
      problem.init(jax.random.split(start_key)[0]),  # start's own student
      num_rows=len(labels_MxC),
      prior_std=prior_std,
    )
    return uncertainty.posterior_samples(
      energy,
      start.train(problem, syn, start_key, rate),
      (batch, said_MxC),
      own,
      key=chain_key,
    )

  return Protocol(
    train,
    start.rates,
    num_students,
    start.replays,
    uncertainty.posterior_logits,
    (("interval_width", uncertainty.interval_width),),
  )


class Measurement(NamedTuple):
  """One row of a results table. Accuracies are fractions."""

  accuracies: np.ndarray  # [n], on the reported split
  rate: Rate  # the chosen learning rate
  seconds: float  # to train one student, compilation aside
  beside: Mapping[str, np.ndarray]  # [n] each, what `measure` also looked at
  by_group: Mapping[str, float] = {}  # the mean on each part of that split

  def row(self) -> dict[str, Any]:
    """Returns what `summary.json` holds of it."""
    spread = self.accuracies.std(ddof=1) if len(self.accuracies) > 1 else 0.0
    groups = {"by_group": dict(self.by_group)} if self.by_group else {}
    return {
      "mean": float(self.accuracies.mean()),
      "std": float(spread),
      "n": len(self.accuracies),
      **{name: float(x.mean()) for name, x in self.beside.items()},
      **groups,
    }


class Trainer:
  """Trains students in chunks: so many at once on every device, in one
  program, compiled once a shape."""

  def __init__(
    self, problem: problems.Problem, protocol: Protocol, at_once: int
  ):
    """Compiles nothing yet; `at_once` students are vmapped on a device."""
    self.protocol = protocol
    self.at_once = at_once
    self._mesh = meshes.whole()
    self.chunk = at_once * self._mesh.size
    self.problem = meshes.put(self._mesh, problem)
    everywhere, by_student = meshes.EVERYWHERE, meshes.BY_STUDENT
    self._train = jax.jit(
      meshes.over_students(
        self._mesh,
        jax.vmap(protocol.train, in_axes=(None, 0, 0, None)),
        (everywhere, by_student, by_student, everywhere),
        by_student,
      )
    )
    self._compiled: dict[Any, Any] = {}

  def __call__(
    self, sets: SyntheticSet, keys: jax.Array, rate: Rate, first: int
  ) -> tuple[Any, float]:
    """Trains students `first` and on; returns parameters and seconds.

    Args:
      sets: Stacked sets, leaves [k, ...]; student i trains on set i mod k.
      keys: One key a student, [chunk].
      rate: The learning rate.
      first: The index i of the first of these students.
    """
    length = len(sets.batch.labels)
    index = (first + np.arange(self.chunk)) % length
    chosen = jax.tree.map(lambda x: np.asarray(x)[index], sets)
    put = functools.partial(meshes.put, self._mesh)
    arguments = (
      self.problem,
      put(chosen, meshes.BY_STUDENT),
      put(keys, meshes.BY_STUDENT),
      put(np.asarray(rate, np.float32)),
    )
    shapes = str(jax.tree.map(lambda x: (jnp.shape(x), x.dtype), arguments[1:]))
    if shapes not in self._compiled:
      self._compiled[shapes] = self._train.lower(*arguments).compile()
    start = time.perf_counter()
    params = jax.block_until_ready(self._compiled[shapes](*arguments))
    return params, time.perf_counter() - start


# (trainer, students, splits) -> {name: [S]}, of each of S stacked students
Beside = Callable[[Trainer, Any, Splits], dict[str, np.ndarray]]


def nothing(
  trainer: Trainer, students: Any, splits: Splits
) -> dict[str, np.ndarray]:
  """Looks at nothing beside the accuracy."""
  del trainer, students, splits
  return {}


def calibration(
  trainer: Trainer, students: Any, splits: Splits
) -> dict[str, np.ndarray]:
  """Returns each student's calibration on the reported split, each [S].

  `ece`, the temperature that fits the selection split, and `ece_scaled`, the
  error at that temperature; and what the protocol's `readings` say.

  Raises:
    NotFinite: a student's logits are not.
  """
  protocol = trainer.protocol
  read = functools.partial(training.values, trainer.problem, students)
  chosen_SxNxC, chosen_N = read(splits.selection, protocol.logits)
  logits_SxNxC, labels_N = read(splits.reported, protocol.logits)
  if not np.isfinite(logits_SxNxC).all():
    raise errors.NotFinite(
      "the logits of a trained student are not finite; train with smaller steps"
    )
  found = _calibration(chosen_SxNxC, chosen_N, logits_SxNxC, labels_N)
  for name, reading in protocol.readings:
    found[name] = read(splits.reported, reading)[0].mean(axis=1)
  return jax.tree.map(np.asarray, found)


@jax.jit
def _calibration(chosen_SxNxC, chosen_N, logits_SxNxC, labels_N):
  def one(chosen_NxC, logits_NxC):
    temperature = uncertainty.fit_temperature(chosen_NxC, chosen_N)
    error = lambda z: uncertainty.expected_calibration_error(  # noqa: E731
      jax.nn.softmax(z), labels_N
    )
    return {
      "ece": error(logits_NxC),
      "temperature": temperature,
      "ece_scaled": error(logits_NxC / temperature),
    }

  return jax.vmap(one)(chosen_SxNxC, logits_SxNxC)


def measure(
  trainer: Trainer,
  sets: SyntheticSet,
  splits: Splits,
  *,
  seed: int = 0,
  beside: Beside = nothing,
) -> Measurement:
  """Measures one row of a results table.

  Args:
    trainer: The protocol, ready to run.
    sets: Stacked sets, leaves [k, ...]: student i trains on set i mod k. One
      set is k = 1; a random coreset is drawn afresh for every student.
    splits: Where rates are chosen, and where the row is reported.
    seed: Decides every student; the selection uses other students.
    beside: What is looked at in the reported students beside their accuracy.
  """
  report_key, select_key = jax.random.split(jax.random.key(seed))
  best = best_rate(trainer, sets, splits.selection, key=select_key)
  return _measure_at(
    trainer,
    sets,
    splits.reported,
    key=report_key,
    rate=best,
    num_students=trainer.protocol.num_students,
    look=lambda students: beside(trainer, students, splits),
    groups=splits.groups,
  )


def best_rate(
  trainer: Trainer,
  sets: SyntheticSet,
  selection: list[data.Batch],
  *,
  key: jax.Array,
) -> Rate:
  """Returns the learning rate that the selection split likes best.

  Args:
    trainer: The protocol, ready to run, whose rates are tried.
    sets: Stacked sets, as in `measure`.
    selection: The selection split.
    key: Decides the students that are tried, however they are chunked.
  """
  protocol = trainer.protocol
  if protocol.replays and sets.learning_rates is not None:
    return protocol.rates[0]  # The set's own step sizes are read instead.
  if len(protocol.rates) == 1:
    return protocol.rates[0]
  tried = min(protocol.num_students, TRIED_STUDENTS)
  scores = [
    _measure_at(
      trainer, sets, selection, key=key, rate=rate, num_students=tried
    ).accuracies.mean()
    for rate in protocol.rates
  ]
  return protocol.rates[int(np.argmax(scores))]


def _measure_at(
  trainer,
  sets,
  split,
  *,
  key,
  rate,
  num_students,
  groups=None,
  look=lambda students: {},
):
  """Returns the `Measurement` of students of `key`, trained in chunks."""
  chunk = trainer.chunk
  keys = jax.random.split(key, -(-num_students // chunk) * chunk)
  count = functools.partial(
    training.accuracies, trainer.problem, reading=trainer.protocol.logits
  )
  found, seconds, beside = [], [], []
  by_group: dict[str, list[np.ndarray]] = {name: [] for name in groups or {}}
  for first in range(0, len(keys), chunk):
    students, spent = trainer(sets, keys[first : first + chunk], rate, first)
    seconds.append(spent / trainer.at_once)  # on one device
    found.append(count(students, split))
    beside.append(look(students))
    for name, buckets in (groups or {}).items():
      by_group[name].append(count(students, buckets))
  whole = lambda each: np.concatenate(each)[:num_students]  # noqa: E731
  return Measurement(
    whole(found),
    rate,
    float(np.median(seconds)),
    {name: whole([x[name] for x in beside]) for name in beside[0]},
    {name: float(whole(own).mean()) for name, own in by_group.items()},
  )


def gradient_cosines(
  problem: problems.Problem,
  syn: SyntheticSet,
  sampler: data.Sampler,
  *,
  learning_rate: float,
  num_students: int = 3,
  num_steps: int = 40,
  every: int = 20,
) -> tuple[np.ndarray, dict[str, float]]:
  """Returns the cosine of synthetic and real gradients, by class and by layer.

  Students train on real batches by AdamW; at step 0 and every `every` steps
  the gradient of each class's synthetic examples is compared with that of
  its real ones, as one vector over all matched tensors. The mean over
  students and steps (Maekawa et al. 2024, table 4).

  Args:
    problem: The student's architecture and start.
    syn: The set, its rows in class order.
    sampler: Class-balanced real batches in class order.
    learning_rate: The rate of AdamW.
    num_students: Number of fresh students.
    num_steps: Training steps of each.
    every: Steps between two comparisons.

  Returns:
    The cosine [C] of each class over all layers, and that of each layer by
    its name, the mean over classes.
  """
  num_classes = syn.batch.labels.shape[-1]
  optimizer = optax.adamw(learning_rate)

  @jax.jit
  def compare(problem, params, syn_batch, real):
    def one_class(pair):
      syn_grads, real_grads = (jax.grad(problem.loss)(params, b) for b in pair)
      return (
        distances.cosine(syn_grads, real_grads, "all"),
        distances.layer_cosines(syn_grads, real_grads),
      )

    split = (
      objectives.by_class(syn_batch, num_classes),
      objectives.by_class(real, num_classes),
    )
    return jax.lax.map(one_class, split)

  @jax.jit
  def step(problem, params, state, real):
    grads = jax.grad(problem.loss)(params, real)
    updates, state = optimizer.update(grads, state, params)
    return optax.apply_updates(params, updates), state

  found = []
  for student in range(num_students):
    params = problem.init(jax.random.key(student))
    state = optimizer.init(params)
    for t in range(num_steps):
      real = sampler(student * num_steps + t)
      if t % every == 0:
        found.append(compare(problem, params, syn.batch, real))
      params, state = step(problem, params, state, real)
  cosines, by_layer = jax.tree.map(lambda *xs: np.stack(xs), *found)
  return cosines.mean(axis=0), {k: float(v.mean()) for k, v in by_layer.items()}


def stacked(syn: SyntheticSet) -> SyntheticSet:
  """Returns one set as a stack of one, as `measure` reads it."""
  return jax.tree.map(lambda x: jnp.asarray(x)[None], syn)
