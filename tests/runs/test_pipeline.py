"""gmdistill pipeline: from raw rows to a student, each stage a folder."""

import dataclasses
import json
import pathlib
import shutil

import numpy as np
import pytest
import safetensors.numpy
import tiny_config
from etils import epath

from gmdistill import errors, main
from gmdistill.runs import deduplicating, pipeline, selecting
from gmdistill.runs.config import pipelines, recipe, settings
from gmdistill.sets import set_files, spaces

HERE = pathlib.Path(__file__).parents[1]


def make_config(**fields):
  run = tiny_config.get_config()
  run.objective = "look_ahead"
  run.num_steps = 2
  run.protocols = ("scratch",)
  run.teachers.alpha = 0.5
  run.gradient_cosine.num_students = 0
  run.subset.update(num_students=1, num_steps=4, checkpoints=2)
  return pipelines.pipeline(run, **{"rows_per_class": 8, **fields})


def made(workdir):
  return {x.name.split("-")[0]: x for x in workdir.iterdir() if x.is_dir()}


def test_the_stages_are_those_of_the_registry_and_in_order():
  assert set(pipelines.STAGES) <= set(pipeline.STAGES)
  whole = pipeline._names(pipelines.STAGES)
  assert whole == [
    *("dedup", "select", "distill", "teach", "relabel", "train", "audit")
  ]
  bare = pipeline._names(("train",))
  assert bare == ["rows", "train"]


def test_raw_rows_become_a_student_and_what_is_done_is_not_done_again(
  tmp_path, monkeypatch, capsys
):
  command = "gmdistill pipeline --config=mine.py --workdir=here"
  config = make_config(dedup_method="exact")
  done = pipeline.run(config, str(tmp_path), command)
  way = done["ways"]["whole"]
  assert list(way["stages"]) == pipeline._names(pipelines.STAGES)
  folders = {name: tmp_path / own for name, own in way["stages"].items()}
  assert (folders["dedup"] / "kept.jsonl").is_file()
  assert (folders["select"] / "rows.jsonl").is_file()
  assert (folders["distill"] / "summary.json").is_file()
  assert (folders["relabel"] / "set/card.json").is_file()
  assert (folders["train"] / "model.safetensors").is_file()
  # Each reads what the one before wrote.
  read = {
    name: json.loads((folders[name] / "config.json").read_text())["data"][
      "name"
    ]
    for name in ("dedup", "select", "distill", "relabel")
  }
  assert read["dedup"] == "docstrings"
  assert read["select"] == str(folders["dedup"] / "kept.jsonl")
  assert (
    read["distill"] == read["relabel"] == str(folders["select"] / "*.jsonl")
  )
  card = json.loads((folders["relabel"] / "set/card.json").read_text())
  assert card["teachers"][0]["name"] == folders["teach"].name
  audited = json.loads((folders["audit"] / "audit.json").read_text())
  assert card["audit"] == audited
  assert 0 < way["protocols"]["scratch"]["mean"] < 1
  said = capsys.readouterr().out
  # No command that a pipeline's config is not for.
  assert "whole" in said and "gmdistill distill --config=mine.py" not in said

  def never(*_):
    raise AssertionError("a stage that is done is worked again")

  stages = {
    name: stage._replace(work=never) for name, stage in pipeline.STAGES.items()
  }
  monkeypatch.setattr(pipeline, "STAGES", stages)
  again = pipeline.run(make_config(dedup_method="exact"), str(tmp_path))
  assert again["ways"] == done["ways"]


def test_a_field_of_the_run_repeats_the_stages_alone_that_read_it():
  plan = pipelines.read(make_config())

  def repeated(method="minhash", **fields):
    plans = [dataclasses.replace(plan, dedup_method=method)]
    run = dataclasses.replace(plan.run, **fields)
    plans.append(dataclasses.replace(plans[0], run=run))
    return {
      name
      for name, stage in pipeline.STAGES.items()
      if len({str(stage.reads(x, pipeline.State(x.run))) for x in plans}) > 1
    }

  later = set(pipeline.STAGES) - {"dedup", "select"}
  assert repeated(num_steps=3) == repeated(replay_steps=9) == later
  assert repeated(coreset_pool=3) == later | {"select"}
  subset = dataclasses.replace(plan.run.subset, num_steps=9)
  assert repeated(subset=subset) == later | {"select"}
  student = dataclasses.replace(plan.run.student, width=8)
  assert repeated(student=student) == later | {"select"}
  data = dataclasses.replace(plan.run.data, max_length=9)
  for fields in (dict(student=student), dict(data=data)):
    assert repeated("semantic", **fields) == set(pipeline.STAGES)


class Watched(recipe.Recipe):
  """A recipe that tells which of its fields were read."""

  read: set[str] = set()

  def __getattribute__(self, name):
    if name in super().__getattribute__("__dict__"):
      Watched.read.add(name)
    return super().__getattribute__(name)

  def to_dict(self):
    return recipe.Recipe(**vars(self)).to_dict()


# Looked at for sense alone: by default, they make some.
OF_SENSE = set(
  "exact_match kd look_ahead objective rank stored_as task".split()
)


@pytest.mark.parametrize(
  "what, made, work",
  [
    (
      "select",
      pipelines.for_select,
      lambda x, to: selecting.run(x, ["random"], to, measured=False),
    ),
    (
      "minhash",
      pipelines.for_dedup,
      lambda x, to: deduplicating.run(x, "minhash", to),
    ),
  ],
)
def test_a_stage_reads_no_field_that_it_is_not_known_by(
  what, made, work, tmp_path
):
  plan = pipelines.read(make_config())
  watched = Watched(**vars(made(plan, plan.run)))
  Watched.read.clear()
  work(watched, str(tmp_path))
  own = {*pipelines.READ[what], "data_per_class"}  # the last is the plan's
  assert Watched.read and Watched.read - own <= OF_SENSE


