"""A set under many ways of training, and the order it puts students in."""

import json
import pathlib
import types

import jax
import numpy as np
import pytest
import tiny_config
import tiny_language
from command_line import CONFIG, command
from conftest import make_examples, make_problem, make_synthetic

from gmdistill import errors
from gmdistill.data import batches
from gmdistill.evaluation import grids, measuring, rankings
from gmdistill.runs import alternating, jobs
from gmdistill.runs.commands import compared_students, comparing
from gmdistill.runs.config import recipe, settings
from gmdistill.sets import synthetic


def cell(ours, theirs, **fields):
  rows = {
    name: {"mean": mean, "std": 0.03, "n": 9}
    for name, mean in (("distilled", ours), ("k_centers", theirs))
  }
  return {"student": "own", "way": "sgd", "full": 0.8, "rows": rows} | fields


def test_a_grid_says_where_a_set_does_not_hold():
  held = cell(0.78, 0.6)
  near = cell(0.58, 0.6, way="adamw")  # within two standard errors
  found = grids.summary([held, near])
  assert not found["below"] and "all 2 ways" in found["sentence"]
  assert found["recovery"]["distilled"]["worst"] == pytest.approx(0.58 / 0.8)
  below = cell(0.3, 0.6, student="textcnn")
  found = grids.summary([held, near, below])
  assert found["below"] == ["textcnn, sgd"]
  assert "2 of 3" in found["sentence"] and "textcnn, sgd" in found["sentence"]
  mean = (0.78 + 0.58 + 0.3) / 3 / 0.8
  assert found["recovery"]["distilled"]["mean"] == pytest.approx(mean)


def test_a_set_whose_students_diverge_does_not_hold():
  nan = float("nan")
  lost, both = cell(nan, 0.6), cell(nan, nan)
  lost["rows"]["distilled"]["std"] = nan
  found = grids.summary([cell(0.78, 0.6), lost])
  assert found["below"] == ["own, sgd"] and "1 of 2" in found["sentence"]
  assert found["recovery"]["distilled"]["worst"] == 0
  assert found["recovery"]["k_centers"]["mean"] == pytest.approx(0.6 / 0.8)
  assert not grids.summary([both])["below"]
  full = [0.6, 0.7, 0.9, 0.8]
  ranked = rankings.ranked({"set": [0.1, nan, 0.4, 0.3]}, full)["set"]
  assert ranked["regret"] == 0 and ranked["tau"] == pytest.approx(2 / 3)


def test_sgd_descends():
  problem = make_problem()
  syn = synthetic.SyntheticSet(make_synthetic())
  way = grids.descending(
    num_steps=30, batch_size=8, rate=0.1, num_students=1, fresh=False
  )
  key = jax.random.key(0)
  after = jax.jit(way.train)(problem, syn, key, 0.1)
  before = jax.jit(way.train)(problem, syn, key, 0.0)
  assert problem.loss(after, syn.batch) < problem.loss(before, syn.batch) - 0.1


def test_equal_orders_have_tau_one_and_no_regret():
  full = [0.6, 0.7, 0.9, 0.8]
  found = rankings.ranked(
    {"same": [0.1, 0.2, 0.4, 0.3], "other": [0.4, 0.3, 0.1, 0.2]}, full
  )
  assert found["same"] == {"tau": pytest.approx(1), "regret": 0.0}
  assert found["other"]["tau"] == pytest.approx(-1)
  assert found["other"]["regret"] == pytest.approx(0.3)
  assert rankings.ranked({"flat": [0.5] * 4}, full)["flat"]["tau"] == 0


def test_robust_scores_are_between_their_ends():
  assert grids.robust_score(-1.0) == pytest.approx(0)
  assert grids.robust_score(1.0) == pytest.approx(1)
  # As good as all rows by hard labels, and 20 points above random.
  alpha = 0.5 * 0.2
  expected = (np.exp(alpha) - np.exp(-1)) / (np.exp(1) - np.exp(-1))
  assert grids.label_robust(0.8, 0.8, 0.6, 0.8) == pytest.approx(expected)
  # Soft labels alone help a set little: what they hide counts against it.
  assert grids.label_robust(0.8, 0.5, 0.6, 0.8) < expected
  plain = grids.augmentation_robust(0.8, 0.6, 0.8, 0.6)
  assert grids.augmentation_robust(0.8, 0.6, 0.6, 0.6) < plain


def test_an_augmented_set_has_copies_without_some_tokens():
  batch = batches.as_batch(make_examples(rows=10), 2)
  more = grids.dropped(batch, 0.3, 3, seed=0)
  assert len(more) == 30 and len(more.class_labels) == 30
  kept = np.asarray(more.mask).sum() / (3 * batch.mask.sum())
  assert 0.6 < kept < 0.95
  assert np.asarray(more.mask)[:, 0].all()


@pytest.fixture
def given(finished_run, tmp_path):
  """Arguments that measure a run's set by few students."""
  fields = {
    "grid.students": "('own','textcnn')",
    "grid.rates": "(1e-3,)",
    "grid.sgd_rates": "()",
    "grid.steps": "(3,)",
    "grid.num_students": 2,
    "ranking.layers": "(1,)",
    "ranking.rate_factors": "(1.0,)",
    "ranking.num_students": 2,
  }
  flags = [f"--config.{name}={value}" for name, value in fields.items()]
  source = f"--set={finished_run[0] / 'set'}"
  return [CONFIG, *flags, source, f"--workdir={tmp_path}", "--json"]


