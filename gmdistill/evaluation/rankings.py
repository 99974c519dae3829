"""Whether a set puts students into the order that all rows put them in."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats


def ranked(
  by_row: Mapping[str, Sequence[float]], full: Sequence[float]
) -> dict[str, dict[str, float]]:
  """Returns how each row of a table ranks students.

  Args:
    by_row: By row, the accuracy of each student that is trained on it; NaN:
      diverged, which is as good as 0.
    full: The accuracy of each student that is trained on all rows.

  Returns:
    By row `tau`, Kendall's tau-b between the two orders (0 where all students
    are alike), and `regret`: what all rows' best student is better than the one
    that the row would choose, both trained on all rows.
  """
  full_N = np.nan_to_num(full)
  found = {}
  for name, accuracies in by_row.items():
    own_N = np.nan_to_num(accuracies)
    tau = stats.kendalltau(own_N, full_N).statistic
    chosen = full_N[int(np.argmax(own_N))]
    found[name] = {
      "tau": float(np.nan_to_num(tau)),
      "regret": float(full_N.max() - chosen),
    }
  return found


def as_text(rows: Sequence[tuple[Any, ...]]) -> str:
  """Returns a table of words, column by column."""
  cells = [[str(x) for x in row] for row in rows]
  widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
  lines = [
    "  ".join(x.ljust(w) for x, w in zip(row, widths, strict=True)).rstrip()
    for row in cells
  ]
  return "\n".join(lines)
