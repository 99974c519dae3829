"""Several students at once: `evaluate --protocol=grid` and `ranking`."""

import dataclasses
import itertools
from typing import Any

import jax.numpy as jnp
from etils import epath

from gmdistill import errors
from gmdistill.data import batches
from gmdistill.evaluation import grids, measuring, protocols, rankings
from gmdistill.runs.commands import compared_students, projecting, shared
from gmdistill.runs.config import assembly, checks
from gmdistill.runs.config import recipe as recipes
from gmdistill.selection import coresets
from gmdistill.sets import synthetic
from gmdistill.system import console, folders, logs, units

PROTOCOLS = ("grid", "projections", "ranking")
BESIDE = ("random", "k_centers")


def evaluate(flags: Any, config: recipes.Recipe, source: epath.Path) -> None:
  """Measures a set by several students; prints and writes what it comes to."""
  name = flags.protocol
  if name == "ranking":
    checks.require_classes(config, f"--protocol={name}")
  measure = {
    "grid": _grid,
    "projections": projecting.projections,
    "ranking": _ranking,
  }[name]
  run = (source.parent if shared.is_text_set(source) else source).parent
  place = run if (run / "summary.json").is_file() else None
  if flags.workdir:  # refused before anything is measured
    place = folders.writable(flags.workdir)
  found = measure(config, source)
  if flags.json:
    console.data(found)
  else:
    console.show(found["table"])
  if place is not None:
    place.mkdir(parents=True, exist_ok=True)
    folders.write_json(place / f"{name}.json", found)
    logs.say(f"{name}: {place / f'{name}.json'}")


# -- grid --------------------------------------------------------------------


def _ways(
  student: compared_students.Student,
) -> list[tuple[grids.Way, protocols.Protocol]]:
  """Returns the ways to train a student, the set's own steps last."""
  options, base = student.config.grid, student.fine_tuning
  rates = options.rates or tuple(x * base.rates[0] for x in (1 / 3, 1, 3))
  common = dict(batch_size=base.batch_size, num_students=options.num_students)
  fresh = not student.setup.problem.is_pretrained
  found = []
  for steps in options.steps:
    found += [
      (
        grids.Way("adamw", rate, steps),
        protocols.fine_tuning(
          num_steps=steps,
          weight_decay=base.weight_decay,
          warmup=base.warmup,
          rates=(rate,),
          fresh=fresh,
          **common,
        ),
      )
      for rate in rates
    ]
    found += [
      (
        grids.Way("sgd", rate, steps),
        grids.descending(num_steps=steps, rate=rate, fresh=fresh, **common),
      )
      for rate in options.sgd_rates
    ]
  if student.syn.learning_rates is not None:
    steps = len(student.syn.learning_rates)
    replay = assembly.protocol(student.config, "replay")
    replay = replay._replace(num_students=options.num_students)
    found.append((grids.Way("own", None, steps), replay))
  return found


def _grid(config: recipes.Recipe, source: epath.Path) -> dict[str, Any]:
  cells = []
  students = compared_students.of_grid(config, source)
  compared_students.say_size(students[0])
  for student in students:
    named = student.name
    full = student.table.full(assembly.protocol(student.config, "full"))
    for way, protocol in _ways(student):
      label = f"{named}, {way.name}"
      own = student.table.measure(
        protocol, measuring.stacked(student.syn), f"{label}: distilled"
      )
      rows = {"distilled": own.row()}
      for method in BESIDE:
        rows[method] = student.table.baseline(label, protocol, method)
      cell = {"student": named, "way": way.name, **way._asdict()}
      unit = student.setup.problem.task.unit
      cells.append({**cell, "unit": unit, "full": full["mean"], "rows": rows})
      if "zero_shot" in student.table.methods:
        zero = student.table.baseline(label, protocol, "zero_shot")
        cells[-1]["zero_shot"] = zero["mean"]
  found = {"cells": cells, **grids.summary(cells)}
  return {**found, "table": _grid_table(found)}


def _grid_table(found: dict[str, Any]) -> str:
  names = ("distilled", *BESIDE)
  lines: list[tuple[Any, ...]] = [("student", "trained by", *names, "full")]
  for cell in found["cells"]:
    every = [cell["rows"][name] for name in names]
    every.append({"mean": cell["full"], "std": None})
    shown = [
      units.plus_minus(row["mean"], row["std"], cell["unit"]) for row in every
    ]
    lines.append((cell["student"], cell["way"], *shown))
  for kind in ("mean", "worst"):
    shares = [f"{100 * found['recovery'][x][kind]:.1f}" for x in names]
    lines.append((f"{kind} recovery, %", "", *shares, "100.0"))
  return f"{rankings.as_text(lines)}\n\n{found['sentence']}"


# -- ranking -----------------------------------------------------------------


def _candidates(
  config: recipes.Recipe,
) -> list[tuple[str, dict[str, Any], float]]:
  """Returns the students that are ranked: name, fields, and rate's factor."""
  options = config.ranking
  return [
    (
      f"{layers} layers, {pooling}, rate x{factor:g}",
      {"student__num_layers": layers, "student__pooling": pooling},
      factor,
    )
    for layers, pooling, factor in itertools.product(
      options.layers, options.poolings, options.rate_factors
    )
  ]


