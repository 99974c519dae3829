"""The protocols: how good new students get on a set, over seeds.

Every row of a results table is measured by the same `measure`: the row's
learning rate is chosen on the selection split, then n students that no choice
has seen are trained and counted on the reported split, once.
"""

import functools
import time
from collections.abc import Callable, Mapping
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
  protocols,
  scoring,
  synthetic,
  uncertainty,
)
from gmdistill import mesh as meshes
from gmdistill import problem as problems

SyntheticSet = synthetic.SyntheticSet
TRIED_STUDENTS = 5  # of a row, with each learning rate
DIVERGED = (
  "the logits of a trained student are not finite; train with smaller steps"
)


class Splits(NamedTuple):
  """The splits that a row is chosen and reported on, in length buckets."""

  selection: list[data.Batch]
  reported: list[data.Batch]
  groups: Mapping[str, list[data.Batch]] = {}  # parts of the reported one


class Measurement(NamedTuple):
  """One row of a results table. Accuracies are fractions; NaN: diverged."""

  accuracies: np.ndarray  # [n], on the reported split
  rate: protocols.Rate  # the chosen learning rate
  seconds: float  # to train one student, compilation aside
  beside: Mapping[str, np.ndarray]  # [n] each, what else `measure` looked at
  by_group: Mapping[str, float] = {}  # the mean on each part of that split

  def row(self) -> dict[str, Any]:
    """Returns what `summary.json` holds of it; one student has no `std`."""
    several = len(self.accuracies) > 1
    groups = {"by_group": dict(self.by_group)} if self.by_group else {}
    return {
      "mean": float(self.accuracies.mean()),
      "std": float(self.accuracies.std(ddof=1)) if several else None,
      "n": len(self.accuracies),
      **{name: float(x.mean()) for name, x in self.beside.items()},
      **groups,
    }


class Trainer:
  """Trains students in chunks: so many at once on every device, in one
  program, compiled once a shape."""

  def __init__(
    self, problem: problems.Problem, protocol: protocols.Protocol, at_once: int
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
    self, sets: SyntheticSet, keys: jax.Array, rate: protocols.Rate, first: int
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


# (trainer, students, splits) -> {name: [S]}, of each of S stacked students;
# one of the names is `accuracy`.
Look = Callable[[Trainer, Any, Splits], dict[str, np.ndarray]]


def accuracy(
  trainer: Trainer, students: Any, splits: Splits
) -> dict[str, np.ndarray]:
  """Returns each student's accuracy on the reported split, [S]."""
  return {"accuracy": _accuracies(trainer, students, splits.reported)}


def _accuracies(trainer, students, buckets):
  reading = trainer.protocol.logits
  return scoring.accuracies(trainer.problem, students, buckets, reading)


def calibration(
  trainer: Trainer, students: Any, splits: Splits
) -> dict[str, np.ndarray]:
  """Returns each student's accuracy and calibration on the reported split.

  Beside `accuracy`, each [S]: `ece`, the temperature that fits the selection
  split, and `ece_scaled`, the error at that temperature; and what the
  protocol's `readings` say.

  Raises:
    NotFinite: a student's logits are not.
  """
  protocol = trainer.protocol
  read = functools.partial(scoring.values, trainer.problem, students)
  chosen_SxNxC, chosen_N = read(splits.selection, protocol.logits)
  logits_SxNxC, labels_N = read(splits.reported, protocol.logits)
  if not np.isfinite(logits_SxNxC).all():
    raise errors.NotFinite(DIVERGED)
  right_SxN = logits_SxNxC.argmax(axis=-1) == labels_N
  found = {
    "accuracy": right_SxN.mean(axis=1),
    **_calibration(chosen_SxNxC, chosen_N, logits_SxNxC, labels_N),
  }
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
  look: Look = accuracy,
) -> Measurement:
  """Measures one row of a results table.

  Args:
    trainer: The protocol, ready to run.
    sets: Stacked sets, leaves [k, ...]: student i trains on set i mod k. One
      set is k = 1; a random coreset is drawn afresh for every student.
    splits: Where rates are chosen, and where the row is reported.
    seed: Decides every student; the selection uses other students.
    look: What is looked at in the reported students.
  """
  report_key, select_key = jax.random.split(jax.random.key(seed))
  best = best_rate(trainer, sets, splits.selection, key=select_key)
  return _measure_at(
    trainer,
    sets,
    splits,
    key=report_key,
    rate=best,
    num_students=trainer.protocol.num_students,
    look=look,
  )


def best_rate(
  trainer: Trainer,
  sets: SyntheticSet,
  selection: list[data.Batch],
  *,
  key: jax.Array,
) -> protocols.Rate:
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
  splits = Splits(selection, selection)
  scores = [
    chosen_by(
      _measure_at(
        trainer, sets, splits, key=key, rate=rate, num_students=tried
      ).accuracies
    )
    for rate in protocol.rates
  ]
  return protocol.rates[int(np.argmax(scores))]


def chosen_by(accuracies: np.ndarray) -> float:
  """Returns the mean by which a choice is made: who diverged is never right."""
  return float(np.nan_to_num(accuracies, nan=0.0).mean())


def _measure_at(
  trainer, sets, splits, *, key, rate, num_students, look=accuracy
):
  """Returns the `Measurement` of students of `key`, trained in chunks."""
  chunk = trainer.chunk
  keys = jax.random.split(key, -(-num_students // chunk) * chunk)
  seconds, found = [], []
  by_group: dict[str, list[np.ndarray]] = {name: [] for name in splits.groups}
  for first in range(0, len(keys), chunk):
    students, spent = trainer(sets, keys[first : first + chunk], rate, first)
    seconds.append(spent / trainer.at_once)  # on one device
    found.append(look(trainer, students, splits))
    for name, buckets in splits.groups.items():
      by_group[name].append(_accuracies(trainer, students, buckets))
  whole = lambda each: np.concatenate(each)[:num_students]  # noqa: E731
  seen = {name: whole([x[name] for x in found]) for name in found[0]}
  return Measurement(
    seen.pop("accuracy"),
    rate,
    float(np.median(seconds)),
    seen,
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
