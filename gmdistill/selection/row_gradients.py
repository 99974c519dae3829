"""What single rows say of a student's weights: gradients, in bounded memory."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gmdistill import trees
from gmdistill.data import batches
from gmdistill.students import problems
from gmdistill.system import waits

# What is read of one row: (problem, params, a batch of that row) -> arrays
OfRow = Callable[[problems.Problem, trees.Params, batches.Batch], Any]


class Sketched(NamedTuple):
  """Which gradients are read, and in how many numbers."""

  matched: str  # tensors: `head`, `last_K` or `all`
  width: int  # W of a count sketch
  seed: int = 0


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
  starts = range(0, count, chunk)
  for start in waits.over(starts, "gradients", count, "rows", chunk):
    # The last chunk is filled up to the one compiled shape.
    index = np.minimum(np.arange(start, start + chunk), count - 1)
    found = of_chunk(problem, params, batches.take_rows(rows, index))
    parts.append(np.asarray(found)[: count - start])
  return np.concatenate(parts)


def agreement(
  problem: problems.Problem,
  along: Sequence[trees.Params],
  rows: batches.Batch,
  sketched: Sketched,
  *,
  chunk: int = 32,
) -> np.ndarray:
  """Returns the cosine [N] of each row's gradients with their class's mean.

  Both are count sketches [S * W], of S students. No row's is kept: the mean is
  summed in a first pass, a chunk of rows of one class at once, and compared in
  a second one, so that memory does not grow with N.

  Args:
    problem: The students'.
    along: Their parameters.
    rows: N rows of classes on the host.
    sketched: How gradients are read.
    chunk: Rows at once.
  """
  labels_N = np.asarray(rows.class_labels).argmax(axis=1)
  by_class = [np.flatnonzero(labels_N == x) for x in range(labels_N.max() + 1)]

  def sketch_of(problem, params, rows):
    grads = gradient(problem, params, rows, sketched.matched)
    return sketch(grads, sketched.width, sketched.seed)

  @jax.jit
  def of_chunk(problem, params, rows):
    return len(rows) * sketch_of(problem, params, rows)

  def against(mean_CxW):
    def of_row(problem, params, row):
      own_W = sketch_of(problem, params, row)
      mean_W = mean_CxW[row.class_labels[0].argmax()]
      return jnp.stack([own_W @ mean_W, own_W @ own_W])

    return of_row

  sums_Nx2, squares_C = np.zeros((len(rows), 2)), np.zeros(len(by_class))
  for params in along:
    mean_CxW = np.zeros((len(by_class), sketched.width), np.float32)
    for label, own in enumerate(by_class):
      for first in range(0, len(own), chunk):
        index = own[np.minimum(np.arange(first, first + chunk), len(own) - 1)]
        taken = batches.take_rows(rows, index)
        taken = batches.without_count(taken, np.arange(len(own) - first, chunk))
        mean_CxW[label] += np.asarray(of_chunk(problem, params, taken))
      mean_CxW[label] /= max(len(own), 1)
    of_row = against(jnp.asarray(mean_CxW))
    sums_Nx2 += each(problem, params, rows, of_row, chunk)
    squares_C += np.square(mean_CxW).sum(axis=1)
  lengths_N = np.sqrt(sums_Nx2[:, 1] * squares_C[labels_N])
  return sums_Nx2[:, 0] / np.maximum(lengths_N, 1e-12)


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
