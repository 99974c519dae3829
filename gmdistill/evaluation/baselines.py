"""Rows of the results table: measured, and cached where no set decides."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gmdistill import errors
from gmdistill.data import batches as row_batches
from gmdistill.data import language_tokens
from gmdistill.evaluation import (
  calibration,
  exact_match,
  measuring,
  protocols,
  readings,
  trainers,
)
from gmdistill.selection import coresets
from gmdistill.sets import spaces, synthetic
from gmdistill.system import cache, logs, processes, units

_VERSION = 5  # Raise it when the same options come to mean other baselines.


@dataclasses.dataclass(frozen=True)
class Options:
  """What the rows of one table have in common.

  Attributes:
    data_per_class: Examples a class of a coreset; without classes, in all.
    coreset_pool: Real rows a class that it is chosen from.
    seed: Of the one student of `student`.
    students_at_once: Students that are evaluated in one chunk.
    group_key: By which accuracies are told too; for the lines that say them.
    loss: What students lose to their teachers, which rows without any have not.
    calibrated: Whether rows say `calibration` too; they are cached apart.
    metrics: What rows say beside accuracies; of `evaluation.metrics.METRICS`.
    length: Of rows without classes: places of one in a coreset.
    answers: Of rows without classes: which are answered.
  """

  data_per_class: int
  coreset_pool: int
  seed: int = 0
  students_at_once: int = 1
  group_key: str = ""
  loss: str = ""
  calibrated: bool = False
  metrics: tuple[str, ...] = ()
  length: int = 0
  answers: exact_match.Options = exact_match.Options()


class Table:
  """Measures rows of the results table; caches those no set decides."""

  def __init__(
    self,
    setup: spaces.Setup,
    selection: row_batches.Examples,
    options: Options,
    identity: Any = None,
  ):
    """Cuts the splits into length buckets.

    Args:
      setup: The problem, and the data that are reported.
      selection: The rows on which learning rates are chosen.
      options: What the rows have in common.
      identity: What else decides a row, beside all that is measured with: it
        names what was kept.
    """
    self._setup, self._options = setup, options
    self._identity = [len(selection.labels), identity]
    self._num_classes = setup.corpus.num_classes
    self._unit = setup.problem.task.unit
    self._trainers: dict[tuple[int, int], trainers.Trainer] = {}
    self._untaught: set[str] = set()
    self._pools: dict[int, coresets.Pool] = {}
    cut = functools.partial(
      readings.length_buckets, num_classes=self._num_classes
    )
    self._splits = measuring.Splits(
      cut(selection),
      cut(setup.corpus.reported),
      readings.groups(setup.corpus.reported, setup.corpus.group_names),
      options.metrics,
    )

  @property
  def methods(self) -> tuple[str, ...]:
    """The rows beside a set's, in the order of the table: what students say
    before any training, and coresets of its size."""
    methods = coresets.methods(self._setup.corpus.train)
    if not self._num_classes:
      methods = ("random", "length_matched", "k_centers")
      lengths_N = self._rows.mask.sum(axis=1)
      if (lengths_N == lengths_N.max()).mean() > 0.9:  # texts, all of a length
        methods = ("random", "k_centers")
    return (
      methods if self._setup.problem.roles.fresh else ("zero_shot", *methods)
    )

  @functools.cached_property
  def _rows(self):
    """The real rows that coresets are chosen from."""
    train = self._setup.corpus.train
    if self._num_classes:
      return train
    return language_tokens.fitting(train, self._options.length)

  def measure(
    self,
    protocol: protocols.Protocol,
    sets: synthetic.SyntheticSet,
    label: str,
    at_once: int = 0,
  ) -> measuring.Measurement:
    """Measures one row, and says its accuracy; by group too if there are."""
    at_once = min(
      at_once or self._options.students_at_once, protocol.num_students
    )
    look: measuring.Look = (
      calibration.calibration
      if self._options.calibrated
      else measuring.accuracy
    )
    answers: dict[str, Any] = {}
    if self._options.answers.num_rows:
      look = self._exam.looking(look, answers)
    trainer = self._trainer(protocol, at_once)
    trainer.expect(label, sets, protocol.num_students)
    found = measuring.measure(trainer, sets, self._splits, look=look)
    found = found._replace(answers=answers)
    if not np.isfinite(found.accuracies).all():
      raise errors.NotFinite(f"{label}: {measuring.DIVERGED}")
    row = found.row()
    said = units.plus_minus(row["mean"], row["std"], self._unit)
    unit = "" if self._unit == "accuracy" else f" {self._unit}"
    logs.say(f"{label}: {said}{unit} ({row['n']} students)")
    for name, x in found.metrics.items():
      logs.say(f"{label}, {name}: {x.mean():.3f}")
    self._say_groups(label, found.by_group)
    if answers:
      logs.say(f"{label}, exact match: {exact_match.in_words(answers)}")
    return found

  @functools.cached_property
  def _exam(self) -> exact_match.Exam:
    return exact_match.Exam(self._setup, self._options.answers)

  def _say_groups(self, label, by_group):
    if by_group:
      each = [
        f"{name}: {units.plus_minus(x, None, self._unit)}"
        for name, x in by_group.items()
      ]
      logs.say(f"{label}, by {self._options.group_key}: {', '.join(each)}")

  def student(
    self, protocol: protocols.Protocol, sets: synthetic.SyntheticSet
  ) -> tuple[Any, float, float]:
    """Returns one trained student, the seconds it took, and how good it is."""
    key, select_key = jax.random.split(jax.random.key(self._options.seed))
    trainer = self._trainer(protocol, 1)
    trainer.expect("training", sets, 1)
    rate = measuring.best_rate(
      trainer, sets, self._splits.selection, key=select_key
    )
    keys = jax.random.split(key, trainer.chunk)
    with trainer.count.working(trainer.chunk):
      params, seconds = trainer(sets, keys, rate, 0)
      scores = measuring.scores(trainer, params, self._splits)
    whole = scores.pop(measuring.EVERYWHERE)
    if not np.isfinite(whole).all():
      raise errors.NotFinite(measuring.DIVERGED)
    by_group = {name: float(score[0]) for name, score in scores.items()}
    kind = "accuracy, %" if self._unit == "accuracy" else self._unit
    self._say_groups(kind, by_group)
    return jax.tree.map(lambda x: x[0], params), seconds, float(whole[0])

  def _trainer(self, protocol, at_once):
    key = id(protocol), at_once  # a trainer keeps its protocol
    if key not in self._trainers:
      self._trainers[key] = trainers.Trainer(
        self._setup.problem, protocol, at_once
      )
    return self._trainers[key]

  def baseline(
    self, name: str, protocol: protocols.Protocol, method: str
  ) -> dict[str, Any]:
    """Returns the row of one of `methods` under a protocol of that name."""
    if method != "zero_shot":
      return self.coreset(name, protocol, method)
    untrained = protocols.untrained()

    def measured():
      any_set = synthetic.SyntheticSet(self._coreset("random", 0))
      sets = measuring.stacked(any_set)
      return self.measure(untrained, sets, f"{name}: {method}").row()

    return self._cached([method], untrained, measured)

  def coreset(
    self, name: str, protocol: protocols.Protocol, method: str
  ) -> dict[str, Any]:
    """Returns the row of a coreset under a protocol of that name, cached."""
    self._say_untaught(method)
    options = self._options

    def measured():
      # A random coreset is drawn afresh for every student.
      drawn = method in ("random", "length_matched")
      draws = protocol.num_students if drawn else 1
      first = coresets.CORESET_SEED
      chosen = [self._coreset(method, first + i) for i in range(draws)]
      sets = synthetic.SyntheticSet(
        jax.tree.map(lambda *xs: jnp.stack(xs), *chosen)
      )
      return self.measure(protocol, sets, f"{name}: {method}").row()

    decides = [method, options.data_per_class, options.coreset_pool]
    decides += [options.length] * bool(options.length)
    return self._cached(decides, protocol, measured)

  def _coreset(self, method, seed):
    return row_batches.as_batch(
      self.coreset_rows(method, seed), self._num_classes
    )

  def coreset_rows(self, method: str, seed: int) -> row_batches.Examples:
    """Returns the real rows of a coreset."""
    if method == "length_matched":
      size = self._options.data_per_class
      long = language_tokens.longest(self._rows, size)
      return row_batches.take(long, coresets.random(long.labels, size, seed))
    return row_batches.take(self._rows, self.coreset_numbers(method, seed))

  def coreset_numbers(self, method: str, seed: int) -> np.ndarray:
    """Returns which of the rows that can be chosen a coreset is."""
    rows, size = self._rows, self._options.data_per_class
    drawn, problem = self._options.coreset_pool, self._setup.problem
    if method not in ("herding", "k_centers"):
      return coresets.choose(
        method, problem, rows, per_class=size, pool=drawn, seed=seed
      )
    if seed not in self._pools:
      read = coresets.read_pool(problem, rows, max(drawn, size), seed)
      self._pools = {seed: read}  # which both of them choose from
    return coresets.chosen_from(self._pools[seed], method, size)

  def full(self, protocol: protocols.Protocol) -> dict[str, Any]:
    """Returns the row of students trained on the whole training part.

    With the `seconds` of one, and the kind of `device` that took them.
    """
    self._say_untaught("full")

    def measured():
      train = self._setup.corpus.train
      say_what_it_trains(protocol, len(train.labels), "full")
      batch = row_batches.as_batch(train, self._num_classes)
      sets = measuring.stacked(synthetic.SyntheticSet(batch))
      found = self.measure(protocol, sets, "full", at_once=1)
      device = jax.devices()[0].device_kind
      return {**found.row(), "seconds": found.seconds, "device": device}

    return self._cached(["full"], protocol, measured)

  def _say_untaught(self, row):
    """Says once of a row that it has no teacher whom students could ask."""
    loss = self._options.loss
    if loss and row not in self._untaught:
      self._untaught.add(row)
      logs.say(
        f"{row}: the labels are the data's, so students lose no {loss}"
        + "; gmdistill relabel --row gives them a teacher's" * (row != "full")
      )

  @functools.cached_property
  def _weights(self) -> str:
    return self._setup.problem.weights_id

  def _cached(
    self,
    decides: list[Any],
    protocol: protocols.Protocol,
    measured: Callable[[], dict[str, Any]],
  ) -> dict[str, Any]:
    if protocol.identity is None:
      return measured()
    setup, options = self._setup, self._options.answers
    identity = [
      _VERSION,
      setup.corpus.fingerprint,
      setup.space_id,
      repr(setup.problem.student),
      self._weights,
      self._options.calibrated,
      self._identity,
      *([dataclasses.asdict(options)] if options.num_rows else []),
      decides,
      [protocol.identity, protocol.rates, protocol.num_students],
    ]
    entry = cache.entry("baselines", identity)
    # Measuring takes all processes, whatever each of them has in its cache.
    row = processes.of_first(cache.read_facts(entry))
    if row is None:
      row = measured()
      if processes.is_first():
        cache.write_facts(entry, row)
    return row


def say_what_it_trains(
  protocol: protocols.Protocol, num_rows: int, label: str
) -> None:
  """Says how much is ahead."""
  told = protocol.identity or {"num_steps": "some", "batch_size": "some rows"}
  logs.say(
    f"{label}: training on all {num_rows} rows, {told['num_steps']} steps of "
    f"{told['batch_size']} a student"
  )
