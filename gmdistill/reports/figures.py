"""Figures of finished runs.

Each is a `matplotlib.figure.Figure` made without pyplot, so nothing global
changes; its label says in words what it shows.
"""

import base64
import contextlib
import html
import io
import textwrap
from collections.abc import Callable, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gmdistill import errors
from gmdistill.reports import finished, glyphs, tables, theme
from gmdistill.system import units

ROW_COLORS = {name: light for name, (light, _) in theme.ROWS.items()}

GREY = theme.QUIET[0]

MARKERS = "oD^sPX"

_LINE, _MARK = 72, 7  # letters of a legend's line, and of the mark before each

_MOST_CLASSES_NAMED = 12

_MOST_POINTS = 2000

TEXT = theme.TEXT[0]

# All text of a figure, and nothing behind it but the page.
_STYLE = {
  "text.color": TEXT,
  "axes.labelcolor": TEXT,
  "axes.edgecolor": GREY,
  "axes.facecolor": "none",
}


def accuracy_figure(run: finished.Run, protocol: str) -> Figure:
  """Mean and std over students of each row under one protocol."""
  rows = rows_of(run, protocol)
  if not rows:
    raise errors.InputError(
      f"{run.workdir} measured nothing under {protocol!r}; it has "
      f"{', '.join(finished.measured(run)) or 'no protocol'}."
    )
  unit = finished.unit_of(run, protocol)
  name, in_words = units.axis(unit)
  figure, axes = new_axes(height=0.9 + 0.42 * len(rows))
  for place, row in enumerate(rows):
    mean, std = (units.scaled(row[x] or 0.0, unit) for x in ("mean", "std"))
    color = ROW_COLORS.get(row["row"], GREY)
    axes.errorbar(mean, place, xerr=std, fmt="o", capsize=3, color=color)
    axes.annotate(
      units.plus_minus(row["mean"], None, unit), (mean, place), (0, 5),
      ha="center", fontsize=9, textcoords="offset points", color=color,
    )  # fmt: skip
  axes.set_yticks(range(len(rows)), [row["row"] for row in rows])
  axes.set_ylim(len(rows) - 0.5, -0.7)
  axes.margins(x=0.08)
  axes.set_xlabel(f"{name} under {protocol}, {in_words} (± std over students)")
  told = [f"{row['row']} {tables.with_unit(row)}" for row in rows]
  what = f"{name.capitalize()} under {protocol}"
  return described(figure, f"{what}: {', '.join(told)}.")


def selection_figure(run: finished.Run) -> Figure:
  """What was chosen by, by step; reported rows of that unit are horizontal
  lines."""
  unit = finished.selection_unit(run)
  name, in_words = units.axis(unit)
  steps, values = _from_the_start(run, unit)
  values = units.scaled(values, unit)
  figure, axes = new_axes()
  color = ROW_COLORS["distilled"]
  axes.plot(steps, values, "o-", ms=3.5, color=color, label="selection split")
  chosen = (run.summary.get("selection") or {}).get("step")
  if chosen is not None:
    axes.axvline(chosen, color=color, lw=1, ls=":", label=f"chosen: {chosen}")
  protocol = finished.main_protocol(run)
  told_alike = finished.unit_of(run, protocol) == unit
  for row in rows_of(run, protocol) if told_alike else ():
    color = ROW_COLORS.get(row["row"], GREY)
    mean = units.scaled(row["mean"], unit)
    axes.axhline(mean, color=color, lw=1.2, ls="--", label=row["row"])
  axes.set(xlabel="outer step", ylabel=f"{name}, {in_words}")
  legend(figure)
  form = ".1f" if unit == "accuracy" else ".3f"
  return described(figure, f"Selection {name} {_from_to(steps, values, form)}")


def _from_the_start(run, unit):
  """Returns the steps and scores of the selection split, from step 0."""
  steps, values = finished.series(run, f"selection/{unit}")
  start = (run.summary.get("selection") or {}).get(f"start_{unit}")
  if start is None or not steps.size or steps[0] == 0:
    return steps, values
  return np.insert(steps, 0, 0), np.insert(values, 0, start)


