"""The commands that use what a run left: train, evaluate, report."""

from typing import Any

from gmdistill import errors
from gmdistill.evaluation import measuring
from gmdistill.reports import finished, markdown, tables
from gmdistill.runs import text_reports
from gmdistill.runs.commands import comparing, shared
from gmdistill.runs.config import assembly, outputs
from gmdistill.selection import coresets
from gmdistill.sets import cards
from gmdistill.system import console, folders, logs, paths, units

FORMATS = ("html", "markdown")


def train(flags: Any, rest: list[str], command: str) -> None:
  """Trains one student on a set; writes a Hugging Face directory."""
  del command
  shared.nothing_else(rest)
  config, folder = shared.config_and_set(flags)
  if not flags.workdir:
    raise errors.InputError("train needs --workdir=DIR for the student.")
  name = flags.protocol or config.protocols[0]
  if name == "bayes":
    raise errors.InputError(
      "train writes one student, and the protocol bayes ends in many samples "
      "of one; use --protocol=replay, finetune or scratch, or measure it with "
      "gmdistill evaluate."
    )
  student = shared.student_folder(flags.workdir, "student")
  setup = assembly.setup(config)
  syn, _ = shared.fitting_set(setup, folder, config)
  shared.check_exportable(setup)
  protocol = assembly.protocol(config, name)
  shared.say_other_steps(syn, protocol, name)
  logs.say(f"{name}: training one student on {len(syn.batch)} examples")
  params, seconds, accuracy = outputs.table(setup, config).student(
    protocol, measuring.stacked(syn)
  )
  path = shared.save_of_run(student, setup, params, config)
  if flags.json:
    told = {"protocol": name, setup.problem.task.unit: accuracy}
    console.data({**told, "seconds": seconds, "folder": str(path)})
    return
  console.show(
    f"{name}: {shared.told(setup, accuracy)} on the reported split; trained "
    f"in {units.seconds(seconds)}; saved in {path}"
  )
  if (path / "classifier.safetensors").is_file():
    console.show(
      "its head is in classifier.safetensors: transformers' pipeline of text "
      "classification has no place for it and refuses the directory, and "
      "README.md there has a reader of seven lines; gmdistill.load_student "
      "reads it too"
    )


def evaluate(flags: Any, rest: list[str], command: str) -> None:
  """Measures one row of the results table, and how far its students' word can
  be trusted, under one or all protocols."""
  del command
  shared.nothing_else(rest)
  config, folder = shared.config_and_set(
    flags, needs_set=flags.row == cards.DISTILLED
  )
  if flags.protocol in comparing.PROTOCOLS:
    if flags.row != cards.DISTILLED:
      raise errors.InputError(
        f"--protocol={flags.protocol} measures a --set, beside baselines; "
        "leave --row out."
      )
    comparing.evaluate(flags, config, folder)
    return
  target = folders.writable(flags.workdir) if flags.workdir else None
  setup = assembly.setup(config)
  names = [flags.protocol] if flags.protocol else list(config.protocols)
  table = outputs.table(setup, config, calibrated=True)
  sets, row = None, flags.row
  if flags.row == cards.DISTILLED:
    syn, card = shared.fitting_set(setup, folder, config)
    sets, row = measuring.stacked(syn), card.get("rows", cards.DISTILLED)
  found = {}
  for name in names:
    protocol = assembly.protocol(config, name)
    if sets is not None:
      shared.say_other_steps(syn, protocol, name)
      found[name] = table.measure(protocol, sets, f"{name}: {row}").row()
    elif flags.row == "full":
      found[name] = table.full(assembly.protocol(config, "full"))
    elif flags.row in (*table.methods, *coresets.ALL):
      found[name] = table.baseline(name, protocol, flags.row)
    else:
      known = (cards.DISTILLED, "full", *table.methods)
      errors.not_one_of(f"--row={flags.row}", flags.row, known)
    found[name] |= {"row": row, "unit": setup.problem.task.unit}
  if target is not None:
    target.mkdir(parents=True, exist_ok=True)
    folders.write_json(target / "evaluation.json", found)
  if flags.json:
    console.data(found)
    return
  _show(found)


