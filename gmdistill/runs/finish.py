"""The end of a run: the table of results, the set, and the report."""

import json
from collections.abc import Mapping
from typing import Any

import jax
import ml_collections
from etils import epath

from gmdistill.evaluation import analysis as set_analysis
from gmdistill.evaluation import gradient_cosine, measuring
from gmdistill.evaluation import protocols as protocol_kinds
from gmdistill.reports import finished
from gmdistill.reports import tables as result_tables
from gmdistill.runs import cards, tables
from gmdistill.selection import coresets
from gmdistill.sets import set_files, spaces, synthetic
from gmdistill.system import folders, processes


def finish(
  *,
  config: ml_collections.ConfigDict,
  folder: epath.Path,
  setup: spaces.Setup,
  protocols: Mapping[str, protocol_kinds.Protocol],
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
  card = cards.first_card(setup, config, command)
  if named:
    card["teachers"] = named
  first = processes.is_first()  # the process that writes
  if first:
    # Saved before it is measured, so that a kill from here on loses no set.
    cards.write_set(folder, best, card, setup, config)
  read = set_files.as_stored(best, config.stored_as)  # what a reader sees
  table = tables.Table(setup, config)
  rows: dict[str, dict[str, Any]] = {}
  seconds = {}
  for name, protocol in protocols.items():
    own = table.measure(protocol, measuring.stacked(read), f"{name}: distilled")
    seconds[name] = own.seconds
    rows[name] = {
      method: table.coreset(name, protocol, method)
      for method in coresets.CORESETS
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
    "gradient_cosine": gradient_cosine.gradient_cosine(
      setup,
      read,
      rows_per_class=2 * config.rows_per_class,
      seed=config.seed + 1,
      learning_rate=config.trajectory.learning_rate,
      num_students=min(3, config.replay.num_students),
    ),
  }
  analysis = set_analysis.analysis(setup, read, config.data_per_class)
  if not first:
    return
  # The space is there by now.
  card["results"] = rows
  set_files.save(folder / "set", best, card, config.stored_as)
  folders.write_json(folder / "analysis.json", analysis)
  folders.write_json(folder / "summary.json", summary)
  from gmdistill.reports import (
    page,  # matplotlib is slow to import, and needed last
  )

  path = page.write([folder], folder / "report.html")
  finished_run = finished.load_run(folder)
  print(result_tables.as_text(result_tables.results_table(finished_run)))
  print(f"report: {path}")


def known_peak(folder: epath.Path) -> int | None:
  """Returns the most memory of an outer loop that has ended, if it is known."""
  try:
    summary = json.loads((folder / "summary.json").read_text())
    return summary["cost"]["peak_memory_bytes"]
  except (OSError, ValueError, KeyError, TypeError):
    return None


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
