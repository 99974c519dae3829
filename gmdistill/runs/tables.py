"""Rows of the results table: measured, and cached where no set decides."""

import functools
import hashlib
import json
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from gmdistill import errors
from gmdistill.data import batches as row_batches
from gmdistill.evaluation import calibration, measuring, protocols, readings
from gmdistill.runs.config import assembly, row_fields, teacher_fields
from gmdistill.selection import coresets
from gmdistill.sets import spaces, synthetic
from gmdistill.system import folders, logs, paths, processes

_VERSION = 4  # Raise it when the same options come to mean other baselines.


class Table:
  """Measures rows of the results table; caches those no set decides."""

  def __init__(
    self,
    setup: spaces.Setup,
    config: ml_collections.ConfigDict,
    calibrated: bool = False,
  ):
    """Cuts the splits into length buckets.

    `calibrated` rows say `evaluate.calibration` too, and are cached apart.
    """
    self._setup, self._config = setup, config
    self._calibrated = calibrated
    self._num_classes = len(setup.corpus.label_names)
    self._trainers: dict[str, measuring.Trainer] = {}
    self._untaught: set[str] = set()
    cut = lambda part: readings.length_buckets(part, self._num_classes)  # noqa: E731
    self._splits = measuring.Splits(
      cut(row_fields.selection_rows(setup.corpus, config)),
      cut(setup.corpus.reported),
      {
        name: cut(part)
        for name, part in row_batches.by_group(setup.corpus.reported).items()
      },
    )

  def measure(
    self,
    protocol: protocols.Protocol,
    sets: synthetic.SyntheticSet,
    label: str,
    at_once: int = 0,
  ) -> measuring.Measurement:
    """Measures one row, and says its accuracy; by group too if there are."""
    at_once = min(
      at_once or self._config.students_at_once, protocol.num_students
    )
    found = measuring.measure(
      self._trainer(protocol, at_once),
      sets,
      self._splits,
      look=calibration.calibration if self._calibrated else measuring.accuracy,
    )
    if not np.isfinite(found.accuracies).all():
      raise errors.NotFinite(f"{label}: {measuring.DIVERGED}")
    row = found.row()
    spread = "" if row["std"] is None else f" ± {100 * row['std']:.1f}"
    logs.say(f"{label}: {100 * row['mean']:.1f}{spread} ({row['n']} students)")
    self._say_groups(label, found.by_group)
    return found

  def _say_groups(self, label, by_group):
    if by_group:
      each = [f"{name}: {100 * x:.1f}" for name, x in by_group.items()]
      logs.say(f"{label}, by {self._config.data.group_key}: {', '.join(each)}")

  def student(
    self, protocol: protocols.Protocol, sets: synthetic.SyntheticSet
  ) -> tuple[Any, float, float]:
    """Returns one trained student, the seconds it took, and its accuracy."""
    key, select_key = jax.random.split(jax.random.key(self._config.seed))
    trainer = self._trainer(protocol, 1)
    rate = measuring.best_rate(
      trainer, sets, self._splits.selection, key=select_key
    )
    params, seconds = trainer(
      sets, jax.random.split(key, trainer.chunk), rate, 0
    )
    found = readings.accuracies(trainer.problem, params, self._splits.reported)
    if not np.isfinite(found).all():
      raise errors.NotFinite(measuring.DIVERGED)
    by_group = {
      name: readings.accuracies(trainer.problem, params, part)[0]
      for name, part in self._splits.groups.items()
    }
    self._say_groups("accuracy, %", by_group)
    return jax.tree.map(lambda x: x[0], params), seconds, float(found[0])

  def _trainer(self, protocol, at_once):
    key = f"{id(protocol.train)} {at_once}"
    if key not in self._trainers:
      self._trainers[key] = measuring.Trainer(
        self._setup.problem, protocol, at_once
      )
    return self._trainers[key]

  def coreset(
    self, name: str, protocol: protocols.Protocol, method: str
  ) -> dict[str, Any]:
    """Returns the row of a coreset under a protocol, cached."""
    self._say_untaught(method)
    config = self._config
    decides = [
      method,
      config.data_per_class,
      config.coreset_pool,
      name,
      config[name].to_dict(),
      config.replay_steps if protocol.replays else 0,
    ]
    if protocol.fresh and self._setup.problem.initial is not None:
      decides.append("fresh")
    if protocol.replays:
      decides += [config.normalised_steps, config.step_schedule]
    if name == "bayes":
      decides.append(config[config.bayes.start].to_dict())

    def measured():
      # A random coreset is drawn afresh for every student.
      draws = protocol.num_students if method == "random" else 1
      rows = [
        coresets.choose(
          method,
          self._setup.problem,
          self._setup.corpus.train,
          per_class=config.data_per_class,
          pool=config.coreset_pool,
          seed=seed,
        )
        for seed in range(coresets.CORESET_SEED, coresets.CORESET_SEED + draws)
      ]
      batches = [
        row_batches.as_batch(
          row_batches.take(self._setup.corpus.train, r), self._num_classes
        )
        for r in rows
      ]
      sets = synthetic.SyntheticSet(
        jax.tree.map(lambda *xs: jnp.stack(xs), *batches)
      )
      return self.measure(protocol, sets, f"{name}: {method}").row()

    return self._cached(decides, measured)

  def full(self) -> dict[str, Any]:
    """Returns the row of students trained on the whole training part.

    With the `seconds` of one, and the kind of `device` that took them.
    """
    self._say_untaught("full")

    def measured():
      protocol = assembly.protocol(self._config, "full")
      corpus = self._setup.corpus
      say_what_full_trains(self._config, corpus, "full")
      batch = row_batches.as_batch(corpus.train, self._num_classes)
      sets = measuring.stacked(synthetic.SyntheticSet(batch))
      found = self.measure(protocol, sets, "full", at_once=1)
      device = jax.devices()[0].device_kind
      return {**found.row(), "seconds": found.seconds, "device": device}

    return self._cached(["full", self._config.full.to_dict()], measured)

  def _say_untaught(self, row):
    """Says once of a row that it has no teacher whom students could ask."""
    loss = self._config.kd.loss
    if loss and row not in self._untaught:
      self._untaught.add(row)
      logs.say(
        f"{row}: the labels are the data's, so students lose no {loss}"
        + "; gmdistill relabel --row gives them a teacher's" * (row != "full")
      )

  @functools.cached_property
  def _weights(self) -> str:
    return self._setup.problem.weights_id

  def _cached(self, decides: list[Any], measured: Any) -> dict[str, Any]:
    setup = self._setup
    if self._calibrated:
      decides = [*decides, "calibrated"]
    identity = [
      *teacher_fields.rationale_facts(self._config),
      _VERSION,
      setup.corpus.fingerprint,
      setup.space_id,
      repr(setup.problem.student),
      self._weights,
      [self._config.selection.rows, self._config.selection.min_tokens],
      decides,
    ]
    if setup.problem.criterion is not None:
      identity.append(self._config.kd.to_dict())
    digest = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:20]
    path = paths.cache_folder() / "baselines" / f"{digest}.json"
    try:
      row = json.loads(path.read_text()) if path.is_file() else None
    except ValueError:  # damaged: measured again
      row = None
    # Measuring takes all processes, whatever each of them has in its cache.
    row = processes.of_first(row)
    if row is None:
      row = measured()
      if processes.is_first():
        path.parent.mkdir(parents=True, exist_ok=True)
        folders.write_json(path, row)
    return row


def say_what_full_trains(
  config: ml_collections.ConfigDict, corpus: row_batches.Corpus, label: str
) -> None:
  """Says how much is ahead: a training is one program, which says nothing."""
  steps, size = config.full.num_steps, config.full.batch_size
  logs.say(
    f"{label}: training on all {len(corpus.train.labels)} rows, {steps} steps "
    f"of {size} a student; the next line comes when they are done"
  )
