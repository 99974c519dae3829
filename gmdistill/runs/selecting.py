"""Real rows by methods of selection: what `gmdistill select` writes."""

import dataclasses
import functools
import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gmdistill import errors
from gmdistill.data import batches, row_lines
from gmdistill.reports import tables
from gmdistill.runs import candidates, chosen_rows, work
from gmdistill.runs.config import assembly, checks, outputs, row_fields
from gmdistill.runs.config import recipe as recipes
from gmdistill.selection import coresets, diversity, methods, pools
from gmdistill.sets import synthetic, text_sets
from gmdistill.system import console, devices, folders, logs, paths, units


def run(
  config: recipes.Recipe,
  names: Sequence[str],
  workdir: str,
  command: str = "",
  *,
  measured: bool = True,
  size_field: str = "",
) -> dict[str, Any]:
  """Chooses rows by each method, and trains students on them.

  One method leaves `rows.jsonl`, the rows that it chose, `reported.jsonl`,
  those to report on (`DIR/*.jsonl` is data), of rows with classes the text set
  `texts/set.jsonl`, `scores.npz`, and `select.json`: what it cost, and the
  accuracy of students by the config's protocols. Several leave a folder each,
  and one table of all in `select.json`.

  Args:
    config: Names the data, the student, the budget and the protocols.
    names: Of `methods.METHODS`; `all` alone: those that read such rows.
    workdir: Where it goes.
    command: How to start the same again.
    measured: Whether students are trained on the rows.
    size_field: The field that says how many rows, where it is not the config's.

  Raises:
    InputError: something the user can mend, before anything is written.
  """
  every = list(names) == ["all"]
  for name in [] if every else names:
    errors.choice("--method", name, methods.METHODS)
  chooser = _Chooser(config, command, measured, size_field)
  if every:
    names = chooser.every_method()
  for name in names:
    chooser.require(name)
  with work.begun(
    "select", workdir, config, chooser.asked(",".join(names))
  ) as (folder, done):
    if done is None:
      rows = {}
      for place, name in enumerate(names, 1):
        if len(names) == 1:
          rows[name] = chooser.choose(name, folder)
          continue
        logs.say(f"method {place} of {len(names)}: {name}")
        own = str(folder / name)
        with work.begun("select", own, config, chooser.asked(name)) as (
          of_one,
          known,
        ):
          if known is None:
            known = chooser.summary({name: chooser.choose(name, of_one)})
            folders.write_json(of_one / "select.json", known)
          rows |= known["methods"]
      done = chooser.summary(rows)
      folders.write_json(folder / "select.json", done)
    console.show(text(done))
  return done


def what_next(
  config: recipes.Recipe, workdir: str, done: dict[str, Any]
) -> str:
  """Returns the line that says how a run reads rows that `run` has left."""
  first, *more = done["methods"]
  folder = paths.path(workdir)
  data = folder / first if more else folder
  told = row_lines.flags(data / "*.jsonl", done["columns"])
  # Some of the rows become its selection split.
  fewer = f"with a smaller {config.size_field}"
  return f"next, {fewer}: gmdistill distill ... {told}"


