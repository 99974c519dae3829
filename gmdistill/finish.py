"""The end of a run: the table of results, the set, and the report."""

import functools
import hashlib
import json
import resource
import sys
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from etils import epath

from gmdistill import (
  coresets,
  data,
  evaluate,
  labelling,
  metrics,
  paths,
  processes,
  projection,
  protocols,
  recipe,
  replays,
  results,
  set_files,
  spaces,
  synthetic,
  teachers,
  training,
  workdirs,
)

CORESETS = ("random", "herding", "k_centers")
_VERSION = 3  # Raise it when the same options come to mean other baselines.


def finish(
  *,
  config: ml_collections.ConfigDict,
  folder: epath.Path,
  setup: spaces.Setup,
  protocols: Mapping[str, protocols.Protocol],
  best: synthetic.SyntheticSet,
  chosen: dict[str, Any],
  distill_seconds: float,
) -> None:
  """Measures the set and the baselines; writes all that a run leaves.

  Args:
    config: The run's config.
    folder: Its workdir.
    setup: Its problem and data.
    protocols: The protocols to report, by name.
    best: The set that the selection split chose.
    chosen: At which step, and its accuracy there.
    distill_seconds: How long the outer loop took.
  """
  card = first_card(setup, config)
  if labelling.asks_teachers(config):
    card["teachers"] = teachers.names_and_ids(labelling.teacher_names(config))
  first = processes.is_first()  # the process that writes
  if first:
    # Saved before it is measured, so that a kill from here on loses no set.
    write_set(folder, best, card, setup, config)
  read = set_files.as_stored(best, config.stored_as)  # what a reader sees
  table = Table(setup, config)
  rows: dict[str, dict[str, Any]] = {}
  seconds = {}
  for name, protocol in protocols.items():
    own = table.measure(protocol, evaluate.stacked(read), f"{name}: distilled")
    seconds[name] = own.seconds
    rows[name] = {
      method: table.coreset(name, protocol, method) for method in CORESETS
    }
    full = table.full()
    rows[name]["distilled"] = own.row()
    rows[name]["full"] = {k: full[k] for k in ("mean", "std", "n")}
  num_bytes = set_files.num_bytes(read, config.stored_as)
  seconds_set = seconds[next(iter(protocols))]
  cost = _cost(setup, num_bytes, distill_seconds, seconds_set, full["seconds"])
  summary = {
    "schema": 1,
    "dataset": config.data.name,
    "student": setup.student_name,
    "data_per_class": config.data_per_class,
    "sequence_length": config.sequence_length,
    "seed": config.seed,
    "selection": chosen,
    "protocols": rows,
    "cost": cost,
    "gradient_cosine": _gradient_cosine(setup, config, read),
  }
  analysis = _analysis(setup, read, config)
  if not first:
    return
  # The space is there by now.
  card["results"] = rows
  set_files.save(folder / "set", best, card, config.stored_as)
  workdirs.write_json(folder / "analysis.json", analysis)
  workdirs.write_json(folder / "summary.json", summary)
  from gmdistill import report  # matplotlib is slow to import, and needed last

  path = report.write([folder], folder / "report.html")
  print(results.as_text(results.results_table(results.load_run(folder))))
  print(f"report: {path}")


def first_card(
  setup: spaces.Setup, config: ml_collections.ConfigDict
) -> dict[str, Any]:
  """Returns what a set's card says before anything is measured."""
  return {
    "task": config.data.name,
    "label_names": list(setup.corpus.label_names),
    "text_keys": list(setup.corpus.text_keys),
    "label_key": setup.corpus.label_key,
    "pooling": getattr(setup.problem.student, "pooling", "mean"),
    "data_per_class": config.data_per_class,
    "sequence_length": config.sequence_length,
    "embedding_space": setup.space_id,
    "provenance": workdirs.environment(""),
    "results": {},
  }


