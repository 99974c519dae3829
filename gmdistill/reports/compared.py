"""Figures over several finished runs: budgets, costs, layers."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gmdistill import errors
from gmdistill.reports import comparison, figures, finished, tables
from gmdistill.system import units


def data_per_class_figure(
  runs: Sequence[finished.Run], protocol: str
) -> Figure:
  """Accuracy against data per class, one line a row; seeds are pooled.

  Distilled sets of one size that other recipes made have lines of their own,
  named by what they changed. The bands are ± one std over all students that
  are pooled.
  """
  rows = figures.rows_of(runs, protocol)
  sizes = sorted({row["data_per_class"] for row in rows})
  if len(sizes) < 2:
    raise errors.InputError(
      f"accuracy against data per class needs runs of two sizes measured "
      f"under {protocol!r}; got {sizes}."
    )
  lines = _lines(rows)
  unit = rows[0]["unit"]
  score, in_words = units.axis(unit)
  figure, axes = figures.new_axes()
  for place, (label, by_size) in enumerate(lines.items()):
    xs = sorted(by_size)
    pools = [comparison.pool(by_size[size]) for size in xs]
    mean, std = (
      np.array([units.scaled(x[key] or 0.0, unit) for x in pools])
      for key in ("mean", "std")
    )
    color = figures.ROW_COLORS.get(label, figures.class_color(place))
    marker = figures.MARKERS[place % len(figures.MARKERS)]
    axes.plot(
      xs, mean, marker=marker, ms=4, color=color, label=figures.plain(label)
    )
    axes.fill_between(xs, mean - std, mean + std, color=color, alpha=0.13, lw=0)
  axes.set_xscale("log")
  axes.set_xticks(sizes, [str(size) for size in sizes])
  axes.minorticks_off()
  label = f"{score} under {protocol}, {in_words}"
  axes.set(xlabel="data per class", ylabel=label)
  figures.legend(figure)
  told = (
    f"{score.capitalize()} under {protocol} at {sizes} examples per class, "
  )
  return figures.described(
    figure, told + f"one line each for {', '.join(lines)}."
  )


def _lines(
  rows: Sequence[tables.Row],
) -> dict[str, dict[int, list[tables.Row]]]:
  """Rows by their line's label, and there by their data per class."""
  several = len({row["objective"] for row in rows}) > 1
  usual = _usual([row for row in rows if row["row"] == "distilled"])
  lines: dict[str, dict[int, list[tables.Row]]] = {}
  for row in rows:
    label = row["row"]
    if label == "distilled":
      fields = comparison.setting(row)
      named = [row["objective"]] if several else []
      changed = [
        f"{name}={fields.get(name)}"
        for name, value in usual.items()
        if fields.get(name) != value
      ]
      label = ", ".join([label, *named, *changed])
    by_size = lines.setdefault(label, {})
    by_size.setdefault(row["data_per_class"], []).append(row)
  return lines


def _usual(rows: Sequence[tables.Row]) -> dict[str, Any]:
  """The fields in which sets of one size differ, as the first one has them."""
  by_size: dict[int, list[dict[str, Any]]] = {}
  for row in rows:
    by_size.setdefault(row["data_per_class"], []).append(
      comparison.setting(row)
    )
  usual: dict[str, Any] = {}
  for first, *others in by_size.values():
    for setting in others:
      for name in sorted({*first, *setting} - {"objective"}):
        if first.get(name) != setting.get(name):
          usual.setdefault(name, first.get(name))
  return usual


# What a set costs: its name, what all rows have of it, and how it is told.
COSTS: dict[str, tuple[str, str | None, Callable[[float], str]]] = {
  "set_bytes": ("size of the set", "real_text_bytes", units.size),
  "distill_seconds": ("time of distillation", None, units.seconds),
}


