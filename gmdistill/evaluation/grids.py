"""How a set holds under ways of training that it was not learned for."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from gmdistill import fields
from gmdistill.evaluation import protocols
from gmdistill.students import problems
from gmdistill.system import units
from gmdistill.training import fitting, optimizers


class Way(NamedTuple):
  """A way to train: a column of the grid."""

  optimizer: str  # adamw, sgd or own
  rate: float | None  # the highest; None: the set's own steps
  steps: int

  @property
  def name(self) -> str:
    """What the column is called."""
    if self.rate is None:
      return "own steps"
    return f"{self.optimizer} {self.rate:.2g}, {self.steps} steps"


def descending(
  *,
  num_steps: fields.Schedule,
  batch_size: fields.Count,
  rate: float,
  num_students: fields.Count,
  fresh: bool,
) -> protocols.Protocol:
  """SGD with momentum, under the schedule of `fine_tuning`, clip 1.0.

  Args:
    num_steps: Of SGD.
    batch_size: Examples a step.
    rate: The highest learning rate.
    num_students: Students that are trained and reported.
    fresh: Whether students start from random weights.
  """
  identity = {"kind": "descending", **locals()}
  schedule = optimizers.FineTuning(num_steps, kind="sgd")

  def train(problem: problems.Problem, syn: Any, key: Any, rate: Any) -> Any:
    if fresh:
      problem = dataclasses.replace(problem, initial=None)
    return fitting.fit(
      problem,
      syn.batch,
      schedule.optimizer(rate),
      num_steps=num_steps,
      batch_size=batch_size,
      key=key,
    )

  return protocols.Protocol(
    train, (rate,), num_students, fresh=fresh, identity=identity
  )


def summary(cells: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
  """Returns each row's recovery over a grid, and where the set does not hold.

  Args:
    cells: Of each student and way: `student`, `way`, `full` (what comes of all
      rows), its `unit` and `rows`, of each row its `mean`, `std` and `n`; where
      students say something before any training, `zero_shot` too.

  Returns:
    By row the `mean` and the `worst` recovery, 0 where a student diverged; and
    `below`: the cells in which the set is below K-centers by more than two
    standard errors.
  """
  names = sorted({name for cell in cells for name in cell["rows"]})
  recovery = {}
  for name in names:
    shares = [
      units.recovered(cell["rows"][name]["mean"], cell)
      for cell in cells
      if name in cell["rows"]
    ]
    recovery[name] = {
      "mean": float(np.mean(shares)), "worst": float(np.min(shares)),
      "cells": len(shares),
    }  # fmt: skip
  below = [cell for cell in cells if _is_below(cell)]
  return {
    "recovery": recovery,
    "below": [f"{cell['student']}, {cell['way']}" for cell in below],
    "sentence": _sentence(cells, below),
  }


def _is_below(cell: Mapping[str, Any]) -> bool:
  rows = cell["rows"]
  if not {"distilled", "k_centers"} <= set(rows):
    return False
  ours, theirs = rows["distilled"], rows["k_centers"]
  error = np.hypot(_error(ours), _error(theirs))
  less = _worth(cell, theirs) - _worth(cell, ours)
  return bool(np.nan_to_num(less) > 2 * error)  # NaN: neither could be trained


def _worth(cell: Mapping[str, Any], row: Mapping[str, Any]) -> float:
  """Returns a row's mean, of which more is better."""
  if not np.isfinite(row["mean"]):
    return -np.inf
  return float(units.sign(cell.get("unit", "accuracy")) * row["mean"])


def _error(row: Mapping[str, Any]) -> float:
  """Returns the standard error of a row's mean; 0 of one student, or NaN."""
  return float(np.nan_to_num(row["std"] or 0.0) / np.sqrt(row["n"]))


def _sentence(cells, below) -> str:
  """Returns under which ways of training a set holds, for people."""
  if not below:
    return (
      f"The set holds under all {len(cells)} ways of training: it is nowhere "
      "below K-centers by more than two standard errors."
    )
  where = "; ".join(f"{cell['student']}, {cell['way']}" for cell in below)
  return (
    f"The set holds under {len(cells) - len(below)} of {len(cells)} ways of "
    f"training. It is below K-centers under: {where}."
  )


def dropped(batch: Any, share: float, copies: int, seed: int) -> Any:
  """Returns copies of examples, each without a share of its tokens: what
  augments text, for the robust scores."""
  rng = np.random.default_rng(seed)
  mask = np.tile(np.asarray(batch.mask), (copies, 1))
  kept = mask & (rng.random(mask.shape) >= share)
  kept[:, 0] = mask[:, 0]  # the first token stays: none is empty
  return type(batch)(
    jnp.concatenate([jnp.asarray(batch.inputs)] * copies),
    jnp.asarray(kept),
    jnp.concatenate([jnp.asarray(batch.class_labels)] * copies),
  )


def robust_score(alpha: float) -> float:
  """Returns (e^alpha - e^-1) / (e - e^-1), from 0 to 1 (DD-Ranking, 2025)."""
  low = np.exp(-1.0)
  return float((np.exp(alpha) - low) / (np.exp(1.0) - low))


def label_robust(
  ours: float, ours_hard: float, random: float, full: float, weight: float = 0.5
) -> float:
  """Returns the label-robust score (LRS) of accuracies as fractions.

  alpha = w (ours - random) - (1 - w) (full - ours_hard): the improvement over
  random rows, less the gap to all rows that hard labels leave.
  """
  improvement, gap = ours - random, full - ours_hard
  return robust_score(weight * improvement - (1 - weight) * gap)


def augmentation_robust(
  ours: float,
  random: float,
  ours_augmented: float,
  random_augmented: float,
  weight: float = 0.5,
) -> float:
  """Returns the augmentation-robust score (ARS) of accuracies as fractions.

  beta = w (improvement over random rows, both augmented) + (1 - w) (the same,
  neither).
  """
  augmented, plain = ours_augmented - random_augmented, ours - random
  return robust_score(weight * augmented + (1 - weight) * plain)
