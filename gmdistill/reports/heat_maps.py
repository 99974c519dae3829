"""The grid of a set as a heat map: students by ways of training."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from gmdistill.reports import figures, finished
from gmdistill.system import units


def grid_figure(grid: Mapping[str, Any]) -> Figure:
  """Recovery of the set under each student and way to train, in %.

  Args:
    grid: What `evaluate --protocol=grid` wrote: its `cells`.
  """
  cells = grid["cells"]
  students = list(dict.fromkeys(cell["student"] for cell in cells))
  ways = list(dict.fromkeys(cell["way"] for cell in cells))
  values = np.full((len(ways), len(students)), np.nan)
  for cell in cells:
    place = ways.index(cell["way"]), students.index(cell["student"])
    values[place] = _recovered(cell)
  figure, axes = figures.new_axes(height=1.2 + 0.42 * len(ways))
  axes.imshow(values, vmin=0, vmax=100, cmap="viridis", aspect="auto")
  axes.set_xticks(range(len(students)), students)
  axes.set_yticks(range(len(ways)), ways)
  for (row, column), value in np.ndenumerate(values):
    if np.isfinite(value):
      color = "white" if value < 60 else "black"
      axes.text(
        column, row, f"{value:.0f}", ha="center", va="center", color=color
      )
  axes.set_title("Recovery, %")
  figure.set_label(
    "Recovery of the set in %, by student and way of training: "
    + "; ".join(
      f"{cell['student']}, {cell['way']}: {_recovered(cell):.0f}"
      for cell in cells
    )
  )
  return figure


def _recovered(cell):
  return 100 * units.recovered(cell["rows"]["distilled"]["mean"], cell)


def make_all(run: finished.Run) -> dict[str, Figure]:
  """Every figure that the files of a run allow, by title."""
  made = figures.make_all(run)
  if run.grid:
    made["Ways of training"] = grid_figure(run.grid)
  return made
