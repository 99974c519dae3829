"""Every path of a config or a flag is read alike: it works, or is one line."""

import ast
import os
import pathlib
import shutil

import pytest

import gmdistill
from gmdistill import errors
from gmdistill.data import builders
from gmdistill.objectives import bank
from gmdistill.reports import finished
from gmdistill.runs.config import shipped
from gmdistill.sets import set_files, spaces
from gmdistill.students import hugging_face
from gmdistill.system import folders, paths
from gmdistill.teachers import trained

HERE = pathlib.Path(__file__).parents[1]
PACKAGE = pathlib.Path(gmdistill.__file__).parent

# What reads the path of a field or of a flag, before anything else is done.
READERS = {
  "student.pretrained": hugging_face.find,
  "student.space": lambda text: spaces.read_table(paths.path(text)),
  "teachers.dirs, --teacher": trained.load,
  "data.dir": lambda text: builders.find("nothing/there", text, "unused"),
  "bank.dir": lambda text: bank.read(paths.path(text)),
  "start, bank.along, --set": set_files.load,
  "report": finished.load_run,
  "--workdir": folders.writable,
  "--config": shipped.config_for,
}


@pytest.fixture
def in_folder(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  monkeypatch.setenv("HOME", str(tmp_path))
  return tmp_path


@pytest.mark.parametrize(
  "name", ["~/it", "it", "./it", "a b/ü 中", "$HOME/it", "to it"]
)
def test_a_name_leads_where_it_says(name, in_folder):
  folder = in_folder / name.replace("~/", "")
  if name == "to it":
    folder.symlink_to(in_folder / "there")
    folder = in_folder / "there"
  shutil.copytree(HERE / "tiny_bert", folder)
  shutil.copy(HERE / "tiny_config.py", folder)
  assert os.path.samefile(hugging_face.find(name), folder)
  assert os.path.samefile(folders.writable(name), folder)
  assert shipped.config_for(f"{name}/tiny_config.py").num_steps == 12
  # The tilde was not read there.
  with pytest.raises(errors.InputError, match="Unknown data set") as refused:
    builders.find("chain", name, "unused")
  assert "~" not in str(refused.value)


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(
  "name, words",
  [
    ("caf\udce9", "is not written in UTF-8"),
    ("broken/run", "is a link to"),
    ("circle", "is a link to"),
    ("~nobody-of-this-name/x", "no such user"),
    ("x" * 5000, "cannot be a path"),
    ("a\0b", "cannot be a path"),
    ("ftp://host/x", "is none of gs|no config"),
  ],
)
def test_a_name_that_leads_nowhere_is_refused(reader, name, words, in_folder):
  (in_folder / "broken").symlink_to("nowhere")
  (in_folder / "circle").symlink_to("circle")
  with pytest.raises(errors.InputError, match=words) as refused:
    READERS[reader](name)
  str(refused.value).encode()  # and can be printed
  assert sorted(os.listdir(in_folder)) == ["broken", "circle"]


def test_a_working_folder_that_is_no_utf8_is_refused(tmp_path, monkeypatch):
  folder = os.fsencode(tmp_path) + b"/caf\xe9"
  os.mkdir(folder)
  monkeypatch.chdir(os.fsdecode(folder))
  with pytest.raises(errors.InputError, match="is not written in UTF-8"):
    folders.writable("run")


def test_no_other_file_makes_a_path_of_what_a_user_gave():
  for path in PACKAGE.rglob("*.py"):
    name = path.relative_to(PACKAGE).as_posix()
    if name == "system/paths.py":
      continue
    for node in ast.walk(ast.parse(path.read_text())):
      attribute = node.attr if isinstance(node, ast.Attribute) else ""
      assert attribute not in ("expanduser", "expandvars"), name
