"""What every pack has, of embeddings or texts: its head, table and config."""

import json
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from gmdistill.data import table_files
from gmdistill.reports import tables
from gmdistill.runs.config import settings
from gmdistill.system import json_files, paths

_ABSENT = "give the set/ folder of a run, with its config.json beside it."


def config_beside(root: epath.Path) -> dict[str, Any]:
  """Returns a run's config without the folders of the machine it ran on.

  Raises:
    InputError: it is absent or damaged.
  """
  values = json_files.read(root / "config.json", _ABSENT)
  return _of_nobody(settings.earlier(values, "config.json").to_dict())


def _of_nobody(config: dict[str, Any]) -> dict[str, Any]:
  """Returns a config without the folders of the machine that it ran on."""
  data, student = dict(config["data"]), dict(config["student"])
  data["name"] = of_files(data["name"])
  choice = {
    **config["choice"],
    "written": of_files(config["choice"]["written"]),
  }
  if student["pretrained"] and paths.path(student["pretrained"]).is_dir():
    student["pretrained"] = os.path.basename(student["pretrained"].rstrip("/"))
  return {
    **config,
    "data": {**data, "dir": ""},
    "student": {**student, "space": ""},
    "choice": choice,
    "teachers": {**config["teachers"], "dirs": ()},
    "bank": {**config["bank"], "dir": "", "along": ""},
    "start": "",
  }


def of_files(name: str) -> str:
  """Returns a data set's name, of files of this machine without the folders
  that they lie in; of a glob, its last folder stays."""
  on_the_hub = name.startswith(table_files.ON_THE_HUB)
  if on_the_hub or not paths.is_local(name) or not table_files.are_meant(name):
    return name
  parts = name.rstrip("/").split("/")
  return "/".join(parts[-2 if re.search(r"[*?]", parts[-1]) else -1 :])


# The folders before a file or folder, as a command line or a call names it.
_FOLDERS = re.compile(
  r"""(?<![^\s='"(])(~[^/\s'"]*|\.{1,2})?/([^\s'",/]+/)*(?=[^\s'",/])"""
)


def of_card(card: Mapping[str, Any]) -> dict[str, Any]:
  """Returns a card whose commands name no folder of this machine."""
  told = dict(card)
  for name in ("provenance", "made_from"):
    of = told.get(name)
    if isinstance(of, dict) and isinstance(of.get("command"), str):
      told[name] = {**of, "command": _FOLDERS.sub("", of["command"])}
  return told


# What the hub calls a number of rows, and from which on it is another.
_SIZES = {
  "n<1K": 10**3,
  "1K<n<10K": 10**4,
  "10K<n<100K": 10**5,
  "100K<n<1M": 10**6,
  "1M<n<10M": float("inf"),
}


def head(title: str, count: int, *, kind: str, file: str) -> str:
  """Returns the head of a README.md, which the hub reads.

  Args:
    title: Of the page.
    count: Of the examples.
    kind: What they are for: text-`classification`, or -`generation`.
    file: Which the hub shows.
  """
  import huggingface_hub  # slow to import, and needed here alone

  of_texts = file.startswith("set/")
  about = huggingface_hub.DatasetCardData(
    pretty_name=title,
    task_categories=[f"text-{kind}"],
    size_categories=[next(x for x, most in _SIZES.items() if count < most)],
    tags=[
      "dataset-distillation",
      "gmdistill",
      *["embeddings"] * (not of_texts),
    ],
    configs=[{"config_name": "default", "data_files": file}],
  )
  return str(about.to_yaml())


def results(card: Mapping[str, Any]) -> str:
  """Returns the table of what was measured, in Markdown."""
  table = "".join(
    f"| {name} | {row} | {tables.with_unit(unit | x)} | {x['n']} |\n"
    for name, of_rows in (card.get("results") or {}).items()
    for unit in [{"std": None, "unit": of_rows.get("unit", "accuracy")}]
    for row, x in of_rows.items()
    if isinstance(x, dict) and x.get("mean") is not None
  )
  top = "| protocol | trained on | on the reported split | students |\n"
  top += "| --- | --- | --- | --- |\n"
  return top + table if table else "Nothing was measured on it yet.\n"


def named(classes: Sequence[str]) -> str:
  """Returns the names of the classes, or of the first twenty."""
  return ", ".join(classes[:20]) + ", ..." * (len(classes) > 20)


def as_json(content: Any) -> bytes:
  """Returns what a JSON file of it holds."""
  return (json.dumps(content, indent=2) + "\n").encode()
