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

from gmdistill.data import batches
from gmdistill.evaluation import metrics as row_metrics
from gmdistill.evaluation import protocols, readings
from gmdistill.sets import synthetic
from gmdistill.students import bases, problems, tasks
from gmdistill.system import costs, devices, waits

SyntheticSet = synthetic.SyntheticSet

TRIED_STUDENTS = 5  # of a row, with each learning rate

DIVERGED = (
  "the logits of a trained student are not finite; train with smaller steps"
)


class Splits(NamedTuple):
  """The splits that a row is chosen and reported on, in length buckets."""

  selection: list[batches.Batch]
  reported: list[batches.Batch]
  groups: Mapping[str, np.ndarray] = {}  # `readings.groups` of the reported
  metrics: tuple[str, ...] = ()  # what is told of that one beside accuracies


class Measurement(NamedTuple):
  """One row of a results table. Scores are fractions of rows that are right,
  or nats a token; NaN: diverged."""

  accuracies: np.ndarray  # [n], on the reported split, as they are told
  rate: protocols.Rate  # the chosen learning rate
  seconds: float  # to train one student, compilation aside
  beside: Mapping[str, np.ndarray]  # [n] each, what else `measure` looked at
  by_group: Mapping[str, float] = {}  # the mean on each part of that split
  metrics: Mapping[str, np.ndarray] = {}  # [n] each, on the reported split
  metrics_by_group: Mapping[
    str, Mapping[str, float]
  ] = {}  # by group, then name
  # What `exact_match` says of the first student.
  answers: Mapping[str, Any] = {}

  def row(self) -> dict[str, Any]:
    """Returns what `summary.json` holds of it; one student has no `std`."""
    told = {
      "by_group": dict(self.by_group),
      "metrics": {name: _spread(x) for name, x in self.metrics.items()},
      "metrics_by_group": dict(self.metrics_by_group),
      "exact_match": dict(self.answers),
    }
    return {
      **_spread(self.accuracies),
      "n": len(self.accuracies),
      **{name: float(x.mean()) for name, x in self.beside.items()},
      **{name: x for name, x in told.items() if x},
    }


def _spread(values):
  several = len(values) > 1
  return {
    "mean": float(values.mean()),
    "std": float(values.std(ddof=1)) if several else None,
  }


class Cohort(NamedTuple):
  """Students that are trained alike."""

  key: jax.Array  # which decides every one of them
  rate: protocols.Rate
  num_students: int


