"""What single rows say of a student's weights: gradients, in bounded memory."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gmdistill import trees
from gmdistill.data import batches
from gmdistill.students import problems

# What is read of one row: (problem, params, a batch of that row) -> arrays
OfRow = Callable[[problems.Problem, trees.Params, batches.Batch], Any]


def size(problem: problems.Problem, matched: str) -> int:
  """Returns how many numbers a row's gradient of the matched tensors has."""

  def kept(key):
    return problem.roles.keep(problem.init(key), matched)

  shapes = jax.eval_shape(kept, jax.random.key(0))
  return sum(x.size for x in jax.tree.leaves(shapes))


def each(
  problem: problems.Problem,
  params: trees.Params,
  rows: batches.Batch,
  of_row: OfRow,
  chunk: int,
) -> np.ndarray:
  """Returns `of_row` of every row, [N, ...], a chunk of rows at once.

  Args:
    problem: The student's.
    params: Of the student.
    rows: N rows on the host.
    of_row: A pure function.
    chunk: Rows of one program.
  """

  @jax.jit
  def of_chunk(problem, params, rows):
    def one(row):
      return of_row(problem, params, jax.tree.map(lambda x: x[None], row))

    return jax.vmap(one)(rows)

  parts, count = [], len(rows)
  for start in range(0, count, chunk):
    # The last chunk is filled up to the one compiled shape.
    index = np.minimum(np.arange(start, start + chunk), count - 1)
    found = of_chunk(problem, params, batches.take_rows(rows, index))
    parts.append(np.asarray(found)[: count - start])
  return np.concatenate(parts)


def gradient(
  problem: problems.Problem,
  params: trees.Params,
  row: batches.Batch,
  matched: str,
) -> trees.Params:
  """Returns the loss's gradient of the matched tensors."""
  grads = jax.grad(problem.loss)(params, row)
  return problem.roles.keep(grads, matched)


def sketch(tree: trees.Params, width: int, seed: int = 0) -> jax.Array:
  """Returns a count sketch [W] of a tree's numbers (Charikar et al. 2002).

  Each number is added, with a random sign, to one of W places. Products of
  sketches are those of the numbers, on average over seeds; where there are no
  more numbers than places, exactly.

  Args:
    tree: Of arrays; the sketches of trees of one shape go together.
    width: W.
    seed: Of places and signs.
  """
  leaves = [x.reshape(-1) for x in jax.tree.leaves(tree)]
  total = sum(x.size for x in leaves)
  if total <= width:
    return jnp.pad(jnp.concatenate(leaves), (0, width - total))
  summed = jnp.zeros(width)
  for place, leaf in enumerate(leaves):
    key = jax.random.fold_in(jax.random.key(seed), place)
    place_key, sign_key = jax.random.split(key)
    places = jax.random.randint(place_key, leaf.shape, 0, width)
    signs = jax.random.rademacher(sign_key, leaf.shape, leaf.dtype)
    summed += jax.ops.segment_sum(signs * leaf, places, width)
  return summed