def loss_figure(run: finished.Run) -> Figure:
  """Outer loss and gradient norm by step; stage boundaries are marked."""
  curves = {"outer loss": finished.series(run, "outer/loss")}
  if "outer/grad_norm" in run.metrics:
    curves["gradient norm"] = finished.series(run, "outer/grad_norm")
  figure, both = panels(3.5, [2, 1][: len(curves)])
  stages = _stages(run)
  later = [start for start, _ in stages[1:]]
  for axes, (label, (steps, values)) in zip(both, curves.items(), strict=True):
    splits = np.searchsorted(steps, later)
    for part in np.split(np.arange(len(steps)), splits):
      axes.plot(steps[part], values[part], lw=1.2, color=class_color(0))
    for start in later:
      axes.axvline(start, color=GREY, lw=1, ls="--")
    if values.size and values.min() > 0 and values.max() > 10 * values.min():
      axes.set_yscale("log")
    axes.set_ylabel(label)
  for start, name in stages if later else []:
    both[0].annotate(
      name, (start, 1), (0, 2), textcoords="offset points", fontsize=9,
      xycoords=("data", "axes fraction"), va="bottom", color=GREY,
    )  # fmt: skip
  both[-1].set_xlabel("outer step")
  told = _from_to(*curves["outer loss"], ".3g")
  return described(figure, "Outer loss " + told)


def _stages(run: finished.Run) -> list[tuple[int, str]]:
  """First logged step and objective of each stage."""
  if "outer/stage" not in run.metrics:
    return []
  steps, stages = finished.series(run, "outer/stage")
  names = finished.objectives(run)
  numbers, first = np.unique(stages.astype(int), return_index=True)
  return [
    (int(steps[i]), names[stage] if stage < len(names) else f"stage {stage}")
    for stage, i in zip(numbers, first, strict=True)
  ]


def cosine_figure(run: finished.Run) -> Figure:
  """Cosine of the set's gradient to the real gradient, by step."""
  steps, values = finished.series(run, "matching/cosine")
  figure, axes = new_axes()
  axes.plot(steps, values, lw=1.2, color=class_color(2))
  axes.set(xlabel="outer step", ylabel="cosine to the real gradient")
  return described(figure, "Gradient cosine " + _from_to(steps, values, ".3f"))


def projection_figure(run: finished.Run) -> Figure:
  """Features of real and synthetic examples in two dimensions, by class."""
  projection = run.analysis.get("projection") or {}
  if not projection.get("synthetic"):
    raise errors.InputError(
      f"{run.workdir} has no projection in analysis.json."
    )
  looks: dict[str, dict[str, Any]] = {
    "real": {"s": 9, "alpha": 0.45, "linewidths": 0},
    "synthetic": {"s": 90, "marker": "*", "edgecolors": TEXT, "lw": 0.7},
  }
  # A bitmap does not follow the theme, but holds any number of points.
  many = len(projection.get("real") or []) > _MOST_POINTS
  looks["real"]["rasterized"] = many
  clouds = {
    kind: np.array(projection.get(kind) or [], float).reshape(-1, 3)
    for kind in looks
  }
  classes = np.unique(np.concatenate(list(clouds.values()))[:, 2]).astype(int)
  figure, axes = new_axes(height=4.2)
  for kind, cloud in clouds.items():
    for label in classes:
      x, y = cloud[cloud[:, 2] == label, :2].T
      axes.scatter(x, y, color=class_color(label), **looks[kind])
  for label in classes[:_MOST_CLASSES_NAMED]:
    name = finished.class_name(run, label)
    axes.scatter([], [], color=class_color(label), label=plain(name))
  axes.scatter([], [], color=GREY, s=9, label="real")
  axes.scatter(
    [], [], color=theme.PAGE[0], label="synthetic", **looks["synthetic"]
  )
  shares = [f" ({100 * part:.0f} %)" for part in projection["explained"]]
  axes.set(xlabel=f"component 1{shares[0]}", ylabel=f"component 2{shares[1]}")
  legend(figure)
  return described(
    figure,
    f"{projection['method']}: {len(clouds['real'])} real and "
    f"{len(clouds['synthetic'])} synthetic examples of {len(classes)} classes.",
  )


