"""How Sphinx builds the site; `make docs` runs it."""

import importlib.metadata
import os
import pathlib
import re
import sys

_HERE = pathlib.Path(__file__).parent
_ITEM = re.compile(r"[a-z_]+: ")
_SECTIONS = ("Args", "Attributes", "Raises", "Returns", "Yields")
_BARS = re.compile(r"\|(?=(?:[^`]*`[^`]*`)*[^`]*$)")  # outside of code
sys.path.insert(0, str(_HERE / "_tools"))

import generate  # noqa: E402

project = "gmdistill"
author = "the gmdistill authors"
copyright = "the gmdistill authors; Apache-2.0"
version = release = importlib.metadata.version("gmdistill")

extensions = [
  "myst_nb",
  "sphinx.ext.autodoc",
  "sphinx.ext.napoleon",
  "sphinx_copybutton",
  "sphinx_design",
]
exclude_patterns = ["_*", "conf.py", "results/data/**"]
root_doc = "index"

myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
nb_custom_formats = {".py": ["jupytext.reads", {"fmt": "py:percent"}]}
# A notebook reads a finished run: without one the pages show its code alone.
nb_execution_mode = "cache" if os.environ.get("GMDISTILL_RUN") else "off"
nb_execution_cache_path = str(_HERE / "_build" / "notebooks")
nb_execution_timeout = 600
nb_execution_raise_on_error = True
nb_merge_streams = True

autodoc_default_options = {"members": True, "member-order": "bysource"}
autodoc_typehints_format = "short"
add_module_names = False
python_maximum_signature_line_length = 72
python_use_unqualified_type_names = True
highlight_language = "shell"
default_role = "code"
# Only names of this package have pages here.
nitpick_ignore_regex = [(r"py:.*", r"(?!gmdistill\.).*")]

html_theme = "sphinx_book_theme"
html_title = "gmdistill"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_theme_options = {
  "show_toc_level": 2,
  "use_download_button": False,
  "use_fullscreen_button": False,
  # The search stands in the side bar; a second one above would be too many.
  "navbar_start": [],
  "navbar_center": [],
  "navbar_end": [],
  "navbar_persistent": [],
}
html_copy_source = False
html_show_sphinx = False


def _skip(app, what, name, obj, skip, options):
  """Leaves out the fields of named tuples: their signature has them."""
  del app, what, name, options
  return skip or type(obj).__name__ == "_tuplegetter"


def _readable(app, what, name, obj, options, lines):
  """Shows a docstring's equations and lists as they stand, and bars as bars."""
  del app, what, name, obj, options
  shown, equation, in_section, listed = [], False, False, True
  for line in lines:
    in_section = in_section or line.rstrip(":") in _SECTIONS
    indented = line.startswith("    ") and not in_section
    if indented and not equation:
      shown += ["::", ""]
    equation = indented or (equation and not line)
    # "name: what it is", where a paragraph or such a list goes before.
    item = listed and not in_section and _ITEM.match(line)
    listed = not line or bool(item) or (listed and line.startswith("  "))
    line = f"- {line}" if item else line
    shown.append(line if equation else _BARS.sub(r"\\|", line))
  lines[:] = shown


def setup(app):
  """Writes the pages that come from the code, before Sphinx looks for pages."""
  generate.write_all(_HERE)
  app.connect("autodoc-skip-member", _skip)
  app.connect("autodoc-process-docstring", _readable, priority=400)
