"""How near a set's gradients are to the real ones along a training."""

import functools
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from gmdistill.data import batches, samplers
from gmdistill.evaluation import measuring
from gmdistill.objectives import contract, distances
from gmdistill.sets import spaces, synthetic
from gmdistill.students import problems
from gmdistill.system import logs, waits
from gmdistill.training import fitting


class Walks(NamedTuple):
  """How students train on real batches by AdamW, and when they are looked at.

  Attributes:
    learning_rate: Of AdamW.
    num_students: Number of fresh students.
    num_steps: Batches that each student has for itself.
    every: Steps between two comparisons, the first of which is at step 0.
  """

  learning_rate: float
  num_students: int = 3
  num_steps: int = 40
  every: int = 20


def gradient_cosines(
  problem: problems.Problem,
  syn: measuring.SyntheticSet,
  sampler: samplers.Sampler,
  walks: Walks,
) -> tuple[np.ndarray, dict[str, float]]:
  """Returns the cosine of synthetic and real gradients, by class and by layer.

  At every look at a student the gradient of each class's synthetic examples is
  compared with that of its real ones, as one vector over all matched tensors.
  The mean over students and steps (Maekawa et al. 2024, table 4).

  Args:
    problem: The student's architecture and start.
    syn: The set, its rows in class order.
    sampler: Class-balanced real batches in class order.
    walks: How students train.

  Returns:
    The cosine [C] of each class over all layers, and that of each layer by
    its name, the mean over classes, from below.
  """
  along, num_taken = _along(walks)
  logs.say(
    f"gradient cosines of {walks.num_students} students, {num_taken - 1} steps "
    "each"
  )
  compared = []
  for student in waits.over(
    range(walks.num_students),
    "gradient cosines",
    walks.num_students,
    "students",
  ):
    first = student * walks.num_steps
    real_T = _stacked([sampler(first + t) for t in range(num_taken)])
    key = jax.random.key(student)
    seen = along(problem, syn.batch, key, real_T)
    compared.append(jax.block_until_ready(seen))
  cosines, by_layer = jax.tree.map(lambda *xs: np.concatenate(xs), *compared)
  names = problem.roles.from_below(by_layer)
  return cosines.mean(axis=0), {k: float(by_layer[k].mean()) for k in names}


@functools.lru_cache(maxsize=4)  # the same walks are the same program
def _along(walks):
  """Returns `along(problem, synthetic batch, key, real batches [T, ...])`,
  which compares one student's gradients, and T, after which nobody looks."""
  optimizer = optax.adamw(walks.learning_rate)
  moments = np.arange(0, walks.num_steps, walks.every)

  @jax.jit
  def along(problem, syn_batch, key, real_T):
    """Returns one student's comparisons, leaves [moments, ...]."""

    def step(t, carry):
      params, state = carry
      real = jax.tree.map(lambda x: x[t], real_T)
      grads = jax.grad(problem.loss)(params, real)
      return fitting.update(optimizer, grads, state, params)

    def to_moment(carry, before_now):
      first, now = before_now
      carry = jax.lax.fori_loop(first, now, step, carry)
      real = jax.tree.map(lambda x: x[now], real_T)
      return carry, _compare(carry[0], real, problem, syn_batch)

    params = problem.init(key)
    before = np.concatenate([moments[:1], moments[:-1]])
    carry = (params, optimizer.init(params))
    return jax.lax.scan(to_moment, carry, (before, moments))[1]

  return along, int(moments[-1]) + 1


def _compare(params, real, problem, syn_batch):
  """Returns the cosines [C] of both gradients, whole and layer by layer."""

  def one_class(pair):
    syn_grads, real_grads = (jax.grad(problem.loss)(params, b) for b in pair)
    return (
      distances.cosine(syn_grads, real_grads, problem.roles, "all"),
      distances.layer_cosines(syn_grads, real_grads, problem.roles),
    )

  split = (
    contract.by_group(syn_batch, problem.groups),
    contract.by_group(real, problem.groups),
  )
  return jax.lax.map(one_class, split)


def _stacked(rows):
  """Returns batches as one [T, ...], without what all of them have as padding.

  Cut at a multiple of 16 positions: a few lengths, a program each.
  """
  batch_T = jax.tree.map(lambda *xs: np.stack(xs), *rows)
  longest = int(batch_T.mask.any(axis=(0, 1)).nonzero()[0].max()) + 1
  length = min(-(-longest // 16) * 16, batch_T.mask.shape[-1])
  return batches.cut(batch_T, length)


def gradient_cosine(
  setup: spaces.Setup,
  best: synthetic.SyntheticSet,
  *,
  rows_per_class: int,
  seed: int,
  learning_rate: float,
  num_students: int,
) -> dict[str, Any]:
  """Returns what a summary holds of a set's gradient cosines.

  Args:
    setup: The problem and its rows.
    best: The set.
    rows_per_class: Real rows of every class in a batch.
    seed: Of their order.
    learning_rate: Of the AdamW that trains the students on real rows.
    num_students: So many trajectories; 0: none, and nothing is said.
  """
  if not num_students:
    return {}
  sampler = samplers.class_balanced_sampler(
    setup.corpus.train,
    rows_per_class=rows_per_class,
    num_classes=setup.problem.groups,
    seed=seed,
  )
  walks = Walks(learning_rate, num_students)
  cosines_C, by_layer = gradient_cosines(setup.problem, best, sampler, walks)
  return {
    "per_class": [float(x) for x in cosines_C],
    "mean": float(cosines_C.mean()),
    "per_layer": by_layer,
  }
