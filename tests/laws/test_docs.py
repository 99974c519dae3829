"""What README and the site show works as it stands."""

import ast
import importlib
import json
import pathlib
import re
import shlex
import subprocess
import sys
import tomllib

import jax
import jax.numpy as jnp
import pytest
from conftest import make_problem, make_real, make_synthetic

import gmdistill
from gmdistill import fields as field_table
from gmdistill.data import sources
from gmdistill.objectives import contract
from gmdistill.runs.commands import verbs
from gmdistill.runs.config import pipelines, recipe, settings, shipped
from gmdistill.sets import synthetic
from gmdistill.students import families

ROOT = pathlib.Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "docs" / "_tools"))
import generate  # noqa: E402

MADE = ("reference/api", "reference/commands", "reference/fields.md", "_build")
PAGES = {
  "README.md": (ROOT / "README.md").read_text(),
  **{
    str(path.relative_to(ROOT)): path.read_text()
    for path in sorted((ROOT / "docs").rglob("*.md"))
    if not str(path.relative_to(ROOT / "docs")).startswith(MADE)
  },
}
EVERYTHING = "\n".join(PAGES.values())
NO_FIELDS = ("only", "each")  # of a sweep
OF_SEVERAL = ("distributed", "coordinator", "num_processes", "process_id")


def blocks(text, language):
  """The fenced blocks of one language, without what they are indented by."""
  pattern = r"^( *)```([\w{}-]*)\n(.*?)^\1```$"
  for indent, name, block in re.findall(pattern, text, re.M | re.S):
    if name == language:
      yield re.sub(f"^{indent}", "", block, flags=re.M)


def commands(text):
  """The arguments of each gmdistill command in the shell blocks of a page."""
  yield from commands_of(blocks(text, ""))


def commands_of(texts):
  for block in texts:
    for line in block.replace("\\\n", " ").splitlines():
      if '--command="' in line:  # the command of another machine's shell
        line = line.replace('--command="', "").removesuffix('"')
      words = shlex.split(line, comments=True)
      if "gmdistill" in words:
        yield words[words.index("gmdistill") + 1 :]


def fields(tree=None, group=""):
  """The path of every field."""
  tree = settings.defaults().to_dict() if tree is None else tree
  for name, value in tree.items():
    yield f"{group}{name}"
    if isinstance(value, dict):
      yield from fields(value, f"{group}{name}.")


def block_of(page, word):
  (code,) = [b for b in blocks(PAGES[page], "python") if word in b]
  return code


def test_the_readme_is_short():
  assert len(PAGES["README.md"].splitlines()) <= 150


@pytest.mark.parametrize("page", [p for p in PAGES if any(commands(PAGES[p]))])
def test_a_command_has_a_verb_and_flags_that_it_takes(page):
  for verb, *rest in commands(PAGES[page]):
    if verb.startswith("--"):
      continue  # --help
    assert verb in verbs.VERBS, verb
    takes = [*verbs.VERBS[verb].takes.split(), *OF_SEVERAL]
    for word in rest:
      flag = re.split(r"[=.]", word.removeprefix("--"))[0]
      if word.startswith("--"):
        assert flag in takes, (verb, word)
      else:
        assert verbs.VERBS[verb].rest, (verb, word)


def test_the_example_of_a_verb_is_of_that_verb_and_takes_its_flags():
  for name, verb in verbs.VERBS.items():
    ((first, *rest),) = commands_of([verb.example])
    assert first == name
    flags = {word[2:].partition("=")[0] for word in rest if word[:2] == "--"}
    assert flags <= set(verb.takes.split())
    assert verb.rest or all(word[:2] == "--" for word in rest)
    assert set(verb.takes.split()) <= set(verbs.FLAGS)


def test_every_field_that_is_named_exists():
  known, groups = set(fields()), {f.split(".")[0] for f in fields()}
  groups &= {f.split(".")[0] for f in known if "." in f}
  named = re.findall(r"--config\.(?:each\.)?([\w.]+)", EVERYTHING)
  named += [
    f"{group}.{name}"
    for group, name in re.findall(r"`(\w+)\.(\w+)(?:=[^`]*)?`", EVERYTHING)
    if group in groups and name not in ("py", "json")
  ]
  known |= {field.name for field in field_table.walk(pipelines.Pipeline)}
  missing = {f for f in named if f not in known} - {"FIELD", *NO_FIELDS}
  assert named and not missing


def test_every_file_that_is_named_exists():
  paths = re.findall(
    r"(?:configs|examples|notebooks|tests/benchmarks)/\w+\.py", EVERYTHING
  )
  paths += [
    f"gmdistill/{name}"
    for name in re.findall(r"`((?:\w+/)*\w+\.py)`", EVERYTHING)
    if "/" in name and not (ROOT / name).is_file()
  ]
  missing = {path for path in paths if not (ROOT / path).is_file()}
  # What was measured says the config's name of its day, which still works.
  known = {*shipped.names(), *shipped.RENAMED}
  missing -= {f"configs/{name}.py" for name in known}
  assert paths and not missing


def test_every_page_stands_in_the_index_of_its_folder():
  for page in PAGES:
    path = pathlib.Path(page)
    if path.parent.name in ("", "docs") or path.name == "index.md":
      continue
    (tree,) = blocks(PAGES[str(path.parent / "index.md")], "{toctree}")
    assert path.stem in tree.splitlines(), page


