"""ADMM between a set's embeddings and the tokens that are nearest to them.

GRADMM's problem (Nguyen et al. 2025) with any objective of ours: minimise
L(x) subject to x = z, z rows of the table, by turns

    x <- argmin L(x) + rho / 2 |x - z + u|^2,  z <- nearest(x + u),  u += x - z

where the first is a few steps of Adam. Tokens may change from turn to turn.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gmdistill.objectives import contract
from gmdistill.runs import jobs
from gmdistill.sets import readable, synthetic
from gmdistill.system import logs


def alternate(
  job: jobs.Job,
  syn: synthetic.SyntheticSet,
  *,
  rounds: int,
  num_steps: int,
  penalty: float,
) -> tuple[np.ndarray, int]:
  """Returns tokens [M, L] for a set, and how many of them it changed.

  Args:
    job: Of the run whose objective is lowered: its last stage's.
    syn: The set, of embeddings.
    rounds: Turns.
    num_steps: Outer steps a turn.
    penalty: rho, over the mean square of the table's rows.
  """
  config, stage = job.config, job.stages[-1]
  setup = job.setup
  table_VxD = setup.problem.embeddings[: len(setup.corpus.tokenizer.tokens)]
  optimizer = optax.chain(
    optax.clip_by_global_norm(1.0), optax.adam(config.outer.learning_rate)
  )
  step = _stepper(stage.objective, optimizer, syn, penalty)
  x = jnp.asarray(syn.batch.inputs)
  u = jnp.zeros_like(x)
  first_MxL = ids_MxL = readable.nearest(syn, table_VxD)
  state = optimizer.init(x)
  students = _students(stage.objective, job)
  for turn in range(rounds):
    z = table_VxD[ids_MxL]
    for k in range(num_steps):
      number = turn * num_steps + k
      real = jax.tree.map(lambda leaf: leaf[0], job.draws[-1](number, 1))
      key = jax.random.fold_in(job.root_key, number)
      x, state, students, loss = step(
        job.setup.problem, (x, state, students), z - u, real, key
      )
    moved = _at(syn, x + u)
    ids_MxL = readable.nearest(moved, table_VxD)
    u = u + x - table_VxD[ids_MxL]
    changed = int((ids_MxL != first_MxL).sum())
    logs.say(
      f"turn {turn + 1} of {rounds}: objective {float(loss):.4f}, {changed} of "
      f"{ids_MxL.size} tokens are others than at first"
    )
  return ids_MxL, changed


def _at(syn, x):
  return syn.replace(batch=syn.batch.replace(inputs=x), basis=None)


def _students(objective, job) -> Any:
  keys = jax.random.split(
    jax.random.key(job.config.seed), job.config.num_students
  )
  init = functools.partial(objective.init, job.setup.problem)
  return jax.lax.map(lambda key: init(key, jnp.float32(0)), keys)


def _stepper(objective: contract.Objective, optimizer, syn, penalty):
  """Returns one step of Adam of the objective and the penalty, jitted."""

  @jax.jit
  def step(problem, carry, anchor, real, key):
    x, state, students = carry
    scale = jnp.square(problem.embeddings).sum(axis=1).mean()
    count = len(jax.tree.leaves((students, real))[0])
    keys = jax.random.split(key, count)

    def one(student_real_key):
      student, own, key = student_real_key

      def loss(x):
        value, (after, _) = objective.loss(
          problem, _at(syn, x), student, own.widened(), key
        )
        return value, after

      return jax.value_and_grad(loss, has_aux=True)(x)

    (losses, students), grads = jax.lax.map(one, (students, real, keys))

    def held(x):
      return penalty / 2 * jnp.square(x - anchor).sum(axis=-1).mean() / scale

    total = grads.mean(axis=0) + jax.grad(held)(x)
    updates, state = optimizer.update(total, state, x)
    return optax.apply_updates(x, updates), state, students, losses.mean()

  return step
