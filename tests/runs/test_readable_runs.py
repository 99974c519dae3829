"""Runs whose set stays text: rows, labels and weights."""

import contextlib
import json

import jax
import numpy as np
import pytest
import tiny_config
import tiny_language
from command_line import CONFIG, command
from etils import epath

from gmdistill import errors
from gmdistill.data import texts as row_texts
from gmdistill.objectives import bank_building
from gmdistill.runs import (
  alternating,
  candidates,
  jobs,
  leading_rows,
  start_rows,
)
from gmdistill.runs.commands import shared
from gmdistill.runs.config import assembly, recipe, settings
from gmdistill.sets import set_files, synthetic
from gmdistill.system import processes

FIELDS = dict(
  readable=True,
  labels="softmax",
  objective="look_ahead",
  sequence_length=12,
  num_steps=4,
  eval_every=2,
  protocols=("scratch",),
)


def changed(**fields):
  config = settings.recipe(tiny_config.get_config())
  return recipe.changed(config, **(FIELDS | fields))


def test_a_readable_run_leaves_rows_that_train_as_its_embeddings_do(
  tmp_path, capsys
):
  workdir = tmp_path / "run"
  flags = [f"--config.{name}={value}" for name, value in FIELDS.items()]
  flags += ["--config.initialise=learned_weights", "--config.choice.pool=4"]
  flags += ["--config.choice.rounds=1", "--config.choice.num_steps=2"]
  assert not command("distill", CONFIG, *flags, f"--workdir={workdir}")
  lines = (workdir / "set" / "set.jsonl").read_text().splitlines()
  rows = [json.loads(line) for line in lines]
  assert len(rows) == 8
  assert all(row["overlap"] == 1 for row in rows)  # every one a training row
  assert len({round(row["weight"], 3) for row in rows}) > 1  # they are learned
  card = json.loads((workdir / "set" / "card.json").read_text())
  assert card["source_rows"] == [row["source"] for row in rows]
  assert card["texts"]["rows"] == 8
  page = (workdir / "report.html").read_text()
  assert rows[0]["text"][:20] in page
  capsys.readouterr()
  found = []
  for given in (workdir / "set", workdir / "set" / "set.jsonl"):
    assert not command(
      "evaluate", f"--set={given}", "--protocol=scratch", "--json"
    )
    found.append(json.loads(capsys.readouterr().out)["scratch"]["mean"])
  assert found[0] == pytest.approx(found[1], abs=0.02)


def test_only_labels_and_weights_are_learned():
  job = jobs.prepare(changed())
  syn = job.parameterization.decode(job.params)
  train = job.setup.corpus.train
  np.testing.assert_array_equal(syn.batch.inputs, train.token_ids[job.rows])
  np.testing.assert_allclose(syn.batch.labels.sum(axis=1), 1, rtol=1e-5)
  assert isinstance(syn, synthetic.SyntheticSet)
  embedded = synthetic.embedded(syn, job.setup.problem.embed)
  assert set_files.num_bytes(embedded) > 0


@pytest.mark.parametrize("fields", [
  {"initialise": "matching_pursuit", "choice__states": 2,
   "choice__sketch": 64, "choice__pool": 6},
  {"initialise": "herding", "choice__exchanges": 3, "choice__pool": 6},
  {"initialise": "learned_weights", "choice__rounds": 1, "choice__pool": 4,
   "choice__num_steps": 1, "choice__diversity": 1.0, "choice__exchanges": 2},
])  # fmt: skip
def test_rows_are_chosen_class_by_class_and_kept(fields):
  config = changed(choice__matched="head", **fields)
  job = jobs.prepare(config)
  labels = job.setup.corpus.train.labels[job.rows]
  assert labels.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
  assert len(set(job.rows.tolist())) == 8
  again = leading_rows.choose(
    job.setup, config, job.stages[0], job.mesh, job.draws[0]
  )
  np.testing.assert_array_equal(again.rows, job.rows)


def test_a_stopped_choice_goes_on_after_its_last_round(monkeypatch):
  config = changed(
    initialise="learned_weights", choice__rounds=3, choice__pool=6, seed=7
  )
  setup, taken = assembly.setup(config), []

  def learned(run, chosen, label):
    taken.append(len(chosen.rows))
    if taken == [24, 16]:
      raise KeyboardInterrupt
    return np.arange(len(chosen.rows), dtype=float) + 1

  monkeypatch.setattr(leading_rows, "_learned_weights", learned)
  arguments = (setup, config, None, None, None)
  with pytest.raises(KeyboardInterrupt):
    leading_rows.choose(*arguments)
  chosen = leading_rows.choose(*arguments)
  assert taken == [24, 16, 16, 12]  # the first round was kept
  assert len(chosen.rows) == 8


@pytest.fixture(scope="module")
def halves(tmp_path_factory):
  """A bank of bfloat16, of the rows of `tiny_config`."""
  config = changed(
    bank__num_trajectories=1,
    bank__ages=(0,),
    bank__rows_per_class=2,
    bank__precision="bfloat16",
  )
  folder = tmp_path_factory.mktemp("bank")
  options = assembly.bank_options(config)
  return bank_building.build(folder, assembly.setup(config), options)


