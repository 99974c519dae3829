"""A finished run: its files, its metrics, and its results as tables.

No JAX here: opening a run takes a second and no accelerator.
"""

import dataclasses
import json
import math
import os
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import safetensors
from etils import epath

from gmdistill import errors, paths

Row = dict[str, Any]

PROTOCOLS = ("finetune", "replay", "scratch")
ROWS = {
  "random": "random",
  "herding": "herding",
  "k_centers": "K-centers",
  "distilled": "distilled",
  "full": "full",
}
NOT_MEASURED = "not measured"


@dataclasses.dataclass(frozen=True)
class Run:
  """What one workdir holds; a file that is absent leaves its field empty."""

  workdir: epath.Path
  config: dict[str, Any]
  environment: dict[str, Any]
  summary: dict[str, Any]
  metrics: dict[str, np.ndarray]  # [N] a key, by step; NaN: not logged there
  analysis: dict[str, Any]
  tensors: dict[str, np.ndarray]  # of set/set.safetensors
  card: dict[str, Any]
  missing: tuple[str, ...]  # a sentence for each thing that is absent


def load_run(workdir: epath.PathLike) -> Run:
  """Reads a workdir; raises `InputError` where it holds no finished run."""
  root = paths.path(workdir)
  for name in ("config.json", "summary.json"):
    if not (root / name).is_file():
      raise errors.InputError(
        f"{root} has no {name}, so there is no finished run to report; make "
        f"one with `gmdistill distill --config=... --workdir={root}`."
      )
  summary = _read_json(root / "summary.json")
  if summary.get("schema") != 1:
    raise errors.InputError(
      f"{root / 'summary.json'} has schema {summary.get('schema')}; this "
      "version of gmdistill reads schema 1."
    )
  metrics, unreadable = _read_metrics(root / "metrics.jsonl")
  optional = {
    "environment.json": _read_json(root / "environment.json"),
    "metrics.jsonl": metrics,
    "analysis.json": _read_json(root / "analysis.json"),
    "set/set.safetensors": _read_tensors(root / "set" / "set.safetensors"),
    "set/card.json": _read_json(root / "set" / "card.json"),
  }
  missing = [f"no {name}" for name, content in optional.items() if not content]
  if unreadable:
    missing.append(f"{unreadable} unreadable lines of metrics.jsonl left out")
  return Run(
    workdir=root,
    config=_read_json(root / "config.json"),
    environment=optional["environment.json"],
    summary=summary,
    metrics=metrics,
    analysis=optional["analysis.json"],
    tensors=optional["set/set.safetensors"],
    card=optional["set/card.json"],
    missing=tuple(missing),
  )


def _read_tensors(path: epath.Path) -> dict[str, np.ndarray]:
  if not path.is_file():
    return {}
  try:
    return paths.read_tensors(path)
  except (safetensors.SafetensorError, ValueError) as error:
    raise errors.InputError(
      f"{path} is damaged ({error}); restore it from a copy, or start the run "
      "again: it writes the set anew."
    ) from error


def _read_json(path: epath.Path) -> dict[str, Any]:
  if not path.is_file():
    return {}
  try:
    found = json.loads(path.read_text())
  except ValueError as error:
    raise errors.InputError(
      f"{path} is not JSON ({error}); restore it or run the job again."
    ) from error
  if not isinstance(found, dict):
    raise errors.InputError(
      f"{path} is no JSON object; restore it or run the job again."
    )
  return found


def _read_metrics(path: epath.Path) -> tuple[dict[str, np.ndarray], int]:
  """Columns by step, and how many lines before the last could not be read."""
  by_step: dict[int, dict[str, Any]] = {}
  unreadable = 0
  text = path.read_bytes() if path.is_file() else b""
  lines = [line for line in text.splitlines() if line.strip()]
  for number, line in enumerate(lines, start=1):
    try:
      record = json.loads(line)
      by_step[int(record["step"])] = record  # A resumed run repeats steps.
    except (ValueError, KeyError, TypeError, OverflowError):
      unreadable += number < len(lines)  # A kill tears the last line only.
  records = [by_step[step] for step in sorted(by_step)]
  columns = {
    key: np.array([_number(record.get(key)) for record in records])
    for key in sorted({key for record in records for key in record})
  }
  return columns, unreadable


def _number(value: Any) -> float:
  return float(value) if isinstance(value, int | float) else math.nan


def series(run: Run, key: str) -> tuple[np.ndarray, np.ndarray]:
  """The steps at which a metric was logged, and its finite values there."""
  if key not in run.metrics:
    raise errors.InputError(
      f"{run.workdir} logged no {key}; it has "
      f"{', '.join(run.metrics) or 'no metrics.jsonl'}."
    )
  values = run.metrics[key]
  kept = np.isfinite(values)
  return run.metrics["step"][kept].astype(int), values[kept]


def from_below(layers: Iterable[str]) -> list[str]:
  """Names of layers in order: embeddings, `layer 1` and on, pooler, head."""
  height = {"pooler": 2, "head": 3}

  def place(name):
    if name.startswith("layer "):
      return 1, int(name.removeprefix("layer "))
    return height.get(name, 0), 0

  return sorted(layers, key=place)


def class_name(run: Run, label: int) -> str:
  """The name of a class, or its number where the set's card names none."""
  names = run.card.get("label_names") or []
  return str(names[label]) if label < len(names) else f"class {label}"


