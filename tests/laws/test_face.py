"""What `import gmdistill` gives: its names, lazily, and a page of each."""

import ast
import inspect
import pathlib
import subprocess
import sys

import pytest

import gmdistill

ROOT = pathlib.Path(__file__).parents[2]
PAGE = ROOT / "docs" / "reference" / "python.md"
SLOW = ("jax", "flax", "tensorflow_datasets", "numpy", "matplotlib", "orbax")
NAMES = [name for name in gmdistill.__all__ if not name.startswith("__")]


def imported_by(code):
  """Returns the top-level packages that a fresh interpreter then has."""
  code += "\nimport sys; print(*{name.split('.')[0] for name in sys.modules})"
  command = [sys.executable, "-c", code]
  done = subprocess.run(
    command, capture_output=True, text=True, check=True, cwd=ROOT
  )
  return set(done.stdout.splitlines()[-1].split())


def test_importing_the_package_imports_nothing_slow():
  assert not imported_by("import gmdistill").intersection(SLOW)


def test_help_imports_nothing_slow():
  found = imported_by(
    "from gmdistill import main; main.main(['gmdistill', '--help'])"
  )
  assert not found.intersection(SLOW)


def test_a_finished_run_is_opened_without_jax():
  found = imported_by("import gmdistill; gmdistill.load_run")
  assert "gmdistill" in found
  assert not found & {"jax", "flax", "tensorflow_datasets", "matplotlib"}


def test_there_are_about_forty_names_and_dir_lists_them():
  assert 40 <= len(NAMES) <= 55
  assert set(NAMES) <= set(dir(gmdistill))
  with pytest.raises(AttributeError, match="no_such_name"):
    gmdistill.no_such_name  # noqa: B018


@pytest.mark.parametrize("name", NAMES)
def test_every_name_is_there_with_a_line_on_its_page(name):
  about = inspect.getdoc(getattr(gmdistill, name))
  first = " ".join(about.split("\n\n")[0].split())
  assert f"| `gd.{name}` | {first} |" in PAGE.read_text().splitlines()


def test_the_page_names_no_other():
  lines = PAGE.read_text().splitlines()
  rows = [line for line in lines if line.startswith("| `gd.")]
  assert sorted(line.split("`")[1][3:] for line in rows) == sorted(NAMES)


def test_a_type_checker_reads_the_same_names_from_the_same_places():
  tree = ast.parse(pathlib.Path(gmdistill.__file__).read_text())
  checked = {
    alias.asname: getattr(
      sys.modules[node.module] if node.module in sys.modules else None,
      alias.name,
      None,
    )
    for block in tree.body
    if isinstance(block, ast.If)
    for node in block.body
    for alias in node.names
    if getattr(gmdistill, alias.asname)
  }
  assert sorted(checked) == sorted(NAMES)
  assert all(checked[name] is getattr(gmdistill, name) for name in NAMES)