def test_exchanges_and_projections_read_a_bank_s_halves_in_float32(halves):
  read = {"bank__dir": str(halves), "look_ahead__start": "bank"}
  rows = jobs.prepare(changed(**read, choice__exchanges=1, choice__pool=2)).rows
  assert len(rows) == 8
  job = jobs.prepare(changed(**read, readable=False, sequence_length=6))
  syn = jax.jit(job.parameterization.decode)(job.params)
  ids, _ = alternating.alternate(job, syn, rounds=1, num_steps=1, penalty=1.0)
  assert ids.shape == (8, 6)


def test_rows_are_chosen_anew_by_another_bank(tmp_path, monkeypatch):
  config = changed(initialise="matching_pursuit", bank__dir=str(tmp_path))
  setup, taken = assembly.setup(config), []

  def choose(run, method):
    taken.append(method)
    return start_rows.Chosen(np.arange(8), np.ones(8))

  monkeypatch.setattr(leading_rows, "_choose", choose)
  for seed, times in ((1, 1), (1, 1), (2, 2)):
    (tmp_path / "bank.json").write_text(json.dumps({"options": {"seed": seed}}))
    leading_rows.choose(setup, config, None, None, None)
    assert len(taken) == times


def test_rows_are_chosen_by_all_processes_where_one_has_not_kept_them(
  monkeypatch,
):
  config = changed(initialise="matching_pursuit", seed=7)
  setup, taken = assembly.setup(config), []

  def choose(run, method):
    taken.append(method)
    return start_rows.Chosen(np.arange(8), np.ones(8))

  monkeypatch.setattr(leading_rows, "_choose", choose)
  leading_rows.choose(setup, config, None, None, None)
  # Another process has it not, and cannot choose alone.
  monkeypatch.setattr(processes, "largest", lambda value: max(value, 1))
  leading_rows.choose(setup, config, None, None, None)
  assert len(taken) == 2


def test_what_one_process_cannot_read_is_told_before_all_choose_together(
  monkeypatch, tmp_path
):
  @contextlib.contextmanager
  def together():
    try:
      yield
    except errors.InputError as error:
      raise errors.RefusedByAll(str(error)) from error

  monkeypatch.setattr(processes, "together", together)
  absent = str(tmp_path / "absent.jsonl")
  for fields in ({"choice__written": absent}, {"data__name": absent}):
    with pytest.raises(errors.RefusedByAll, match="absent"):
      jobs.prepare(changed(**fields))


def test_candidates_are_narrowed_where_there_are_more_rows_than_the_pool():
  base = changed(choice__matched="head", choice__sketch=64, choice__states=1)
  setup = assembly.setup(base)

  def drawn(pool, narrowed_from):
    choice = {"choice__pool": pool, "choice__narrowed_from": narrowed_from}
    return candidates.drawn(setup, recipe.changed(base, **choice))

  for pool, narrowed_from in ((10**5, 10**6), (5, 5), (5, 2)):
    np.testing.assert_array_equal(drawn(pool, narrowed_from), drawn(pool, 0))
  labels = setup.corpus.train.labels
  few = drawn(5, 20)
  assert labels[few].tolist() == [x for x in range(4) for _ in range(5)]
  assert len(set(few.tolist())) == 20 and (few != drawn(5, 0)).any()


@pytest.mark.parametrize("fields, words", [
  ({"labels": "unrestricted"}, "use softmax or hard"),
  ({"rank": 2}, "rank=2 is of embeddings"),
  ({"label_smoothing": 0.1}, "label_smoothing=0.1"),
  ({"objective": "look_ahead+0.1*token_distance"}, "leave it out"),
])  # fmt: skip
def test_what_cannot_be_written_as_text_is_refused(fields, words):
  with pytest.raises(errors.InputError, match=words):
    changed(**fields)


def test_too_few_short_rows_are_refused():
  with pytest.raises(errors.InputError, match="use a larger sequence_length"):
    jobs.prepare(changed(sequence_length=3))


def test_texts_are_read_as_rows_are_where_a_word_says_the_class(tmp_path):
  config = settings.recipe(tiny_language.get_config(tmp_path, "classes"))
  setup = assembly.setup(config)
  texts = row_texts.by_part(config.data, setup.corpus)["train"]
  train, names = setup.corpus.train, setup.corpus.label_names
  path = epath.Path(tmp_path / "texts.jsonl")
  rows = [
    {"text": texts[row], "label": names[train.labels[row]]} for row in range(5)
  ]
  path.write_text("".join(json.dumps(row) + "\n" for row in rows))
  syn, _ = shared.fitting_set(setup, path, config)
  np.testing.assert_array_equal(syn.batch.mask, train.mask[:5])
  np.testing.assert_array_equal(
    np.where(syn.batch.mask, syn.batch.inputs, 0),
    np.where(train.mask[:5], train.token_ids[:5], 0),
  )
  rows[2] = {"texts": ["one", "two"], "label": names[0]}
  path.write_text("".join(json.dumps(row) + "\n" for row in rows))
  with pytest.raises(errors.InputError, match="row 3 of the texts has two"):
    shared.fitting_set(setup, path, config)
