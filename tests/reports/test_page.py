"""The page as it is read: its outline, its words, its colours, its width."""

import base64
import dataclasses
import html.parser
import json
import re
import shlex

import pytest
from etils import epath
from test_report import make_run, make_summary, page_of

from gmdistill import main
from gmdistill.reports import (
  compared,
  figures,
  finished,
  tables,
  theme,
  words,
)
from gmdistill.reports import page as report_page
from gmdistill.runs import text_reports
from gmdistill.students import families

SHARES = (0.2126, 0.7152, 0.0722)  # of red, green and blue in a luminance

COLOUR = re.compile(r"--([\w-]+): ?(#[0-9a-f]{3,6})")


class Outline(html.parser.HTMLParser):
  """The headings of a page, what its images say, and ids that are twice."""

  def __init__(self, text):
    super().__init__()
    self.levels, self.images, self.ids, self.open = [], [], [], []
    self.feed(text)

  def handle_starttag(self, tag, attrs):
    named = dict(attrs)
    if re.fullmatch(r"h[1-6]", tag):
      self.levels.append(int(tag[1]))
    if tag == "img":
      self.images.append(named.get("alt", ""))
    if "id" in named:
      self.ids.append(named["id"])


@pytest.fixture
def runs(tmp_path):
  made = []
  for seed, name in enumerate(("short", "a_name_" * 12)):
    summary = make_summary(1 + 4 * seed, seed)
    summary["dataset"] = f"set {seed} of {'many long words ' * seed}"
    summary["selection"]["start_accuracy"] = 0.4
    made.append(make_run(tmp_path / name, summary, seed))
  return made


@pytest.mark.parametrize("count", [1, 2])
def test_headings_are_in_order_and_images_say_what_they_show(
  runs, tmp_path, count
):
  outline = Outline(page_of(runs[:count], tmp_path))
  assert outline.levels[0] == 1 and outline.levels.count(1) == 1
  steps = zip(outline.levels, outline.levels[1:], strict=False)
  assert all(after <= before + 1 for before, after in steps)
  assert outline.images and all(len(x) > 20 for x in outline.images)
  assert len(set(outline.ids)) == len(outline.ids)


def test_a_page_opens_with_what_one_sees_and_ends_with_how_to_go_on(
  runs, tmp_path
):
  page = page_of(runs[:1], tmp_path)
  said = re.search(r'<p class="opening">(.*?)</p>', page, re.S)[1]
  assert said.count(".\n") + said.endswith(".") <= 2
  for number in ("80.0 %", "90.0 %", "K-centers", "72.0 %"):
    assert number in said
  assert said.index("80.0") < page.index('class="headline"')
  for text in ("Use it", "gmdistill train --set=", "gd.load_set(", "5 steps"):
    assert text in page
  (defined,) = re.findall(r'<dl class="words">(.*?)</dl>', page, re.S)
  for term in ("K-centers", "finetune", "recovery", "selection split"):
    assert f"<dt>{term}</dt>" in defined
  assert "topics" not in defined  # no row of this run


def test_a_page_names_no_command_that_would_be_refused(tmp_path):
  known = families.FAMILIES.items()
  assert words.UNSAVED == tuple(x for x, family in known if not family.form)
  for kind, verbs in (
    ("textcnn", ["evaluate"]),
    ("transformer", ["train", "evaluate"]),
  ):
    folder = make_run(tmp_path / f"my {kind}", student={"kind": kind})
    commands = words.use(finished.load_run(folder))["commands"]
    parted = [shlex.split(command) for command in commands]
    assert [x[1] for x in parted] == verbs
    assert all(x[2] == f"--set={folder}/set" for x in parted)


def test_a_file_of_texts_opens_with_how_many_they_are(tmp_path):
  folder = epath.Path(tmp_path)
  rows = [{"text": "a fine film", "label": "good"}]
  rows += [{"text": "a dull one", "label": "bad"}]
  (folder / "set.jsonl").write_text("\n".join(map(json.dumps, rows)))
  row = {"mean": 0.7, "std": 0.1, "n": 3, "unit": "accuracy"}
  measured = {"scratch": row | {"row": "distilled"}}  # as its card says
  (folder / "evaluation.json").write_text(json.dumps(measured))
  run = text_reports.load(folder / "set.jsonl", folder)
  (said,) = words.opening(run, tables.results_table(run))
  assert said.startswith(
    "2 texts of the 2 classes of set.jsonl train a student"
  )
  assert "70.0 %" in said
  both = [run, finished.load_run(make_run(tmp_path / "run"))]
  page = report_page.write(both, tmp_path / "both.html").read_text()
  assert "set.jsonl" in page and "70.0 ± 10.0" in page


def test_numbers_of_the_folder_that_one_stands_in_are_no_texts(
  tmp_path, monkeypatch, capsys
):
  row = {"text": "a fine film", "label": "good"}
  (tmp_path / "set.jsonl").write_text(json.dumps(row))
  (tmp_path / "evaluation.json").write_text('{"scratch": {}}')  # of another
  monkeypatch.chdir(tmp_path)
  assert main.main(["gmdistill", "report", "set.jsonl", "--json"]) == 0
  (told,) = json.loads(capsys.readouterr().out)
  assert told["results"] == []


def test_rows_that_stay_text_are_chosen_and_not_learned(tmp_path):
  run = finished.load_run(make_run(tmp_path / "run"))
  for is_text, what in ((False, "learned examples"), (True, "chosen texts")):
    own = dataclasses.replace(run, config=run.config | {"readable": is_text})
    said = words.opening(own, tables.results_table(own))
    assert said[0].startswith(f"2 {what} for each of the 2 classes")