class Trainer:
  """Trains students in chunks: so many at once on every device, in one
  program, compiled once a shape."""

  def __init__(
    self, problem: problems.Problem, protocol: protocols.Protocol, at_once: int
  ):
    """Compiles nothing yet; `at_once` students are vmapped on a device."""
    self.protocol = protocol
    self.at_once = at_once
    self._mesh = devices.whole()
    self.chunk = at_once * self._mesh.size
    problem = bases.narrowed(problem)
    self.problem = devices.put(self._mesh, problem, problem.layout)
    self._programs = _programs(protocol.train, self._mesh)
    self._paced: set[jax.stages.Compiled] = set()
    self.count = waits.Count("", 0, "students")  # who are awaited
    self._pace = costs.Pace(repr(problem.student))

  def expect(self, label: str, sets: SyntheticSet, num_students: int) -> None:
    """Counts from here on, for who waits, those tried with each rate too."""
    protocol = self.protocol
    chosen = protocol.replays and sets.learning_rates is not None
    rates = 0 if chosen or len(protocol.rates) == 1 else len(protocol.rates)
    tried = min(protocol.num_students, TRIED_STUDENTS)
    each = [tried] * rates + [num_students]
    total = sum(-(-count // self.chunk) * self.chunk for count in each)
    self.count.close()
    self.count = waits.Count(label, total, "students")

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
    length = len(sets.batch)
    index = (first + np.arange(self.chunk)) % length
    chosen = jax.tree.map(lambda x: np.asarray(x)[index], sets)
    put = functools.partial(devices.put, self._mesh)
    arguments = (
      self.problem,
      put(chosen, devices.BY_STUDENT),
      put(keys, devices.BY_STUDENT),
      put(np.asarray(rate, np.float32)),
    )
    with self.count.preparing("compiling"):
      program, flops = self._programs(arguments)
    if program not in self._paced:
      self.count.reckon(self._pace.seconds(flops))
    start = time.perf_counter()
    params = jax.block_until_ready(program(*arguments))
    seconds = time.perf_counter() - start
    if program not in self._paced:
      self._paced.add(program)
      self._pace.note(flops, seconds)
    return params, seconds


_MOST_PROGRAMS = 8  # a program keeps some memory of its device


# Of the last protocols, whoever trains by them.
@functools.lru_cache(maxsize=_MOST_PROGRAMS)
def _programs(train, mesh):
  """Returns `program(arguments)`, compiled where it was not, and its FLOPs."""
  everywhere, by_student = devices.EVERYWHERE, devices.BY_STUDENT
  jitted = jax.jit(
    problems.over_students(
      mesh,
      jax.vmap(train, in_axes=(None, 0, 0, None)),
      (by_student, by_student, everywhere),
      by_student,
    )
  )
  compiled: dict[Any, Any] = {}

  def program(arguments):
    leaves, structure = jax.tree.flatten(arguments)
    key = (structure, *((x.shape, x.dtype) for x in leaves))
    if key not in compiled:
      while len(compiled) >= _MOST_PROGRAMS:
        del compiled[next(iter(compiled))]
      traced = jitted.trace(*arguments)
      flops = costs.matmul_flops(traced.jaxpr.jaxpr)
      compiled[key] = traced.lower().compile(), flops
    return compiled[key]

  return program


# (trainer, students, splits) -> {name: [S]}, of each of S stacked students;
# one of the names is `accuracy`.
Look = Callable[[Trainer, Any, Splits], dict[str, np.ndarray]]


def accuracy(
  trainer: Trainer, students: Any, splits: Splits
) -> dict[str, np.ndarray]:
  """Returns each student's accuracy on the reported split, [S]."""
  return {"accuracy": _accuracies(trainer, students, splits.reported)}


def of_groups(
  trainer: Trainer, students: Any, splits: Splits
) -> dict[str, np.ndarray]:
  """Returns each student's score on each group of the reported split, [S]."""
  if not splits.groups:
    return {}
  reading, problem = trainer.protocol.logits, trainer.problem
  parts = (splits.reported, splits.groups)
  means = readings.means(problem, students, *parts, reading)
  return {name: problem.task.shown(mean) for name, mean in means.items()}


def _accuracies(trainer, students, buckets):
  reading, problem = trainer.protocol.logits, trainer.problem
  scores = readings.accuracies(problem, students, buckets, reading)
  return problem.task.shown(scores)


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
  cohort = Cohort(report_key, best, trainer.protocol.num_students)
  return _measure_cohort(trainer, sets, splits, cohort, look)


def best_rate(
  trainer: Trainer,
  sets: SyntheticSet,
  selection: list[batches.Batch],
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
  seen = [
    _measure_cohort(trainer, sets, splits, Cohort(key, rate, tried), accuracy)
    for rate in protocol.rates
  ]
  task = trainer.problem.task
  means = [chosen_by(x.accuracies, task) for x in seen]
  return protocol.rates[int(np.argmax(means))]


def chosen_by(accuracies: np.ndarray, task: tasks.Task) -> float:
  """Returns the mean by which a choice is made, more being better.

  Who diverged is never right; of nats, says nothing of any use.
  """
  worst = -np.inf if task.smaller_is_better else 0.0
  scores = np.asarray(task.shown(accuracies), np.float64)
  return float(np.where(np.isnan(scores), worst, scores).mean())


def _measure_cohort(trainer, sets, splits, cohort, look):
  """Returns the `Measurement` of a cohort's students, trained in chunks."""
  chunk, num_students = trainer.chunk, cohort.num_students
  keys = jax.random.split(cohort.key, -(-num_students // chunk) * chunk)
  seconds, looks = [], []
  by_group: dict[str, list[np.ndarray]] = {name: [] for name in splits.groups}
  told: list[dict[tuple[str, str], np.ndarray]] = []
  for first in range(0, len(keys), chunk):
    with trainer.count.working(chunk):
      students, spent = trainer(
        sets, keys[first : first + chunk], cohort.rate, first
      )
      seconds.append(spent / trainer.at_once)  # on one device
      looks.append(look(trainer, students, splits))
      for name, scores in of_groups(trainer, students, splits).items():
        by_group[name].append(scores)
      told.append(_metrics(trainer, students, splits))

  def of_all(chunks):
    return np.concatenate(chunks)[:num_students]

  seen = {name: of_all([x[name] for x in looks]) for name in looks[0]}
  said = {key: of_all([x[key] for x in told]) for key in told[0]}
  return Measurement(
    seen.pop("accuracy"),
    cohort.rate,
    float(np.median(seconds)),
    seen,
    {name: float(of_all(chunks).mean()) for name, chunks in by_group.items()},
    {name: said["", name] for name in splits.metrics},
    {
      group: {name: float(said[group, name].mean()) for name in splits.metrics}
      for group in (splits.groups if splits.metrics else ())
    },
  )


def _metrics(trainer, students, splits):
  """Returns what each metric is of S students, by group and name: [S] each."""
  if not splits.metrics:
    return {}
  said = readings.values(
    trainer.problem, students, splits.reported, trainer.protocol.logits
  )
  return row_metrics.by_group(*said, splits.metrics, splits.groups)


def stacked(syn: SyntheticSet) -> SyntheticSet:
  """Returns one set as a stack of one, as `measure` reads it."""
  return jax.tree.map(lambda x: jnp.asarray(x)[None], syn)
