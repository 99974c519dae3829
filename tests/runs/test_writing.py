"""gmdistill write: rows of a language model, filtered, and gone on with."""

import json
import pathlib
import re

import numpy as np
import pytest
import tiny_config
import tiny_language
from etils import epath

from gmdistill import errors, main
from gmdistill.data import texts as row_texts
from gmdistill.runs import writer_rewards, writing, written_filters
from gmdistill.runs.config import assembly, recipe, settings
from gmdistill.sets import text_sets
from gmdistill.students import made_up
from gmdistill.teachers import writers

TESTS = pathlib.Path(__file__).parents[1]
CONFIG = f"--config={TESTS / 'tiny_config.py'}"


WORDS = (
  "red green blue black white grey pink brown".split(),
  "one two three four five six seven eight".split(),
)
NAMES = ("colours", "numbers")


def sentence(rng, label):
  """Words of a class, with some of the other."""
  shares = np.repeat([0.11, 0.015], 8)[:: 1 if label == 0 else -1]
  return " ".join(
    rng.choice([*WORDS[0], *WORDS[1]], rng.integers(6, 11), p=shares)
  )


@pytest.fixture(scope="module")
def data(tmp_path_factory):
  """A table whose classes have words of their own."""
  rng = np.random.default_rng(0)
  path = tmp_path_factory.mktemp("data") / "rows.jsonl"
  rows = [
    {"text": sentence(rng, i % 2), "label": NAMES[i % 2], "split": split}
    for split, count in (("train", 120), ("test", 20))
    for i in range(count)
  ]
  path.write_text("".join(json.dumps(row) + "\n" for row in rows))
  return str(path)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
  return str(made_up.write(tmp_path_factory.mktemp("writer") / "llama"))


@pytest.fixture
def write(model, data):
  """Runs the command, with filters that the made-up decoder's words pass."""

  def run(workdir, **fields):
    fields = {
      "data.name": data,
      "writer.model": model,
      "writer.num_candidates": 40,
      "writer.shots": 2,
      "writer.max_tokens": 8,
      "writer.length_quantile": 0.0,
      "writer.confidence": 0.01,
      "subset.num_students": 1,
      "subset.num_steps": 2,
      "subset.checkpoints": 1,
    } | fields
    flags = [f"--config.{name}={value}" for name, value in fields.items()]
    return main.main(
      ["gmdistill", "write", CONFIG, f"--workdir={workdir}", *flags]
    )

  return run


def lines_of(path):
  return [json.loads(x) for x in path.read_text().splitlines()]


def test_texts_are_as_long_as_rows_in_the_template_that_both_have(tmp_path):
  config = recipe.changed(
    settings.recipe(tiny_language.get_config(tmp_path, "classes")),
    writer__confidence=0.0,
    dedup__similarity=1.0,
  )
  setup = assembly.setup(config)
  parts = row_texts.by_part(config.data, setup.corpus)
  candidates = written_filters.Candidates(
    list(parts["reported"]), setup.corpus.reported.labels
  )
  found = written_filters.kept(candidates, setup, config, parts["train"])
  assert not {"too short", "too long"} & set(found.reasons)


def test_what_is_written_is_a_text_set_and_the_others_say_why_not(
  write, tmp_path, capsys
):
  assert write(tmp_path) == 0
  rows, dropped = (
    lines_of(tmp_path / f"{x}.jsonl") for x in ("written", "dropped")
  )
  done = json.loads((tmp_path / "write.json").read_text())
  said = capsys.readouterr().out
  names = list(done["kept"])
  assert len(rows) + len(dropped) == done["candidates"] == 80
  for reason, counts in done["dropped"].items():
    own = [x for x in dropped if x["reason"] == reason]
    assert sum(counts.values()) == len(own)
    assert f"dropped, {reason}: {len(own)}" in said
  for row in rows:
    assert row["source"] == "written" and 0 <= row["overlap"] <= 1
    assert 0.01 <= row["probability"] <= 1
  read = text_sets.read(epath.Path(tmp_path / "written.jsonl"), names)
  assert read.texts == tuple(row["text"] for row in rows)
  card = text_sets.read_card(epath.Path(tmp_path / "written.jsonl"), names)
  assert card["texts"]["file"] == "written.jsonl"
  assert card["writer"]["id"] == done["asked"]["writer"]
  labels = read.labels.argmax(axis=1)
  assert np.bincount(labels).tolist() == list(done["kept"].values())