class _Chooser:
  """Chooses rows by methods, for one config."""

  def __init__(
    self,
    config: recipes.Recipe,
    command: str,
    measured: bool,
    size_field: str,
  ):
    self._config, self._command = config, command
    self._setup = setup = assembly.setup(config, size_field)
    self._protocols = assembly.reported_protocols(config) if measured else {}
    drawn = coresets.limited(
      setup.corpus.train.labels,
      np.arange(len(setup.corpus.train.labels)),
      max(config.coreset_pool, config.per_group),
      config.seed,
    )
    written = candidates.texts(setup, config)
    count = len(setup.corpus.train.labels)
    drawn = np.concatenate([drawn, count + np.arange(len(written))])
    self._drawn = drawn = drawn.astype(np.int64)
    every = candidates.extended(setup, config).corpus.train
    problem = dataclasses.replace(setup.problem, criterion=None)
    self._pool = pools.Pool(
      problem,
      # A method of selection reads a row's class alone.
      batches.take(every._replace(soft=None), drawn),
      row_fields.selection_rows(setup.corpus, config),
      len(setup.corpus.strata),
    )
    self._diverse: diversity.Diversity | None = None
    if weight := config.choice.diversity:
      rows = self._pool.rows
      self._diverse = diversity.of_features(problem, rows, weight)
    self._texts = chosen_rows.texts_of(config, setup.corpus, written)
    self._per_class = pools.most_rows(
      self._pool, config.per_group, config.subset.tokens_per_class
    )

  def every_method(self) -> list[str]:
    """Returns the methods that read such rows."""
    return methods.of_kind(self._pool)

  def asked(self, method: str) -> dict[str, Any]:
    """Returns what decides the rows of a method, or of several."""
    setup = self._setup
    return {
      "method": method,
      "data": setup.corpus.fingerprint,
      "space": setup.space_id,
      "weights": self._weights,
      **candidates.identity(self._config),
    }

  @functools.cached_property
  def _weights(self):
    problem = self._setup.problem
    return problem.weights_id if problem.is_pretrained else ""

  def summary(self, rows: dict[str, Any]) -> dict[str, Any]:
    """Returns what `select.json` says of the rows of methods."""
    config = self._config
    return {
      "schema": 1,
      "dataset": config.data.name,
      "student": self._setup.student_name,
      "pool": len(self._drawn),
      "budget": {
        "rows_per_class": config.per_group,
        "tokens_per_class": config.subset.tokens_per_class,
      },
      "columns": self._texts.columns,
      "unit": self._setup.problem.task.unit,
      "asked": self.asked(",".join(rows)),
      "methods": rows,
      "provenance": folders.environment(self._command),
    }

  def require(self, name: str) -> None:
    """Says what a method's memory will be, and refuses it where there is none.

    Raises:
      InputError: it does not fit, or the student is of another kind.
    """
    options = self._config.subset
    errors.named(
      "subset.matched",
      lambda: checks.require_matched(
        self._setup, options.matched, "subset.matched", some=False
      ),
    )
    methods.require(self._pool, name, options)
    needed, room = methods.memory(self._pool, name, options), devices.room()
    if needed > room:
      raise errors.InputError(
        f"--method={name} needs about {units.size(needed)}, and the device has "
        f"{units.size(room)}; use a smaller subset.chunk, subset.sketch, "
        "coreset_pool, or fewer tensors, as subset.matched=last_1."
      )
    if needed:
      logs.say(f"{name}: gradients of rows take about {units.size(needed)}")

  def choose(self, name: str, folder: Any) -> dict[str, Any]:
    """Chooses rows, writes them, measures students; returns the table's row."""
    known = devices.forget_peak()
    before, start = devices.peak_memory(), time.monotonic()
    scores_P = self._scores(name, self._config.seed)
    chosen = self._best(scores_P)
    seconds = time.monotonic() - start
    memory = devices.peak_memory() - before if known else None
    classes = np.bincount(
      self._pool.rows.labels[chosen], minlength=self._pool.num_classes
    )
    tokens = self._config.subset.tokens_per_class
    if tokens and not classes.all():
      raise errors.InputError(
        f"subset.tokens_per_class={tokens} leaves a class no row by "
        f"--method={name}; use {self._pool.lengths.max()} or more."
      )
    lengths = self._pool.lengths[chosen]
    choice = chosen_rows.Choice(self._drawn, self._pool, scores_P, chosen)
    paths.write_files(folder, self._texts.files(choice))
    if isinstance(self._texts, chosen_rows.OfClasses):
      provenance = folders.environment(self._command)
      card = outputs.card_of_texts(self._setup, self._config, provenance)
      text_sets.save(folder / "texts", self._texts.text_set(choice), card)
    row = {
      "about": methods.about(name),
      "rows": len(chosen),
      "tokens": int(lengths.sum()),
      "seconds": seconds,
      "memory_bytes": memory,
      "protocols": self._measured(name, chosen),
    }
    logs.say(f"{name}: {row['about']}")
    if classes.min() < self._per_class and not tokens:
      logs.say(f"{name}: a class has {classes.min()} rows that may be taken")
    return row

  def _scores(self, name, seed):
    options, per_class = self._config.subset, self._per_class
    if options.tokens_per_class and name in methods.IN_ORDER:
      per_class = pools.rows_within(self._pool, options.tokens_per_class)
    return methods.METHODS[name](
      self._pool, per_class=per_class, seed=seed, options=options
    )

  def _best(self, scores_P):
    return pools.best(
      scores_P,
      self._pool,
      self._per_class,
      self._config.subset.tokens_per_class,
      self._diverse,
    )

  def _measured(self, name, chosen):
    """Returns the accuracies of students on the rows, by protocol."""
    if not self._protocols:
      return {}
    table = outputs.table(self._setup, self._config)
    found = {}
    for of, protocol in self._protocols.items():
      draws = [chosen]
      if name in methods.DRAWN and not self._config.subset.tokens_per_class:
        # Afresh for every student, as a table's random rows are.
        draws = [
          self._best(self._scores(name, coresets.CORESET_SEED + i))
          for i in range(protocol.num_students)
        ]
      sets = [
        pools.as_batch(self._pool, batches.take(self._pool.rows, rows))
        for rows in draws
      ]
      stacked = jax.tree.map(lambda *xs: jnp.stack(xs), *sets)
      found[of] = table.measure(
        protocol, synthetic.SyntheticSet(stacked), f"{of}: {name}"
      ).row()
    return found


def text(done: dict[str, Any]) -> str:
  """Returns the table of methods, for a terminal."""
  names = list(next(iter(done["methods"].values()))["protocols"])
  header = ["Method", "Rows", "Tokens", "Time", "Memory", *names]
  body = []
  for name, row in done["methods"].items():
    memory = row["memory_bytes"]
    body.append(
      [
        name,
        str(row["rows"]),
        str(row["tokens"]),
        units.seconds(row["seconds"]),
        "not known" if memory is None else units.size(memory),
        *[accuracy(row["protocols"][of], done["unit"]) for of in names],
      ]
    )
  return tables.aligned(header, body)


def accuracy(row: dict[str, Any], unit: str = "accuracy") -> str:
  """Returns a measured row in words: the mean, its spread, students."""
  scale, digits = (100, 1) if unit == "accuracy" else (1, 3)
  spread = ""
  if row["std"] is not None:
    spread = f" ± {scale * row['std']:.{digits}f}"
  return f"{scale * abs(row['mean']):.{digits}f}{spread} (n={row['n']})"