BY_TITLE: dict[str, Callable[[finished.Run], Figure]] = {
  "Accuracy by step": selection_figure,
  "Loss": loss_figure,
  "Gradient cosine by step": cosine_figure,
  "Features of real and synthetic examples": projection_figure,
}


def make_all(run: finished.Run) -> dict[str, Figure]:
  """Every figure that the files of the run allow, by title."""
  made = {}
  for protocol in finished.measured(run):
    name, _ = units.axis(finished.unit_of(run, protocol))
    figure = accuracy_figure(run, protocol)
    made[f"{name.capitalize()} under {protocol}"] = figure
  for title, make in BY_TITLE.items():
    # Where the files do not hold it there is no figure; the page says so.
    with contextlib.suppress(errors.InputError):
      made[titled(run, title)] = make(run)
  return made


def titled(run: finished.Run, title: str) -> str:
  """Returns the title of one of `BY_TITLE`, in the run's unit."""
  name, _ = units.axis(finished.selection_unit(run))
  return title.replace("Accuracy", name.capitalize())


def as_image(figure: Figure) -> str:
  """An `<img>` element with the figure as SVG inside; needs no file."""
  stream = io.BytesIO()
  glyphs.choose_fonts(figure)
  with matplotlib.rc_context({"svg.hashsalt": "gmdistill"}):
    figure.savefig(
      stream, format="svg", dpi=150, facecolor="none", metadata={"Date": None}
    )
  svg = theme.themed(stream.getvalue().decode())
  data = base64.b64encode(svg.encode()).decode()
  text = html.escape(str(figure.get_label()))
  return f'<img alt="{text}" src="data:image/svg+xml;base64,{data}">'


def rows_of(
  runs: finished.Run | Sequence[finished.Run], protocol: str | None
) -> list[tables.Row]:
  """The rows with a number under one protocol."""
  return [
    row
    for row in tables.results_table(runs)
    if row["protocol"] == protocol and row["mean"] is not None
  ]


def class_color(label: int) -> str:
  """The colour of a class."""
  return theme.CLASSES[label % len(theme.CLASSES)][0]


def new_axes(height: float = 3.1) -> tuple[Figure, Axes]:
  """An empty figure of the page's width."""
  figure, (axes,) = panels(height, [1])
  return figure, axes


def panels(height: float, shares: Sequence[float]) -> tuple[Figure, list[Axes]]:
  """A new figure, and panels above one another that share their x axis."""
  style: Any = _STYLE
  with matplotlib.rc_context(style):
    figure = Figure(figsize=(5, height), layout="constrained")
    made = figure.subplots(
      len(shares), 1, sharex=True, squeeze=False, height_ratios=shares
    )[:, 0]
  for axes in made:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color=theme.GRID[0], lw=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(which="both", colors=GREY)
  return figure, list(made)


def plain(name: object) -> str:
  """Returns a label that reads as `name`, whatever is in it.

  Matplotlib takes dollars for mathematics, and leaves a label that begins with
  an underscore out of the legend.
  """
  text = glyphs.spelled(str(name)).replace("$", r"\$")
  return f"\u200b{text}" if text.startswith("_") else text


def legend(figure: Figure) -> None:
  """Puts the legend below the axes."""
  labels = [x for axes in figure.axes for x in _labels(axes)]
  longest = max(map(len, labels), default=0)
  columns = max(1, min(4, _LINE // (longest + _MARK)))
  lines = -(-len(labels) // columns)
  figure.set_figheight(figure.get_figheight() + 0.19 * max(lines - 1, 0))
  made = figure.legend(
    loc="outside lower center", ncols=columns, frameon=False, fontsize=9
  )
  for text in made.get_texts():
    text.set_color(TEXT)
    text.set_text(textwrap.fill(text.get_text(), _LINE - _MARK))


def _labels(axes):
  return axes.get_legend_handles_labels()[1]


def described(figure: Figure, text: str) -> Figure:
  """Labels a figure with what it shows, in words."""
  figure.set_label(text)  # The page's alternative text.
  return figure


def _from_to(steps: np.ndarray, values: np.ndarray, form: str) -> str:
  if not steps.size:
    return "has no finite value."
  ends = f"{values[0]:{form}} at step {steps[0]} to {values[-1]:{form}}"
  return f"goes from {ends} at step {steps[-1]}."
