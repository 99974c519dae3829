"""What a set that grows keeps: accuracies on old classes and on new ones."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gmdistill.data import batches
from gmdistill.evaluation import measuring, protocols, readings, trainers
from gmdistill.reports import tables
from gmdistill.runs import selecting
from gmdistill.runs.config import assembly, row_fields
from gmdistill.runs.config import recipe as recipes
from gmdistill.sets import spaces, synthetic
from gmdistill.training import fitting, optimizers

NEW_ROWS = 4096  # at most, on which a student forgets


def measured(
  setup: spaces.Setup,
  config: recipes.Recipe,
  old_classes: np.ndarray,
  sets: Mapping[str, synthetic.SyntheticSet],
) -> dict[str, dict[str, Any]]:
  """Returns a row of accuracies for each set, and one of who forgets.

  Args:
    setup: The problem, and the data with all classes.
    config: Whose first protocol trains the students.
    old_classes: The places of the old classes among all.
    sets: By name; `before` is the old one.
  """
  protocol = assembly.protocol(config, config.protocols[0])
  measured_on = _measured_on(setup, config, old_classes)
  found = {
    name: _row(setup, config, protocol, syn, measured_on)
    for name, syn in sets.items()
  }
  new = np.flatnonzero(~np.isin(setup.corpus.train.labels, old_classes))
  if len(new):
    forgetful = _then_new_rows(setup, config, protocol, new)
    found["before, then new rows"] = _row(
      setup, config, forgetful, sets["before"], measured_on
    )
  return found


def _measured_on(setup, config, old_classes):
  """Returns the splits that are measured on, where old and new rows stand in
  the reported one, and what keeps the old classes alone."""
  count = len(setup.corpus.label_names)
  reported = setup.corpus.reported
  is_old = np.isin(reported.labels[readings.order(reported)], old_classes)

  def cut(rows):
    return readings.length_buckets(rows, count)

  parts = {
    name: np.flatnonzero(which)
    for name, which in {"old": is_old, "new": ~is_old}.items()
    if which.any()
  }
  selection = cut(row_fields.selection_rows(setup.corpus, config))
  kept = jnp.where(jnp.isin(jnp.arange(count), old_classes), 0.0, -jnp.inf)
  return measuring.Splits(selection, cut(reported)), parts, kept


def _row(setup, config, protocol, syn, measured_on):
  splits, parts, kept_C = measured_on

  def among_old(problem, params, batch):
    # Finite: a score of logits that are not is no score.
    logits_BxC = protocol.logits(problem, params, batch)
    low = jnp.finfo(logits_BxC.dtype).min / 4
    return jnp.maximum(logits_BxC + kept_C[None], low)

  def look(trainer, students, splits):
    seen = measuring.scores(trainer, students, splits._replace(groups=parts))
    seen["accuracy"] = seen.pop(measuring.EVERYWHERE)
    read = (trainer.problem, students, splits.reported)
    old = {"old_among_old": parts["old"]}
    return seen | readings.means(*read, old, among_old)

  at_once = min(config.students_at_once, protocol.num_students)
  trainer = trainers.Trainer(setup.problem, protocol, at_once)
  found = measuring.measure(
    trainer,
    measuring.stacked(syn),
    splits,
    look=look,
  )
  return {
    **found.row(),
    "std_of": {name: float(x.std()) for name, x in found.beside.items()},
  }


def _then_new_rows(
  setup: spaces.Setup,
  config: recipes.Recipe,
  protocol: protocols.Protocol,
  rows: np.ndarray,
) -> protocols.Protocol:
  """Returns a protocol whose students go on by AdamW on real new rows alone.

  What a student does that keeps no old example: it forgets.
  """
  full = config.full
  drawn = np.random.default_rng(config.seed).permutation(rows)[:NEW_ROWS]
  train = batches.take(setup.corpus.train, drawn)
  batch = batches.as_batch(train, len(setup.corpus.label_names))
  schedule = optimizers.FineTuning(
    full.num_steps, full.weight_decay, full.warmup
  )
  first: Callable[..., Any] = protocol.train

  def then(problem, syn, key, rate):
    params = first(problem, syn, key, rate)
    real = jax.tree.map(jnp.asarray, batch)
    order = fitting.shuffled_rows(
      jax.random.fold_in(key, 3), len(real), full.num_steps, full.batch_size
    )
    optimizer = schedule.optimizer(full.rates[0])
    return fitting.descend(problem.loss, params, real, optimizer, rows=order)

  count = min(full.num_students, protocol.num_students)
  return protocol._replace(train=then, num_students=count, identity=None)


def text(done: dict[str, Any]) -> str:
  """Returns the table of accuracies on old and new classes."""
  names = {
    "mean": "all classes",
    "old": "old classes",
    "new": "new classes",
    "old_among_old": "old among old",
  }
  header = ["Set", "Steps", *names.values()]
  body = []
  for name, row in done["rows"].items():
    told = [
      "-"
      if key not in row
      else selecting.accuracy(
        {"mean": row[key], "std": row["std_of"].get(key), "n": row["n"]}
        if key != "mean"
        else row
      )
      for key in names
    ]
    body.append([name, str(done["steps"].get(name, "-")), *told])
  return tables.aligned(header, body)
