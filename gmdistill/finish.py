"""The end of a run: the table of results, the set, and the report."""

import json
import resource
import sys
from collections.abc import Mapping
from typing import Any

import jax
import ml_collections
import numpy as np
from etils import epath

from gmdistill import (
  coresets,
  data,
  evaluate,
  processes,
  projection,
  protocols,
  replays,
  results,
  set_files,
  spaces,
  synthetic,
  tables,
  workdirs,
)


def finish(
  *,
  config: ml_collections.ConfigDict,
  folder: epath.Path,
  setup: spaces.Setup,
  protocols: Mapping[str, protocols.Protocol],
  best: synthetic.SyntheticSet,
  chosen: dict[str, Any],
  distill_seconds: float,
  peak_bytes: int | None,
  named: list[dict[str, str]],
  command: str,
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
    peak_bytes: The most memory that it had; None: not known.
    named: Names and ids of the teachers that it asked.
    command: How to start the run again.
  """
  card = first_card(setup, config, command)
  if named:
    card["teachers"] = named
  first = processes.is_first()  # the process that writes
  if first:
    # Saved before it is measured, so that a kill from here on loses no set.
    write_set(folder, best, card, setup, config)
  read = set_files.as_stored(best, config.stored_as)  # what a reader sees
  table = tables.Table(setup, config)
  rows: dict[str, dict[str, Any]] = {}
  seconds = {}
  for name, protocol in protocols.items():
    own = table.measure(protocol, evaluate.stacked(read), f"{name}: distilled")
    seconds[name] = own.seconds
    rows[name] = {
      method: table.coreset(name, protocol, method)
      for method in tables.CORESETS
    }
    full = table.full()
    rows[name]["distilled"] = own.row()
    told = ("mean", "std", "n", "by_group")
    rows[name]["full"] = {k: full[k] for k in told if k in full}
  num_bytes = set_files.num_bytes(read, config.stored_as)
  seconds_set = seconds[next(iter(protocols))]
  # A cached row's seconds may be another device's, which ours do not repay.
  device = jax.devices()[0].device_kind
  ours = full.get("device", device) == device
  seconds_full = full["seconds"] if ours else None
  cost = _cost(setup, num_bytes, distill_seconds, seconds_set, seconds_full)
  cost["peak_memory_bytes"] = peak_bytes
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


def known_peak(folder: epath.Path) -> int | None:
  """Returns the most memory of an outer loop that has ended, if it is known."""
  try:
    summary = json.loads((folder / "summary.json").read_text())
    return summary["cost"]["peak_memory_bytes"]
  except (OSError, ValueError, KeyError, TypeError):
    return None


def first_card(
  setup: spaces.Setup,
  config: ml_collections.ConfigDict,
  command: str,
  rows: str = tables.DISTILLED,
) -> dict[str, Any]:
  """Returns what a set's card says before anything is measured.

  Args:
    setup: The space that the set lives in, and its classes.
    config: The run's.
    command: What made the set.
    rows: What its examples are: distilled, a coreset's name, or texts.
  """
  return {
    "rows": rows,
    "task": config.data.name,
    "label_names": list(setup.corpus.label_names),
    "text_keys": list(setup.corpus.text_keys),
    "label_key": setup.corpus.label_key,
    "pooling": getattr(setup.problem.student, "pooling", "mean"),
    "data_per_class": config.data_per_class,
    "sequence_length": config.sequence_length,
    "embedding_space": setup.space_id,
    "provenance": workdirs.environment(command),
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


def _cost(setup, num_bytes, distill_seconds, seconds_set, seconds_full):
  saved = 0.0 if seconds_full is None else seconds_full - seconds_set
  return {
    "distill_seconds": distill_seconds,
    "student_seconds_set": seconds_set,
    "student_seconds_full": seconds_full,
    "set_bytes": num_bytes,
    "real_text_bytes": setup.corpus.train_bytes,
    "break_even_students": distill_seconds / saved if saved > 0 else None,
  }


def peak_memory() -> int:
  """Returns the most bytes that this process has had, on its first device."""
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
  method = "PCA of the features of a student before any step"
  if best.learning_rates is not None:
    method = "PCA of a student's features after the set's own steps"
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
      "method": method,
      "real": points(real_xy, real.labels),
      "synthetic": points(synthetic_xy, classes),
      "explained": explained,
    },
  }
