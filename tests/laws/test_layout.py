"""The shape of the package: rooms in one order, each with its duty."""

import ast
import pathlib
import tomllib

import pytest

PACKAGE = pathlib.Path(__file__).parents[2] / "gmdistill"

# A room imports only rooms before it, and files of its own; errors, and fields
# of configs, are for all.
ORDER = """
system data students training selection sets teachers objectives evaluation
reports runs
""".split()

# What each room may import besides errors, fields and itself.
REACH = {
  "system": "",
  "data": "system",
  "students": "system data",
  "training": "students data",
  "selection": "training students data",
  "sets": "training students data system",
  "teachers": "sets training students data system",
  "objectives": "sets selection training students data system",
  "evaluation": (
    "objectives teachers sets selection training students data system"
  ),
  "reports": "system",
  "runs": " ".join(ORDER),
}

# A library that these files, or those of these folders, alone import.
ONLY_HERE = {
  "orbax": {"system"},
  "linen": {"students"},
  "ml_collections": {"main", "runs.config"},  # the door parses their flags
  "tensorflow_datasets": {"data"},
  "tokenizers": {"data"},
  "huggingface_hub": {"students"},
  "sklearn": {"selection", "sets"},  # k-means; a table's factors
  "matplotlib": {"reports"},
  "jinja2": {"data", "reports"},  # chat templates; the page
}

FILES = sorted(p for p in PACKAGE.rglob("*.py") if p.name != "__init__.py")


def name_of(path):
  return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


def imports_of(path):
  """Yields every module that a file imports, wherever it does."""
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.ImportFrom) and node.level == 0:
      yield from (f"{node.module}.{alias.name}" for alias in node.names)
    elif isinstance(node, ast.Import):
      yield from (alias.name for alias in node.names)


def imports_of_ours(path):
  """Yields the files of the package that a file imports, by dotted name."""
  names = {name_of(p) for p in FILES}
  for module in imports_of(path):
    parts = module.split(".")
    if parts[0] == "gmdistill" and len(parts) > 1:
      ours = ".".join(parts[1:])
      assert ours in names, f"{name_of(path)}: {module} is no file of ours"
      yield ours


def test_a_wheel_has_every_room_and_every_config():
  root = PACKAGE.parent
  listed = tomllib.loads((root / "pyproject.toml").read_text())["tool"]
  folders = {p.parent for p in PACKAGE.rglob("__init__.py")}
  here = {".".join(p.relative_to(root).parts) for p in folders}
  configs = {p.parent for p in (root / "configs").rglob("*.py")}
  here |= {".".join(("gmdistill", *p.relative_to(root).parts)) for p in configs}
  assert set(listed["setuptools"]["packages"]) == here


def test_every_room_is_in_the_order_and_has_a_duty():
  rooms = {p.name for p in PACKAGE.iterdir() if (p / "__init__.py").is_file()}
  assert rooms == set(ORDER) == set(REACH)
  for room in ORDER:
    duty = ast.parse((PACKAGE / room / "__init__.py").read_text())
    assert ast.get_docstring(duty)
    reach = REACH[room].split()
    assert all(ORDER.index(x) < ORDER.index(room) for x in reach if x != room)


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_a_file_imports_only_rooms_within_its_reach(path):
  room = name_of(path).split(".")[0]
  if room not in ORDER:
    return  # the command line's door
  allowed = {"errors", "fields", room, *REACH[room].split()}
  for other in imports_of_ours(path):
    assert other.split(".")[0] in allowed, f"{name_of(path)} imports {other}"


def test_no_file_imports_itself_through_others():
  graph = {name_of(p): set(imports_of_ours(p)) for p in FILES}
  done: set[str] = set()

  def visit(name, path):
    assert name not in path, " -> ".join([*path[path.index(name) :], name])
    if name not in done:
      for other in sorted(graph[name]):
        visit(other, [*path, name])
      done.add(name)

  for name in graph:
    visit(name, [])


@pytest.mark.parametrize("library", ONLY_HERE)
def test_a_library_is_imported_only_where_it_belongs(library):
  importing = [
    name_of(path)
    for path in FILES
    if any(library in module.split(".") for module in imports_of(path))
  ]
  places = ONLY_HERE[library]
  for name in importing:
    assert any(f"{name}.".startswith(f"{place}.") for place in places), name
  for place in places:
    assert any(f"{name}.".startswith(f"{place}.") for name in importing), place