def cost_figure(
  runs: Sequence[finished.Run], protocol: str, cost: str
) -> Figure:
  """Accuracy of each distilled set against what it costs.

  Args:
    runs: The runs, each one point with ± one std over students.
    protocol: Whose accuracies.
    cost: A key of `COSTS`.

  Raises:
    InputError: fewer than two runs have both numbers.
  """
  label, reference, say = COSTS[cost]
  points: dict[str, list[tuple[float, tables.Row]]] = {}
  full: dict[str, tuple[float, float]] = {}
  for run in runs:
    ledger = run.summary.get("cost") or {}
    by_row = {row["row"]: row for row in figures.rows_of(run, protocol)}
    row = by_row.get("distilled")
    if row is None or not ledger.get(cost):
      continue
    name = f"{row['dataset']}, {row['student']}"
    points.setdefault(name, []).append((ledger[cost], row))
    if reference and ledger.get(reference) and "full" in by_row:
      full[name] = ledger[reference], by_row["full"]["mean"]
  if sum(map(len, points.values())) < 2:
    raise errors.InputError(
      f"accuracy against {label} needs two runs measured under {protocol!r}."
    )
  unit = next(iter(points.values()))[0][1]["unit"]
  score, in_words = units.axis(unit)
  figure, axes = figures.new_axes()
  for place, (name, own) in enumerate(points.items()):
    color = figures.class_color(place)
    for x, row in own:
      mean, std = (units.scaled(row[k] or 0.0, unit) for k in ("mean", "std"))
      axes.errorbar(
        x, mean, yerr=std, fmt="o",
        ms=4, capsize=2, color=color,
        label=figures.plain(name) if row is own[0][1] else None,
      )  # fmt: skip
      axes.annotate(
        str(row["data_per_class"]), (x, mean), (4, 4),
        textcoords="offset points", fontsize=9, color=color,
      )  # fmt: skip
    if name in full:
      x, mean = full[name]
      axes.plot(
        x, units.scaled(mean, unit), "*", ms=9, color=color,
        label=figures.plain(f"{name}, all its text"),
      )  # fmt: skip
  _logarithmic(axes, say)
  axes.set(xlabel=label, ylabel=f"{score} under {protocol}, {in_words}")
  figures.legend(figure)
  told = ", ".join(f"{name} ({len(own)} runs)" for name, own in points.items())
  return figures.described(
    figure, f"{score.capitalize()} under {protocol} against {label}: {told}."
  )


def _logarithmic(axes: Axes, say: Callable[[float], str]) -> None:
  """Has a logarithmic x axis with a few marks in words: 100 kB, 5 min."""
  axes.set_xscale("log")
  # A narrow axis has no power of ten on it: marks at 1, 2 and 5 of each.
  axes.xaxis.set_major_locator(ticker.LogLocator(subs=(1.0, 2.0, 5.0)))
  axes.xaxis.set_major_formatter(ticker.FuncFormatter(lambda x, _: say(x)))
  axes.minorticks_off()
  low, high = axes.get_xlim()
  if high / low > 200:  # where these would run into one another
    axes.xaxis.set_major_locator(ticker.LogLocator())


def layers_figure(runs: Sequence[finished.Run]) -> Figure:
  """Cosine of synthetic and real gradients, layer by layer; one line a run.

  Raises:
    InputError: no run has measured it.
  """
  lines = {}
  for run, name in zip(runs, tables.short_names(runs), strict=True):
    by_layer = (run.summary.get("gradient_cosine") or {}).get("per_layer")
    if by_layer:
      lines[name] = by_layer
  if not lines:
    raise errors.InputError("no run has gradient_cosine.per_layer.")
  # A run names its layers from below, and all runs those that they share.
  layers = list(dict.fromkeys(key for line in lines.values() for key in line))
  figure, axes = figures.new_axes(height=3.6)
  for color, (name, line) in enumerate(lines.items()):
    axes.plot(
      [place for place, key in enumerate(layers) if key in line],
      [line[key] for key in layers if key in line],
      marker=figures.MARKERS[color % len(figures.MARKERS)], ms=4,
      color=figures.class_color(color), label=figures.plain(name),
    )  # fmt: skip
  axes.set_xticks(
    range(len(layers)), layers, rotation=45, ha="right", fontsize=9
  )
  axes.set(ylabel="cosine to the real gradient")
  if len(lines) > 1:
    figures.legend(figure)
  means = [
    f"{name} {np.mean(list(x.values())):.3f}" for name, x in lines.items()
  ]
  return figures.described(
    figure,
    f"Gradient cosine of {len(layers)} layers; means: {', '.join(means)}.",
  )