def test_a_stopped_call_goes_on_and_ends_in_the_same_bits(
  write, tmp_path, monkeypatch
):
  calls, whole = [], writers.write

  def counted(*args):
    calls.append(args[3])
    if len(calls) == 3:
      raise KeyboardInterrupt
    return whole(*args)

  monkeypatch.setattr(writers, "write", counted)
  one, more, again = (tmp_path / x for x in ("one", "more", "again"))
  fields = {"writer.seed": 5}
  assert write(one, **fields) == 130
  assert not one.exists()
  assert write(one, **fields) == 0
  assert calls == [0, 32, 10**6, 10**6, 10**6 + 32]
  # Other filters, and more texts, read what is there.
  fields |= {"writer.confidence": 0.02, "writer.num_candidates": 64}
  assert write(more, **fields) == 0
  assert calls[5:] == [32, 10**6 + 32]
  monkeypatch.setattr(writing.cache, "read_facts", lambda entry: None)
  assert write(again, **{"writer.seed": 5}) == 0
  for name in ("written.jsonl", "dropped.jsonl"):
    assert (one / name).read_bytes() == (again / name).read_bytes()


def test_pairs_are_written_as_pairs(write, tmp_path, monkeypatch, capsys):
  rng = np.random.default_rng(3)
  rows = [
    {"text": sentence(rng, i % 2), "more": sentence(rng, i % 2),
     "label": NAMES[i % 2]}
    for i in range(40)
  ]  # fmt: skip
  data = tmp_path / "pairs.jsonl"
  data.write_text("".join(json.dumps(row) + "\n" for row in rows))
  seen = []

  def lines(writer, options, prompts, first, stops):
    seen.append(writer.tokenizer.decode(prompts[0]))
    own = [f"{sentence(rng, 0)} | {sentence(rng, 1)}" for _ in prompts]
    own[0] = own[0].replace("|", "")
    return [writers.Written(line, True) for line in own]

  monkeypatch.setattr(writers, "write", lines)
  fields = {
    "data.name": data,
    "data.text_keys": "text,more",
    "writer.confidence": 0.0,
    "writer.num_candidates": 4,
    "writer.seed": 77,
  }
  assert write(tmp_path / "out", **fields) == 0
  assert seen[0].count("\ncolours:") == 2 and seen[0].count(" | ") == 2
  written = lines_of(tmp_path / "out/written.jsonl")
  assert written and all(len(row["texts"]) == 2 for row in written)
  assert "dropped, empty: 2" in capsys.readouterr().out


def test_a_taught_writer_leaves_its_adapter_and_writes_other_texts(
  write, tmp_path, capsys, monkeypatch
):
  plain, taught, again = (tmp_path / x for x in ("plain", "taught", "again"))
  fields = {"writer.num_candidates": 32, "subset.sketch": 32}
  assert write(plain, **fields) == 0
  fields |= {
    "writer.reward_steps": 2,
    "writer.reward_rows": 4,
    "writer.reward_rank": 2,
    "writer.reward_rate": 0.3,
  }
  assert write(taught, **fields) == 0
  assert "reward of the first batch" in capsys.readouterr().out
  done = json.loads((taught / "write.json").read_text())
  assert len(done["rewards"]) == 2 and np.abs(done["rewards"]).max() <= 1
  config = json.loads((taught / "adapter/adapter_config.json").read_text())
  assert config["r"] == 2
  one, other = (x / "dropped.jsonl" for x in (plain, taught))
  assert one.read_bytes() != other.read_bytes()

  def refuse(*args):
    raise AssertionError("it is kept")

  monkeypatch.setattr(writer_rewards.rewards, "train", refuse)
  assert write(again, **fields) == 0
  assert (again / "dropped.jsonl").read_bytes() == other.read_bytes()


