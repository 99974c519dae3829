"""Several runs by one command."""

import json

import ml_collections
import pytest
import tiny_config

from gmdistill import errors, main
from gmdistill.runs import distill, sweep
from gmdistill.system import folders


def small(**fields):
  config = tiny_config.get_config("polish")
  config.num_steps = 4
  config.protocols = ("replay",)
  config.update(fields)
  return config


def of(**configs):
  return ml_collections.ConfigDict(configs)


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
  """A sweep of three runs, one of which cannot run."""
  folder = tmp_path_factory.mktemp("sweeps") / "study"
  configs = of(
    first=small(),
    bad=small(labels="smooth"),
    second=small(data_per_class=1, stored_as="int8"),
  )
  return folder, configs, sweep.run(configs, str(folder))


def test_one_bad_run_does_not_stop_the_others(swept):
  folder, _, failed = swept
  assert list(failed) == ["bad"] and "hard, softmax" in failed["bad"]
  for name in ("first", "second"):
    assert (folder / name / "summary.json").is_file()
  page = (folder / "report.html").read_text()
  assert "first" in page and "second" in page


def test_a_finished_run_is_not_run_again(swept, monkeypatch):
  folder, configs, _ = swept
  monkeypatch.setattr(distill, "run", lambda *_: pytest.fail("ran again"))
  del configs["bad"]
  assert sweep.run(configs, str(folder)) == {}


def test_a_finished_run_of_another_config_is_named(swept):
  folder, _, _ = swept
  failed = sweep.run(of(first=small(seed=7)), str(folder))
  assert "seed is 0 there, 7 here" in failed["first"]


def test_a_run_in_another_process_is_left_to_it(tmp_path, capfd):
  (tmp_path / "busy").mkdir()
  with folders.held(tmp_path / "busy"):
    assert sweep.run(of(busy=small()), str(tmp_path)) == {}
  assert "another process is at it" in capfd.readouterr().err
  assert not (tmp_path / "busy" / "config.json").exists()


def test_what_another_process_is_at_is_not_even_prepared(tmp_path, monkeypatch):
  claim = tmp_path / ".claims" / "busy"
  claim.mkdir(parents=True)
  monkeypatch.setattr(distill, "run", lambda *_: pytest.fail("was prepared"))
  with folders.held(claim):
    assert sweep.run(of(busy=small()), str(tmp_path)) == {}


def test_a_set_stored_in_bytes_is_measured_as_stored(swept):
  folder, _, _ = swept
  cost = json.loads((folder / "second" / "summary.json").read_text())["cost"]
  card = json.loads((folder / "second" / "set" / "card.json").read_text())
  # 4 classes: 6 positions of 16 bytes and a scale; 4 labels; 2 x 2 step sizes.
  assert cost["set_bytes"] == card["bytes"] == 4 * (6 * 20 + 16) + 16


@pytest.mark.parametrize("configs", [of(), small(), of(a=of(b=1))])
def test_a_config_of_no_runs_is_refused(tmp_path, configs):
  with pytest.raises(errors.InputError, match="maps names to the configs"):
    sweep.run(configs, str(tmp_path))


def test_fields_of_each_run_and_a_choice_of_runs(tmp_path, monkeypatch):
  ran = []
  monkeypatch.setattr(
    distill, "run", lambda config, folder, command: ran.append(config)
  )
  configs = of(
    **{"a-0": small(), "a-1": small(seed=1), "b-0": small()},
    only="a-*",
    each=dict(data=dict(dir="/elsewhere"), labels="softmax"),
  )
  assert sweep.run(configs, str(tmp_path)) == {}
  assert [config.seed for config in ran] == [0, 1]
  assert {(c.data.dir, c.data.name, c.labels) for c in ran} == {
    ("/elsewhere", "docstrings", "softmax")
  }
  with pytest.raises(errors.InputError, match="each does not fit.*lables"):
    sweep.run(of(a=small(), each=dict(lables="hard")), str(tmp_path))
  with pytest.raises(errors.InputError, match="only='c' fits none.*: a"):
    sweep.run(of(a=small(), only="c"), str(tmp_path))


def test_a_run_must_name_a_folder(tmp_path):
  with pytest.raises(errors.InputError, match="cannot name a folder"):
    sweep.run(of(**{"up/down": small()}), str(tmp_path))


def test_the_verb_names_what_did_not_finish(tmp_path, capsys):
  config = tmp_path / "study.py"
  config.write_text(
    "import ml_collections\n"
    "from gmdistill.runs.config import settings\n"
    "def get_config(mode=''):\n"
    "  run = settings.tiny(settings.defaults())\n"
    "  run.labels = 'smooth'\n"
    "  return ml_collections.ConfigDict({'single': run})\n"
  )
  argv = ["gmdistill", "sweep", f"--config={config}"]
  assert main.main([*argv, f"--workdir={tmp_path / 'runs'}"]) == 2
  said = capsys.readouterr().err
  assert "1 of the runs did not finish: single: config.labels" in said
  assert main.main(["gmdistill", "distill", *argv[2:], "--workdir=x"]) == 2
  assert "use gmdistill sweep" in capsys.readouterr().err