def objectives(run: Run) -> list[str]:
  """The objective of each stage."""
  return str(run.config.get("objective", "")).replace(" ", "").split(",")


def measured(run: Run) -> list[str]:
  """The protocols under which some row has a number."""
  return [
    protocol
    for protocol, found in (run.summary.get("protocols") or {}).items()
    if any(cell and cell["mean"] is not None for cell in (found or {}).values())
  ]


def main_protocol(run: Run) -> str | None:
  """The protocol that the selection used, else the first one measured."""
  protocols = measured(run)
  chosen = (run.summary.get("selection") or {}).get("protocol")
  return chosen if chosen in protocols else next(iter(protocols), None)


def short_names(runs: Sequence[Run]) -> list[str]:
  """Workdirs without the folders that all of them share."""
  parts = [run.workdir.parts for run in runs]
  shared = len(os.path.commonprefix([part[:-1] for part in parts]))
  return ["/".join(part[shared:]) or "." for part in parts]


# -- tables ------------------------------------------------------------------


def results_table(runs: Run | Sequence[Run]) -> list[Row]:
  """One dict for each run, protocol and row, in the order of the tables.

  `mean`, `std` (over students), `standard_error` and `recovery` (mean over the
  mean on the full data) are fractions; None means not measured. A protocol of
  which nothing was measured has no rows.
  """
  runs = [runs] if isinstance(runs, Run) else runs
  rows = []
  for run, name in zip(runs, short_names(runs), strict=True):
    but_seed = {k: v for k, v in run.config.items() if k != "seed"}
    about: Row = {"run": name, "objective": ",".join(objectives(run))}
    for key in ("dataset", "student", "data_per_class", "sequence_length"):
      about[key] = run.summary.get(key)
    about["seed"] = run.summary.get("seed")
    about["setting"] = json.dumps(but_seed, sort_keys=True)
    for protocol in measured(run):
      found = run.summary["protocols"][protocol]
      full = _accuracy(found.get("full"))["mean"]
      for key in dict.fromkeys([*ROWS, *found]):
        labels = {"protocol": protocol, "row": ROWS.get(key, key)}
        rows.append(about | labels | _accuracy(found.get(key), full))
  return rows


def _accuracy(cell: dict[str, Any] | None, full: float | None = None) -> Row:
  mean, std, n = ((cell or {}).get(key) for key in ("mean", "std", "n"))
  std = std if n != 1 else None  # of one student there is none
  return {
    "mean": mean,
    "std": std,
    "n": n,
    "standard_error": std / math.sqrt(n) if std is not None and n else None,
    "recovery": mean / full if mean is not None and full else None,
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
  header = [*about.values(), "accuracy, %", "n", "s.e.", "recovery, %"]
  body = [
    [
      *(str(row[key]) for key in about),
      plus_minus(row),
      "-" if row["n"] is None else str(row["n"]),
      percent(row["standard_error"], 2),
      percent(row["recovery"], 1),
    ]
    for row in rows
  ]
  if rows and "seeds" in rows[0]:
    header += ["seeds", "std over seeds"]
    for row, line in zip(rows, body, strict=True):
      line += [str(row["seeds"]), percent(row["std_over_seeds"], 2)]
  return header, body


def plus_minus(row: Row) -> str:
  """Mean and std over students, in %."""
  if row["mean"] is None:
    return NOT_MEASURED
  std = f" ± {percent(row['std'], 1)}" if row["std"] is not None else ""
  return percent(row["mean"], 1) + std


def percent(fraction: float | None, digits: int) -> str:
  """A fraction in %, without the sign; `-` for None."""
  return "-" if fraction is None else f"{100 * fraction:.{digits}f}"


def as_text(rows: Sequence[Row]) -> str:
  """The results table for a terminal: aligned columns, accuracies in %."""
  if not rows:
    return f"Accuracy: {NOT_MEASURED} under any protocol."
  header, body = cells(rows)
  widths = [max(map(len, column)) for column in zip(header, *body, strict=True)]
  lines = [header, ["-" * width for width in widths], *body]
  return "\n".join(
    "  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip()
    for line in lines
  )


def ledger(run: Run) -> dict[str, str]:
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
  return {
    "Set": _bytes(size),
    "Real training text (UTF-8)": _bytes(text),
    "The set against the text": ratio,
    "Distillation": _seconds(cost.get("distill_seconds")),
    "Peak memory of distillation": _bytes(cost.get("peak_memory_bytes")),
    "One student on the set": _seconds(on_set),
    "One student on the full data": _seconds(on_full),
    "Break-even": break_even,
  }


def _bytes(value: float | None) -> str:
  if value is None:
    return NOT_MEASURED
  if value < 1024:
    return f"{value:.0f} B"
  power = 0
  while value >= 1024 and power < 4:
    value, power = value / 1024, power + 1
  return f"{value:.1f} {('', 'KiB', 'MiB', 'GiB', 'TiB')[power]}"


def _seconds(value: float | None) -> str:
  if value is None:
    return NOT_MEASURED
  if value < 60:
    return f"{value:.2g} s" if value < 10 else f"{value:.0f} s"
  minutes, seconds = divmod(round(value), 60)
  if minutes < 60:
    return f"{minutes} min {seconds:02d} s"
  return f"{minutes // 60} h {minutes % 60:02d} min"