@pytest.fixture(scope="module")
def tiny(data):
  config = settings.recipe(tiny_config.get_config())
  config = recipe.changed(
    config,
    data__name=data,
    data__max_length=16,  # no row is cut
    writer__length_quantile=0.1,
    writer__confidence=0.0,
    subset__num_students=1,
    subset__num_steps=100,
    student__kind="textcnn",
    coreset_pool=60,
    subset__checkpoints=1,
    subset__learning_rate=1e-2,
  )
  setup = assembly.setup(config)
  real = list(row_texts.by_part(config.data, setup.corpus)["train"])
  return config, setup, real


def candidates(*more):
  """New texts of both classes, and some more that are asked for as colours."""
  rng = np.random.default_rng(1)
  labels = np.concatenate([np.repeat([0, 1], 20), np.zeros(len(more), int)])
  own = [sentence(rng, label) for label in labels[:40]]
  return written_filters.Candidates([*own, *more], labels)


def test_each_filter_drops_what_it_is_for(tiny):
  config, setup, real = tiny
  plain = written_filters.kept(candidates(), setup, config, real)
  good = candidates().texts[int(plain.rows[0])]
  copied = next(text for text in real if len(text.split()) == 8)
  more = [None, "red", "red one " * 20, copied.upper() + "!", f"{good}."]
  found = written_filters.kept(candidates(*more), setup, config, real)
  assert found.reasons[-5:] == [
    "empty",
    "too short",
    "too long",
    "copy of a training row",
    "copy of a written row",
  ]
  assert found.reasons[:-5] == plain.reasons
  assert np.isnan(found.probabilities).all()  # nobody was asked


def test_students_doubt_wrong_labels_more_than_right_ones(tiny):
  config, setup, real = tiny
  config = recipe.changed(config, writer__confidence=1e-6)
  right = candidates()
  wrong = right._replace(labels=1 - right.labels)
  told, of_wrong = (
    written_filters.kept(x, setup, config, real) for x in (right, wrong)
  )
  assert told.probabilities.mean() > of_wrong.probabilities.mean() + 0.1
  least = float(np.median(told.probabilities))
  config = recipe.changed(config, writer__confidence=least)
  some = written_filters.kept(right, setup, config, real)
  expected = told.rows[told.probabilities >= least]
  np.testing.assert_array_equal(some.rows, expected)
  assert set(some.reasons) - set(told.reasons) == {"doubted"}


def test_what_leaves_a_class_nothing_names_the_filter_and_its_field(tiny):
  config, setup, real = tiny
  for fields, words in (
    ({"writer__confidence": 1.0}, "doubted.*a smaller writer.confidence"),
    ({"dedup__similarity": 0.0}, "copy of a training row.*dedup.similarity"),
  ):
    own = recipe.changed(config, **fields)
    with pytest.raises(errors.InputError, match=words):
      written_filters.kept(candidates(), setup, own, real)


def test_a_prompt_shows_rows_as_lines_and_ends_before_the_text():
  options = writers.Options(template="A {label} line: {text}")
  shots = ["two\nlines  {label}", ("a", "pair")]
  assert writers.prompt(options, "good", shots) == (
    "A good line: two lines {label}\nA good line: a | pair\nA good line:"
  )
  assert writers.as_text("a | pair | more", pair=True) == ("a", "pair | more")
  assert writers.as_text("a", pair=True) is None
  assert writers.as_text("", pair=False) is None


@pytest.mark.parametrize("fields, words", [
  ({"writer.model": ""}, "--config.writer.model=DIR"),
  ({"writer.model": "/no/where"}, "writer.model=/no/where: .* not a directory"),
  ({"writer.model": TESTS / "tiny_bert"}, "model_type bert, .*use a decoder"),
  ({"writer.shots": 10**6}, "training rows of the class .*use at most"),
  ({"writer.template": "{text} is {label}"}, "must be a line that names"),
  ({"writer.max_tokens": 512}, "use a smaller writer.max_tokens"),
  ({"task.kind": "next_token"}, "write is of rows that have classes"),
])  # fmt: skip
def test_bad_input_is_one_line_and_nothing_is_written(
  write, tmp_path, capsys, fields, words
):
  assert write(tmp_path / "out", **fields) == 2
  last = capsys.readouterr().err.strip().splitlines()[-1]
  assert last.startswith("gmdistill: ") and re.search(words, last), last
  assert not (tmp_path / "out").exists()