def test_evaluate_measures_a_grid(given, tmp_path, capsys):
  assert not command("evaluate", *given, "--protocol=grid")
  found = json.loads(capsys.readouterr().out)
  ways = {(x["student"], x["optimizer"]) for x in found["cells"]}
  assert ways >= {("own", "own"), ("own", "adamw"), ("textcnn", "adamw")}
  assert set(found["recovery"]) == {"distilled", "random", "k_centers"}
  assert found["sentence"] in found["table"]
  assert json.loads((tmp_path / "grid.json").read_text()) == found


def test_a_grid_has_students_of_fewer_layers_than_the_set_was_learned_for(
  monkeypatch,
):
  config = recipe.changed(
    settings.recipe(tiny_config.get_config()),
    objective="travelling",
    replay_steps=0,
    student__pretrained=str(pathlib.Path(__file__).parents[1] / "tiny_bert"),
    student__num_layers=2,
    travelling__students=("own", "transformer:2"),
  )
  monkeypatch.setattr(
    compared_students.shared, "fitting_set", lambda *_: (None, {})
  )
  student = compared_students.of_name("transformer:1", config, None)
  assert student.setup.problem.student.num_layers == 1


def test_evaluate_measures_a_ranking(given, tmp_path, capsys):
  assert not command("evaluate", *given, "--protocol=ranking")
  found = json.loads(capsys.readouterr().out)
  assert len(found["students"]) == 2
  assert {*found["rows"]} == {"distilled", "k_centers"}
  assert all(0 <= x <= 1 for x in found["scores"].values())
  assert (tmp_path / "ranking.json").is_file()


def test_a_grid_measures_sets_alone(given, capsys):
  assert command("evaluate", *given, "--protocol=grid", "--row=full") == 2
  assert "leave --row out" in capsys.readouterr().err


def test_a_folder_that_cannot_be_written_is_told_before_measuring(
  given, tmp_path, monkeypatch, capsys
):
  monkeypatch.setattr(comparing, "_grid", None)
  (tmp_path / "file").write_text("")
  to = f"--workdir={tmp_path / 'file'}"
  assert command("evaluate", *given, to, "--protocol=grid") == 2
  assert "cannot be written" in capsys.readouterr().err


@pytest.mark.parametrize("protocol, field, words", [
  ("grid", "grid.students=('own','textcnm')", "did you mean textcnn"),
  ("grid", "grid.students=()", "must be one or more"),
  ("ranking", "ranking.poolings=('first','middle')", "none of first, mean"),
  ("ranking", "ranking.layers=()", "must have one or more each"),
])  # fmt: skip
def test_students_that_there_are_not_are_told_before_measuring(
  given, monkeypatch, capsys, protocol, field, words
):
  monkeypatch.setattr(measuring, "measure", None)
  flag = f"--config.{field}"
  others = [x for x in given if not x.startswith(flag.split("=")[0])]
  assert command("evaluate", *others, f"--protocol={protocol}", flag) == 2
  assert words in capsys.readouterr().err


def test_a_word_is_said_by_no_student_that_tells_classes(tmp_path):
  config = settings.recipe(tiny_language.get_config(tmp_path, "classes"))
  with pytest.raises(errors.InputError, match="textcnn would be the Llama"):
    compared_students.of_name("textcnn", config, tmp_path)


def test_baselines_of_another_size_than_the_set_are_told(capsys):
  def student(rows):
    return types.SimpleNamespace(
      config=types.SimpleNamespace(
        per_group=2, has_classes=True, size_field="data_per_class"
      ),
      setup=types.SimpleNamespace(problem=types.SimpleNamespace(groups=2)),
      syn=synthetic.SyntheticSet(make_synthetic(per_class=rows)),
    )

  compared_students.say_size(student(2))
  assert not capsys.readouterr().err
  compared_students.say_size(student(5))
  said = capsys.readouterr().err
  assert "10 examples, and the baselines have 4" in said
  assert "--config.data_per_class=5" in said


def test_evaluate_measures_text_made_of_a_set(given, tmp_path, capsys):
  few = ["--config.projections.rounds=2", "--config.projections.num_steps=1"]
  assert not command("evaluate", *given, *few, "--protocol=projections")
  found = json.loads(capsys.readouterr().out)
  kinds = {"soft", "nearest tokens", "ADMM", "nearest real rows"}
  assert {*found["rows"]} == kinds
  assert all(len(row["texts"]) == 8 for row in found["rows"].values())
  assert (tmp_path / "projections.json").is_file()


def test_students_without_a_state_take_turns_with_tokens_too():
  config = recipe.changed(
    settings.recipe(tiny_config.get_config()),
    objective="distribution_matching+0.1*token_distance",
  )
  job = jobs.prepare(config)
  syn = job.parameterization.decode(job.params)
  ids, changed = alternating.alternate(
    job, syn, rounds=1, num_steps=1, penalty=1.0
  )
  assert ids.shape == syn.batch.mask.shape and 0 <= changed <= ids.size
