"""The package's shape."""

import ast
import pathlib

PACKAGE = pathlib.Path(__file__).parents[1] / "gmdistill"

# A file imports only files above it.
ORDER = """
errors paths processes mesh tokenizer losses ensembles data loading blocks
students criteria mixed_mode checkpoint metrics interrupts bert pretrained
problem rationales scoring training uncertainty replays synthetic wrappers
set_files spaces distances objectives matching unrolled displacements teachers
coresets protocols evaluate projection settings checks workdirs privacy bank
walks experts schedule joined labelling splits recipe relabel tables results
figures comparison report finish outer plan range_test jobs distill sweep verbs
teacher_verbs main __main__
""".split()


def imported(path):
  tree = ast.parse(path.read_text())
  for node in ast.walk(tree):
    if isinstance(node, ast.ImportFrom) and node.module == "gmdistill":
      yield from (alias.name for alias in node.names)


def test_a_file_imports_only_files_above_it():
  files = {p.stem for p in PACKAGE.glob("*.py")} - {"__init__"}
  assert files == set(ORDER)
  for name in ORDER:
    above = ORDER[: ORDER.index(name)]
    for other in imported(PACKAGE / f"{name}.py"):
      assert other in above, f"{name}.py imports {other}, which stands below it"


def test_only_one_file_imports_orbax():
  found = [p.name for p in PACKAGE.rglob("*.py") if "orbax" in p.read_text()]
  assert found == ["checkpoint.py"] or set(found) == {
    "checkpoint.py",
    "workdirs.py",  # names its version, imports nothing
  }


def test_linen_stays_in_the_students():
  found = {p.name for p in PACKAGE.rglob("*.py") if "linen" in p.read_text()}
  assert found == {"blocks.py", "students.py", "problem.py"}
