"""A finished run, read back."""

import dataclasses
import math
from typing import Any

import numpy as np
import safetensors
from etils import epath

from gmdistill import errors
from gmdistill.system import json_files, paths

PROTOCOLS = ("finetune", "replay", "scratch")

ROWS = {
  "zero_shot": "zero-shot",
  "random": "random",
  "length_matched": "random of that length",
  "herding": "herding",
  "k_centers": "K-centers",
  "distilled": "distilled",
  "full": "full",
}


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
  # Of `evaluate --protocol=grid`, where that was measured.
  grid: dict[str, Any] = dataclasses.field(default_factory=dict)


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
    grid=_read_json(root / "grid.json"),
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
  return json_files.read(path, "restore it or run the job again.")


def _read_metrics(path: epath.Path) -> tuple[dict[str, np.ndarray], int]:
  """Columns by step, and how many lines before the last could not be read."""
  by_step: dict[int, dict[str, Any]] = {}
  unreadable = 0
  text = path.read_bytes() if path.is_file() else b""
  lines = [line for line in text.splitlines() if line.strip()]
  for number, line in enumerate(lines, start=1):
    try:
      record = json_files.parse(line)
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


def size(run: Run) -> str:
  """How many examples a set has, in words."""
  if "num_texts" in run.summary:
    return f"{run.summary['num_texts']} texts"
  if "num_sequences" in run.summary:
    return f"{run.summary['num_sequences']} sequences"
  return f"{run.summary.get('data_per_class')} examples a class"


def class_name(run: Run, label: int) -> str:
  """The name of a class, or its number where the set's card names none."""
  names = run.card.get("label_names") or []
  if "num_sequences" in run.card:
    return "text"  # rows without classes
  return str(names[label]) if label < len(names) else f"class {label}"


def objectives(run: Run) -> list[str]:
  """The objective of each stage."""
  return str(run.config.get("objective", "")).replace(" ", "").split(",")


def rows_of(run: Run, protocol: str | None) -> dict[str, Any]:
  """The rows of a protocol, by their keys."""
  found = (run.summary.get("protocols") or {}).get(protocol) or {}
  return {key: cell for key, cell in found.items() if key != "unit"}


def unit_of(run: Run, protocol: str | None) -> str:
  """The unit of a protocol's numbers: `accuracy`, or `nats`, the less the
  better. Runs before there was another say none."""
  found = (run.summary.get("protocols") or {}).get(protocol) or {}
  return str(found.get("unit", "accuracy"))


def selection_unit(run: Run) -> str:
  """The unit of what the step that is kept was chosen by."""
  return (
    "nats" if "nats" in (run.summary.get("selection") or {}) else "accuracy"
  )


def measured(run: Run) -> list[str]:
  """The protocols under which some row has a number."""
  return [
    protocol
    for protocol in run.summary.get("protocols") or {}
    if any(
      cell and cell["mean"] is not None
      for cell in rows_of(run, protocol).values()
    )
  ]


def main_protocol(run: Run) -> str | None:
  """The protocol that the selection used, else the first one measured."""
  protocols = measured(run)
  chosen = (run.summary.get("selection") or {}).get("protocol")
  return chosen if chosen in protocols else next(iter(protocols), None)