def write_set(
  folder: epath.Path,
  syn: synthetic.SyntheticSet,
  card: dict[str, Any],
  setup: spaces.Setup,
  config: ml_collections.ConfigDict,
) -> None:
  """Writes `set/`, and the `space/` that it lives in where none is known."""
  set_files.save(folder / "set", syn, card, config.stored_as)
  if not config.student.pretrained:
    spaces.write(
      folder / "space", setup.problem.embeddings, setup.corpus.tokenizer
    )


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
    self._trainers: dict[str, evaluate.Trainer] = {}
    cut = lambda part: training.length_buckets(part, self._num_classes)  # noqa: E731
    self._splits = evaluate.Splits(
      cut(recipe.selection_rows(setup.corpus, config)),
      cut(setup.corpus.reported),
      {
        name: cut(part)
        for name, part in data.by_group(setup.corpus.reported).items()
      },
    )

  def measure(
    self,
    protocol: protocols.Protocol,
    sets: synthetic.SyntheticSet,
    label: str,
    at_once: int = 0,
    by_group: bool = False,
  ) -> evaluate.Measurement:
    """Measures one row, and says its accuracy; by group too if asked."""
    splits = self._splits if by_group else self._splits._replace(groups={})
    at_once = min(
      at_once or self._config.students_at_once, protocol.num_students
    )
    found = evaluate.measure(
      self._trainer(protocol, at_once),
      sets,
      splits,
      beside=evaluate.calibration if self._calibrated else evaluate.nothing,
    )
    row = found.row()
    metrics.say(
      f"{label}: {100 * row['mean']:.1f} ± {100 * row['std']:.1f} "
      f"({row['n']} students)"
    )
    self._say_groups(label, found.by_group)
    return found

  def _say_groups(self, label, by_group):
    if by_group:
      each = [f"{name}: {100 * x:.1f}" for name, x in by_group.items()]
      metrics.say(
        f"{label}, by {self._config.data.group_key}: {', '.join(each)}"
      )

  def student(
    self, protocol: protocols.Protocol, sets: synthetic.SyntheticSet
  ) -> tuple[Any, float, float]:
    """Returns one trained student, the seconds it took, and its accuracy."""
    key, select_key = jax.random.split(jax.random.key(self._config.seed))
    trainer = self._trainer(protocol, 1)
    rate = evaluate.best_rate(
      trainer, sets, self._splits.selection, key=select_key
    )
    params, seconds = trainer(
      sets, jax.random.split(key, trainer.chunk), rate, 0
    )
    found = training.accuracies(trainer.problem, params, self._splits.reported)
    by_group = {
      name: training.accuracies(trainer.problem, params, part)[0]
      for name, part in self._splits.groups.items()
    }
    self._say_groups("accuracy, %", by_group)
    return jax.tree.map(lambda x: x[0], params), seconds, float(found[0])

  def _trainer(self, protocol, at_once):
    key = f"{id(protocol.train)} {at_once}"
    if key not in self._trainers:
      self._trainers[key] = evaluate.Trainer(
        self._setup.problem, protocol, at_once
      )
    return self._trainers[key]

  def coreset(
    self, name: str, protocol: protocols.Protocol, method: str
  ) -> dict[str, Any]:
    """Returns the row of a coreset under a protocol, cached."""
    config = self._config
    decides = [
      method,
      config.data_per_class,
      config.coreset_pool,
      name,
      config[name].to_dict(),
      config.replay_steps if protocol.replays else 0,
    ]
    if protocol.replays:
      decides.append(f"normalised={config.normalised_steps}")
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
        for seed in range(draws)
      ]
      batches = [
        data.as_batch(data.take(self._setup.corpus.train, r), self._num_classes)
        for r in rows
      ]
      sets = synthetic.SyntheticSet(
        jax.tree.map(lambda *xs: jnp.stack(xs), *batches)
      )
      return self.measure(protocol, sets, f"{name}: {method}").row()

    return self._cached(decides, measured)

  def full(self) -> dict[str, Any]:
    """Returns the row of students trained on the whole training part."""

    def measured():
      protocol = recipe.protocol(self._config, "full")
      corpus = self._setup.corpus
      batch = data.as_batch(corpus.train, self._num_classes)
      sets = evaluate.stacked(synthetic.SyntheticSet(batch))
      found = self.measure(protocol, sets, "full", at_once=1, by_group=True)
      return {**found.row(), "seconds": found.seconds}

    return self._cached(["full", self._config.full.to_dict()], measured)

  @functools.cached_property
  def _weights(self) -> str:
    return self._setup.problem.weights_id

  def _cached(self, decides: list[Any], measured: Any) -> dict[str, Any]:
    setup = self._setup
    if self._calibrated:
      decides = [*decides, "calibrated"]
    identity = [
      *labelling.rationale_facts(self._config),
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
    row = json.loads(path.read_text()) if path.is_file() else None
    # Measuring takes all processes, whatever each of them has in its cache.
    row = processes.of_first(row)
    if row is None:
      row = measured()
      if processes.is_first():
        path.parent.mkdir(parents=True, exist_ok=True)
        workdirs.write_json(path, row)
    return row


def _cost(setup, num_bytes, distill_seconds, seconds_set, seconds_full):
  saved = seconds_full - seconds_set
  return {
    "distill_seconds": distill_seconds,
    "peak_memory_bytes": _peak_memory(),
    "student_seconds_set": seconds_set,
    "student_seconds_full": seconds_full,
    "set_bytes": num_bytes,
    "real_text_bytes": setup.corpus.train_bytes,
    "break_even_students": distill_seconds / saved if saved > 0 else None,
  }


def _peak_memory() -> int:
  stats = jax.local_devices()[0].memory_stats()
  if stats and "peak_bytes_in_use" in stats:
    return int(stats["peak_bytes_in_use"])
  # Linux counts kilobytes, macOS bytes.
  unit = 1 if sys.platform == "darwin" else 1024
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _gradient_cosine(setup, config, best):
  sampler = data.class_balanced_sampler(
    setup.corpus.train,
    rows_per_class=2 * config.rows_per_class,
    num_classes=len(setup.corpus.label_names),
    seed=config.seed + 1,
  )
  cosines_C, by_layer = evaluate.gradient_cosines(
    setup.problem,
    best,
    sampler,
    learning_rate=config.trajectory.learning_rate,
    num_students=min(3, config.replay.num_students),
  )
  return {
    "per_class": [float(x) for x in cosines_C],
    "mean": float(cosines_C.mean()),
    "per_layer": {
      name: by_layer[name] for name in results.from_below(by_layer)
    },
  }


def _analysis(setup, best, config):
  num_classes = len(setup.corpus.label_names)
  classes = np.repeat(np.arange(num_classes), config.data_per_class)
  # The space that the students end in: one trained on the set.
  params = setup.problem.init(jax.random.key(0))
  if best.learning_rates is not None:
    params = jax.jit(replays.replay)(
      setup.problem, params, best.batch, best.steps
    )
  shuffled = np.random.default_rng(0).permutation(
    len(setup.corpus.selection.labels)
  )
  real = data.take(setup.corpus.selection, shuffled[: 100 * num_classes])
  outputs = jax.jit(setup.problem.apply)(params, best.batch)
  real_xy, synthetic_xy, explained = projection.principal_components(
    coresets.features(setup.problem, params, real),
    np.asarray(outputs.features),
  )
  points = lambda xy, labels: [  # noqa: E731
    [round(float(x), 5), round(float(y), 5), int(c)]
    for (x, y), c in zip(xy, labels, strict=True)
  ]
  return {
    "examples": projection.examples(
      best.batch,
      setup.problem.embeddings,
      setup.corpus.tokenizer.tokens,
      classes,
    ),
    "projection": {
      "method": "PCA of a student's features after the set's own steps",
      "real": points(real_xy, real.labels),
      "synthetic": points(synthetic_xy, classes),
      "explained": explained,
    },
  }
