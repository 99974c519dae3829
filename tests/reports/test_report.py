"""Laws of the report, on workdirs that the tests write themselves."""

import itertools
import json
import re
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.figure import Figure
from safetensors import numpy as safetensors_numpy

from gmdistill import errors
from gmdistill.reports import (
  compared,
  comparison,
  figures,
  finished,
  headlines,
  opened,
  tables,
)
from gmdistill.reports import page as report_page

ROWS = ["random", "herding", "K-centers", "distilled", "full"]
TITLES = {
  "Accuracy under finetune",
  "Accuracy by step",
  "Loss",
  "Gradient cosine by step",
  "Features of real and synthetic examples",
}


def make_summary(data_per_class=2, seed=0, distilled=0.8):
  means = [0.6, 0.7, 0.72, distilled, 0.9]
  cells = [{"mean": mean, "std": 0.02, "n": 16} for mean in means]
  keys = ["random", "herding", "k_centers", "distilled", "full"]
  return {
    "schema": 1,
    "dataset": "sst2",
    "student": "transformer",
    "data_per_class": data_per_class,
    "sequence_length": 3,
    "seed": seed,
    "selection": {"step": 20, "accuracy": 0.81, "finetune": 0.79},
    "protocols": {
      "finetune": dict(zip(keys, cells, strict=True)),
      "replay": None,
    },
    "cost": {
      "distill_seconds": 312.0,
      "peak_memory_bytes": 3 * 2**30,
      "student_seconds_set": 2.0,
      "student_seconds_full": 80.0,
      "set_bytes": 2048,
      "real_text_bytes": 2**20,
      "break_even_students": 4.0,
    },
    "gradient_cosine": {
      "per_class": [0.98, 0.96],
      "mean": 0.97,
      "per_layer": {"layer 1": 0.9, "head": 0.99},
    },
  }


def make_metrics(num_steps=40):
  lines = []
  for step in range(0, num_steps, 2):
    record = {
      "step": step,
      "time": 0.1 * step,
      "outer/loss": 2.0 / (1 + step),
      "outer/grad_norm": 1.0 / (1 + step),
      "outer/learning_rate": 0.01,
      "outer/stage": step // 20,
      "matching/cosine": 0.5 + step / 100,
    }
    if step % 10 == 0:
      record |= {"selection/accuracy": 0.5 + step / 100, "selection/loss": 0.4}
    lines.append(json.dumps(record))
  return "\n".join(lines) + "\n"


def make_analysis(token="<unk>"):
  near = [{"token": token, "cosine": 0.9}, {"token": "[CLS]", "cosine": -0.2}]
  return {
    "examples": [
      {"label": i % 2, "labels": [1.2, -0.3], "tokens": [near, near]}
      for i in range(4)
    ],
    "projection": {
      "method": "PCA of student features",
      "real": [[0.1 * i, 0.2, i % 2] for i in range(20)],
      "synthetic": [[0.5, 0.1 * i, i % 2] for i in range(4)],
      "explained": [0.6, 0.1],
    },
  }


def make_run(workdir, summary=None, seed=0, **fields):
  """A workdir with every file that a finished run leaves."""
  (workdir / "set").mkdir(parents=True)
  files = {
    "config.json": {
      "objective": "gradient_matching,look_ahead",
      "seed": seed,
      "data": {"name": "sst2"},
      **fields,
    },
    "environment.json": {
      "gmdistill": "0.1.0",
      "devices": ["cpu:0"],
      "git_commit": None,
      "command": "gmdistill distill --config=sst2",
    },
    "summary.json": summary or make_summary(seed=seed),
    "analysis.json": make_analysis(),
    "set/card.json": {"label_names": ["negative", "<positive>"]},
  }
  for name, content in files.items():
    (workdir / name).write_text(json.dumps(content))
  (workdir / "metrics.jsonl").write_text(make_metrics())
  tensors = {
    "embeddings": np.zeros((4, 3, 8), np.float32),
    "mask": np.ones((4, 3), bool),
    "labels": np.array([[1.2, -0.3], [0, 1]] * 2, np.float32),
    "learning_rates": np.full((5,), 0.02, np.float32),
  }
  safetensors_numpy.save_file(tensors, str(workdir / "set/set.safetensors"))
  return workdir


