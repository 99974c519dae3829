"""What an objective is, and sums of them.

An objective is a pair of pure functions over one `Problem`. It differentiates
through students' gradients, always by `mixed_mode.grad`, so every objective is
a few lines of plain JAX under one outer `jax.grad`.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gmdistill import trees
from gmdistill.data import batches as row_batches
from gmdistill.sets import synthetic
from gmdistill.students import problems

Metrics = dict[str, jax.Array]


class Expert(NamedTuple):
  """A student on a trajectory of real training, and what the real data say.

  One entry of an expert bank; what nobody reads is left out as None.
  """

  params: trees.Params | None = None  # theta
  targets: trees.Params | None = (
    None  # real gradients [G, ...] of matched tensors
  )
  losses: Any = None  # [G], real loss of each group (nats)
  later: trees.Params | None = (
    None  # theta on the same trajectory, some steps on
  )


class Real(NamedTuple):
  """What the real data give one student in one outer step."""

  batches: (
    row_batches.Batch | None
  )  # N balanced ones, leaves [N, G * rows, ...]
  expert: Expert = Expert()

  def widened(self) -> "Real":
    """Returns it as objectives compute, in float32: a bank may store halves."""
    return self._replace(expert=jax.tree.map(jnp.float32, self.expert))


class Objective(NamedTuple):
  """What is matched, written for one student.

  `init(problem, key, phase)` returns the inner state of one student; `phase`
  in [0, 1) is its place among the students of a run. `loss` takes (problem,
  synthetic set, inner state, `Real`, key) and returns (loss, (inner state,
  metrics)). The caller maps over students and averages the gradients with
  respect to the *set*; students' own gradients are never averaged.
  """

  init: Callable[[problems.Problem, jax.Array, jax.Array], trees.PyTree]
  loss: Callable[..., tuple[jax.Array, tuple[trees.PyTree, Metrics]]]
  num_batches: int  # N, batches of real rows in group order
  reads: tuple[str, ...] = ()  # the fields of `Expert` that it needs


def weighted(parts: Sequence[tuple[float, Objective]]) -> Objective:
  """The weighted sum of objectives, each on its own students and batches.

  Args:
    parts: Pairs (weight, objective).
  """

  def init(problem, key, phase):
    keys = jax.random.split(key, len(parts))
    return tuple(
      part.init(problem, keys[i], phase) for i, (_, part) in enumerate(parts)
    )

  def loss(problem, syn: synthetic.SyntheticSet, student, real, key):
    keys = jax.random.split(key, len(parts))
    total, first = jnp.float32(0.0), 0
    students: list[trees.PyTree] = []
    metrics: Metrics = {}
    for i, (weight, part) in enumerate(parts):
      rows = slice(first, first + part.num_batches)
      batches = jax.tree.map(lambda x, rows=rows: x[rows], real.batches)
      value, (state, seen) = part.loss(
        problem, syn, student[i], Real(batches, real.expert), keys[i]
      )
      total = total + weight * value
      students.append(state)
      metrics |= {**seen, f"part_{i}/loss": value}
      first = rows.stop
    return total, (tuple(students), metrics)

  num_batches = sum(part.num_batches for _, part in parts)
  reads = {name: None for _, part in parts for name in part.reads}
  return Objective(init, loss, num_batches, tuple(reads))


def no_state(
  problem: problems.Problem, key: jax.Array, phase: jax.Array
) -> tuple[()]:
  """The `init` of an objective whose students have no state of their own."""
  return ()


def by_group(batch: row_batches.Batch, groups: int) -> row_batches.Batch:
  """Splits rows in group order: leaves [G * rows, ...] to [G, rows, ...].

  The groups of rows that have classes are these; see `Problem.groups`.
  """
  return jax.tree.map(lambda x: x.reshape(groups, -1, *x.shape[1:]), batch)
