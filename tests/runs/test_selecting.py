"""gmdistill select: what it writes, and that it goes on after a stop."""

import dataclasses
import json
import pathlib
import re

import numpy as np
import pytest
import tiny_config
import tiny_language
from etils import epath

from gmdistill import errors, main
from gmdistill.data import batches as row_batches
from gmdistill.data import language, loading, plain_tokens
from gmdistill.runs import chosen_rows, selecting
from gmdistill.runs.config import recipe, settings
from gmdistill.selection import methods, pools
from gmdistill.sets import text_sets
from gmdistill.students import made_up

CONFIG = f"--config={pathlib.Path(__file__).parents[1] / 'tiny_config.py'}"


def select(workdir, method, *more):
  return main.main(
    [
      "gmdistill",
      "select",
      CONFIG,
      f"--workdir={workdir}",
      f"--method={method}",
      "--config.protocols=('scratch',)",
      *more,
    ]
  )


def lines(path):
  return [json.loads(x) for x in path.read_text().splitlines()]


def test_a_method_leaves_its_rows_and_scores_which_are_data(tmp_path, capsys):
  assert select(tmp_path, "el2n") == 0
  rows, reported = lines(tmp_path / "rows.jsonl"), tmp_path / "reported.jsonl"
  summary = json.loads((tmp_path / "select.json").read_text())
  (row,) = summary["methods"].values()
  labels = [x[summary["columns"]["label_key"]] for x in rows]
  assert row["rows"] == len(rows) == 2 * len(set(labels))
  assert labels == [
    name for name in summary["columns"]["classes"].split(",") for _ in range(2)
  ]
  with np.load(tmp_path / "scores.npz") as arrays:
    by_row = dict(zip(arrays["rows"], arrays["scores"], strict=True))
    assert arrays["chosen"].tolist() == [x["row"] for x in rows]
  for one in rows:
    assert by_row[one["row"]] == pytest.approx(one["score"])
  card = json.loads((tmp_path / "texts" / "card.json").read_text())
  texts = text_sets.read(
    epath.Path(tmp_path / "texts" / "set.jsonl"), card["label_names"]
  )
  (key,) = summary["columns"]["text_keys"].split(",")
  assert list(texts.texts) == [x[key] for x in rows]
  for one in lines(tmp_path / "texts" / "set.jsonl"):
    assert one["nearest_real"] == one["source"] and one["overlap"] == 1
  found = [card["label_names"][x] for x in texts.labels.argmax(axis=1)]
  assert found == labels
  assert 0 < row["protocols"]["scratch"]["mean"] < 1 and row["seconds"] > 0
  assert "hardest" in row["about"]
  said = capsys.readouterr()
  assert "el2n" in said.out and "hardest" in said.err
  assert "next, with a smaller data_per_class: gmdistill distill" in said.out
  fields = dict(
    summary["columns"], text_keys=(summary["columns"]["text_keys"],)
  )
  read = loading.load(loading.Options(f"{tmp_path}/*.jsonl", **fields))
  both = len(read.train.labels) + len(read.selection.labels)
  assert both == len(rows) > len(read.train.labels)
  assert len(read.reported.labels) == len(lines(reported))


def test_several_methods_stand_in_one_table_and_go_on(
  tmp_path, capsys, monkeypatch
):
  assert select(tmp_path, "random,grand") == 0
  said = capsys.readouterr().out.splitlines()
  table = [x for x in said if x.split()[:1] in (["random"], ["grand"])]
  assert len(table) == 2
  (tmp_path / "select.json").unlink()  # as if stopped before its end
  (tmp_path / "grand/select.json").unlink()
  chosen = []
  choose = selecting._Chooser.choose

  def counted(self, name, folder):
    chosen.append(name)
    return choose(self, name, folder)

  monkeypatch.setattr(selecting._Chooser, "choose", counted)
  assert select(tmp_path, "random,grand") == 0
  assert chosen == ["grand"]
  assert select(tmp_path, "random,grand") == 0
  assert chosen == ["grand"]


def test_all_is_every_method_that_reads_such_rows(tmp_path, monkeypatch):
  chosen = []
  row = dict(about="", rows=1, tokens=1, seconds=0.0, memory_bytes=None)

  def choose(self, name, folder):
    chosen.append(name)
    return row | {"protocols": {}}

  monkeypatch.setattr(selecting._Chooser, "choose", choose)
  assert select(tmp_path, "all") == 0
  assert chosen == [x for x in methods.METHODS if x != "ifd"]
  done = json.loads((tmp_path / "select.json").read_text())
  assert list(done["methods"]) == chosen


