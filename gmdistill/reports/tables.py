"""Finished runs as tables: results, settings, costs."""

import json
import math
import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from gmdistill.reports import finished
from gmdistill.system import units

Row = dict[str, Any]

NOT_MEASURED = "not measured"

# What a row may tell beside its accuracy, in words.
METRICS = {
  "macro_f1": "macro-F1",
  "quadratic_kappa": "quadratic weighted kappa",
  "nats": "nats",
  "exact_strict": "exact match, strict ± s.e.",
  "exact_flexible": "flexible ± s.e.",
}


def short_names(runs: Sequence[finished.Run]) -> list[str]:
  """Workdirs without the folders that all of them share."""
  parts = [run.workdir.parts for run in runs]
  shared = len(os.path.commonprefix([part[:-1] for part in parts]))
  return ["/".join(part[shared:]) or "." for part in parts]


# -- tables ------------------------------------------------------------------


def results_table(runs: finished.Run | Sequence[finished.Run]) -> list[Row]:
  """One dict for each run, protocol and row, in the order of the tables.

  `mean`, `std` (over students) and `standard_error` are in the row's `unit`, of
  an accuracy a fraction; None means not measured. `recovery` is the mean over
  that on the full data; where students say something before any training, the
  share of what the full data gain over that; None where they gain next to
  nothing. A protocol of which nothing was
  measured has no rows.
  """
  runs = [runs] if isinstance(runs, finished.Run) else runs
  rows = []
  for run, name in zip(runs, short_names(runs), strict=True):
    other = ("seed", "log_to")  # which make no other setting
    but_seed = {k: v for k, v in run.config.items() if k not in other}
    about: Row = {"run": name, "objective": ",".join(finished.objectives(run))}
    for key in ("dataset", "student", "data_per_class", "sequence_length"):
      about[key] = run.summary.get(key)
    about["seed"] = run.summary.get("seed")
    about["setting"] = json.dumps(but_seed, sort_keys=True)
    for protocol in finished.measured(run):
      cells_of = finished.rows_of(run, protocol)
      unit = finished.unit_of(run, protocol)
      ends = _ends(run, cells_of, unit)
      for key in _in_order(cells_of, unit):
        labels = {"protocol": protocol, "row": finished.ROWS.get(key, key)}
        own = _score(cells_of.get(key), ends)
        rows.append(about | labels | {"unit": unit} | own)
  return rows


_LEAST_GAIN = 0.02  # of an accuracy, or nats: a share of less says nothing


def _ends(run, cells_of, unit):
  """Returns the means of which a recovery is the share: before any training, if
  that says something, and on the full data. None for the second where that is
  no better than the first, or an accuracy no better than a guess."""
  zero = _score(cells_of.get("zero_shot"))["mean"]
  full, names = (
    _score(cells_of.get("full"))["mean"],
    run.card.get("label_names"),
  )
  if full is None:
    return zero, None
  starts = [zero] if zero is not None else []
  if unit == "accuracy" and names:
    starts.append(1 / len(names))
  sign = units.sign(unit)
  gains = [sign * (full - start) for start in starts]
  return zero, full if min(gains, default=1.0) >= _LEAST_GAIN else None


def _in_order(names: Iterable[str], unit: str) -> list[str]:
  """The usual rows, and others before the distilled one, as coresets are."""
  always = ["random", "herding", "k_centers", "distilled", "full"]
  if unit != "accuracy":
    always = ["zero_shot", "random", "k_centers", "distilled", "full"]
  usual = [x for x in finished.ROWS if x in always or x in names]
  place = usual.index("distilled")
  return [*usual[:place], *(x for x in names if x not in usual), *usual[place:]]


def _score(
  cell: dict[str, Any] | None,
  ends: tuple[float | None, float | None] = (None, None),
) -> Row:
  mean, std, n = ((cell or {}).get(key) for key in ("mean", "std", "n"))
  std = std if n != 1 else None  # of one student there is none
  zero, full = ends
  recovery = None
  if mean is not None and full is not None and full != (zero or 0.0):
    # No minus before a recovery of nothing.
    recovery = (mean - (zero or 0.0)) / (full - (zero or 0.0)) + 0.0
  return {
    "mean": mean,
    "std": std,
    "n": n,
    "standard_error": std / math.sqrt(n) if std is not None and n else None,
    "recovery": recovery,
    "metrics": ((cell or {}).get("metrics") or {}) | _exact_match(cell or {}),
    "by_group": (cell or {}).get("by_group") or {},
    "metrics_by_group": (cell or {}).get("metrics_by_group") or {},
  }


def _exact_match(cell: dict[str, Any]) -> dict[str, dict[str, Any]]:
  """The shares of answers that are right, with their standard errors."""
  told = cell.get("exact_match") or {}
  return {
    f"exact_{name}": {"mean": told[name], "std": told[f"{name}_error"]}
    for name in ("strict", "flexible")
    if name in told
  }


def varying(rows: Sequence[Row]) -> dict[str, str]:
  """The columns that tell the rows' runs apart, and their headers."""
  columns = {
    "run": "run",
    "dataset": "data",
    "student": "student",
    "objective": "objective",
    "data_per_class": "per class",
    "sequence_length": "length",
    "seed": "seed",
  }
  if rows and "seeds" in rows[0]:
    del columns["seed"]
    told = [key for key in columns if key != "run"]
    kinds = {tuple(row[key] for key in told) for row in rows}
    if len(kinds) == len({row["setting"] for row in rows}):
      del columns["run"]  # else a setting is named by the first of its runs
  return {
    key: header
    for key, header in columns.items()
    if len({row[key] for row in rows}) > 1
  }


