"""Numbers beside the accuracy: their laws, and where they are told."""

import json
import re

import numpy as np
import pytest
import tiny_config

from gmdistill import errors
from gmdistill.data import loading
from gmdistill.evaluation import metrics
from gmdistill.reports import finished, markdown, tables
from gmdistill.runs.commands import using
from gmdistill.runs.config import assembly, outputs, settings

TRUE = np.array([0, 0, 0, 0, 1, 1, 2, 2])
OF_CLASSES = [x for x in metrics.METRICS if x not in metrics.OF_LOGITS]
of_each = pytest.mark.parametrize("name", OF_CLASSES)


@of_each
def test_a_metric_has_a_title_in_tables(name):
  assert tables.METRICS[name] != name


@of_each
def test_a_metric_is_one_where_all_rows_are_right_and_less_elsewhere(name):
  of = metrics.METRICS[name]
  assert of(TRUE, TRUE) == pytest.approx(1.0)
  assert of(TRUE, TRUE[::-1]) < 1.0


@of_each
def test_a_metric_is_a_number_where_one_class_is_all_there_is(name):
  of, zeros = metrics.METRICS[name], np.zeros(8, int)
  assert np.isfinite([of(TRUE, zeros), of(zeros, zeros), of(zeros, TRUE)]).all()


@pytest.mark.parametrize("name", metrics.OF_LOGITS)
def test_a_metric_of_logits_is_least_where_the_true_class_is_sure(name):
  of, sure = metrics.METRICS[name], 9.0 * np.eye(3)
  assert 0 <= of(TRUE, sure[TRUE]) < of(TRUE, np.zeros((8, 3)))
  assert of(TRUE, np.zeros((8, 3))) < of(TRUE, sure[TRUE[::-1]])


def test_macro_f1_counts_a_rare_class_as_a_common_one():
  # Of class 0, precision 4/8 and recall 1; of the others, nothing.
  said = metrics.macro_f1(TRUE, np.zeros(8, int))
  assert said == pytest.approx((2 / 3) / 3)


def test_kappa_is_what_its_formula_says_and_a_far_miss_costs_more():
  near, far = TRUE.copy(), TRUE.copy()
  near[0], far[0] = 1, 2
  for predicted in (near, far):
    seen = np.zeros((3, 3))
    np.add.at(seen, (TRUE, predicted), 1)
    chance = np.outer(seen.sum(1), seen.sum(0)) / 8
    weights = np.square(np.subtract.outer(range(3), range(3)))
    by_hand = 1 - (weights * seen).sum() / (weights * chance).sum()
    said = metrics.quadratic_kappa(TRUE, predicted)
    assert said == pytest.approx(by_hand)
  assert metrics.quadratic_kappa(TRUE, far) < metrics.quadratic_kappa(
    TRUE, near
  )
  rng = np.random.default_rng(0)
  by_chance = metrics.quadratic_kappa(*rng.integers(3, size=(2, 20_000)))
  assert abs(by_chance) < 0.03


def test_kappa_counts_the_steps_over_a_class_that_no_row_has():
  true, predicted = np.array([1, 3, 4, 4, 1]), np.array([1, 4, 4, 3, 3])
  gaps = np.square(np.subtract.outer(true, predicted))  # each with each: chance
  by_hand = 1 - np.diag(gaps).mean() / gaps.mean()
  assert metrics.quadratic_kappa(true, predicted) == pytest.approx(by_hand)


def test_an_unknown_metric_is_refused_by_name():
  with pytest.raises(errors.InputError, match="metrics=f1 .*macro_f1"):
    metrics.require_known(("f1",))


