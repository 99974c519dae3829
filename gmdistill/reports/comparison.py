"""Several finished runs side by side: seeds and ablations."""

import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from gmdistill.reports import finished, tables

BASE = "base"  # in the folder's name of the run that ablations differ from


def over_seeds(rows: Sequence[tables.Row]) -> list[tables.Row]:
  """Rows averaged over runs that differ in nothing but `seed`; see `pool`."""
  groups: dict[tuple[Any, ...], dict[Any, tables.Row]] = {}
  for row in rows:
    kind = row["setting"], row["protocol"], row["row"]
    groups.setdefault(kind, {})[row["seed"]] = row
  merged = []
  for group in groups.values():
    first, *_ = group.values()
    kept = [row for row in group.values() if row["mean"] is not None]
    pooled = pool(kept) if kept else {"seeds": 0, "std_over_seeds": None}
    merged.append(first | pooled)
  return merged


def pool(rows: Sequence[tables.Row]) -> tables.Row:
  """The numbers of one row over the seeds that measured it.

  `seeds` is how many; `std_over_seeds` has n - 1 in the denominator and is
  None for one seed. A row that no set decides is the same baseline in every
  run, and one that another machine measured again is no other seed. `std` is
  over all students of all seeds (law of total variance), None if none has one.
  """
  if rows[0]["row"] != "distilled":
    rows = rows[:1]
  means = [row["mean"] for row in rows]
  recoveries = [row["recovery"] for row in rows if row["recovery"] is not None]
  spreads = [row["std"] ** 2 for row in rows if row["std"] is not None]
  within = np.mean(spreads or [0.0])
  pooled = rows[0] | {
    "mean": float(np.mean(means)),
    "std": math.sqrt(within + np.var(means))
    if spreads or len(rows) > 1
    else None,
    "n": sum(row["n"] or 0 for row in rows),
    "recovery": float(np.mean(recoveries)) if recoveries else None,
    "metrics": {
      name: _over([row["metrics"][name] for row in rows])
      for name in rows[0]["metrics"]
    },
    "by_group": _means([row["by_group"] for row in rows]),
    "metrics_by_group": {
      group: _means([row["metrics_by_group"][group] for row in rows])
      for group in rows[0]["metrics_by_group"]
    },
    "seeds": len(rows),
    "std_over_seeds": None,
  }
  if len(rows) > 1:  # Students of one set are not independent draws.
    pooled["std_over_seeds"] = float(np.std(means, ddof=1))
    pooled["standard_error"] = pooled["std_over_seeds"] / math.sqrt(len(rows))
  return pooled


def _over(found: Sequence[dict[str, Any]]) -> dict[str, Any]:
  """Mean and std of a metric over all students of all seeds."""
  means = [x["mean"] for x in found]
  spreads = [x["std"] ** 2 for x in found if x["std"] is not None]
  std = math.sqrt(np.mean(spreads or [0.0]) + np.var(means))
  return {
    "mean": float(np.mean(means)),
    "std": std if spreads or len(found) > 1 else None,
  }


def _means(found: Sequence[dict[str, float]]) -> dict[str, float]:
  return {name: float(np.mean([x[name] for x in found])) for name in found[0]}


def ablations(
  runs: Sequence[finished.Run], protocol: str
) -> dict[str, list[dict[str, Any]]]:
  """How far each setting is from its base: by kind, one dict a setting.

  A base are the runs of this protocol whose folders' names have the part
  `base`, and what stands before it is a kind of its own: `steps-no_ema` differs
  from `steps-base`, and from no `replay-base` beside it. Every other setting of
  the same data is named by the fields in which it differs. `difference` is in
  fractions,
  `standard_error` that of the difference: from the seeds' spread where both
  have seeds, from the students' where there is one.

  Returns:
    Kinds, and their settings, the base first. Nothing of runs without a base,
    or of one that was not measured under `protocol`.
  """
  rows = [
    row
    for row in over_seeds(tables.results_table(runs))
    if row["row"] == "distilled"
    and row["protocol"] == protocol
    and row["mean"] is not None
  ]
  bases: dict[str, tables.Row] = {}
  for row in rows:
    parts = _parts(row)
    if BASE in parts:
      bases.setdefault("-".join(parts[: parts.index(BASE)]), row)
  lines = {kind: [_measured_from(base, base)] for kind, base in bases.items()}
  for row in rows:
    starts = {"-".join(_parts(row)[:n]) for n in range(len(_parts(row)))}
    kind = max(starts & bases.keys(), key=len, default=None)
    if kind is None or row["dataset"] != bases[kind]["dataset"]:
      continue
    if row is not bases[kind]:
      lines[kind].append(_measured_from(bases[kind], row))
  return lines


def _parts(row: tables.Row) -> list[str]:
  return str(row["run"]).rsplit("/", 1)[-1].split("-")


def _measured_from(base: tables.Row, row: tables.Row) -> dict[str, Any]:
  errors_of = [row["standard_error"], base["standard_error"]]
  known = None not in errors_of and row is not base
  return row | {
    "change": "base" if row is base else _changes(base, row),
    "difference": row["mean"] - base["mean"],
    "standard_error": math.hypot(*errors_of) if known else None,
  }


def _changes(base: tables.Row, row: tables.Row) -> str:
  """The fields in which two settings differ, with the row's values."""
  flat = setting(base), setting(row)
  names = sorted({*flat[0], *flat[1]})
  told = [
    f"{name}={flat[1].get(name)}"
    for name in names
    if flat[0].get(name) != flat[1].get(name)
  ]
  return ", ".join(told) or "the same"


def setting(row: tables.Row) -> dict[str, Any]:
  """The fields of a row's config but its seed, by their dotted names."""
  return dict(_leaves(json.loads(row["setting"])))


def _leaves(tree: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
  leaves = []
  for name, value in tree.items():
    if isinstance(value, dict):
      leaves += _leaves(value, f"{prefix}{name}.")
    else:
      leaves.append((prefix + name, value))
  return leaves
