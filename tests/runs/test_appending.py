"""gmdistill append: a set grows by classes, and keeps what it knew."""

import json
import pathlib

import numpy as np
import pytest
import safetensors.numpy
import tiny_config

from gmdistill import errors, main
from gmdistill.runs import appending, distill
from gmdistill.runs.commands import shared
from gmdistill.runs.config import flags as flag_values
from gmdistill.runs.config import settings

WORDS = {
  "birds": "wing feather nest beak song egg fly branch".split(),
  "boats": "sail hull mast anchor deck harbour keel oar".split(),
  "stones": "granite quartz layer cliff gravel vein ore dust".split(),
}


def write_rows(path, classes):
  rng = np.random.default_rng(0)
  lines = ["text,label"]
  for i in range(120):
    name = classes[i % len(classes)]
    lines.append(f"{' '.join(rng.choice(WORDS[name], 8))},{name}")
  path.write_text("\n".join(lines) + "\n")


def make_config(data):
  config = tiny_config.get_config()
  config.student.kind = "textcnn"
  config.objective = "look_ahead"
  config.num_steps = 6
  config.protocols = ("scratch",)
  config.scratch.update(num_steps=30, rates=(3e-2,))
  config.full.update(num_steps=30, rates=(3e-2,))
  config.gradient_cosine.num_students = 0
  config.data.name = str(data)
  return config


FILE = """
import sys
sys.path.insert(0, {tests!r})
import test_appending
def get_config(mode=""):
  return test_appending.make_config({data!r})
"""


@pytest.fixture(scope="module")
def two(tmp_path_factory):
  """A run of two classes, and the config of data of three."""
  folder = tmp_path_factory.mktemp("grown")
  write_rows(folder / "two.csv", ["birds", "stones"])
  write_rows(folder / "three.csv", ["boats", "birds", "stones"])
  tests = str(pathlib.Path(__file__).parent)
  for name in ("two", "three"):
    text = FILE.format(tests=tests, data=str(folder / f"{name}.csv"))
    (folder / f"{name}.py").write_text(text)
  config = settings.recipe(make_config(folder / "two.csv"))
  distill.run(config, str(folder / "run"))
  return folder


def append(two, workdir, *more, config="three"):
  return main.main(
    [
      "gmdistill",
      "append",
      f"--set={two / 'run/set'}",
      f"--config={two / config}.py",
      f"--workdir={workdir}",
      *more,
    ]
  )


def tensors(folder):
  return safetensors.numpy.load_file(folder / "set.safetensors")


def test_frozen_examples_stay_and_new_classes_are_learned(
  two, tmp_path, capsys
):
  assert append(two, tmp_path, "--config.kept=frozen") == 0
  before, start = tensors(two / "run/set"), tensors(tmp_path / "start")
  after = tensors(tmp_path / "set")
  kept = json.loads((tmp_path / "start/card.json").read_text())["kept"]
  # birds, boats, stones: the new class stands between the old ones.
  assert kept == [0, 1, 4, 5]
  np.testing.assert_array_equal(start["embeddings"][kept], before["embeddings"])
  np.testing.assert_array_equal(
    start["labels"][kept][:, [0, 2]], before["labels"]
  )
  assert not start["labels"][kept][:, 1].any()
  np.testing.assert_allclose(
    after["embeddings"][kept], before["embeddings"], atol=1e-6
  )
  assert np.abs(after["embeddings"] - start["embeddings"])[2:4].max() > 1e-4
  config = json.loads((tmp_path / "config.json").read_text())
  assert config["num_steps"] == 2  # a third
  done = json.loads((tmp_path / "append.json").read_text())
  rows = done["rows"]
  assert list(rows) == ["before", "after", "before, then new rows"]
  assert done["old_classes"] == ["birds", "stones"]
  assert rows["before"]["new"] <= 0.2  # of whose class it has no example
  # What is trained on new rows alone knows them, and forgets the others.
  forgets = rows["before, then new rows"]
  assert forgets["new"] > 0.9 and forgets["old"] < rows["before"]["old"]
  for row in rows.values():
    assert row["old_among_old"] >= row["old"]
  said = capsys.readouterr().out
  assert "before, then new rows" in said and "old among old" in said


def test_more_examples_of_a_class_start_from_real_rows(
  two, tmp_path, monkeypatch
):
  asked = []
  monkeypatch.setattr(
    appending.distill, "run", lambda config, *_: asked.append(config)
  )
  # The first call was refused before its run began, and leaves nothing to it.
  for per_class in (4, 3):
    more = [f"--config.data_per_class={per_class}", "--config.num_steps=9"]
    with pytest.raises(errors.InputError, match="no set.safetensors"):
      flags = [f"--config={two / 'two'}.py", f"--set={two / 'run/set'}", *more]
      values, _ = flag_values.parse(["gmdistill", *flags])
      config, folder = shared.config_and_set(values)
      appending.run(config, folder, str(tmp_path))
  _, config = asked
  assert config.num_steps == 3 and config.start == str(tmp_path / "start")
  start = tensors(tmp_path / "start")
  kept = json.loads((tmp_path / "start/card.json").read_text())["kept"]
  assert kept == [0, 1, 3, 4]  # of three a class
  before = tensors(two / "run/set")
  np.testing.assert_array_equal(start["embeddings"][kept], before["embeddings"])
  np.testing.assert_allclose(
    start["learning_rates"], before["learning_rates"], rtol=1e-6
  )


def test_new_examples_start_with_labels_as_smooth_as_the_runs(
  two, tmp_path, monkeypatch
):
  def prepared(config, *_):
    raise errors.InputError(str(config.start))  # in place of a run

  monkeypatch.setattr(appending.distill, "run", prepared)
  more = [f"--config.{x}" for x in ("label_smoothing=0.3", "labels=hard")]
  assert append(two, tmp_path, *more) == 2
  start = tensors(tmp_path / "start")["labels"]
  np.testing.assert_allclose(start[2:4], [[0.1, 0.8, 0.1]] * 2, rtol=1e-5)


@pytest.mark.parametrize(
  "more, said",
  [
    (["--config.data_per_class=1"], "data_per_class=1"),
    (["--config.sequence_length=5"], "sequence_length=6"),
    (["--config.rank=2"], "rank=0"),
    (["--config.kept=all"], "polished, frozen"),
    (["--set=nowhere"], "set.safetensors"),
  ],
)
def test_bad_input_is_refused_in_a_line_and_nothing_is_written(
  two, tmp_path, capsys, more, said
):
  assert append(two, tmp_path / "out", *more) == 2
  line = capsys.readouterr().err.strip().splitlines()[-1]
  assert line.startswith("gmdistill: ") and said in line
  assert not (tmp_path / "out").exists()


def test_classes_that_the_data_lost_and_nothing_to_learn_are_refused(
  two, tmp_path, capsys
):
  path = two / "other.csv"
  write_rows(path, ["boats", "stones"])
  out = tmp_path / "out"
  assert append(two, out, f"--config.data.name={path}") == 2
  assert "no birds" in capsys.readouterr().err
  assert append(two, out, "--config.kept=frozen", config="two") == 2
  assert "kept=polished" in capsys.readouterr().err
  assert not out.exists()