def test_a_set_stored_in_bfloat16_is_read(workdir):
  file = workdir / "set/set.safetensors"
  tensors = safetensors_numpy.load_file(file)
  halves = tensors["embeddings"].astype(jnp.bfloat16)
  safetensors_numpy.save_file({**tensors, "embeddings": halves}, file)
  found = finished.load_run(workdir).tensors
  np.testing.assert_array_equal(found["embeddings"], halves)


@pytest.fixture
def workdir(tmp_path):
  return make_run(tmp_path / "run")


def page_of(runs, tmp_path):
  return report_page.write(runs, tmp_path / "out" / "report.html").read_text()


def test_the_last_line_of_a_repeated_step_wins(workdir):
  with (workdir / "metrics.jsonl").open("a") as file:
    file.write('{"step": 4, "outer/loss": 7.5}\n')
  steps, losses = finished.series(finished.load_run(workdir), "outer/loss")
  assert steps.tolist() == list(range(0, 40, 2))
  assert losses[steps == 4].tolist() == [7.5]


def test_a_torn_last_line_is_ignored(workdir):
  before = finished.load_run(workdir)
  with (workdir / "metrics.jsonl").open("a") as file:
    file.write('{"step": 40, "outer/lo')
  after = finished.load_run(workdir)
  np.testing.assert_equal(after.metrics, before.metrics)
  assert after.missing == ()


def test_a_torn_line_before_the_last_is_counted(workdir):
  text = (workdir / "metrics.jsonl").read_text()
  (workdir / "metrics.jsonl").write_text('{"step": 1, "out' + text)
  assert finished.load_run(workdir).missing == (
    "1 unreadable lines of metrics.jsonl left out",
  )


def test_a_series_has_only_the_steps_that_logged_it(workdir):
  steps, values = finished.series(
    finished.load_run(workdir), "selection/accuracy"
  )
  assert steps.tolist() == [0, 10, 20, 30]
  np.testing.assert_allclose(values, [0.5, 0.6, 0.7, 0.8])


@pytest.mark.parametrize("name", ["config.json", "summary.json"])
def test_a_folder_without_a_finished_run_names_the_command(workdir, name):
  (workdir / name).unlink()
  with pytest.raises(errors.InputError) as caught:
    finished.load_run(workdir)
  message = str(caught.value)
  assert "\n" not in message
  assert name in message and f"--workdir={workdir}" in message


def test_broken_json_and_other_schemas_are_refused_in_one_line(workdir):
  for text in ('{"schema": 1', '{"schema": 2}', "[]"):
    (workdir / "summary.json").write_text(text)
    with pytest.raises(errors.InputError, match="summary.json") as caught:
      finished.load_run(workdir)
    assert "\n" not in str(caught.value)


def test_lines_of_metrics_that_say_no_step_are_counted(workdir):
  with (workdir / "metrics.jsonl").open("ab") as file:
    file.write(b'{"step": "x"}\n{"step": Infinity}\n{"step": "\xff"}\n[]\n{}\n')
    file.write(b'{"step": 40, "outer/loss": 7.5}\n')
  run = finished.load_run(workdir)
  steps, losses = finished.series(run, "outer/loss")
  assert steps[-1] == 40 and losses[-1] == 7.5
  assert any("5 unreadable lines" in said for said in run.missing)


def test_recovery_and_standard_error_are_computed(workdir):
  rows = tables.results_table(finished.load_run(workdir))
  assert [row["row"] for row in rows] == ROWS
  distilled = rows[3]
  assert distilled["recovery"] == pytest.approx(0.8 / 0.9)
  assert distilled["standard_error"] == pytest.approx(0.02 / 4)


def test_a_share_of_what_is_no_better_than_a_guess_is_not_told(tmp_path):
  summary = make_summary()
  run = make_run(tmp_path / "run", summary)
  card = json.loads((run / "set" / "card.json").read_text())
  chance = 1 / len(card["label_names"])
  for full, told in ((chance + 0.01, False), (chance + 0.03, True)):
    summary["protocols"]["finetune"]["full"]["mean"] = full
    (run / "summary.json").write_text(json.dumps(summary))
    rows = tables.results_table(finished.load_run(run))
    assert (rows[3]["recovery"] is not None) == told
    assert rows[4]["mean"] == full


