"""What a set gives away of its rows is told."""

import json
import pathlib
import shutil

import jax.numpy as jnp
import numpy as np
import pytest
import tiny_config
import tiny_language

from gmdistill import main
from gmdistill.data import batches
from gmdistill.data import texts as row_texts
from gmdistill.evaluation import audits, common_runs, membership
from gmdistill.runs import first_set, start_rows
from gmdistill.runs.commands import auditing, projecting
from gmdistill.runs.config import assembly, recipe, settings
from gmdistill.sets import synthetic, text_sets
from gmdistill.system import paths

CONFIG = f"--config={pathlib.Path(__file__).parents[1] / 'tiny_config.py'}"


@pytest.fixture(scope="module")
def tiny():
  config = settings.recipe(tiny_config.get_config())
  return config, assembly.setup(config)


@pytest.fixture(scope="module")
def texts(tiny):
  config, setup = tiny
  return row_texts.by_part(config.data, setup.corpus)


def audited(tiny, folder, rows):
  """Returns the audit of a file of these rows."""
  config, setup = tiny
  path = paths.path(folder / "set.jsonl")
  path.write_text("\n".join(map(json.dumps, rows)))
  return auditing.of_set(setup, config, path)


def test_a_set_of_chosen_rows_is_told_to_be_copies(tiny, texts, tmp_path):
  _, setup = tiny
  rows = [
    int(np.flatnonzero(setup.corpus.train.labels == c)[7]) for c in range(4)
  ]
  labels = np.eye(4)[setup.corpus.train.labels[rows]]
  chosen = text_sets.of_rows(rows, texts["train"], labels)
  names = setup.corpus.label_names
  told = text_sets.lines(chosen, names, list(texts["train"]))
  found = audited(tiny, tmp_path, told)
  assert found["copies"]["rows"] == found["rows"] == 4
  assert found["copies"]["longest_run"]["share_of_row"] == 1
  assert found["membership"]["start_rows"] == 4
  assert found["membership"]["start_against_other_rows"] > 0.99
  assert found["distance"]["set"] < 0.1 * found["distance"]["held_out"]
  assert [x["rows"] for x in found["labels"].values()] == [1] * 4
  said = auditing.as_text(found)
  assert "4 of 4 rows are copies of training rows" in said
  assert "gives away which rows it started from" in said


def test_planted_rows_are_caught_whatever_the_file_says(tiny, texts, tmp_path):
  def longest(part):
    return max(range(len(texts[part])), key=lambda i: len(texts[part][i]))

  stolen, leaked = longest("train"), longest("reported")
  words = texts["train"][stolen].split()
  found = audited(
    tiny,
    tmp_path,
    [
      {"text": texts["train"][stolen], "label": 0, "source": "written"},
      {"text": texts["reported"][leaked], "label": 1, "source": "written"},
      {"text": " ".join(words[: len(words) // 3]), "label": 2},
      {"text": "Quite another sentence of nobody's.", "label": 2},
    ],
  )
  assert found["copies"]["of"][0] == stolen
  assert leaked in found["leakage"]["of"]
  assert found["membership"]["start_against_other_rows"] is None
  assert found["copies"]["parts"]["rows"] == 1
  said = " ".join(auditing.verdicts(found))
  assert "copies of training rows" in said and "copies of reported rows" in said
  assert "1 of 4 rows are parts of training rows" in said


def test_an_attack_that_succeeds_is_said():
  none = {"start_against_other_rows": None, "training_against_held_out": None}
  copies = {"rows": 0, "parts": {"rows": 0}}
  found = {"rows": 1, "copies": copies, "leakage": {"rows": 0}}
  for key, words in (
    ("start_against_other_rows", "which rows it started from"),
    ("training_against_held_out", "gives them away, or the two splits differ"),
  ):
    for auc, told in ((0.9, True), (0.6, False)):
      (said,) = auditing.verdicts(found | {"membership": none | {key: auc}})
      assert (words in said) == told == ("none of the attacks" not in said)


def test_texts_of_nobody_are_not_accused(tiny, tmp_path):
  rows = [
    {"text": f"Sheep number {i} jumps over fence {i * i}", "label": i % 4}
    for i in range(8)
  ]
  found = audited(tiny, tmp_path, rows)
  assert not found["copies"]["rows"] and not found["leakage"]["rows"]
  assert found["copies"]["eight_words"]["set"] == 0
  assert auditing.verdicts(found) == [
    "No row is a copy, and none of the attacks here succeeds."
  ]


def test_a_runs_set_is_audited_into_its_card(finished_run, tmp_path, capsys):
  workdir = tmp_path / "run"  # whose card is written: a copy
  shutil.copytree(
    finished_run[0], workdir, ignore=shutil.ignore_patterns("checkpoints")
  )
  given = f"--set={workdir / 'set'}"
  to = f"--workdir={tmp_path / 'audit'}"
  assert not main.main(["gmdistill", "audit", given, to, "--json"])
  found = json.loads(capsys.readouterr().out)
  assert found == json.loads((tmp_path / "audit" / "audit.json").read_text())
  card = json.loads((workdir / "set" / "card.json").read_text())
  assert card["audit"] == found
  # After a few steps it is its start rows still.
  assert found["membership"]["start_rows"] == 8
  assert found["membership"]["start_against_other_rows"] > 0.9


def test_a_set_of_a_language_model_is_read_from_its_end(tmp_path):
  config = settings.recipe(tiny_language.get_config(tmp_path, "classes"))
  setup = assembly.setup(config)
  stored = assembly.parameterization(config, setup.problem)
  batch = stored.decode(first_set.first_params(setup, config, stored)).batch
  rows = start_rows.by_name(setup, config)
  texts = row_texts.by_part(config.data, setup.corpus)
  told = audits.as_texts(
    batch, setup.problem.embeddings, setup.corpus.tokenizer
  )
  for text, row in zip(told, rows, strict=True):
    *words, last = text.split()
    assert last == "answer:" and " ".join(words[1:]) in texts["train"][row]
  subject = audits.Subject(told, batch, np.asarray(batch.labels), rows)
  real = audits.Parts(texts["train"], texts["reported"])
  found = audits.audit(setup, subject, real)
  assert found["membership"]["start_against_other_rows"] > 0.99
  made = projecting._made(
    recipe.changed(config, projections__rounds=0),
    setup,
    synthetic.SyntheticSet(batch),
  )
  assert "likely tokens" in made
  nearest = synthetic.embedded(made["nearest real rows"], setup.problem.embed)
  np.testing.assert_allclose(
    nearest.batch.inputs, jnp.asarray(batch.inputs), atol=1e-6
  )


def test_of_a_set_of_all_training_rows_no_other_row_is_known(tiny):
  _, setup = tiny
  train = setup.corpus.train
  batch = batches.as_batch(batches.take(train, np.arange(3)), 4)
  every, rng = np.arange(len(train.labels)), np.random.default_rng(0)
  found = membership.attacks(setup, batch, every, np.arange(3), rng)
  assert found["training_against_held_out"] is None
  assert found["start_against_other_rows"] is None


def test_runs_of_tokens_are_the_longest_in_common():
  found = common_runs.longest_runs(
    [[1, 2, 3, 4], [9, 9], [7]], [[0, 2, 3, 5], [7, 8]]
  )
  assert found.tolist() == [2, 0, 1]


def test_the_area_under_the_curve_is_the_share_of_pairs_in_order():
  positive, negative = np.array([3.0, 1.0]), np.array([0.0, 1.0])
  assert membership.auc(positive, negative) == pytest.approx(3.5 / 4)
