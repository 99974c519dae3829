"""TensorBoard and Weights & Biases show what metrics.jsonl holds, once each."""

import importlib
import json
import pathlib

import pytest
import tensorboardX.proto.event_pb2 as events
from etils import epath

from gmdistill import errors
from gmdistill.data import records
from gmdistill.runs import workdirs
from gmdistill.runs.config import recipe
from gmdistill.system import followers, logs


def shown(workdir):
  """The (step, name, value) of every scalar of a workdir's event files."""
  found = []
  for file in sorted(pathlib.Path(workdir, "tensorboard").iterdir()):
    for record in records._tf_records(epath.Path(file)):
      event = events.Event.FromString(record)
      found += [
        (event.step, x.tag, x.simple_value) for x in event.summary.value
      ]
  return found


def begun(folder, step, names):
  """A writer that goes on after a step."""
  return logs.Writer(
    epath.Path(folder) / "metrics.jsonl",
    step,
    lambda: followers.opened(names, epath.Path(folder), {"seed": 0}),
  )


def killed_and_gone_on(folder, names):
  """Steps 1 to 4 are saved, 5 is not, and a second start goes on to 6."""
  writer = begun(folder, 0, names)
  for step in (1, 2, 3, 4):
    writer.write(step, {"outer/loss": step / 2})
  writer.tell()
  writer.write(5, {"outer/loss": 9.0})
  writer.close()
  writer = begun(folder, 4, names)
  for step in (5, 6):
    writer.write(step, {"outer/loss": step / 2})
  writer.tell()
  writer.close()


def test_tensorboard_has_each_step_once_after_a_kill(tmp_path):
  killed_and_gone_on(tmp_path, ("tensorboard",))
  assert shown(tmp_path) == [(x, "outer/loss", x / 2) for x in range(1, 7)]


def test_wandb_has_each_step_once_after_a_kill(tmp_path, monkeypatch):
  wandb = pytest.importorskip("wandb")
  monkeypatch.setenv("WANDB_MODE", "offline")
  logged = []
  log = wandb.Run.log
  monkeypatch.setattr(
    wandb.Run,
    "log",
    lambda run, data, step: logged.append(step) or log(run, data, step=step),
  )
  killed_and_gone_on(tmp_path, ("wandb",))
  assert logged == [1, 2, 3, 4, 5, 6]
  about = json.loads((tmp_path / "wandb.json").read_text())
  assert about["step"] == 6
  runs = list(tmp_path.glob(f"wandb/*/run-{about['id']}.wandb"))
  assert runs and all(run.stat().st_size for run in runs)


def test_a_run_shows_its_metrics_as_they_are(finished_run):
  workdir, _ = finished_run
  lines = (workdir / "metrics.jsonl").read_text().splitlines()
  wanted = [
    (line["step"], name, pytest.approx(value, rel=1e-6, nan_ok=True))
    for line in map(json.loads, lines)
    for name, value in line.items()
    if name not in ("step", "time")
  ]
  assert shown(workdir) == wanted


@pytest.mark.parametrize("name", followers.KNOWN)
def test_a_package_that_is_missing_is_a_line_with_its_extra(name, monkeypatch):
  def missing(module):
    raise ImportError(f"No module named {module!r}")

  monkeypatch.setattr(importlib, "import_module", missing)
  with pytest.raises(errors.InputError) as caught:
    followers.require((name,), epath.Path("run"))
  assert f"pip install 'gmdistill[{name}]'" in str(caught.value)


def test_a_follower_is_one_of_those_that_are_known():
  with pytest.raises(errors.InputError, match="did you mean tensorboard"):
    followers.require(("tensorbord",), epath.Path("run"))


def test_where_metrics_are_shown_may_change_in_a_run(tmp_path):
  before = recipe.Recipe()
  (tmp_path / "config.json").write_text(json.dumps(before.to_dict()))
  now = recipe.changed(before, log_to=("tensorboard",))
  workdirs.check(str(tmp_path), now)
  with pytest.raises(errors.InputError, match="seed is 0 there, 1 here"):
    workdirs.check(str(tmp_path), recipe.changed(now, seed=1))
