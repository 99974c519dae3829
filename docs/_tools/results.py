"""Keeps what runs measured, and renders the tables of pages from it.

python docs/_tools/results.py                        renders README and docs
python docs/_tools/results.py WORKDIR STUDY/RUN      keeps a run's summary first
"""

import json
import pathlib
import sys
from typing import Any

from gmdistill.reports import finished, markdown

ROOT = pathlib.Path(__file__).parents[2]
STUDIES = ROOT / "docs" / "results" / "data"
KEPT = ("summary", "config", "environment")


def pages() -> list[pathlib.Path]:
  """Returns README and the pages of docs."""
  docs = ROOT / "docs"
  below = [p for p in docs.rglob("*.md") if "_build" not in p.parts]
  return [ROOT / "README.md", *sorted(below)]


def keep(workdir: pathlib.Path, name: str) -> None:
  """Copies a finished run's summary, config and environment, less any path."""
  run = finished.load_run(workdir)
  folder = STUDIES / name
  folder.mkdir(parents=True, exist_ok=True)
  for part in KEPT:
    content = _without_paths(getattr(run, part))
    path = folder / f"{part}.json"
    path.write_text(json.dumps(content, indent=1) + "\n")


def _without_paths(content: Any) -> Any:
  """Returns JSON whose absolute paths have lost their folders."""
  if isinstance(content, dict):
    return {key: _without_paths(value) for key, value in content.items()}
  if isinstance(content, list):
    return [_without_paths(value) for value in content]
  if not isinstance(content, str):
    return content
  words = content.split(" ")
  return " ".join(
    before + equals + (after.rsplit("/", 1)[1] if after[:1] == "/" else after)
    for before, equals, after in map(_at_value, words)
  )


def _at_value(word: str) -> tuple[str, str, str]:
  """Splits --flag=VALUE before its value."""
  return word.rpartition("=")


def render() -> None:
  """Writes the tables between marks of every page again."""
  for page in pages():
    text = page.read_text()
    again = markdown.filled(text, STUDIES)
    if again != text:
      page.write_text(again)
      print(f"rendered {page.relative_to(ROOT)}")


if __name__ == "__main__":
  if len(sys.argv) == 3:
    keep(pathlib.Path(sys.argv[1]), sys.argv[2])
  render()
