"""Finished runs for notebooks and scripts: open, show, compare, report."""

import html
from collections.abc import Sequence
from typing import Any

import numpy as np
from etils import epath

from gmdistill.reports import finished, tables


class Table(list[tables.Row]):
  """Rows of results, one dict each, which print and show as a table."""

  def __str__(self) -> str:
    """The table in aligned columns."""
    return tables.as_text(self)

  __repr__ = __str__

  def _repr_html_(self) -> str:
    """The table as a notebook shows it."""
    if not self:
      return html.escape(str(self))
    header, body = tables.cells(self)
    return f"<table>{_line(header, 'th')}{''.join(map(_line, body))}</table>"


def _line(cells: Sequence[str], tag: str = "td") -> str:
  inner = "".join(f"<{tag}>{html.escape(x)}</{tag}>" for x in cells)
  return f"<tr>{inner}</tr>"


class FinishedRun(finished.Run):
  """A finished run: what its workdir holds, and what can be asked of it."""

  def table(self) -> Table:
    """Returns its results table."""
    return Table(tables.results_table(self))

  def costs(self) -> dict[str, str]:
    """Returns what the set costs and saves, in words."""
    return tables.ledger(self)

  def series(self, metric: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns the steps at which a metric was logged, and its values.

    Raises:
      InputError: the run logged none of that name.
    """
    return finished.series(self, metric)

  def figures(self) -> dict[str, Any]:
    """Returns every figure that its files allow, of matplotlib, by title."""
    from gmdistill.reports import heat_maps  # matplotlib is slow to import

    return heat_maps.make_all(self)

  def report(self) -> epath.Path:
    """Writes `report.html` into the workdir; returns its path."""
    return report([self], self.workdir / "report.html")

  def __repr__(self) -> str:
    """The workdir, what ran there, and the distilled set's accuracy."""
    summary = self.summary
    return (
      f"{self.workdir}: {summary.get('dataset')}, "
      f"{finished.size(self)}, "
      f"{','.join(finished.objectives(self))}; distilled "
      f"{distilled_accuracy(self.summary.get('protocols') or {})}"
    )

  def _repr_html_(self) -> str:
    """The results table under the run's name, as a notebook shows it."""
    return f"<p>{html.escape(repr(self))}</p>{self.table()._repr_html_()}"


def distilled_accuracy(protocols: dict[str, dict]) -> str:
  """Returns the accuracy of the row `distilled` in words, by protocol."""
  found = [
    _with_unit(rows) + f" ({name})"
    for name, rows in protocols.items()
    if (rows or {}).get("distilled")
  ]
  return ", ".join(found) or tables.NOT_MEASURED


def _with_unit(rows):
  unit = {"unit": rows.get("unit", "accuracy")}
  return tables.with_unit({"std": None} | unit | rows["distilled"])


def load_run(workdir: epath.PathLike) -> FinishedRun:
  """Opens the workdir of a finished run, without JAX.

  Args:
    workdir: What `distill` wrote.

  Raises:
    InputError: it holds no finished run, or a damaged one.
  """
  return FinishedRun(**vars(finished.load_run(workdir)))


def compare(runs: Sequence[finished.Run | epath.PathLike]) -> Table:
  """Returns one table over several runs: a row a run, protocol and method.

  Args:
    runs: Opened runs, or workdirs.

  Raises:
    InputError: one of them is no finished run.
  """
  opened = [x if isinstance(x, finished.Run) else load_run(x) for x in runs]
  return Table(tables.results_table(opened))


def report(
  runs: Sequence[finished.Run | epath.PathLike], path: epath.PathLike
) -> epath.Path:
  """Writes one self-contained HTML page on one or several runs.

  Args:
    runs: Opened runs, or workdirs.
    path: Of the page.

  Returns:
    That path.
  """
  from gmdistill.reports import page  # matplotlib is slow to import

  return page.write(runs, path)
