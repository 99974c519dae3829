"""gmdistill dedup: what it writes, and that it is read back as data."""

import json
import pathlib

import numpy as np
import pytest
import tiny_config

from gmdistill import main
from gmdistill.data import loading
from gmdistill.runs import deduplicating
from gmdistill.runs.config import settings
from gmdistill.selection import deduplication

CONFIG = f"--config={pathlib.Path(__file__).parents[1] / 'tiny_config.py'}"


def lines(path):
  return [json.loads(x) for x in path.read_text().splitlines()]


@pytest.fixture
def data(tmp_path):
  """A table with a test split, three planted copies, and a leaked row."""
  rng = np.random.default_rng(0)
  words = ["alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta"]

  def row(label, split):
    text = " ".join(rng.choice(words, 12))
    return {"sentence": text, "label": label, "split": split}

  train = [row(f"class {i % 2}", "train") for i in range(60)]
  test = [row(f"class {i % 2}", "test") for i in range(20)]
  copies = [
    dict(train[i], sentence=train[i]["sentence"].upper()) for i in (3, 5)
  ]
  copies.append(dict(train[7], label="class 0"))  # which was of class 1
  leaked = dict(test[4], split="train")
  rows = [*train, *copies, leaked, *test, test[0]]
  path = tmp_path / "rows.jsonl"
  path.write_text("".join(json.dumps(x) + "\n" for x in rows))
  return path


def dedup(data, workdir, method="exact", *more):
  return main.main(
    [
      "gmdistill",
      "dedup",
      CONFIG,
      f"--config.data.name={data}",
      f"--workdir={workdir}",
      f"--method={method}",
      *more,
    ]
  )


@pytest.mark.parametrize("method", deduplication.METHODS)
def test_kept_and_dropped_are_all_rows_and_copies_name_the_kept(
  method, data, tmp_path, capsys
):
  assert dedup(data, tmp_path / "out", method) == 0
  kept = lines(tmp_path / "out/kept.jsonl")
  dropped = lines(tmp_path / "out/dropped.jsonl")
  assert len(kept) + len(dropped) == 64 + 21
  assert sum(x["split"] == "test" for x in kept) == 21  # as it came
  reasons = [x["reason"] for x in dropped]
  assert reasons.count("leaked") >= 1 and reasons.count("copy") >= 3
  by_place = {(x["split"], x["row"]): x["sentence"] for x in kept}
  for row in dropped:
    original = row["copy_of"]
    place = original["split"], original["row"]
    assert by_place[place] == original["sentence"]
    assert (original["split"] == "test") == (row["reason"] == "leaked")
  summary = json.loads((tmp_path / "out/dedup.json").read_text())
  assert summary["dropped"] == len(dropped) and summary["rows"] == 64
  if method == "exact":
    assert summary["reasons"] == {"copy": 3, "leaked": 1}
    assert summary["another_label"] == 1
  said = capsys.readouterr().out
  assert f"{len(dropped)} of 64 training rows" in said
  assert "--config.data.name=" in said


def test_rows_are_compared_whole_and_all_of_them(data, tmp_path):
  fields = dict(reported_rows=5, train_length=6, max_length=16)
  more = [f"--config.data.{name}={x}" for name, x in fields.items()]
  more.append("--config.dedup.clusters=1")
  assert dedup(data, tmp_path / "out", "semantic", *more) == 0
  kept = lines(tmp_path / "out/kept.jsonl")
  assert sum(x["split"] == "test" for x in kept) == 21
  # The last of the training rows is a row of the test split.
  (leaked,) = (
    x for x in lines(tmp_path / "out/dropped.jsonl") if x["row"] == 63
  )
  assert leaked["reason"] == "leaked" and leaked["similarity"] > 0.999


def test_slots_for_rationales_are_no_text_to_compare(tmp_path, monkeypatch):
  path = tmp_path / "rows.jsonl"
  rows = [{"text": f"a b {i}", "label": i % 2, "why": "so"} for i in range(20)]
  path.write_text("".join(f"{json.dumps(x)}\n" for x in rows))
  config = tiny_config.get_config()
  config.data.update(name=str(path), rationale_key="why", rationale_length=8)
  config.student.max_positions, config.sequence_length = 32, 12
  read, means = [], deduplicating.student_features.mean_vectors

  def seen(problem, examples):
    read.append(examples.mask.sum(axis=1).max())
    return means(problem, examples)

  monkeypatch.setattr(deduplicating.student_features, "mean_vectors", seen)
  deduplicating.run(settings.recipe(config), "semantic", str(tmp_path / "out"))
  assert len(read) == 3 and max(read) < 8


def test_kept_rows_are_read_back_as_data(data, tmp_path):
  dedup(data, tmp_path / "out")
  before = loading.load(loading.Options(str(data)))
  after = loading.load(loading.Options(str(tmp_path / "out/kept.jsonl")))
  assert after.label_names == before.label_names
  assert after.text_keys == ("sentence",) and after.label_key == "label"
  assert len(after.reported.labels) == len(before.reported.labels) == 21
  both = len(after.train.labels) + len(after.selection.labels)
  assert both == 60


def test_a_reported_split_that_is_cut_loses_its_copies_too(tmp_path):
  path = tmp_path / "rows.csv"
  rows = [f"word{i} and more of it,{i % 2}" for i in range(50)]
  path.write_text("\n".join(["text,label", *rows, *rows, ""]))
  assert dedup(path, tmp_path / "out") == 0
  kept = lines(tmp_path / "out/kept.jsonl")
  assert sorted(x["text"] for x in kept) == sorted(
    x.split(",")[0] for x in rows
  )
  assert {x["split"] for x in kept} == {"train", "test"}


def test_the_same_again_looks_up_what_is_there(data, tmp_path, monkeypatch):
  config = tiny_config.get_config()
  config.data.name = str(data)
  recipe = settings.recipe(config)
  first = deduplicating.run(recipe, "exact", str(tmp_path / "out"))
  monkeypatch.setattr(deduplicating, "_dedup", None)
  assert deduplicating.run(recipe, "exact", str(tmp_path / "out")) == first


def refused(capsys, status):
  said = capsys.readouterr().err.strip().splitlines()
  assert status == 2 and said[-1].startswith("gmdistill: ")
  return said[-1]


def test_bad_input_is_refused_in_a_line_and_nothing_is_written(
  data, tmp_path, capsys
):
  out = tmp_path / "out"
  assert "exact, minhash, semantic" in refused(capsys, dedup(data, out, "near"))
  assert "needs" in refused(capsys, dedup(data, "", "exact"))
  assert "dedup.similarity" in refused(
    capsys, dedup(data, out, "exact", "--config.dedup.similarity=2")
  )
  assert "no such file" in refused(capsys, dedup(tmp_path / "no.csv", out))
  said = dedup(data, out, "exact", "--config.task.kind=next_token")
  assert "rows that have classes" in refused(capsys, said)
  assert not out.exists()
  assert dedup(data, out) == 0
  capsys.readouterr()
  assert "holds another dedup" in refused(capsys, dedup(data, out, "minhash"))
  data.write_text(data.read_text() + data.read_text().splitlines()[0] + "\n")
  assert "data is" in refused(capsys, dedup(data, out))
  (tmp_path / "run/checkpoints").mkdir(parents=True)
  assert "holds a run" in refused(capsys, dedup(data, tmp_path / "run"))
  assert not (tmp_path / "run/kept.jsonl").exists()
