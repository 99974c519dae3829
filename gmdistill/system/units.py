"""Numbers as they are said: counts, sizes and times, in one way everywhere."""

import math
from collections.abc import Mapping
from typing import Any

_THOUSANDS = ("", "k", "M", "G", "T")


def number(count: float) -> str:
  """Returns a large number as it is said: `1.23 M`."""
  value, prefix = _scaled(count)
  return f"{value} {prefix}".rstrip()


def size(num_bytes: float) -> str:
  """Returns a number of bytes as it is said: a kB is 1000 of them."""
  value, prefix = _scaled(num_bytes)
  return f"{value} {prefix}B" if prefix else f"{value} bytes"


def seconds(time: float) -> str:
  """Returns a time as it is said: `3.2 s`, `5 min 12 s`, `2 h 05 min`."""
  if time < 59.5:  # what rounds to 60 is a minute
    return f"{time:.2g} s" if time < 9.95 else f"{time:.0f} s"
  minutes, rest = divmod(round(time), 60)
  if minutes < 60:
    return f"{minutes} min {rest:02d} s"
  return f"{minutes // 60} h {minutes % 60:02d} min"


def shown(value: float, unit: str, digits: int = 1) -> str:
  """Returns a score in its unit: `80.6 %` of an accuracy, `3.770 nats`."""
  if unit == "accuracy":
    return f"{100 * value:.{digits}f} %"
  return f"{value:.{digits + 2}f} {unit}"


def plus_minus(
  value: float, spread: float | None, unit: str, digits: int = 1
) -> str:
  """Returns a mean and its spread, without the unit: `80.6 ± 2.6`."""
  scale, places = (100, digits) if unit == "accuracy" else (1, digits + 2)
  said = f"{scale * value:.{places}f}"
  return said if spread is None else f"{said} ± {scale * spread:.{places}f}"


def sign(unit: str) -> int:
  """Returns 1 where more is better, as of an accuracy, and else -1."""
  return 1 if unit == "accuracy" else -1


def recovered(mean: float, ends: Mapping[str, Any]) -> float:
  """Returns the recovery of a row; 0 of one whose students diverged.

  Args:
    mean: What its students come to.
    ends: What comes of all rows, `full`, and in which `unit`; where students
      say something before any training, that too, `zero_shot`: a recovery is
      the share of what all rows gain over it, 0 where they gain nothing.
  """
  if not math.isfinite(mean):
    return 0.0
  better = sign(ends.get("unit", "accuracy"))
  zero = ends.get("zero_shot", 0.0)
  gain = better * (ends["full"] - zero)
  return better * float(mean - zero) / gain if gain > 0 else 0.0


def scaled(value: Any, unit: str) -> Any:
  """Returns a score as it is plotted: an accuracy in %."""
  return 100 * value if unit == "accuracy" else value


def axis(unit: str) -> tuple[str, str]:
  """Returns what an axis of scores is called, and its unit in words."""
  if unit == "accuracy":
    return "accuracy", "%"
  return unit, "the less the better"


def change(difference: float, unit: str) -> str:
  """Returns a difference of two scores with its sign, without the unit."""
  scale, places = (100, 1) if unit == "accuracy" else (1, 3)
  return f"{scale * difference:+.{places}f}"


def _scaled(count: float) -> tuple[str, str]:
  """Returns three digits of a count, and its unit's prefix."""
  for prefix in _THOUSANDS[:-1]:
    if count < 999.5:  # what rounds to 1000 is 1 of the next
      return f"{count:.3g}", prefix
    count /= 1000
  return f"{count:.3g}", _THOUSANDS[-1]
