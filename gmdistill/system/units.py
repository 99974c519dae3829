"""Numbers in words: sizes and counts."""


def number(count: float) -> str:
  """Returns a large number as it is said."""
  for unit in ("", " k", " M", " G"):
    if count < 999.5:  # what rounds to 1000 is 1 of the next
      return f"{count:.3g}{unit}"
    count /= 1000
  return f"{count:.3g} T"


def size(count: float) -> str:
  """Returns a number of bytes as it is said."""
  for unit in ("bytes", "kB", "MB", "GB"):
    if count < 999.5 or unit == "GB":  # what rounds to 1000 is 1 of the next
      return f"{count:.3g} {unit}"
    count /= 1000
  raise AssertionError
