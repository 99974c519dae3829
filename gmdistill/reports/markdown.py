"""Finished runs as Markdown tables, and the pages that hold them.

A page holds a table between `<!-- table:KIND STUDY ... -->` and
`<!-- /table -->`, where a STUDY is a folder of runs, or one run, below the
folder of all studies. `filled` renders each again from the summaries there.
"""

import re
from collections.abc import Callable, Sequence
from typing import Any

from etils import epath

from gmdistill import errors
from gmdistill.reports import comparison, finished, tables
from gmdistill.system import json_files, paths

MARKED = re.compile(r"(<!-- table:(.*?) -->\n).*?(<!-- /table -->)", re.DOTALL)

TRAIN_ON = {
  "zero-shot": "nothing",
  "random": "{} real rows a class, drawn",
  "herding": "{} whose mean is nearest to the class mean",
  "K-centers": "{} nearest to the centroids of the class",
  "distilled": "{} learned examples a class",
  "full": "all rows",
}

OF_LANGUAGE = {
  "zero-shot": "nothing",
  "random": "{} real rows, drawn",
  "random of that length": "{} real rows as long as the set's, drawn",
  "K-centers": "{} nearest to the centroids of all",
  "distilled": "{} learned sequences",
  "full": "all rows",
}

PUBLISHED = "published.json"  # beside the folder of all studies


def results(runs: Sequence[finished.Run]) -> str:
  """One line for each row of each setting, over the seeds that measured it."""
  merged = comparison.over_seeds(tables.results_table(runs))
  header, body = tables.cells(merged)
  header[header.index("n")] = "students"
  heading = tables.heading(merged)
  for row, line in zip(merged, body, strict=True):
    if row["row"] == "distilled":
      place = header.index(heading)
      line[place] = f"**{line[place]}**"
  if all(row["seeds"] < 2 for row in merged):
    header, body = header[:-2], [line[:-2] for line in body]
  if len({row["protocol"] for row in merged}) == 1:
    place = header.index("protocol")
    for line in [header, *body]:
      del line[place]
  return _table(header, body)


def rows(runs: Sequence[finished.Run]) -> str:
  """One line for each row: what its students train on, and how good they get.

  Of runs that differ in their seed alone.

  Raises:
    InputError: they differ in more.
  """
  found = comparison.over_seeds(tables.results_table(runs))
  if len({(row["setting"], row["protocol"]) for row in found}) > 1:
    raise errors.InputError(
      "--table=rows is of one setting under one protocol; use --table=results."
    )
  body = []
  for row in found:
    learned = row["row"] == "distilled"
    kinds = TRAIN_ON if row["unit"] == "accuracy" else OF_LANGUAGE
    told = kinds.get(str(row["row"])) or str(row["row"])
    body.append(
      [
        _bold(learned, row["row"]),
        told.format(row["data_per_class"]),
        _bold(learned, tables.plus_minus(row)),
        "-" if row["n"] is None else str(row["n"]),
        tables.percent(row["recovery"], 1),
      ]
    )
  header = [
    "row",
    "students train on",
    tables.heading(found),
    "students",
    "recovery, %",
  ]
  return _table(header, body)


def groups(runs: Sequence[finished.Run]) -> str:
  """One line for each row and number, one column for each part of the reported
  split; of a learned set the mean over the seeds that measured it.

  Raises:
    InputError: no row was told by part.
  """
  header, body = tables.group_cells(
    comparison.over_seeds(tables.results_table(runs))
  )
  if not body:
    raise errors.InputError(
      "--table=groups is of runs with data.group_key, and these have none."
    )
  if len({line[header.index("protocol")] for line in body}) == 1:
    place = header.index("protocol")
    for line in [header, *body]:
      del line[place]
  return _table(header, body)


def costs(runs: Sequence[finished.Run]) -> str:
  """One line a run: what its set cost, and what it saves."""
  ledgers = [tables.ledger(run) for run in runs]
  names = tables.short_names(runs)
  if len(runs) == 1:
    return _table(["what", "measured"], list(ledgers[0].items()))
  body = [[n, *x.values()] for n, x in zip(names, ledgers, strict=True)]
  return _table(["run", *ledgers[0]], body)


