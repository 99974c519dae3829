"""The end of a run: the table of results, the set, and the report."""

from typing import Any, NamedTuple

import jax
import numpy as np
from etils import epath

from gmdistill.data import texts as row_texts
from gmdistill.evaluation import analysis as set_analysis
from gmdistill.evaluation import gradient_cosine, measuring
from gmdistill.reports import finished
from gmdistill.reports import tables as result_tables
from gmdistill.runs import candidates, jobs
from gmdistill.runs.config import outputs
from gmdistill.sets import set_files, synthetic, text_sets
from gmdistill.system import console, folders, json_files, processes


class Outcome(NamedTuple):
  """What the outer loop came to."""

  best: synthetic.SyntheticSet  # that the selection split chose
  chosen: dict[str, Any]  # at which step, and its accuracy there
  seconds: float  # how long the outer loop took
  peak_bytes: int | None  # the most memory that it had; None: not known


class Rows(NamedTuple):
  """The table of results, and what a student costs."""

  protocols: dict[str, dict[str, Any]]  # by protocol: its unit, and its rows
  seconds_set: float  # of a student on the set, by the first protocol
  seconds_full: float | None  # on all rows; None: measured elsewhere


def as_embeddings(job: jobs.Job, params: Any) -> synthetic.SyntheticSet:
  """Returns the set as any student of its space reads it."""
  return synthetic.embedded(
    job.finished.decode(params), job.setup.problem.embed
  )


def finish(
  job: jobs.Job,
  folder: epath.Path,
  outcome: Outcome,
) -> None:
  """Measures the set and the baselines; writes all that a run leaves.

  Args:
    job: The run's parts.
    folder: Its workdir.
    outcome: The set, and what it took.
  """
  config, setup = job.config, job.setup
  card = outputs.first_card(setup, config, job.command)
  if config.readable:
    card["source_rows"] = _sources(job)
  if setup.teachers is not None:
    card["teachers"] = setup.teachers.names_and_ids
  first = processes.is_first()  # the process that writes
  if first:
    # Saved before it is measured, so that a kill from here on loses no set.
    outputs.write_set(folder, outcome.best, card, setup, config)
    if config.readable:
      outputs.write_texts(folder, texts(job, outcome.best), setup, config)
  read = set_files.as_stored(outcome.best, config.stored_as)  # as a reader does
  rows = _rows(job, read)
  summary = _summary(job, outcome, read, rows)
  analysis = set_analysis.analysis(setup, read, config.per_group)
  if not first:
    return
  card["results"] = rows.protocols
  if config.readable:
    card["texts"] = outputs.texts_of_card(folder)
    _say_texts(analysis, texts(job, outcome.best))
  set_files.save(folder / "set", outcome.best, card, config.stored_as)
  folders.write_json(folder / "analysis.json", analysis)
  folders.write_json(folder / "summary.json", summary)
  _report(folder)


def texts(job: jobs.Job, syn: synthetic.SyntheticSet) -> text_sets.TextSet:
  """Returns the texts of a set that stays text."""
  labels_MxC = np.asarray(syn.batch.class_labels)
  weights_M = labels_MxC.sum(axis=1)
  train = row_texts.by_part(job.config.data, job.setup.corpus)["train"]
  written = candidates.texts(job.setup, job.config)
  texts = dict(enumerate(written, len(train)))
  texts |= {int(row): train[int(row)] for row in job.rows if row < len(train)}
  text_set = text_sets.of_rows(
    job.rows, texts, labels_MxC / weights_M[:, None], weights_M
  )
  return text_set._replace(sources=tuple(_sources(job)))


def _sources(job):
  """Returns the training row that each row of a set of texts is."""
  count = len(job.setup.corpus.train.labels)
  return [int(row) if row < count else text_sets.WRITTEN for row in job.rows]


def _say_texts(analysis, text_set):
  """Puts each example's text and weight into what a report shows of it."""
  for m, example in enumerate(analysis["examples"]):
    example["text"] = row_texts.joined(text_set.texts[m])
    example["weight"] = float(text_set.weights[m])


def _rows(job, read) -> Rows:
  """Measures the set, its baselines, and students on all rows."""
  table = outputs.table(job.setup, job.config)
  rows: dict[str, dict[str, Any]] = {}
  seconds = []
  for name, protocol in job.reported.items():
    own = table.measure(protocol, measuring.stacked(read), f"{name}: distilled")
    seconds.append(own.seconds)
    rows[name] = {
      "unit": job.unit,
      **{
        method: table.baseline(name, protocol, method)
        for method in table.methods
      },
      "distilled": own.row(),
    }
  full = table.full(job.full)
  told = (
    *("mean", "std", "n", "by_group", "metrics", "metrics_by_group"),
    "exact_match",
  )
  for row in rows.values():
    row["full"] = {name: full[name] for name in told if name in full}
  # A cached row's seconds may be another device's, which ours do not repay.
  device = jax.devices()[0].device_kind
  ours = full.get("device", device) == device
  return Rows(rows, seconds[0], full["seconds"] if ours else None)


def _summary(job, outcome: Outcome, read, rows: Rows) -> dict[str, Any]:
  """Returns what `summary.json` says."""
  config, setup = job.config, job.setup
  return {
    "schema": 1,
    "dataset": config.data.name,
    "student": setup.student_name,
    "data_per_class": config.per_group,
    **({} if config.has_classes else {"num_sequences": config.num_sequences}),
    "sequence_length": config.sequence_length,
    "seed": config.seed,
    "selection": outcome.chosen,
    "protocols": rows.protocols,
    "cost": _cost(job, outcome, read, rows),
    "gradient_cosine": gradient_cosine.gradient_cosine(
      setup,
      read,
      rows_per_class=min(
        2 * config.rows_per_class, config.gradient_cosine.rows_per_class
      ),
      seed=config.seed + 1,
      learning_rate=config.trajectory.learning_rate,
      num_students=min(
        config.gradient_cosine.num_students, config.replay.num_students
      ),
    ),
  }


def _cost(job, outcome: Outcome, read, rows: Rows) -> dict[str, Any]:
  saved = 0.0
  if rows.seconds_full is not None:
    saved = rows.seconds_full - rows.seconds_set
  return {
    "distill_seconds": outcome.seconds,
    "student_seconds_set": rows.seconds_set,
    "student_seconds_full": rows.seconds_full,
    "set_bytes": set_files.num_bytes(read, job.config.stored_as),
    "real_text_bytes": job.setup.corpus.train_bytes,
    "break_even_students": outcome.seconds / saved if saved > 0 else None,
    "peak_memory_bytes": outcome.peak_bytes,
  }


def _report(folder: epath.Path) -> None:
  # matplotlib is slow to import, and needed last.
  from gmdistill.reports import page

  path = page.write([folder], folder / "report.html")
  finished_run = finished.load_run(folder)
  console.show(result_tables.as_text(result_tables.results_table(finished_run)))
  size = result_tables.ledger(finished_run)["The set against the text"]
  if "LARGER" in size:
    console.show(f"the set is {size} than the text that it was learned from")
  console.show(f"report: {path}")


def known_peak(folder: epath.Path) -> int | None:
  """Returns the most memory of an outer loop that has ended, if it is known."""
  try:
    summary = json_files.parse((folder / "summary.json").read_bytes())
    return summary["cost"]["peak_memory_bytes"]
  except (OSError, ValueError, KeyError, TypeError):
    return None