@pytest.mark.parametrize("unit", ["nats", "accuracy"])
def test_a_share_of_what_full_data_do_not_gain_is_not_told(tmp_path, unit):
  sign = -1 if unit == "nats" else 1
  for gain, told in ((0.001, False), (-0.3, False), (0.03, True)):
    summary = make_summary()
    rows = summary["protocols"]["finetune"]
    for name, more in (("zero_shot", 0), ("distilled", 0.2), ("full", gain)):
      rows[name] = {"mean": 0.6 + sign * more, "std": None, "n": 1}
    rows["unit"] = unit
    run = make_run(tmp_path / f"{gain}", summary)
    by_row = {
      row["row"]: row
      for row in tables.results_table(finished.load_run(run))
      if row["protocol"] == "finetune"
    }
    recovery = by_row["distilled"]["recovery"]
    assert recovery == (pytest.approx(0.2 / gain) if told else None)
    shown = tables.as_text(list(by_row.values()))
    assert ("666.7" in shown) == told


@pytest.mark.parametrize("absent", [None, "missing"])
def test_an_absent_row_is_not_measured(tmp_path, absent):
  summary = make_summary()
  cells = summary["protocols"]["finetune"]
  cells["full"] = None
  if absent == "missing":
    del cells["full"]
  run = finished.load_run(make_run(tmp_path / "run", summary))
  rows = tables.results_table(run)
  assert [row["row"] for row in rows] == ROWS
  assert rows[3]["recovery"] is None and rows[4]["mean"] is None
  assert re.search(r"full +not measured", tables.as_text(rows))
  assert "not measured" in page_of([run], tmp_path)


def test_a_rendered_table_has_every_row(tmp_path):
  runs = [
    finished.load_run(make_run(tmp_path / f"r{seed}", seed=seed))
    for seed in range(2)
  ]
  lines = tables.as_text(tables.results_table(runs)).splitlines()
  assert len(lines) == 2 + 2 * len(ROWS)
  for name in ["r0", "r1", *ROWS, "80.0 ± 2.0", "88.9"]:
    assert any(name in line for line in lines), name


def test_seeds_are_pooled_and_cached_rows_count_once(tmp_path):
  rows = []
  for seed, accuracy in enumerate((0.78, 0.8, 0.82)):
    summary = make_summary(seed=seed, distilled=accuracy)
    run = make_run(tmp_path / f"r{seed}", summary, seed)
    rows += tables.results_table(finished.load_run(run))
  again = next(row for row in rows if row["row"] == "random")
  again["mean"] += 1e-4  # measured again, by another machine
  merged = {row["row"]: row for row in comparison.over_seeds(rows)}
  distilled = merged["distilled"]
  assert distilled["seeds"] == 3 and distilled["n"] == 48
  assert distilled["mean"] == pytest.approx(0.8)
  assert distilled["std_over_seeds"] == pytest.approx(0.02)
  assert distilled["std"] == pytest.approx((0.02**2 + 0.02**2 * 2 / 3) ** 0.5)
  assert merged["random"]["seeds"] == 1
  assert merged["random"]["std_over_seeds"] is None