# What is told beside accuracy, and what it says.
_BESIDE = {
  "ece": "how far a student's certainty is from how often it is right",
  "temperature": "what its logits are divided by to fit the selection split",
  "ece_scaled": "ece after that",
  "interval_width": "the mean width of 90 % intervals of its samples",
}


def _show(found: dict[str, Any]) -> None:
  """Prints what was measured as a table, and what its columns are."""
  beside = [x for x in _BESIDE if any(x in row for row in found.values())]
  metrics = dict.fromkeys(x for row in found.values() for x in _metrics(row))
  console.table(
    (
      *("protocol", "row", tables.heading(list(found.values()))),
      *(x if x in _UNITS else f"{x}, %" for x in metrics),
      *("students", *beside),
    ),
    [
      (
        *(name, str(row["row"]), tables.plus_minus(row)),
        *(tables.plus_minus(_metric(row, x)) for x in metrics),
        str(row["n"]),
        *(f"{row[x]:.3g}" if x in row else "-" for x in beside),
      )
      for name, row in found.items()
    ],
  )
  for name in beside:
    console.show(f"{name}: {_BESIDE[name]}")


_UNITS = ("nats",)  # metrics that are no shares


def _metrics(row):
  return row.get("metrics") or {}


def _metric(row, name):
  unit = name if name in _UNITS else "accuracy"
  return {**_metrics(row).get(name, {"mean": None}), "unit": unit}


def report(flags: Any, rest: list[str], command: str) -> None:
  """Writes report.html over the workdirs given, or over --workdir itself; or
  prints one table of them, or what they measured."""
  del command
  runs = rest or [flags.workdir]
  if not rest and not flags.workdir:
    raise errors.InputError("report needs workdirs: gmdistill report DIR ...")
  errors.choice("--format", flags.format, FORMATS)
  if flags.json:
    console.data([_as_data(_run(name, flags.workdir)) for name in runs])
    return
  if flags.format == "markdown":
    console.show(markdown.table(flags.table, runs).rstrip("\n"))
    return
  if flags["table"].present:
    raise errors.InputError("--table goes with --format=markdown.")
  if len(runs) > 1 and not flags.workdir:
    raise errors.InputError(
      "report over several workdirs needs --workdir=DIR, where its page goes: "
      "each has a report.html of its own."
    )
  if not flags.workdir and shared.is_text_set(runs[0]):
    raise errors.InputError(
      "report of a file of texts needs --workdir=DIR, where its page goes, and "
      "where gmdistill evaluate left what it measured on them, if it did."
    )
  target = folders.writable(flags.workdir or rest[0])
  loaded = [_run(name, flags.workdir) for name in runs]
  from gmdistill.reports import page  # matplotlib is slow to import

  path = page.write(loaded, target / "report.html")
  _say_other_steps(loaded)
  logs.say(f"report: {path}")


def _run(name: str, workdir: str) -> finished.Run:
  """Reads a workdir; or a file of texts, and what was measured on it."""
  if shared.is_text_set(name):
    measured = paths.path(workdir) if workdir else None
    return text_reports.load(paths.path(name), measured)
  return finished.load_run(name)


def _as_data(run: finished.Run) -> dict[str, Any]:
  rows = tables.results_table(run)
  but_config = [{k: v for k, v in x.items() if k != "setting"} for x in rows]
  cost = run.summary.get("cost")
  return {"workdir": str(run.workdir), "results": but_config, "cost": cost}


def _say_other_steps(runs):
  """Says which of the rows are of sets that were learned for other steps."""
  for run in runs:
    other = [x for x in run.summary.get("protocols", {}) if x != "replay"]
    if other and "learning_rates" in run.tensors:
      logs.say(
        f"{run.workdir.name}: the set was learned for steps of its own, the "
        f"protocol replay; its row under {', '.join(other)} is of other steps"
      )
