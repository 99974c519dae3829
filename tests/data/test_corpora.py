import ast
import multiprocessing
import os
import platform
import re
import sys
import time

import pytest

from gmdistill import errors
from gmdistill.data import sources
from gmdistill.data.corpora import docstrings, prose


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
  """The corpus, prepared once."""
  folder = tmp_path_factory.mktemp("tfds")
  return sources.open_source("docstrings", data_dir="", embedded_dir=folder)


@pytest.fixture(scope="module")
def splits(prepared):
  return {split: sources.read(prepared, split) for split in ("train", "test")}


def test_preparing_leaves_nothing_but_the_data_set(prepared):
  assert prepared.builder.is_prepared()
  root = prepared.folder.parents[2]
  assert os.listdir(root) == ["docstrings"]
  assert not list(root.rglob("*incomplete*"))


def test_preparing_needs_no_tensorflow(splits):
  assert "tensorflow" not in sys.modules


def test_classes_are_balanced_and_at_least_four(prepared, splits):
  assert prepared.label_names == tuple(docstrings.label_names())
  assert prepared.label_names[0] == "python"
  assert len(prepared.label_names) >= 4
  counts = dict.fromkeys(range(len(prepared.label_names)), 0)
  for rows in splits.values():
    for label in rows.labels:
      counts[int(label)] += 1
  assert len(set(counts.values())) == 1
  assert min(counts.values()) >= 500
  assert 0.1 < len(splits["test"].labels) / sum(counts.values()) < 0.25


def test_no_text_names_its_package(splits):
  names = re.compile(
    r"python|sklearn|scikit|matplotlib|pyplot|\bjax|jnp|hugging|\bhub\b|numpy"
    r"|\bnp\b",
    re.IGNORECASE,
  )
  leaks = [
    text
    for rows in splits.values()
    for text in rows.texts
    if names.search(text)
  ]
  assert not leaks


def test_texts_are_prose_of_bounded_length(splits):
  for rows in splits.values():
    for text in rows.texts:
      assert len(text.split()) <= prose.MAX_WORDS
      assert len(re.findall("[a-z]+", text.lower())) >= prose.MIN_WORDS
      assert not re.search(r">>>|://|[_`\n]", text)


def test_no_text_or_near_duplicate_is_in_two_splits_or_classes(splits):
  seen = set()
  for rows in splits.values():
    for text in rows.texts:
      keys = prose.near_duplicate_keys(text)
      assert not seen.intersection(keys), text
      seen.update(keys)


def test_rows_are_those_of_the_builder(splits):
  # Read anew: a pure function of what is installed.
  texts = prose.texts(docstrings._folder("sklearn"))
  label = docstrings.label_names().index("sklearn")
  stored = {
    text
    for rows in splits.values()
    for text, found in zip(rows.texts, rows.labels, strict=True)
    if found == label
  }
  assert stored <= set(texts)
  assert all(
    docstrings.split_of(text) == split
    for split, rows in splits.items()
    for text in rows.texts
  )


def test_the_configuration_names_the_installed_versions(prepared):
  name = prepared.folder.parent.name
  assert name == docstrings.installed_versions()
  assert f"python-{platform.python_version()}" in name
  for package in docstrings.PACKAGES:
    assert package in docstrings.installed_versions()


def test_the_standard_library_is_read_without_what_lies_beside_it(tmp_path):
  modules = ["ast.py", "email/policy.py", "test/a.py", "site-packages/b/c.py"]
  modules += ["idlelib/d.py", "lib2to3/e.py", "json/tests/f.py"]
  for module in modules:
    path = tmp_path / module
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'"""The module {path.stem}."""')
  found = list(prose.docstrings(tmp_path))
  assert found == ["The module ast.", "The module policy."]
  assert (docstrings._folder("python") / "ast.py").is_file()


def test_a_prepared_corpus_is_not_prepared_again(prepared, monkeypatch):
  monkeypatch.setattr(docstrings, "rows", None)
  again = docstrings.prepare(prepared.folder.parents[2])
  assert again.data_path == prepared.builder.data_path


def _prepare_small(folder):
  docstrings.rows = _small_rows
  docstrings.prepare(folder)


def _small_rows():
  time.sleep(0.2)  # So that both are at it at the same time.
  return {
    package: [f"text number {number} of {package}" for number in range(20)]
    for package in docstrings.label_names()
  }


def test_two_processes_may_prepare_at_once(tmp_path):
  context = multiprocessing.get_context("spawn")
  processes = [
    context.Process(target=_prepare_small, args=(tmp_path,)) for _ in range(2)
  ]
  for process in processes:
    process.start()
  for process in processes:
    process.join()
  assert [process.exitcode for process in processes] == [0, 0]
  source = sources.open_source(
    "docstrings", data_dir=str(tmp_path), embedded_dir=tmp_path / "unused"
  )
  assert sum(
    len(sources.read(source, s).labels) for s in ("train", "test")
  ) == 20 * len(docstrings.label_names())


def test_the_second_to_finish_uses_what_the_first_prepared(
  tmp_path, monkeypatch
):
  def overtaken(self, **kwargs):
    monkeypatch.undo()
    monkeypatch.setattr(docstrings, "rows", _small_rows)
    docstrings.prepare(tmp_path)
    raise OSError("Directory not empty")

  monkeypatch.setattr(docstrings.Docstrings, "download_and_prepare", overtaken)
  assert docstrings.prepare(tmp_path).is_prepared()


def test_a_missing_package_is_named(monkeypatch):
  monkeypatch.setitem(docstrings.PACKAGES, "no_such_package", "no-such-package")
  with pytest.raises(errors.InputError, match="pip install no-such-package"):
    docstrings.rows()


@pytest.mark.parametrize(
  "docstring, expected",
  [
    ("Adds two numbers.\n\nArgs:\n  x: one.", "Adds two numbers. x: one."),
    ("Adds.\n\nParameters\n----------\nx : int\n    One.", "Adds. One."),
    ("Adds.\n\n>>> add(1, 2)\n3", "Adds."),
    ("Adds.\n\nExamples\n--------\nTwo of them.", "Adds."),
    ("Adds.\n\n:param x: One.\n:return: Two.", "Adds. One. Two."),
    ("See :class:`~a.Thing` at https://a.b/c now.", "See a.Thing at now."),
    ("Plots the max_iter with matplotlib.", "Plots the max iter with"),
    ("A Hugging Face repo; scikit-learn too.", "A repo; too."),
  ],
)
def test_cleaning_keeps_prose(docstring, expected):
  assert prose.clean(docstring) == expected


def test_docstrings_are_found_wherever_statements_nest(tmp_path):
  lines = ['"""module"""', "import x"]
  for i, opening in enumerate(
    (
      "if x:",
      "for y in x:",
      "while x:",
      "with x:",
      "try:",
      "class A:",
      "def f(z=lambda: 0):",
      "async def g():",
    )
  ):
    lines += [opening, f"  class C{i}:", f'    """{opening} {i}"""']
    if opening == "try:":
      lines += ["except x:", "  def h():", '    """handler"""']
      lines += ["else:", "  def h():", '    """otherwise"""']
      lines += ["finally:", "  def h():", '    """at last"""']
  lines += ["match x:", "  case 1:", "    def h():", '      """case"""']
  source = "\n".join(lines)
  (tmp_path / "a.py").write_text(source)
  kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
  expected = {
    ast.get_docstring(node, clean=False)
    for node in ast.walk(ast.parse(source))
    if isinstance(node, kinds)
  } - {None}
  assert len(expected) == 13
  assert set(prose.docstrings(tmp_path)) == expected