def test_settings_that_no_column_tells_apart_are_named_by_a_run(tmp_path):
  runs = [
    make_run(
      tmp_path / f"{name}-{seed}",
      make_summary(seed=seed),
      seed,
      teachers={"alpha": alpha},
    )
    for name, alpha in (("hard", 0.0), ("taught", 0.9))
    for seed in (0, 1)
  ]
  rows = tables.results_table([finished.load_run(run) for run in runs])
  text = tables.as_text(comparison.over_seeds(rows))
  assert text.count("hard-0") == text.count("taught-0") == len(ROWS)
  alike = comparison.over_seeds(rows[: len(rows) // 2])
  assert "hard" not in tables.as_text(alike)


def test_one_student_has_no_spread(tmp_path):
  summary = make_summary()
  summary["protocols"]["finetune"]["full"] = {"mean": 0.9, "std": 0.0, "n": 1}
  run = finished.load_run(make_run(tmp_path / "run", summary))
  full = tables.results_table(run)[-1]
  assert full["std"] is None and full["standard_error"] is None
  assert tables.plus_minus(full) == "90.0"
  assert comparison.pool([full])["std"] is None


def test_runs_of_two_sizes_give_the_figure_by_size(tmp_path):
  runs = [
    make_run(tmp_path / f"dpc{size}", make_summary(size, distilled=accuracy))
    for size, accuracy in ((1, 0.7), (5, 0.8))
  ]
  loaded = [finished.load_run(run) for run in runs]
  figure = compared.data_per_class_figure(loaded, "finetune")
  labels = [line.get_label() for line in figure.axes[0].get_lines()]
  assert labels == ROWS
  assert "Accuracy against data per class" in page_of(runs, tmp_path)
  with pytest.raises(errors.InputError, match="two sizes"):
    compared.data_per_class_figure(loaded[:1], "finetune")


def test_recipes_of_one_size_have_lines_of_their_own(tmp_path):
  runs = [
    make_run(
      tmp_path / f"dpc{size}-{alpha}",
      make_summary(size, distilled=0.5 + alpha),
      teachers={"alpha": alpha},
      budget=size,  # differs by size alone, and names no line
    )
    for size in (1, 5)
    for alpha in (0.1, 0.4)
  ]
  loaded = [finished.load_run(run) for run in runs]
  figure = compared.data_per_class_figure(loaded, "finetune")
  lines = {x.get_label(): x.get_ydata() for x in figure.axes[0].get_lines()}
  np.testing.assert_allclose(lines["distilled"], [60, 60])
  np.testing.assert_allclose(lines["distilled, teachers.alpha=0.4"], [90, 90])


def test_ablations_are_measured_from_the_base(tmp_path):
  runs = [
    make_run(
      tmp_path / name, make_summary(seed=seed, distilled=mean), seed, **f
    )
    for name, seed, mean, f in (
      ("base-0", 0, 0.80, {"outer": {"ema": 0.99}}),
      ("base-1", 1, 0.82, {"outer": {"ema": 0.99}}),
      ("no_ema-0", 0, 0.76, {"outer": {"ema": 0.0}}),
      ("no_ema-1", 1, 0.77, {"outer": {"ema": 0.0}}),
    )
  ]
  loaded = [finished.load_run(run) for run in runs]
  ((base, other),) = comparison.ablations(loaded, "finetune").values()
  assert base["change"] == "base" and base["difference"] == 0
  assert other["change"] == "outer.ema=0.0" and other["seeds"] == 2
  assert other["difference"] == pytest.approx(0.765 - 0.81)
  # The seeds' standard errors are half their distances.
  expected = (0.01**2 + 0.005**2) ** 0.5
  assert other["standard_error"] == pytest.approx(expected)
  assert comparison.ablations(loaded[2:], "finetune") == {}
  page = page_of(runs, tmp_path)
  for text in ("Ablations: finetune", "outer.ema=0.0", "-4.5"):
    assert text in page


def test_each_kind_of_ablation_has_a_base_of_its_own(tmp_path):
  runs = [
    make_run(tmp_path / name, make_summary(distilled=mean), **fields)
    for name, mean, fields in (
      ("replay-base", 0.782, {"objective": "look_ahead"}),
      (
        "replay-no_ema",
        0.774,
        {"objective": "look_ahead", "outer": {"ema": 0}},
      ),
      ("steps-base", 0.773, {"objective": "step_matching"}),
      (
        "steps-no_ema",
        0.778,
        {"objective": "step_matching", "outer": {"ema": 0}},
      ),
      ("other", 0.5, {"objective": "distribution_matching"}),
    )
  ]
  loaded = [finished.load_run(run) for run in runs]
  found = comparison.ablations(loaded, "finetune")
  assert {
    kind: [(x["change"], round(x["difference"], 4)) for x in lines]
    for kind, lines in found.items()
  } == {
    "replay": [("base", 0), ("outer.ema=0", -0.008)],
    "steps": [("base", 0), ("outer.ema=0", 0.005)],
  }
  page = page_of(runs, tmp_path)
  assert "finetune, replay" in page and "finetune, steps" in page


def test_a_run_of_other_data_is_no_ablation(tmp_path):
  runs = []
  for name in ("bert-base-sst2", "bert-base-ag_news"):
    summary = make_summary() | {"dataset": name}
    runs.append(finished.load_run(make_run(tmp_path / name, summary)))
  (kind,) = comparison.ablations(runs, "finetune").values()
  assert [line["change"] for line in kind] == ["base"]


@pytest.mark.parametrize("name", ["_neg", r"a$\b$", "$5"])
def test_a_name_is_read_as_it_stands(workdir, name):
  run = finished.load_run(workdir)
  run.card["label_names"] = [name, "pos"]
  figure = figures.projection_figure(run)
  (legend,) = figure.legends
  said = [text.get_text() for text in legend.get_texts()]
  assert len(said) == 4 and said[0].strip("\u200b") == name.replace("$", r"\$")
  assert "<svg" not in figures.as_image(figure)  # it is drawn, and encoded


def test_several_runs_are_compared_by_cost_and_by_layer(tmp_path):
  runs = []
  for size, accuracy in ((1, 0.7), (5, 0.8)):
    summary = make_summary(size, distilled=accuracy)
    summary["cost"]["set_bytes"] = 1000 * size
    runs.append(make_run(tmp_path / f"dpc{size}", summary))
  loaded = [finished.load_run(run) for run in runs]
  figure = compared.cost_figure(loaded, "finetune", "set_bytes")
  (axes,) = figure.axes
  assert [text.get_text() for text in axes.texts] == ["1", "5"]
  assert axes.get_xscale() == "log"
  labels = axes.get_legend_handles_labels()[1]
  assert sorted(labels) == [
    "sst2, transformer",
    "sst2, transformer, all its text",
  ]
  layers = compared.layers_figure(loaded)
  assert [t.get_text() for t in layers.axes[0].get_xticklabels()] == [
    "layer 1",
    "head",
  ]
  page = page_of(runs, tmp_path)
  assert "Accuracy against cost" in page and "by layer" in page
  with pytest.raises(errors.InputError, match="two runs"):
    compared.cost_figure(loaded[:1], "finetune", "distill_seconds")


def test_runs_of_words_and_of_classes_are_each_told_in_their_unit(tmp_path):
  runs = []
  for unit, size in itertools.product(("accuracy", "nats"), (1, 5)):
    summary = make_summary(size)
    rows = summary["protocols"]["finetune"]
    rows["zero_shot"] = {"mean": 0.5 if unit == "accuracy" else 4.0, "n": 1}
    rows["unit"] = unit
    summary["cost"]["set_bytes"] = 1000 * size
    runs.append(make_run(tmp_path / f"{unit}-{size}", summary))
  told = {
    key: headlines.told_together([finished.load_run(x) for x in of])["score"]
    for key, of in (("both", runs), ("words", runs[2:]), ("one", runs[:2]))
  }
  nats = "nats a token, the less the better,"
  assert told["both"] == f"Accuracy in % or {nats}"
  assert (told["words"], told["one"]) == (nats.capitalize(), "Accuracy in %")
  page = page_of(runs, tmp_path)
  assert "finetune, against size of the set, nats" in page
  assert "the accuracy on the full data" not in page
  assert "Nats against cost" in page_of(runs[2:], tmp_path)


def test_every_figure_is_made_and_described(workdir):
  made = figures.make_all(finished.load_run(workdir))
  assert set(made) == TITLES
  for figure in made.values():
    assert isinstance(figure, Figure) and len(figure.get_label()) > 20


def test_an_opened_run_has_its_grid_among_the_figures(workdir):
  cell = {"student": "own", "way": "own steps", "full": 0.8}
  cell["rows"] = {"distilled": {"mean": 0.4, "std": 0.01, "n": 3}}
  (workdir / "grid.json").write_text(json.dumps({"cells": [cell]}))
  assert set(opened.load_run(workdir).figures()) == {
    *TITLES,
    "Ways of training",
  }


def test_stage_boundaries_split_the_loss(workdir):
  figure = figures.loss_figure(finished.load_run(workdir))
  texts = [text.get_text() for text in figure.axes[0].texts]
  assert texts == ["gradient_matching", "look_ahead"]


def test_the_page_needs_nothing_outside_itself(workdir, tmp_path):
  page = page_of([workdir], tmp_path)
  assert not re.search(r"https?://", page)
  assert not re.search(r"<(script|link|iframe|object)\b", page)
  assert not re.search(r"url\(|@import", page)
  sources = re.findall(r'src="([^"]*)"', page)
  assert len(sources) == len(TITLES)
  assert all(s.startswith("data:image/svg+xml;base64,") for s in sources)
  assert len(re.findall(r'<img alt="[^"]+"', page)) == len(sources)


def test_the_page_escapes_text(workdir, tmp_path):
  evil = '"><script>alert(1)</script>'
  (workdir / "analysis.json").write_text(json.dumps(make_analysis(evil)))
  page = page_of([workdir], tmp_path)
  assert "<script" not in page and "&lt;script&gt;" in page
  assert "<positive>" not in page and "&lt;positive&gt;" in page
  assert "[CLS]" in page


def test_the_page_says_what_is_missing(workdir, tmp_path):
  for name in ("metrics.jsonl", "analysis.json", "environment.json"):
    (workdir / name).unlink()
  for path in (workdir / "set").iterdir():
    path.unlink()
  page = page_of([workdir], tmp_path)
  for name in ("metrics.jsonl", "analysis.json", "set/set.safetensors"):
    assert f"no {name}" in page
  assert "Labels and nearest tokens: not measured" in page
  assert "accuracy under replay" in page


def test_labels_are_shown_without_an_analysis(workdir, tmp_path):
  (workdir / "analysis.json").unlink()
  page = page_of([workdir], tmp_path)
  assert "Example 4" in page and "Nearest tokens: not measured" in page


def test_the_page_holds_the_ledger_and_the_command(workdir, tmp_path):
  page = page_of([workdir], tmp_path)
  for text in ("2.05 kB", "512.0 times smaller", "5 min 12 s", "3.22 GB"):
    assert text in page
  assert "gmdistill distill --config=sst2" in page


def test_a_summary_without_numbers_still_makes_a_page(workdir, tmp_path):
  summary = make_summary() | {"protocols": {}, "cost": {}, "selection": {}}
  summary |= {"gradient_cosine": {}}
  (workdir / "summary.json").write_text(json.dumps(summary))
  run = finished.load_run(workdir)
  assert "not measured" in tables.as_text(tables.results_table(run))
  assert set(tables.ledger(run).values()) == {"not measured"}
  assert "Accuracy: not measured" in page_of([run], tmp_path)


def test_a_page_is_written_whole_and_twice_the_same(workdir, tmp_path):
  first = page_of([workdir], tmp_path)
  assert page_of([workdir], tmp_path) == first
  files = [path.name for path in (tmp_path / "out").iterdir()]
  assert files == ["report.html"]


def test_a_report_of_nothing_is_refused(tmp_path):
  with pytest.raises(errors.InputError, match="at least one workdir"):
    report_page.write([], tmp_path / "report.html")


def test_opening_a_run_needs_neither_jax_nor_pyplot():
  code = (
    "import sys; from gmdistill.reports import page; "
    "bad = {'jax', 'tensorflow', 'matplotlib.pyplot'} & set(sys.modules); "
    "assert not bad, bad"
  )
  subprocess.run([sys.executable, "-c", code], check=True)


def test_a_set_in_bfloat16_is_read_without_jax(workdir):
  file = workdir / "set/set.safetensors"
  halves = {"embeddings": np.ones((4, 2, 8), jnp.bfloat16)}
  safetensors_numpy.save_file(halves, file)
  code = (
    "import sys; from gmdistill.reports import finished; "
    f"found = finished.load_run({str(workdir)!r}).tensors; "
    "assert float(found['embeddings'].sum()) == 64; "
    "assert 'jax' not in sys.modules"
  )
  subprocess.run([sys.executable, "-c", code], check=True)
