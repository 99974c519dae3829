"""Colours of figures and page, for light and dark screens.

A figure is drawn in light colours. In its SVG each of them becomes a variable,
which has another value where the reader's system asks for a dark page: an image
of a page follows that system too.
"""

import re

# Light and dark, of 4.5:1 at least on either page: they colour text too.
TEXT = ("#1b2330", "#e4e8ef")
QUIET = ("#5a6475", "#9ba6b8")
GRID = ("#e3e7ed", "#2c3442")
PAGE = ("#ffffff", "#141920")

ROWS = {
  "zero-shot": ("#6b6f78", "#b0b5bf"),
  "random": ("#5f6b7e", "#a3aec0"),
  "random of that length": ("#4f6a86", "#93b3d3"),
  "herding": ("#2b7a67", "#62bfa7"),
  "K-centers": ("#8f5a00", "#e0a040"),
  "topics": ("#8b3f8f", "#d69ada"),
  "distilled": ("#1f5fbf", "#82aef2"),
  "full": ("#333b4a", "#d5dbe6"),
}

CLASSES = (
  ("#1f5fbf", "#82aef2"),
  ("#a8481a", "#f08f5f"),
  ("#24795a", "#5ec79d"),
  ("#b0468f", "#e58cc6"),
  ("#6c60c4", "#ada4f0"),
  ("#846410", "#d3b04a"),
  ("#1f7591", "#6cc3dd"),
  ("#c23b4b", "#f2858f"),
  ("#5f6b2a", "#b4c274"),
  ("#555e6e", "#b3bdcd"),
)

PAIRS = dict([TEXT, QUIET, GRID, PAGE, *ROWS.values(), *CLASSES])

DARK = "@media (prefers-color-scheme: dark)"

_STYLED = re.compile(r'style="[^"]*"')
_COLOUR = re.compile(r"#[0-9a-f]{6}\b")


def themed(svg: str) -> str:
  """Returns an SVG whose colours follow the reader's system.

  Args:
    svg: As Matplotlib writes it, in the light colours of this module; another
      colour stays as it is.
  """
  used: set[str] = set()

  def variable(match: re.Match[str]) -> str:
    if match[0] not in PAIRS:
      return match[0]
    used.add(match[0])
    return f"var(--c{match[0][1:]})"

  text = _STYLED.sub(lambda x: _COLOUR.sub(variable, x[0]), svg)
  light, dark = (
    "".join(f"--c{x[1:]}:{(x, PAIRS[x])[kind]};" for x in sorted(used))
    for kind in (0, 1)
  )
  style = f"<style>svg{{{light}}}{DARK}{{svg{{{dark}}}}}</style>"
  start = text.index("<svg")
  end = text.index(">", start) + 1
  return text[:end] + style + text[end:]