def provenance(runs: Sequence[finished.Run]) -> str:
  """One line a run: on what it ran, from which commit, by which command."""
  body = []
  for run in runs:
    about = run.environment
    devices = f"{about.get('cpu_count')} CPU cores"
    kinds = {str(x).partition(":")[0] for x in about.get("devices") or []}
    if kinds - {"cpu"}:
      devices = f"{len(about['devices'])} {', '.join(sorted(kinds))}"
    body.append(
      [
        f"`{about.get('command', tables.NOT_MEASURED)}`",
        str(about.get("git_commit"))[:7],
        f"JAX {about.get('jax')}, Python {about.get('python')}",
        devices,
      ]
    )
  return _table(["command", "commit", "versions", "on"], body)


def published(runs: Sequence[finished.Run]) -> str:
  """Distilled rows and K-centers beside what others published of the data.

  Raises:
    InputError: no `published.json` beside the folder of all studies.
  """
  path = paths.absolute(runs[0].workdir).parents[2] / PUBLISHED
  if not path.is_file():
    raise errors.InputError(
      f"there is no {path}: published numbers stand beside the folder whose "
      "folders are studies, and those of a study its runs."
    )
  said = json_files.read(path, "restore it from a copy.")
  ours = comparison.over_seeds(tables.results_table(runs))
  body = [
    [
      _bold(row["row"] == "distilled", row["row"]),
      f"this package: `{row['protocol']}`",
      row["student"],
      str(row["data_per_class"]),
      tables.plus_minus(row),
      tables.percent(row["recovery"], 1),
    ]
    for row in ours
    if row["row"] in ("K-centers", "distilled")
  ]
  data = {run.summary["dataset"] for run in runs}
  for one in said["rows"]:
    if one["dataset"] in data:
      as_row = {k: one[k] and one[k] / 100 for k in ("mean", "std")}
      unit = "" if one["score"] == "accuracy" else f" ({one['score']})"
      body.append(
        [
          one["row"],
          f"{one['source']}: {one['what']}{unit}",
          one["student"],
          str(one["data_per_class"]),
          tables.plus_minus(as_row),
          f"{100 * one['mean'] / one['full']:.1f}",
        ]
      )
  header = ["row", "from", "student", "per class", "accuracy, %", "recovery, %"]
  once = dict.fromkeys(map(tuple, body))  # runs share their baselines
  return _table(header, list(once))


KINDS: dict[str, Callable[[Sequence[finished.Run]], str]] = {
  "results": results,
  "rows": rows,
  "costs": costs,
  "provenance": provenance,
  "published": published,
  "groups": groups,
}


def table(kind: str, workdirs: Sequence[epath.PathLike]) -> str:
  """Returns one table over finished runs.

  Args:
    kind: One of `KINDS`.
    workdirs: Folders with a `summary.json`, or folders of such.

  Raises:
    InputError: another kind, or a folder without a finished run.
  """
  errors.choice("--table", kind, KINDS)
  runs = [finished.load_run(x) for folder in workdirs for x in _runs_in(folder)]
  return KINDS[kind](runs)


def filled(text: str, studies: epath.PathLike) -> str:
  """Returns a page with every table between marks rendered again.

  Args:
    text: The page.
    studies: The folder whose folders are studies.

  Raises:
    InputError: a mark names an unknown kind of table, or no finished run.
  """

  def render(match: re.Match[str]) -> str:
    kind, *names = match[2].split()
    if not names:
      raise errors.InputError(f"the mark table:{match[2]} names no study.")
    folders = [paths.path(studies) / name for name in names]
    return f"{match[1]}\n{table(kind, folders)}\n{match[3]}"

  return MARKED.sub(render, text)


def _runs_in(folder: epath.PathLike) -> list[epath.Path]:
  """Returns the folder, or the runs in it, in the order of their names."""
  root = paths.path(folder)
  inside = []
  if root.is_dir() and not (root / "summary.json").is_file():
    inside = sorted(x for x in root.iterdir() if (x / "summary.json").is_file())
  return inside or [root]


def _bold(condition: bool, text: str) -> str:
  return f"**{text}**" if condition else text


def _table(header: Sequence[str], body: Sequence[Sequence[Any]]) -> str:
  lines = [header, ["---"] * len(header), *body]
  cells = [[str(x).replace("|", "\\|") for x in line] for line in lines]
  return "".join(f"| {' | '.join(line)} |\n" for line in cells)