def cells(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
  """Header and text of a table with one line for each row."""
  about = varying(rows) | {"protocol": "protocol", "row": "row"}
  beside = list(dict.fromkeys(x for row in rows for x in row["metrics"]))
  header = [
    *about.values(),
    heading(rows),
    *(METRICS.get(x, x) for x in beside),
  ]
  header += ["n", "s.e.", "recovery, %"]
  body = [
    [
      *(str(row[key]) for key in about),
      plus_minus(row),
      *(_metric(row, name) for name in beside),
      "-" if row["n"] is None else str(row["n"]),
      number(row["standard_error"], row["unit"], 2),
      percent(row["recovery"], 1),
    ]
    for row in rows
  ]
  if rows and "seeds" in rows[0]:
    header += ["seeds", "std over seeds"]
    for row, line in zip(rows, body, strict=True):
      over = number(row["std_over_seeds"], row["unit"], 2)
      line += [str(row["seeds"]), over]
  return header, body


def heading(rows: Sequence[Row]) -> str:
  """What stands over the numbers of rows: what they are, in which unit."""
  kinds = {row["unit"]: "" for row in rows} or {"accuracy": ""}
  names = {"accuracy": "accuracy, %", "nats": "nats"}
  return " or ".join(names.get(x, x) for x in kinds)


def plus_minus(row: Row) -> str:
  """Mean and std over students: in %, or in the row's unit."""
  if row["mean"] is None:
    return NOT_MEASURED
  return units.plus_minus(row["mean"], row["std"], row.get("unit", "accuracy"))


def with_unit(row: Row) -> str:
  """The same with its unit."""
  unit = row.get("unit", "accuracy")
  return f"{plus_minus(row)} {'%' if unit == 'accuracy' else unit}"


def number(value: float | None, unit: str, digits: int) -> str:
  """A number of a unit, without it; `-` for None."""
  return "-" if value is None else units.plus_minus(value, None, unit, digits)


def _metric(row: Row, name: str) -> str:
  """Mean and std over students of what is no percentage."""
  found = row["metrics"].get(name)
  if found is None:
    return NOT_MEASURED
  std = "" if found["std"] is None else f" ± {found['std']:.3f}"
  return f"{found['mean']:.3f}{std}"


def group_cells(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
  """Header and text of a table of each part of the reported split.

  A line for each row and part; nothing of rows that have no parts.
  """
  rows = [row for row in rows if row["by_group"]]
  beside = list(dict.fromkeys(x for row in rows for x in row["metrics"]))
  about = varying(rows) | {"protocol": "protocol", "row": "row"}
  groups = list(dict.fromkeys(x for row in rows for x in row["by_group"]))
  header = [*about.values(), "what", *groups]
  body = []
  for row in rows:
    labels = [str(row[key]) for key in about]
    means = row["by_group"]
    scores = [number(means.get(group), row["unit"], 1) for group in groups]
    body.append([*labels, heading([row]), *scores])
    for name in beside:
      of_groups = [row["metrics_by_group"].get(x, {}) for x in groups]
      said = [f"{x[name]:.3f}" if name in x else "-" for x in of_groups]
      body.append([*labels, METRICS.get(name, name), *said])
  return header, body


def percent(fraction: float | None, digits: int) -> str:
  """A fraction in %, without the sign; `-` for None."""
  return "-" if fraction is None else f"{100 * fraction:.{digits}f}"


def as_text(rows: Sequence[Row]) -> str:
  """The results table for a terminal: aligned columns, accuracies in %."""
  if not rows:
    return f"Accuracy: {NOT_MEASURED} under any protocol."
  return aligned(*cells(rows))


def aligned(header: Sequence[str], body: Sequence[Sequence[str]]) -> str:
  """A table of words for a terminal."""
  widths = [max(map(len, column)) for column in zip(header, *body, strict=True)]
  lines = [header, ["-" * width for width in widths], *body]
  return "\n".join(
    "  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip()
    for line in lines
  )


def ledger(run: finished.Run) -> dict[str, str]:
  """What the set costs and saves, in human units."""
  cost = run.summary.get("cost") or {}
  size, text = cost.get("set_bytes"), cost.get("real_text_bytes")
  on_set = cost.get("student_seconds_set")
  on_full = cost.get("student_seconds_full")
  ratio = NOT_MEASURED
  if size and text:
    times = f"{max(text / size, size / text):,.1f} times"
    ratio = f"{times} {'smaller' if size <= text else 'LARGER'}"
  students = cost.get("break_even_students")
  break_even = NOT_MEASURED
  if students is not None:
    break_even = f"{math.ceil(students):,} students"
  elif on_set is not None and on_full is not None and on_set >= on_full:
    break_even = "never: the set trains a student no faster than the full data"
  peak = cost.get("peak_memory_bytes")
  return {
    "Set": _told(units.size, size),
    "Real training text (UTF-8)": _told(units.size, text),
    "The set against the text": ratio,
    "Distillation": _told(units.seconds, cost.get("distill_seconds")),
    "Peak memory of distillation": _told(units.size, peak),
    "One student on the set": _told(units.seconds, on_set),
    "One student on the full data": _told(units.seconds, on_full),
    "Break-even": break_even,
  }


def _told(say: Callable[[float], str], value: float | None) -> str:
  return NOT_MEASURED if value is None else say(value)
