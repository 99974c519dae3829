"""The configs of the package: found by name, each a recipe, tiny ones too."""

import os

import pytest

from gmdistill import errors
from gmdistill.data import builders
from gmdistill.runs.config import pipelines, recipe, settings, shipped, studies
from gmdistill.system import paths

SOURCES = shipped.sources()
BEFORE = """
ablations ag_news chains cola corners quickstart quickstart_kd results rte sst2
sst2_finetune sst2_finetune_ahead sst2_kd sst2_step_matching
""".split()


def runs_of(source):
  """The recipe of every run of a config."""
  config = shipped.config_for(source)
  if "protocols" in config:
    return {"": settings.recipe(config)}
  if "stages" in config:
    return {"": pipelines.read(config).run}
  return {
    name: settings.recipe(run) for name, run in studies.named(config).items()
  }


@pytest.mark.parametrize("source", SOURCES)
def test_a_config_is_a_recipe_and_its_tiny_mode_a_smaller_one(source):
  whole, tiny = runs_of(source), runs_of(f"{source}:tiny")
  assert set(tiny) <= set(whole)
  for name, one in tiny.items():
    assert isinstance(one, recipe.Recipe)
    assert one.num_steps == 4 < whole[name].num_steps
    ours = str(paths.cache_folder())  # a decoder that is made there
    offline = ("", ours) if whole[name].task.kind != "classes" else ("",)
    assert one.student.pretrained[: len(ours)] in offline
    assert one.data.dir == ""
    assert one.data.name in builders.EMBEDDED or (
      paths.path(one.data.name).is_relative_to(paths.cache_folder())
    )
    assert one.objective == whole[name].objective


def test_a_config_is_found_from_any_folder(tmp_path, monkeypatch):
  before = settings.recipe(shipped.config_for("sst2:finetune"))
  monkeypatch.chdir(tmp_path)
  assert settings.recipe(shipped.config_for("sst2:finetune")) == before
  # A file of that name there is not what a name means.
  (tmp_path / "sst2").write_text("nothing")
  assert settings.recipe(shipped.config_for("sst2:finetune")) == before


@pytest.mark.parametrize("name", BEFORE)
def test_a_file_name_of_before_still_works_and_says_the_new_one(
  name, capsys, tmp_path, monkeypatch
):
  monkeypatch.chdir(tmp_path)
  now = shipped.RENAMED.get(name, name)
  for path in (f"configs/{name}.py", f"{shipped.folder()}/{name}.py"):
    found = shipped.config_for(f"{path}:tiny")
    assert found.to_dict() == shipped.config_for(f"{now}:tiny").to_dict()
    said = capsys.readouterr().err
    assert now in said or os.path.exists(path)


@pytest.mark.parametrize(
  "source, said",
  [
    ("sst3", "no config sst3.*did you mean sst2"),
    ("sst2:fast", "'fast' of sst2 is none of finetune, .*tiny"),
    ("cola:finetune", "'finetune' of cola is none of tiny"),
    ("configs/none.py", "no config file configs/none.py"),
    ("sst2:kd:steps", "'kd:steps' of sst2"),
  ],
)
def test_what_is_not_there_is_one_line(source, said):
  with pytest.raises(errors.InputError, match=said):
    shipped.config_for(source)


def test_a_file_of_ones_own_says_its_modes_itself(tmp_path):
  path = tmp_path / "mine.py"
  path.write_text(
    "from gmdistill.runs.config import settings\n"
    "def get_config(mode=''):\n"
    "  config = settings.defaults()\n"
    "  config.seed = len(mode)\n"
    "  return config\n"
  )
  assert shipped.config_for(str(path)).seed == 0
  assert shipped.config_for(f"{path}:one:two").seed == len("one:two")


def test_each_of_a_study_is_set_in_every_run_of_its_tiny_mode_too():
  whole = shipped.config_for("features:tiny")
  whole.each.bank.dir = "somewhere"
  named = studies.named(whole)
  assert len(named) == 5
  assert {run.bank.dir for run in named.values()} == {"somewhere"}
