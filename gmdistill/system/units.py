"""Numbers as they are said: counts, sizes and times, in one way everywhere."""

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


def _scaled(count: float) -> tuple[str, str]:
  """Returns three digits of a count, and its unit's prefix."""
  for prefix in _THOUSANDS[:-1]:
    if count < 999.5:  # what rounds to 1000 is 1 of the next
      return f"{count:.3g}", prefix
    count /= 1000
  return f"{count:.3g}", _THOUSANDS[-1]