def test_stages_are_known_by_the_files_that_a_config_names(tmp_path):
  run = tiny_config.get_config()
  run.student.pretrained = str(tmp_path / "bert")
  shutil.copytree(HERE / "tiny_bert", tmp_path / "bert")
  chosen = settings.recipe(run)
  before = pipeline.identity_of(chosen)
  assert before == pipeline.identity_of(chosen)
  weights = tmp_path / "bert" / "model.safetensors"
  weights.write_bytes(weights.read_bytes()[:-4] + b"1234")
  assert before != pipeline.identity_of(chosen)


def test_a_start_is_known_by_its_file(finished_run, tmp_path, monkeypatch):
  place = tmp_path / "set"
  shutil.copytree(finished_run[0] / "set", place)
  run = settings.recipe(tiny_config.get_config())
  chosen = recipe.changed(run, start=str(place))
  before = pipeline.identity_of(chosen)
  assert before == pipeline.identity_of(chosen) != pipeline.identity_of(run)
  monkeypatch.setattr(set_files, "load", lambda start: None)
  file = place / "set.safetensors"
  file.write_bytes(file.read_bytes() + b" ")
  assert before != pipeline.identity_of(chosen)


def test_a_space_is_known_by_its_table_and_its_tokens(finished_run, tmp_path):
  place = epath.Path(tmp_path / "space")
  shutil.copytree(finished_run[0] / "space", place)
  run = settings.recipe(tiny_config.get_config())
  chosen = recipe.changed(run, student__space=str(place))
  before = pipeline.identity_of(chosen)
  assert before == pipeline.identity_of(chosen) != pipeline.identity_of(run)
  table = {"embeddings": np.asarray(spaces.read_table(place)) + 1}
  whole = (place / "embeddings.safetensors").read_bytes()
  (place / "embeddings.safetensors").write_bytes(safetensors.numpy.save(table))
  assert before != pipeline.identity_of(chosen)
  (place / "embeddings.safetensors").write_bytes(whole)
  assert before == pipeline.identity_of(chosen)
  tokens = (place / "tokenizer.json").read_text()
  (place / "tokenizer.json").write_text(tokens.replace("[MASK]", "[MASKED]"))
  assert before != pipeline.identity_of(chosen)
  (place / "tokenizer.json").unlink()
  with pytest.raises(errors.InputError, match="tokenizer.json"):
    pipeline.identity_of(chosen)


def test_each_stage_is_left_out_in_turn(tmp_path, capsys):
  config = make_config(stages=("dedup", "train"), dedup_method="exact")
  done = pipeline.run(config, str(tmp_path), ablate=True)
  assert list(done["ways"]) == ["whole", "without dedup"]
  assert "dedup" not in done["ways"]["without dedup"]["stages"]
  table = capsys.readouterr().out
  assert "without dedup" in table and "scratch" in table
  assert "gmdistill distill ..." not in table  # the next stage does it


@pytest.mark.parametrize(
  "fields, said",
  [
    (dict(stages=("select", "dedup", "train")), "in the order"),
    (dict(stages=("dedup",)), "must have train"),
    (dict(stages=("dedup", "cook", "train")), "cook.*none of"),
    (dict(dedup_method="near"), "dedup_method=near"),
    (dict(select_method="best"), "select_method=best"),
    (dict(rows_per_class=0), "rows_per_class=0"),
  ],
)
def test_a_pipeline_that_makes_no_sense_is_refused(fields, said, tmp_path):
  with pytest.raises(errors.InputError, match=said):
    pipeline.run(make_config(**fields), str(tmp_path / "out"))
  assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
  "field, value, said",
  [
    ("objective", "cook", "cook.*none of"),
    ("protocols", ("cook",), "protocol=cook is none of"),
    ("student.kind", "textcnn", "no Hugging Face form"),
  ],
)
def test_what_ends_a_later_stage_is_refused_first(field, value, said, tmp_path):
  config = make_config()
  config.run.update_from_flattened_dict({field: value})
  with pytest.raises(errors.InputError, match=said):
    pipeline.run(config, str(tmp_path / "out"))
  assert not (tmp_path / "out").exists()


def test_too_few_rows_to_select_are_told_by_the_pipelines_field(tmp_path):
  config = make_config(stages=("select", "train"), rows_per_class=5000)
  with pytest.raises(errors.InputError, match="^rows_per_class=5000 is more"):
    pipeline.run(config, str(tmp_path))


def test_a_runs_config_is_no_pipelines_and_unknown_data_are_refused(
  tmp_path, capsys
):
  path = HERE / "tiny_config.py"
  words = ["gmdistill", "pipeline", f"--config={path}"]
  assert main.main([*words, f"--workdir={tmp_path / 'out'}"]) == 2
  assert "pipeline/quickstart" in capsys.readouterr().err
  words[2] = "--config=pipeline/quickstart:tiny"
  words.append("--config.run.data.name=none.csv")
  assert main.main([*words, f"--workdir={tmp_path / 'out'}"]) == 2
  assert "no such file" in capsys.readouterr().err
  assert not (tmp_path / "out").exists()
  assert recipe.Recipe() == pipelines.Pipeline().run