def _ranked(config, source) -> dict[str, compared_students.Student]:
  """Returns the student of each candidate: what cannot be trained is told
  before any is measured."""
  known: dict[Any, compared_students.Student] = {}
  found = {}
  for name, changes, _ in _candidates(config):
    fields = tuple(changes.values())
    if fields not in known:  # with whatever rate
      known[fields] = compared_students.of_name(
        compared_students.OWN, recipes.changed(config, **changes), source
      )
    found[name] = known[fields]
  if not found:
    raise errors.InputError(
      "ranking.layers, ranking.poolings and ranking.rate_factors must have one "
      "or more each."
    )
  return found


def _ranking(config: recipes.Recipe, source: epath.Path) -> dict[str, Any]:
  students, of_name = [], _ranked(config, source)
  by_row: dict[str, list[float]] = {"distilled": [], "k_centers": []}
  seconds = {"set": 0.0, "full": 0.0}
  for name, _, factor in _candidates(config):
    one = of_name[name]
    base = one.fine_tuning
    protocol = protocols.fine_tuning(
      **{
        **dataclasses.asdict(base),
        "rates": (factor * base.rates[0],),
        "num_students": config.ranking.num_students,
      },
      fresh=not one.setup.problem.is_pretrained,
    )
    whole = assembly.protocol(
      recipes.changed(
        one.config,
        full__rates=tuple(factor * x for x in config.full.rates),
        full__num_students=1,
      ),
      "full",
    )
    full = one.table.full(whole)
    own = one.table.measure(
      protocol, measuring.stacked(one.syn), f"{name}: distilled"
    )
    centers = one.table.baseline(name, protocol, "k_centers")
    by_row["distilled"].append(own.row()["mean"])
    by_row["k_centers"].append(centers["mean"])
    seconds["set"] += own.seconds
    seconds["full"] += full["seconds"]
    students.append({"name": name, "full": full["mean"]})
  ranks = rankings.ranked(by_row, [x["full"] for x in students])
  for m, student in enumerate(students):
    student |= {row: values[m] for row, values in by_row.items()}
  found = {
    "students": students,
    "rows": ranks,
    "seconds": seconds,
    "scores": _scores(config, source),
  }
  return {**found, "table": _ranking_table(found)}


def _scores(config: recipes.Recipe, source: epath.Path) -> dict[str, float]:
  """Returns the label- and augmentation-robust scores of a set."""
  student = compared_students.of_name(compared_students.OWN, config, source)
  compared_students.say_size(student)
  name = "finetune" if student.setup.problem.is_pretrained else "scratch"
  protocol = assembly.protocol(config, name)
  protocol = protocol._replace(
    rates=protocol.rates[:1], num_students=config.ranking.num_students
  )
  batch = student.syn.batch
  labels = jnp.asarray(batch.class_labels)
  hard = jnp.eye(labels.shape[1])[labels.argmax(axis=1)]
  real = _random(student)

  def accuracy(label, batch):
    one = measuring.stacked(synthetic.SyntheticSet(batch))
    return student.table.measure(protocol, one, label).row()["mean"]

  def augmented(batch):
    return grids.dropped(batch, config.ranking.dropped, 4, config.seed)

  ours = accuracy("set", batch)
  ours_hard = accuracy(
    "set, hard labels", dataclasses.replace(batch, labels=hard)
  )
  random = accuracy("random, hard labels", real)
  full = student.table.full(assembly.protocol(config, "full"))["mean"]
  own_augmented = accuracy("set, augmented", augmented(batch))
  random_augmented = accuracy("random, augmented", augmented(real))
  return {
    "label_robust": grids.label_robust(ours, ours_hard, random, full),
    "augmentation_robust": grids.augmentation_robust(
      ours, random, own_augmented, random_augmented
    ),
  }


def _random(student: compared_students.Student) -> batches.Batch:
  """Returns random rows, as the first of the table's."""
  rows = student.table.coreset_rows("random", coresets.CORESET_SEED)
  return batches.as_batch(rows, len(student.setup.corpus.label_names))


def _ranking_table(found: dict[str, Any]) -> str:
  rows = ("distilled", "k_centers", "full")
  lines: list[tuple[Any, ...]] = [("student", *rows)]
  for student in found["students"]:
    shown = [f"{100 * student[row]:.1f}" for row in rows]
    lines.append((student["name"], *shown))
  for kind, factor in (("tau", 1), ("regret", 100)):
    shown = [f"{factor * found['rows'][row][kind]:.2f}" for row in rows[:2]]
    lines.append(
      (f"Kendall's {kind}" if kind == "tau" else "regret, points", *shown, "")
    )
  spent, scores = found["seconds"], found["scores"]
  return (
    f"{rankings.as_text(lines)}\n\nTraining on the set took "
    f"{spent['set']:.1f} s, on all rows {spent['full']:.1f} s. Label-robust "
    f"score {100 * scores['label_robust']:.1f}, augmentation-robust "
    f"{100 * scores['augmentation_robust']:.1f} (of 100)."
  )