@pytest.mark.parametrize("unit", ["accuracy", "nats"])
def test_a_page_opens_with_what_the_set_is_for(unit, tmp_path):
  run = finished.load_run(make_run(tmp_path / "run"))
  for rows in filter(None, run.summary["protocols"].values()):
    rows["unit"] = unit
  run.card["limits"] = "The set is for one kind of student."
  said = words.opening(run, tables.results_table(run))
  assert said[-1] == run.card["limits"]


def test_a_run_without_numbers_opens_with_none(tmp_path):
  summary = make_summary() | {"protocols": {}}
  run = finished.load_run(make_run(tmp_path / "run", summary))
  assert words.opening(run, []) == []


def test_the_curve_begins_at_step_zero_where_it_was_measured(runs):
  run = finished.load_run(runs[0])
  run.metrics["selection/accuracy"][0] = float("nan")
  (axes,) = figures.selection_figure(run).axes
  x, y = axes.get_lines()[0].get_data()
  assert x[0] == 0 and y[0] == pytest.approx(40)
  del run.summary["selection"]["start_accuracy"]
  (axes,) = figures.selection_figure(run).axes
  assert axes.get_lines()[0].get_xdata()[0] == 10


def luminance(colour):
  digits = colour[1:]
  if len(digits) == 3:
    digits = "".join(2 * x for x in digits)
  parts = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
  linear = [
    x / 12.92 if x <= 0.03928 else ((x + 0.055) / 1.055) ** 2.4 for x in parts
  ]
  return sum(a * b for a, b in zip(SHARES, linear, strict=True))


def contrast(one, other):
  """As WCAG 2 defines it."""
  high, low = sorted(map(luminance, (one, other)), reverse=True)
  return (high + 0.05) / (low + 0.05)


def test_whatever_colours_text_stands_out_on_both_pages(workdir_page):
  light, dark = workdir_page
  for kind, page in enumerate(theme.PAGE):
    coloured = [*theme.ROWS.values(), *theme.CLASSES, theme.TEXT, theme.QUIET]
    for pair in coloured:
      assert contrast(pair[kind], page) >= 4.5, pair
  for colours in (light, dark):
    for text in ("text", "quiet", "accent"):
      for under in ("page", "panel", "tint"):
        assert contrast(colours[text], colours[under]) >= 4.5, (text, under)
  ends = theme.PAGE
  assert all(
    contrast(colours["page"], end) == 1.0
    for colours, end in zip((light, dark), ends, strict=True)
  )


@pytest.fixture
def workdir_page(runs, tmp_path):
  """The page's colours by name, light and dark."""
  page = page_of(runs[:1], tmp_path)
  light, dark = page.split(theme.DARK)[:2]
  return dict(COLOUR.findall(light)), dict(COLOUR.findall(dark))


def test_a_figure_follows_the_theme_in_every_colour(runs, tmp_path):
  page = page_of(runs, tmp_path)
  sources = re.findall(r'src="data:image/svg\+xml;base64,([^"]*)"', page)
  assert len(sources) >= 8
  for source in sources:
    svg = base64.b64decode(source).decode()
    assert theme.DARK in svg
    body = svg.partition("</style>")[2]
    # White alone stays: what a bitmap or a clip leaves out.
    assert set(re.findall(r"#[0-9a-fA-F]{6}\b", body)) <= {"#ffffff"}
    used = set(re.findall(r"var\(--c([0-9a-f]{6})\)", body))
    assert used and all(svg.count(f"--c{x}:#") == 2 for x in used)


def test_long_names_fit_a_legend(runs):
  loaded = [finished.load_run(run) for run in runs]
  figure = compared.cost_figure(loaded, "finetune", "set_bytes")
  figure.canvas.draw()
  (legend,) = figure.legends
  box = legend.get_window_extent()
  assert box.x0 >= 0 and box.x1 <= figure.bbox.width
  (axes,) = figure.axes
  assert axes.get_window_extent().height > 100
  marks = [x.get_text() for x in axes.get_xticklabels()]
  assert any("kB" in x for x in marks) and not any("10^" in x for x in marks)


def test_a_phone_is_shown_the_main_columns(runs, tmp_path):
  page = page_of(runs, tmp_path)
  wide = page[page.index('aria-label="Every run"') :]
  header = wide[wide.index("<thead>") : wide.index("</thead>")]
  shown = re.findall(r'<th scope="col">([^<]*)</th>', header)
  assert shown[-3:] == ["distilled", "recovery, %", "full"]
  assert "random" in header and 'class="minor">random' in header
  assert "Protocol: finetune." in page  # no column of one word


def test_parts_and_metrics_have_their_places(tmp_path):
  summary = make_summary()
  for cell in summary["protocols"]["finetune"].values():
    cell |= {
      "metrics": {"quadratic_kappa": {"mean": 0.512, "std": 0.01}},
      "by_group": {"near": 0.8, "far": 0.6},
      "metrics_by_group": {
        "near": {"quadratic_kappa": 0.7},
        "far": {"quadratic_kappa": 0.312},
      },
    }
  page = page_of([make_run(tmp_path / "run", summary)], tmp_path)
  assert "By part of the reported split" in page
  for text in ("0.512 ± 0.010", "0.312", "<dt>quadratic weighted kappa</dt>"):
    assert text in page
  json.dumps(summary)
