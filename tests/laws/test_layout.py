"""The shape of the package: rooms in one order, each with its duty."""

import ast
import pathlib
import tomllib

import pytest

PACKAGE = pathlib.Path(__file__).parents[2] / "gmdistill"

# A room imports only rooms before it, and files of its own; errors, fields of
# configs, and names of types are for all.
ORDER = """
system data students training selection sets teachers objectives evaluation
reports runs
""".split()

# What each room may import besides these and itself.
REACH = {
  "system": "",
  "data": "system",
  "students": "system data",
  "training": "students data",
  "selection": "training students data system",
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
  "ml_collections": {"runs.config"},
  "tensorflow_datasets": {"data"},
  "tokenizers": {"data"},
  "pyarrow": {"data"},
  "huggingface_hub": {"students", "sets.hub", "runs.packed_parts"},
  "datasets": {"data.table_hub"},
  "sklearn": {"selection", "sets", "evaluation"},  # k-means; factors; F1
  "datasketch": {"selection"},
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


def test_no_two_files_of_tests_share_a_name():
  # pytest collects files of folders without __init__ by name alone.
  names = [p.name for p in (PACKAGE.parent / "tests").rglob("*.py")]
  assert sorted(names) == sorted(set(names))


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
  allowed = {"errors", "fields", "trees", room, *REACH[room].split()}
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


# What is longer, or asks for more, than a file or a function should. Whoever
# mends one takes it off the list: nothing may be added.
MOST_LINES, MOST_CODE, MOST_PARAMETERS = 330, 50, 6
EXCEPTIONS = {
  "data.sources.open_source",
  "evaluation.protocols.fine_tuning",
  "sets.wrappers.with_learning_rates",
}


def functions_of(tree, prefix):
  """Yields (dotted name, node) of every function, those inside others too."""
  for node in ast.iter_child_nodes(tree):
    name = f"{prefix}.{node.name}" if hasattr(node, "name") else prefix
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
      yield name, node
    yield from functions_of(node, name)


def code_lines(node, lines):
  """How many lines of a function hold code: no docstring, comment or blank."""
  documented = {
    number
    for part in ast.walk(node)
    if isinstance(part, ast.FunctionDef | ast.ClassDef)
    and ast.get_docstring(part)
    for number in range(part.body[0].lineno, part.body[0].end_lineno + 1)
  }
  return sum(
    bool(text) and not text.startswith("#") and number not in documented
    for number in range(node.lineno, node.end_lineno + 1)
    for text in [lines[number - 1].strip()]
  )


def parameters(node):
  """How many arguments a function takes, `*` and `**` as one each."""
  every = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
  named = [arg.arg for arg in every if arg.arg not in ("self", "cls")]
  return len(named) + bool(node.args.vararg) + bool(node.args.kwarg)


def too_much():
  """What each file and function has more of than it should, by its name."""
  for path in FILES:
    lines = path.read_text().splitlines()
    if len(lines) > MOST_LINES:
      yield f"{name_of(path)}: {len(lines)} lines"
    for name, node in functions_of(ast.parse(path.read_text()), name_of(path)):
      if (count := code_lines(node, lines)) > MOST_CODE:
        yield f"{name}: {count} lines of code"
      if (count := parameters(node)) > MOST_PARAMETERS:
        yield f"{name}: {count} parameters"


def test_files_and_functions_are_short_and_ask_for_little():
  """A line of code is none of a docstring, a comment or nothing; a parameter
  is any but `self` and `cls`, and `*rest` and `**rest` are one each."""
  more = dict(line.split(": ", 1) for line in too_much())
  assert not {k: v for k, v in more.items() if k not in EXCEPTIONS}
  assert not EXCEPTIONS - set(more), "mended: take these off the list"


# What a reader reads to know how a set is distilled, in this order.
MAIN_PATH = """
main runs.distill runs.outer sets.synthetic objectives.contract
objectives.look_ahead objectives.gradient_matching training.replays
""".split()


def test_the_main_path_is_read_in_one_sitting():
  by_name = {name_of(path): path for path in FILES}
  lengths = {
    name: len(by_name[name].read_text().splitlines()) for name in MAIN_PATH
  }
  assert sum(lengths.values()) <= 1200, lengths
