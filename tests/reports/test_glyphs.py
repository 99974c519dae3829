"""Names in any script: drawn where a font can, spelled where none can."""

import warnings

import pytest
from matplotlib import font_manager

from gmdistill.reports import figures, glyphs


@pytest.fixture
def forget():
  glyphs._font_with.cache_clear()
  yield
  glyphs._font_with.cache_clear()


def drawn(name):
  """Draws a legend with a name; glyph warnings are errors in the suite."""
  figure, axes = figures.new_axes()
  axes.plot([0, 1], [0, 1], label=figures.plain(name))
  figures.legend(figure)
  axes.set_title(figures.plain(name))
  with warnings.catch_warnings():
    warnings.simplefilter("error")
    return figures.as_image(figure), axes.title


@pytest.mark.parametrize("name", ["体育", "กีฬา", "खेल", "😀 good", "スポーツ"])
def test_a_class_name_of_any_script_is_drawn_without_a_warning(name):
  image, _ = drawn(name)
  assert image.startswith("<img")


def test_what_no_font_draws_is_spelled(monkeypatch, forget):
  monkeypatch.setattr(font_manager.fontManager, "ttflist", [])
  assert glyphs.spelled("体 é") == r"\u4f53 é"
  _, title = drawn("体")
  assert title.get_text() == r"\u4f53"


def test_a_font_that_draws_a_character_follows_the_usual_one(
  monkeypatch, forget
):
  usual = font_manager.findfont(font_manager.FontProperties())
  character = next(
    chr(code)
    for code in range(0x20, 0x3000)
    if chr(code).isprintable()
    and not font_manager.get_font(usual).get_char_index(code)
    and glyphs._font_with(chr(code))
  )
  family = glyphs._font_with(character)
  assert glyphs.spelled(character) == character
  _, title = drawn(f"a {character}")
  assert title.get_fontfamily()[-1] == family
  assert len(title.get_fontfamily()) > 1
