"""Tables of Markdown, and pages that are rendered from summaries."""

import importlib.util
import json
import pathlib
import re
import shutil

import pytest

from gmdistill import errors, main
from gmdistill.reports import finished, markdown

ROOT = pathlib.Path(__file__).parents[2]
STUDIES = ROOT / "docs" / "results" / "data"
QUICKSTART = STUDIES / "quickstart"


def tool():
  """The script that keeps summaries and renders pages."""
  path = ROOT / "docs" / "_tools" / "results.py"
  spec = importlib.util.spec_from_file_location("results_tool", path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


PAGES = tool().pages()
KEPT = sorted(STUDIES.glob("*/*/summary.json"))


def printed(capsys, *arguments):
  assert main.main(["gmdistill", "report", *map(str, arguments)]) == 0
  return capsys.readouterr().out


def refused(capsys, *arguments):
  assert main.main(["gmdistill", "report", *map(str, arguments)]) == 2
  said = capsys.readouterr()
  assert said.out == "" and said.err.count("\n") == 1
  return said.err


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_tables_of_a_page_are_what_the_summaries_say(page):
  text = page.read_text()
  assert markdown.filled(text, STUDIES) == text, (
    "render them: python docs/_tools/results.py"
  )
  assert text.count("<!-- table:") == len(markdown.MARKED.findall(text))


def test_some_page_has_tables():
  assert sum("<!-- table:" in page.read_text() for page in PAGES) >= 1


@pytest.mark.parametrize(
  "path", KEPT, ids=lambda p: str(p.parent.relative_to(STUDIES))
)
def test_what_is_kept_of_a_run_is_small_whole_and_names_no_folder(path):
  run = finished.load_run(path.parent)
  assert run.environment["command"].startswith("gmdistill ")
  assert re.fullmatch("[0-9a-f]{40}", run.environment["git_commit"])
  files = sorted(path.parent.iterdir())
  kept = ["config.json", "environment.json", "summary.json"]
  assert [file.name for file in files] == kept
  for file in files:
    text = file.read_text()
    assert len(text) < 10_000
    assert not re.search(r"[\"= ]/\w|[A-Z]:\\\\|/home/|/tmp/", text)


# What was told by part has no part in the quickstart; see test_metrics.
@pytest.mark.parametrize("kind", [x for x in markdown.KINDS if x != "groups"])
def test_a_table_is_printed_as_it_stands_in_pages(kind, capsys):
  text = printed(capsys, QUICKSTART, "--format=markdown", f"--table={kind}")
  header, rule, *lines = text.splitlines()
  assert set(rule) == set("| -") and lines
  assert {line.count(" | ") for line in (header, *lines)} == {
    header.count(" | ")
  }
  mark = f"<!-- table:{kind} quickstart -->\n"
  page = f"{mark}old\n<!-- /table -->\n"
  assert markdown.filled(page, STUDIES) == f"{mark}\n{text}\n<!-- /table -->\n"


def test_results_come_first_and_seeds_are_pooled(capsys):
  text = printed(capsys, QUICKSTART, "--format=markdown")
  distilled = next(x for x in text.splitlines() if "distilled" in x)
  means = [
    finished.load_run(x).summary["protocols"]["replay"]["distilled"]["mean"]
    for x in sorted(QUICKSTART.iterdir())
  ]
  assert f"**{100 * sum(means) / 3:.1f} ± " in distilled
  assert " | 60 | " in distilled and " | 3 | " in distilled


def test_a_row_that_was_not_measured_says_so(tmp_path):
  shutil.copytree(QUICKSTART / "seed_0", tmp_path / "run")
  path = tmp_path / "run" / "summary.json"
  summary = json.loads(path.read_text())
  del summary["protocols"]["replay"]["herding"]
  summary["cost"]["peak_memory_bytes"] = None
  path.write_text(json.dumps(summary))
  text = markdown.table("results", [tmp_path / "run"])
  assert "| herding | not measured | - | - | - |" in text
  assert "not measured" in markdown.table("costs", [tmp_path / "run"])


def test_published_numbers_stand_beside_ours_with_their_paper(tmp_path):
  studies = tmp_path / "data"
  shutil.copytree(QUICKSTART / "seed_0", studies / "one" / "run")
  shutil.copy(STUDIES.parent / markdown.PUBLISHED, tmp_path)
  path = studies / "one" / "run" / "summary.json"
  summary = json.loads(path.read_text()) | {"dataset": "glue/sst2"}
  path.write_text(json.dumps(summary))
  text = markdown.table("published", [studies / "one"])
  assert "| TDD | TDD: embeddings | BERT-base | 5 | 89.6 ± 0.4 | 96.7 |" in text
  assert text.count("this package") == 2
  (tmp_path / markdown.PUBLISHED).unlink()
  with pytest.raises(errors.InputError, match="published.json"):
    markdown.table("published", [studies / "one"])


def test_every_published_number_names_a_source_and_a_full_row():
  said = json.loads((STUDIES.parent / markdown.PUBLISHED).read_text())
  assert {row["source"] for row in said["rows"]} == set(said["sources"])
  for row in said["rows"]:
    assert 0 < row["mean"] <= row["full"] <= 100


def test_what_cannot_be_printed_is_refused_in_one_line(capsys, tmp_path):
  assert "html, markdown" in refused(capsys, QUICKSTART, "--format=pdf")
  unknown = refused(capsys, QUICKSTART, "--format=markdown", "--table=all")
  assert "results, rows, costs" in unknown
  assert "--format=markdown" in refused(capsys, QUICKSTART, "--table=costs")
  assert "no finished run" in refused(capsys, tmp_path, "--format=markdown")
  for mark in ("results", "results nothing", "unknown quickstart"):
    with pytest.raises(errors.InputError):
      markdown.filled(f"<!-- table:{mark} -->\n<!-- /table -->", STUDIES)


def test_keeping_a_run_drops_folders_of_this_machine(tmp_path, monkeypatch):
  shutil.copytree(QUICKSTART / "seed_0", tmp_path / "run")
  path = tmp_path / "run" / "environment.json"
  about = json.loads(path.read_text())
  about["command"] = "gmdistill distill --config=/a/b.py --workdir=/c/runs/d"
  path.write_text(json.dumps(about))
  keeper = tool()
  monkeypatch.setattr(keeper, "STUDIES", tmp_path / "kept")
  keeper.keep(tmp_path / "run", "study/one")
  kept = finished.load_run(tmp_path / "kept" / "study" / "one")
  assert kept.environment["command"] == (
    "gmdistill distill --config=b.py --workdir=d"
  )
  assert kept.summary == finished.load_run(QUICKSTART / "seed_0").summary