def test_a_link_of_the_readme_leads_somewhere():
  links = re.findall(r"\]\((?!http)([^)#]+)", PAGES["README.md"])
  assert links and all((ROOT / link).is_file() for link in links)


def test_the_page_of_fields_has_every_field_and_no_other_group():
  page = generate.fields()
  leaves = [path for path, *_ in field_table.table(recipe.Recipe)]
  assert all(f"\n`{path}` = `" in page for path in leaves)
  about = tomllib.loads(generate.GROUPS.read_text())["groups"]
  assert set(about) <= {path.split(".")[0] for path in leaves if "." in path}


def test_every_module_has_a_place_in_the_api():
  pages = "\n".join(generate.api().values())
  for path in (ROOT / "gmdistill").rglob("*.py"):
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    name = name.removesuffix(".__init__")
    assert name.endswith("__main__") or f"automodule:: {name}\n" in pages


def test_the_page_of_commands_has_every_verb():
  assert all(f"| `{verb}` |" in generate.commands() for verb in verbs.VERBS)


def test_what_python_blocks_take_from_the_package_is_there():
  seen = 0
  for text in PAGES.values():
    for block in blocks(text, "python"):
      names = {}
      tree = ast.parse(block)
      if "import gmdistill as gd" in block or "gd." in block:
        names["gd"] = gmdistill
      for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
          if node.module.split(".")[0] == "gmdistill":
            for alias in node.names:
              module = f"{node.module}.{alias.name}"
              names[alias.name] = importlib.import_module(module)
      for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
          owner = getattr(node.value, "id", None)
          if owner in names:
            seen += 1
            assert hasattr(names[owner], node.attr), (owner, node.attr)
  assert seen


def test_what_is_added_takes_at_most_forty_lines():
  pages = [page for page in PAGES if "development/add_" in page]
  assert len(pages) == 3  # a student, an objective, a task
  for page in pages:
    (code,) = blocks(PAGES[page], "python")
    assert len([line for line in code.splitlines() if line]) <= 40, page


def test_the_worked_objective_is_an_objective():
  names = {}
  page = "docs/development/add_an_objective.md"
  exec(block_of(page, "spread_matching"), names)
  objective = names["spread_matching"]()
  problem, batch = make_problem(), make_synthetic()

  def loss(inputs):
    syn = synthetic.SyntheticSet(batch.replace(inputs=inputs))
    real = contract.Real(make_real(objective.num_batches))
    return objective.loss(problem, syn, (), real, jax.random.key(0))[0]

  assert float(jnp.abs(jax.jit(jax.grad(loss))(batch.inputs)).max()) > 0


def test_the_worked_student_is_a_student(monkeypatch):
  monkeypatch.setattr(families, "FAMILIES", dict(families.FAMILIES))
  exec(block_of("docs/development/add_a_student.md", "MeanOfWords"), {})
  batch = make_synthetic()
  problem = make_problem().replace(
    student=families.named("mean_of_words").build(
      batch.labels.shape[1], 0, {"width": 4}
    )
  )
  params = problem.init(jax.random.key(0))
  gradient = jax.jit(jax.grad(problem.loss))(params, batch)
  assert float(jnp.abs(gradient["head"]["kernel"]).max()) > 0
  hidden = batch.replace(mask=batch.mask.at[:, -1].set(False))
  other = hidden.replace(inputs=batch.inputs.at[:, -1].add(1.0))
  said = [problem.apply(params, b).logits for b in (hidden, other)]
  assert (said[0] == said[1]).all()


def test_the_worked_task_is_a_task():
  names = {}
  exec(block_of("docs/development/add_a_task.md", "squared_error"), names)
  batch = make_synthetic()
  task = names["squared_error"](batch.labels.shape[1])
  problem = make_problem().replace(asks=task)
  params = problem.init(jax.random.key(0))
  logits = problem.apply(params, batch).logits
  gap = jax.nn.softmax(logits) - batch.labels
  lost = problem.loss(params, batch)
  assert abs(float(lost) - float(jnp.square(gap).sum(-1).mean())) < 1e-6
  gradient = jax.jit(jax.grad(problem.loss))(params, batch)
  assert float(jnp.abs(gradient["head"]["kernel"]).max()) > 0
  assert (problem.score(logits, batch) <= 0).all()
  assert problem.groups == batch.labels.shape[1]


def test_the_builder_of_a_data_set_prepares_what_is_then_read(tmp_path):
  code = block_of("docs/guides/data.md", "GeneratorBasedBuilder")
  (tmp_path / "my_reviews.py").write_text(code)
  rows = [("dull", "bad"), ("a joy", "good"), ("too long", "bad")]
  for split in ("train", "test"):
    (tmp_path / f"{split}.jsonl").write_text(
      "\n".join(json.dumps({"text": t, "label": y}) for t, y in rows)
    )
  subprocess.run(
    [sys.executable, "my_reviews.py"],
    cwd=tmp_path,
    check=True,
    capture_output=True,
  )
  source = sources.open_source(
    "my_reviews",
    data_dir=str(tmp_path / "prepared"),
    embedded_dir=tmp_path / "cache",
  )
  assert source.label_names == ("bad", "good")
  read = sources.read(source, "train")
  labels = [("bad", "good")[label] for label in read.labels]
  assert sorted(zip(read.texts, labels, strict=True)) == sorted(rows)