def test_a_budget_of_tokens_is_kept_to(tmp_path):
  config = tiny_config.get_config()
  config.subset.tokens_per_class = 20
  config.protocols = ("scratch",)
  done = selecting.run(settings.recipe(config), ["random"], str(tmp_path))
  with np.load(tmp_path / "scores.npz") as arrays:
    tokens = dict(zip(arrays["rows"], arrays["tokens"], strict=True))
    labels = dict(zip(arrays["rows"], arrays["labels"], strict=True))
    by_class = {}
    for row in arrays["chosen"]:
      by_class[labels[row]] = by_class.get(labels[row], 0) + tokens[row]
  assert max(by_class.values()) <= 20
  assert done["methods"]["random"]["tokens"] == sum(by_class.values())


def test_what_is_refused_on_the_way_is_mended_in_the_same_folder(tmp_path):
  config = tiny_config.get_config()
  config.protocols = ("scratch",)

  def choose(tokens):
    config.subset.tokens_per_class = tokens
    recipe = settings.recipe(config)
    return selecting.run(recipe, ["el2n"], str(tmp_path), measured=False)

  config.subset.update(num_students=1, num_steps=2, checkpoints=1)
  with pytest.raises(errors.InputError, match="a class no row") as refused:
    choose(1)
  enough = int(re.findall(r"use (\d+) or more", str(refused.value))[0])
  assert choose(enough)["methods"]["el2n"]["rows"] >= 4


@pytest.mark.parametrize("kind", ["text", "answers", "messages"])
def test_rows_of_language_are_read_back_as_they_were(kind, tmp_path):
  model = epath.Path(made_up.write(tmp_path / "llama"))
  tokenizer = plain_tokens.PlainTokenizer.of_folder(model)
  rows = tiny_language.write_rows(tmp_path / "rows", kind)
  key = "task" if kind == "answers" else ""
  options = loading.Options(
    str(rows), max_length=80, group_key=key, reported_split="validation"
  )
  corpus = language.load(options, tokenizer, model)
  config = recipe.changed(recipe.Recipe(data=options), task__kind="next_token")
  drawn = np.arange(5, 35)
  pool = pools.Pool(
    None, row_batches.take(corpus.train, drawn), corpus.selection, 1
  )
  said = chosen_rows.texts_of(config, corpus)
  choice = chosen_rows.Choice(drawn, pool, np.arange(30.0), np.arange(4, 28))
  for name, content in said.files(choice).items():
    (tmp_path / name).write_bytes(content)
  raw = lines(rows / "train.jsonl")
  for x in lines(tmp_path / "rows.jsonl"):
    if kind != "text":  # of which a row is a part
      assert raw[x["row"]].items() <= x.items()
  # By the fields that are told, over those of the config.
  again = dataclasses.replace(
    options, name=f"{tmp_path}/*.jsonl", **said.columns
  )
  read = language.load(again, tokenizer, model)
  np.testing.assert_array_equal(
    read.reported.token_ids, corpus.reported.token_ids
  )
  both = [*read.train.token_ids, *read.selection.token_ids]
  assert {x.tobytes() for x in both} == {
    x.tobytes() for x in corpus.train.token_ids[9:33]
  }
  assert read.group_names == corpus.group_names


def test_a_column_that_lines_have_is_refused_before_anything_is_done(tmp_path):
  rows = "".join(f"word {i},{i % 2}\n" for i in range(20))
  (tmp_path / "rows.csv").write_text(f"text,score\n{rows}")
  config = tiny_config.get_config()
  config.data.name = str(tmp_path / "rows.csv")
  with pytest.raises(errors.InputError, match="a column 'score'"):
    selecting.run(settings.recipe(config), ["random"], str(tmp_path / "out"))
  assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
  "method, more, said",
  [
    ("nearest", [], "none of random.*"),
    ("ifd", [], "language model"),
    ("random,random", [], "each once"),
    ("", [], "needs"),
    ("grand", ["--config.subset.matched=tail"], "matched=tail"),
    ("grand", ["--config.subset.chunk=0"], "subset.chunk=0"),
    ("grand", ["--config.subset.chunk=10000"], "use a smaller subset.chunk"),
  ],
)
def test_bad_input_is_refused_in_a_line_and_nothing_is_written(
  tmp_path, capsys, monkeypatch, method, more, said
):
  monkeypatch.setattr(selecting.devices, "room", lambda: 10**6)
  out = tmp_path / "out"
  assert select(out, method, *more) == 2
  last = capsys.readouterr().err.strip().splitlines()[-1]
  assert last.startswith("gmdistill: ")
  assert re.search(said, last), last
  assert not out.exists()
