"""The protocols: how good new students get on a set, over seeds.

Every row of a results table is measured by the same `measure`: the row's
learning rate is chosen on the selection split, then n students that no choice
has seen are trained and counted on the reported split, once.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gmdistill.data import batches
from gmdistill.evaluation import metrics as row_metrics
from gmdistill.evaluation import protocols, readings, trainers
from gmdistill.sets import synthetic
from gmdistill.students import tasks

SyntheticSet = synthetic.SyntheticSet

DIVERGED = (
  "the logits of a trained student are not finite; train with smaller steps"
)


EVERYWHERE = ""  # the name of all rows, beside those of groups


class Splits(NamedTuple):
  """The splits that a row is chosen and reported on, in length buckets."""

  selection: list[batches.Batch]
  reported: list[batches.Batch]
  groups: Mapping[str, np.ndarray] = {}  # `readings.groups` of the reported
  metrics: tuple[str, ...] = ()  # what is told of that one beside accuracies

  @property
  def parts(self) -> dict[str, np.ndarray]:
    """The numbers of all reported rows, and of each group's."""
    rows = sum(int(batches.counted(x).sum()) for x in self.reported)
    return {**self.groups, EVERYWHERE: np.arange(rows)}


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


# (trainer, students, splits) -> {name: [S]}, of each of S stacked students;
# one of the names is `accuracy`.
Look = Callable[[trainers.Trainer, Any, Splits], dict[str, np.ndarray]]


def accuracy(
  trainer: trainers.Trainer, students: Any, splits: Splits
) -> dict[str, np.ndarray]:
  """Returns each student's accuracy on the reported split, [S]."""
  return {"accuracy": _accuracies(trainer, students, splits.reported)}


def scores(
  trainer: trainers.Trainer, students: Any, splits: Splits
) -> dict[str, np.ndarray]:
  """Returns each student's score on the reported split and its groups, [S].

  That of all rows is `EVERYWHERE`; every row is read once.
  """
  if not splits.groups:
    return {EVERYWHERE: _accuracies(trainer, students, splits.reported)}
  reading, problem = trainer.protocol.logits, trainer.problem
  parts = (splits.reported, splits.parts)
  means = readings.means(problem, students, *parts, reading)
  return {name: problem.task.shown(mean) for name, mean in means.items()}


def _accuracies(trainer, students, buckets):
  reading, problem = trainer.protocol.logits, trainer.problem
  scores = readings.accuracies(problem, students, buckets, reading)
  return problem.task.shown(scores)


def measure(
  trainer: trainers.Trainer,
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
  trainer: trainers.Trainer,
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
  tried = min(protocol.num_students, trainers.TRIED_STUDENTS)
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
      seen, of_groups, metrics = _looked(trainer, students, splits, look)
    looks.append(seen)
    for name, score in of_groups.items():
      by_group[name].append(score)
    told.append(metrics)

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
    {name: said[EVERYWHERE, name] for name in splits.metrics},
    {
      group: {name: float(said[group, name].mean()) for name in splits.metrics}
      for group in (splits.groups if splits.metrics else ())
    },
  )


def _looked(trainer, students, splits, look):
  """Returns what is seen of S students, and their scores and metrics by group.

  Every row is read once, but for a look at more than accuracies.
  """
  metrics: dict[tuple[str, str], np.ndarray] = {}
  if look is not accuracy and not splits.groups and not splits.metrics:
    return look(trainer, students, splits), {}, metrics
  if splits.metrics:
    logits_SxNxC, true_N = readings.values(
      trainer.problem, students, splits.reported, trainer.protocol.logits
    )
    metrics = row_metrics.by_part(
      logits_SxNxC, true_N, splits.metrics, splits.parts
    )
    right_SxN = np.where(
      np.isfinite(logits_SxNxC).all(axis=-1),
      logits_SxNxC.argmax(axis=-1) == true_N,
      np.nan,
    )
    told = {
      name: right_SxN[:, at].mean(axis=1) for name, at in splits.parts.items()
    }
  else:
    told = scores(trainer, students, splits)
  whole = {"accuracy": told.pop(EVERYWHERE)}
  seen = whole if look is accuracy else look(trainer, students, splits)
  return seen, told, metrics


def stacked(syn: SyntheticSet) -> SyntheticSet:
  """Returns one set as a stack of one, as `measure` reads it."""
  return jax.tree.map(lambda x: jnp.asarray(x)[None], syn)
