"""Fonts for names in any script; what no installed font draws is spelled."""

import functools

from matplotlib import font_manager
from matplotlib.figure import Figure
from matplotlib.text import Text

# It has a box for every character.
_NO_LETTERS = "Last Resort"


def spelled(text: str) -> str:
  """Returns a text whose every character some installed font can draw.

  The others are spelled by their number, as Python writes it.
  """
  return "".join(
    x if _is_usual(x) or _font_with(x) else ascii(x)[1:-1] for x in text
  )


def choose_fonts(figure: Figure) -> None:
  """Gives each text the fonts that its characters need, after the usual one."""
  for text in figure.findobj(Text):
    needed = {_font_with(x) for x in text.get_text() if not _is_usual(x)}
    if families := sorted(name for name in needed if name):
      text.set_fontfamily([*text.get_fontfamily(), *families])


def _is_usual(character: str) -> bool:
  """Whether it needs no drawing, or the usual font draws it."""
  unseen = not character.isprintable()
  return unseen or _in_usual(character)


@functools.cache
def _in_usual(character: str) -> bool:
  usual = font_manager.findfont(font_manager.FontProperties())
  return bool(font_manager.get_font(usual).get_char_index(ord(character)))


@functools.cache
def _font_with(character: str) -> str:
  """Returns the family of the first installed font that has a character."""
  # Of thousands of fonts, the family that has every script is tried first.
  fonts = sorted(
    font_manager.fontManager.ttflist,
    key=lambda x: (not x.name.startswith("Noto"), x.name),
  )
  for entry in fonts:
    if entry.name.startswith(_NO_LETTERS):
      continue
    try:
      font = font_manager.get_font(entry.fname)
    except (OSError, RuntimeError):
      continue  # a font of bitmaps, or one that has been removed since
    if font.get_char_index(ord(character)):
      return entry.name
  return ""