@pytest.fixture(scope="module")
def graded(tmp_path_factory):
  """A folder of graded rows: three grades, two reported parts."""
  folder = tmp_path_factory.mktemp("graded")
  rng = np.random.default_rng(0)
  words = {"bad": "dull weak", "fair": "plain usual", "good": "fine great"}
  for name, count in (("train", 60), ("test_near", 9), ("test_far", 9)):
    lines = [
      {"text": " ".join(rng.choice(words[g].split(), 6)), "label": g}
      for g in list(words) * (count // 3)
    ]
    text = "\n".join(map(json.dumps, lines))
    (folder / f"{name}.jsonl").write_text(text)
  return str(folder)


@pytest.fixture(scope="module")
def row(graded):
  """A measured row of a table that tells metrics."""
  config = tiny_config.get_config("polish")
  config.data.update(
    name=graded, classes=("bad", "fair", "good"), group_key="file"
  )
  config.student.width = 8
  config.replay.update(rates=(0.1,), head_scales=(1.0,), num_students=2)
  config.metrics = ("quadratic_kappa", "macro_f1")
  read = settings.recipe(config)
  table = outputs.table(assembly.setup(read), read)
  return table.coreset("replay", assembly.protocol(read, "replay"), "random")


def test_a_row_tells_the_metrics_of_the_split_and_of_each_part(row):
  assert set(row["metrics"]) == {"quadratic_kappa", "macro_f1"}
  for found in row["metrics"].values():
    assert -1 <= found["mean"] <= 1 and found["std"] >= 0
  assert set(row["by_group"]) == {"test_near", "test_far"}
  assert set(row["metrics_by_group"]) == set(row["by_group"])
  # Of parts of one size, the accuracy is the mean of theirs.
  parts = np.mean(list(row["by_group"].values()))
  assert row["mean"] == pytest.approx(parts, abs=1e-6)


def test_tables_show_metrics_beside_the_accuracy_and_by_part(row, tmp_path):
  for seed in (0, 1):
    summary = {"schema": 1, "seed": seed, "dataset": "grades"}
    summary["protocols"] = {"replay": {"random": row, "distilled": row}}
    folder = tmp_path / f"seed_{seed}"
    folder.mkdir()
    (folder / "summary.json").write_text(json.dumps(summary))
    (folder / "config.json").write_text(json.dumps({"seed": seed}))
  rows = tables.results_table(finished.load_run(tmp_path / "seed_0"))
  header, *_ = tables.as_text(rows).splitlines()
  assert header.index("accuracy") < header.index("quadratic weighted kappa")
  assert "macro-F1" in header
  header, body = tables.group_cells(rows)
  assert header[-2:] == ["test_far", "test_near"]
  assert len(body) == 2 * 3  # two rows; accuracy and two metrics
  text = markdown.table("groups", [tmp_path])
  assert text.count("macro-F1") == 2 and "test_near" in text


def test_classes_have_the_order_that_is_given_or_are_refused(graded):
  corpus = loading.load(loading.Options(name=graded, classes="good,fair,bad"))
  assert corpus.label_names == ("good", "fair", "bad")
  words = corpus.tokenizer.tokens
  row = [words[x] for x in corpus.train.token_ids[0]]
  of_row = corpus.label_names[corpus.train.labels[0]]
  assert {"bad": "dull", "fair": "plain", "good": "fine"}[of_row] in row
  with pytest.raises(errors.InputError, match="which are bad, fair, good"):
    loading.load(loading.Options(name=graded, classes="good,bad"))
  with pytest.raises(errors.InputError, match="of rows in files"):
    loading.load(loading.Options(name="docstrings", classes="a,b"))


def test_evaluate_prints_nats_as_nats_and_shares_in_percent(capsys):
  told = {"nats": (0.52, 0.01), "macro_f1": (0.74, 0.02)}
  metrics = {x: {"mean": mean, "std": std} for x, (mean, std) in told.items()}
  row = {"row": "random", "unit": "accuracy", "mean": 0.8, "std": 0.01, "n": 2}
  using._show({"scratch": row | {"metrics": metrics}})
  header, line = capsys.readouterr().out.splitlines()
  assert re.split("  +", header)[2:] == [
    *("accuracy, %", "nats", "macro_f1, %", "students")
  ]
  assert re.split("  +", line)[3:5] == ["0.520 ± 0.010", "74.0 ± 2.0"]
