"""Finished runs -> one HTML page.

The tables are in `tables`, the figures in `figures` and `heat_maps`.
"""

import contextlib
import importlib.resources
import itertools
import json
from collections.abc import Sequence
from typing import Any

import jinja2
import numpy as np
from etils import epath

from gmdistill import errors
from gmdistill.reports import (
  compared,
  comparison,
  figures,
  finished,
  headlines,
  words,
)
from gmdistill.reports import heat_maps as maps
from gmdistill.reports import tables as result_tables
from gmdistill.system import paths, units

_EXAMPLES_A_PAGE = 100

_LABELS_SHOWN = 6


def write(
  runs: Sequence[finished.Run | epath.PathLike], path: epath.PathLike
) -> epath.Path:
  """Writes one self-contained HTML page on the runs; returns its path.

  The page appears whole or not at all.
  """
  loaded = [
    run if isinstance(run, finished.Run) else finished.load_run(run)
    for run in runs
  ]
  if not loaded:
    raise errors.InputError("a report needs at least one workdir; got none.")
  page = _render(loaded)
  path = epath.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  paths.write_text(path, page)
  return path


def _render(runs: Sequence[finished.Run]) -> str:
  environment = jinja2.Environment(
    autoescape=True, trim_blocks=True, lstrip_blocks=True,
    undefined=jinja2.StrictUndefined,
  )  # fmt: skip
  package = importlib.resources.files("gmdistill.reports")
  source = (package / "report_template.html").read_text(encoding="utf-8")
  most_examples = max(10, _EXAMPLES_A_PAGE // len(runs))
  return environment.from_string(source).render(
    runs=[
      _view(run, name, most_examples)
      for run, name in zip(runs, result_tables.short_names(runs), strict=True)
    ],
    comparison=_comparison(runs) if len(runs) > 1 else None,
    captions=words.CAPTIONS,
  )


# -- several runs ------------------------------------------------------------


def _comparison(runs: Sequence[finished.Run]) -> dict[str, Any]:
  rows = result_tables.results_table(runs)
  merged = [row for row in comparison.over_seeds(rows) if row["seeds"] > 1]
  groups: dict[str, list[finished.Run]] = {}
  for run in runs:
    if "num_texts" in run.summary:
      continue  # texts of a file are of no size a class, nor of a student's
    about = "{dataset}, {student}, length {sequence_length}"
    groups.setdefault(about.format_map(run.summary), []).append(run)
  measured = sorted({p for run in runs for p in finished.measured(run)})
  by_size, by_cost, tables = {}, {}, {}
  for kind, members in groups.items():
    for protocol in measured:
      with contextlib.suppress(errors.InputError):  # fewer than two sizes
        figure = compared.data_per_class_figure(members, protocol)
        by_size[f"{kind}: {protocol}"] = figures.as_image(figure)
  for protocol in measured:
    units_of = [finished.unit_of(run, protocol) for run in runs]
    for cost, unit in itertools.product(
      compared.COSTS, dict.fromkeys(units_of)
    ):
      members = [
        run for run, x in zip(runs, units_of, strict=True) if x == unit
      ]
      with contextlib.suppress(errors.InputError):  # fewer than two runs
        figure = compared.cost_figure(members, protocol, cost)
        title = f"{protocol}, against {compared.COSTS[cost][0]}"
        by_cost[f"{title}, {unit}" if title in by_cost else title] = (
          figures.as_image(figure)
        )
    for kind, found in comparison.ablations(runs, protocol).items():
      tables[f"{protocol}, {kind}" if kind else protocol] = _ablation_table(
        found
      )
  layers = None
  with contextlib.suppress(errors.InputError):  # measured by none
    layers = figures.as_image(compared.layers_figure(runs))
  return {
    "told_as": headlines.told_together(runs),
    "results": _wide_table(rows) if rows else None,
    "seeds": _table(merged) if merged else None,
    "ablations": tables,
    "images": by_size,
    "costs": by_cost,
    "layers": layers,
  }


def _ablation_table(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
  """One line for each setting, with its distance from the base."""
  lines = []
  for row in rows:
    base = row["change"] == "base"
    unit = row["unit"]
    cells = [row["change"], result_tables.plus_minus(row), str(row["n"])]
    cells += [str(row["seeds"])]
    cells += ["" if base else units.change(row["difference"], unit)]
    error = result_tables.number(row["standard_error"], unit, 2)
    cells += ["" if base else error]
    lines.append(("distilled" if base else "", cells))
  heading = result_tables.heading(rows)
  header = ["change", heading, "n", "seeds", "difference", "s.e."]
  return {"header": header, "lines": lines, "named_by": 0}


def _wide_table(rows: Sequence[result_tables.Row]) -> dict[str, Any]:
  """One line for each run and protocol: what compares many runs."""
  about = result_tables.varying(rows) | {"protocol": "protocol"}
  # What the page is about stands first, where a narrow screen shows it.
  others = [row["row"] for row in rows if row["row"] != "distilled"]
  names = list(dict.fromkeys(["distilled", *others]))
  groups: dict[tuple[str, str], dict[str, result_tables.Row]] = {}
  for row in rows:
    group = groups.setdefault((row["run"], row["protocol"]), {})
    group[row["row"]] = row
  lines = []
  for group in groups.values():
    distilled = group["distilled"]
    cells = [str(distilled[key]) for key in about]
    said = [
      result_tables.plus_minus(group[name]) if name in group else ""
      for name in names
    ]
    said.insert(1, result_tables.percent(distilled["recovery"], 1))
    lines.append(("", cells + said))
  header = [*about.values(), names[0], "recovery, %", *names[1:]]
  return {"header": header, "lines": lines, "named_by": 0}


def _table(rows: Sequence[result_tables.Row]) -> dict[str, Any]:
  """One line for each row."""
  header, body = result_tables.cells(rows)
  lines = []
  for row, cells in zip(rows, body, strict=True):
    classes = {
      "start": row["row"] == "random",
      "distilled": row["row"] == "distilled",
      "unmeasured": row["mean"] is None,
    }
    lines.append((" ".join(c for c, holds in classes.items() if holds), cells))
  return {"header": header, "lines": lines, "named_by": header.index("row")}


# -- one run -----------------------------------------------------------------


def _view(run: finished.Run, name: str, most_examples: int) -> dict[str, Any]:
  """What the template shows of one run; every value is plain text."""
  rows = result_tables.results_table(run)
  made = maps.make_all(run)
  measured = finished.measured(run)
  unit = finished.unit_of(run, finished.main_protocol(run))
  missing = [
    f"{unit} under {protocol}"
    for protocol in finished.PROTOCOLS
    if protocol not in measured
  ]
  titles = [figures.titled(run, title) for title in figures.BY_TITLE]
  missing += [title.lower() for title in titles if title not in made]
  examples, left_out = _examples(run, most_examples)
  return {
    "name": name,
    "summary": run.summary,
    "size": finished.size(run).replace(" examples a class", " per class"),
    "data": words.data_name(run),
    "objective": " then ".join(finished.objectives(run)),
    "headline": headlines.headline(run, rows),
    "told_as": headlines.told_as(run),
    "opening": words.opening(run, rows),
    "definitions": words.definitions(rows),
    "use": words.use(run),
    "results": _table(rows) if rows else None,
    "parts": words.parts(rows),
    "selection": _selection(run),
    "figures": {
      title: figures.as_image(figure) for title, figure in made.items()
    },
    "ledger": result_tables.ledger(run),
    "cosine": _cosine(run),
    "set": headlines.set_facts(run),
    "examples": examples,
    "left_out": left_out,
    "command": run.environment.get("command"),
    "environment": {
      key: ", ".join(map(str, value)) if isinstance(value, list) else value
      for key, value in run.environment.items()
      if key != "command"
    },
    "config": json.dumps(run.config, indent=2, ensure_ascii=False),
    "missing": missing,
    "absent": run.missing,
  }


def _selection(run: finished.Run) -> dict[str, str]:
  """What was chosen on the selection split, and its accuracies there."""
  facts = {}
  for key, value in (run.summary.get("selection") or {}).items():
    if isinstance(value, float):
      shown = units.shown(value, finished.selection_unit(run))
      facts[key.replace("_", " ")] = shown
    elif isinstance(value, int | str):
      facts[key] = str(value)
  return facts


def _cosine(run: finished.Run) -> dict[str, str]:
  cosine = run.summary.get("gradient_cosine") or {}
  by_class = {
    finished.class_name(run, label): value
    for label, value in enumerate(cosine.get("per_class") or [])
  }
  named = by_class | {"mean": cosine.get("mean")}
  return {name: f"{v:.3f}" for name, v in named.items() if v is not None}


def _examples(
  run: finished.Run, most: int
) -> tuple[dict[str, list[dict[str, Any]]], int]:
  """Synthetic examples by class, and how many are left out."""
  examples = run.analysis.get("examples") or [
    {"label": int(np.argmax(labels)), "labels": labels.tolist(), "tokens": []}
    for labels in run.tensors.get("labels", [])
  ]
  values = [value for example in examples for value in example["labels"]]
  low, high = min([0.0, *values]), max([1.0, *values])
  by_class: dict[str, list[dict[str, Any]]] = {}
  for number, example in enumerate(examples, start=1):
    bars = _bars(run, example["labels"], low, high)
    says = example.get("says") or []
    shown = {
      "says": says + [""] * (len(example["tokens"]) - len(says)),
      "number": number,
      "bars": bars,
      "zero": f"{-100 * low / (high - low):.1f}",
      "unshown": len(example["labels"]) - len(bars),
      "tokens": [] if "text" in example else example["tokens"],
      "text": example.get("text", ""),
      "weight": f"{example.get('weight', 1.0):.2f}",
    }
    name = finished.class_name(run, example["label"])
    by_class.setdefault(name, []).append(shown)
  most = max(1, most // max(1, len(by_class)))
  left_out = sum(max(0, len(group) - most) for group in by_class.values())
  return {name: group[:most] for name, group in by_class.items()}, left_out


def _bars(
  run: finished.Run, labels: Sequence[float], low: float, high: float
) -> list[dict[str, str]]:
  """The strongest labels of one example; places and widths in %."""
  strongest = sorted(range(len(labels)), key=lambda label: -abs(labels[label]))
  return [
    {
      "name": finished.class_name(run, label),
      "value": f"{labels[label]:.2f}",
      "left": f"{100 * (min(labels[label], 0) - low) / (high - low):.1f}",
      "width": f"{100 * abs(labels[label]) / (high - low):.1f}",
      "sign": "negative" if labels[label] < 0 else "positive",
    }
    for label in sorted(strongest[:_LABELS_SHOWN])
  ]
