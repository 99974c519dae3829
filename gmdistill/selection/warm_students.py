"""Students a little way into their training, by whom rows are judged."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gmdistill import trees
from gmdistill.data import batches
from gmdistill.selection import pools
from gmdistill.students import problems
from gmdistill.system import waits
from gmdistill.training import fitting, optimizers


class Warm(NamedTuple):
  """A student at one time of its training, and its Adam's memory then."""

  params: trees.Params
  first: trees.Params  # Adam's moments, as it keeps them
  second: trees.Params
  updates: jax.Array  # how many they are of


def along_training(
  pool: pools.Pool, options: pools.Options, seed: int
) -> list[Warm]:
  """Returns a student at `options.checkpoints` times of a training on the pool.

  Args:
    pool: The rows that it trains on.
    options: Steps, batch size and rate of its AdamW.
    seed: Decides the student, and the order of the rows.
  """
  problem = pool.problem
  rows = jax.tree.map(jnp.asarray, pools.as_batch(pool, pool.rows))
  optimizer = optax.adamw(
    options.learning_rate, optimizers.B1, optimizers.B2, optimizers.EPSILON
  )
  shares = np.arange(1, options.checkpoints + 1)
  ends = options.num_steps * shares // options.checkpoints
  key, order_key = jax.random.split(jax.random.key(seed))
  order = fitting.shuffled_rows(
    order_key, len(rows), options.num_steps, options.batch_size
  )

  @jax.jit
  def train(problem: problems.Problem, carry, rows, order):
    def step(carry, rows_B):
      params, state = carry
      batch = batches.take_rows(rows, rows_B)
      grads = jax.grad(problem.loss)(params, batch)
      return fitting.update(optimizer, grads, state, params), None

    return jax.lax.scan(step, carry, order)[0]

  params = problems.first_student(problem, key)
  carry = (params, optimizer.init(params))
  seen = []
  parts = list(zip([0, *ends[:-1]], ends, strict=True))
  for start, end in waits.over(parts, "warming up", len(parts), "parts"):
    carry = train(problem, carry, rows, order[start:end])
    params, (adam, *_) = carry
    seen.append(Warm(params, adam.mu, adam.nu, adam.count))
  return seen


def warmed_up(
  pool: pools.Pool, options: pools.Options, seed: int
) -> list[trees.Params]:
  """Returns `options.num_students` students at the end of such trainings."""
  return [
    along_training(pool, options, seed + i)[-1].params
    for i in range(options.num_students)
  ]
