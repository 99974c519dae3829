"""Coresets: real rows chosen per class. The baselines, and the initialisers."""

import functools
import warnings
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

from gmdistill import errors
from gmdistill.data import batches, samplers
from gmdistill.selection import covering, topics
from gmdistill.selection import features as student_features
from gmdistill.students import problems

CORESETS = ("random", "herding", "k_centers")  # beside a set, in every table
ALL = (*CORESETS, "topics")  # the last where rows have some
CORESET_SEED = 0  # of herding and K-centers, whatever the run's is


def methods(examples: batches.Examples) -> tuple[str, ...]:
  """Returns the coresets that rows stand beside in a table of theirs."""
  return CORESETS if examples.topics is None else ALL


def random(labels: np.ndarray, per_class: int, seed: int) -> np.ndarray:
  """Returns rows [C * per_class] in class order, drawn without replacement."""
  rng = np.random.default_rng(seed)
  return _each_class(
    labels, per_class, lambda rows: rng.choice(rows, per_class, replace=False)
  )


def herding(
  features_NxF: np.ndarray, labels: np.ndarray, per_class: int
) -> np.ndarray:
  """Returns rows whose running mean follows the class mean (Welling 2009).

  Greedy: the k-th row makes the mean of the first k rows nearest to the mean
  of its class, each row at most once. Rows in class order.
  """

  def choose(rows):
    features = features_NxF[rows].astype(np.float64)
    mean, total = features.mean(axis=0), 0.0
    free = np.ones(len(rows), bool)
    chosen = []
    for k in range(1, per_class + 1):
      gaps = np.square(mean - (total + features) / k).sum(axis=1)
      best = int(np.where(free, gaps, np.inf).argmin())
      free[best] = False
      total = total + features[best]
      chosen.append(rows[best])
    return np.array(chosen)

  return _each_class(labels, per_class, choose)


def k_centers(
  features_NxF: np.ndarray, labels: np.ndarray, per_class: int, seed: int = 0
) -> np.ndarray:
  """Returns the row nearest each k-means centroid (Maekawa et al. 2024).

  k-means with k = per_class inside each class; where two centroids have the
  same nearest row, the second takes the next nearest. Rows in class order.
  """

  def choose(rows):
    from sklearn import cluster, exceptions  # slow to import

    features = features_NxF[rows]
    with warnings.catch_warnings():
      # Of fewer different rows than centroids, some are alike: see below.
      warnings.simplefilter("ignore", exceptions.ConvergenceWarning)
      means = cluster.KMeans(per_class, n_init=5, random_state=seed).fit(
        features
      )
    chosen: list[int] = []
    for centre in means.cluster_centers_:
      order = np.square(features - centre).sum(axis=1).argsort(kind="stable")
      chosen.append(next(i for i in order.tolist() if i not in chosen))
    return rows[np.array(chosen)]

  return _each_class(labels, per_class, choose)


def closest_topics(examples: batches.Examples, per_class: int) -> np.ndarray:
  """Returns the rows that stand for their class by what rows are about.

  Greedy facility location, see `covering`. Rows in class order.

  Raises:
    InputError: rows have no topics.
  """
  if examples.topics is None:
    raise errors.InputError(
      "initialise=topics chooses rows by what they are about; name a list of "
      "words in config.data.topics_key, or use another."
    )
  close_NxN = topics.closeness(examples.topics)

  def choose(rows):
    return rows[covering.cover(close_NxN[np.ix_(rows, rows)], per_class)]

  return _each_class(examples.labels, per_class, choose)


def _each_class(labels, per_class, choose):
  chosen = []
  for label in range(int(labels.max()) + 1):
    rows = np.flatnonzero(labels == label)
    if len(rows) < per_class:
      raise errors.InputError(
        f"class {label} has {len(rows)} rows, fewer than the {per_class} to be "
        f"chosen (data_per_class, rows_per_class); use at most {len(rows)}."
      )
    chosen.append(choose(rows))
  return np.concatenate(chosen)


def choose(
  method: str,
  problem: problems.Problem,
  examples: batches.Examples,
  *,
  per_class: int,
  pool: int = 2000,
  seed: int = 0,
) -> np.ndarray:
  """Returns a coreset's rows by the name of its method, in class order.

  Args:
    method: `random`, `herding`, `k_centers` or `topics`.
    problem: Whose fresh student's features decide.
    examples: Real rows.
    per_class: Rows a class.
    pool: Rows a class that are looked at, drawn at random; all where fewer.
    seed: Of the draws and of the student.

  Raises:
    InputError: an unknown method, too few rows, or rows without topics for it.
  """
  errors.choice("initialise", method, ALL)
  if method == "random":
    return random(examples.labels, per_class, seed)
  drawn = max(pool, per_class)
  if method == "topics":
    rows = np.arange(len(examples.labels))
    rows = limited(examples.labels, rows, drawn, seed)
    return rows[closest_topics(batches.take(examples, rows), per_class)]
  read = read_pool(problem, examples, drawn, seed)
  return chosen_from(read, method, per_class)


class Pool(NamedTuple):
  """Rows that were drawn to choose a coreset from, and a student's features."""

  rows: np.ndarray  # [P], numbers
  labels: np.ndarray  # [P]
  features: np.ndarray  # [P, F]


def read_pool(
  problem: problems.Problem, examples: batches.Examples, size: int, seed: int
) -> Pool:
  """Returns at most `size` rows of each class, and a fresh student's features.

  Args:
    problem: The student's.
    examples: Real rows.
    size: Rows a class, drawn at random; all where fewer.
    seed: Of the draw and of the student.
  """
  rows = np.arange(len(examples.labels))
  rows = limited(examples.labels, rows, size, seed)
  few = batches.take(examples, rows)
  params = problem.init(jax.random.key(seed))
  return Pool(rows, few.labels, student_features.features(problem, params, few))


def chosen_from(pool: Pool, method: str, per_class: int) -> np.ndarray:
  """Returns the rows of a pool that `herding` or `k_centers` chooses."""
  select = herding if method == "herding" else k_centers
  return pool.rows[select(pool.features, pool.labels, per_class)]


def choose_long(
  method: str,
  problem: problems.Problem,
  examples: batches.Examples,
  shortest: int,
  *,
  per_class: int,
  **fields: int,
) -> np.ndarray:
  """Returns what `choose` does of rows of at least `shortest` tokens.

  Where a class has fewer than `per_class` of them, rows of any length may come.
  """
  rows = np.flatnonzero(examples.mask.sum(axis=1) >= shortest)
  counts = np.bincount(examples.labels[rows], minlength=1)
  if len(counts) <= examples.labels.max() or counts.min() < per_class:
    return choose(method, problem, examples, per_class=per_class, **fields)
  long = batches.take(examples, rows)
  return rows[choose(method, problem, long, per_class=per_class, **fields)]


def limited(
  labels: np.ndarray, rows: np.ndarray, per_class: int, *seed: int
) -> np.ndarray:
  """Returns at most `per_class` of `rows` a class, drawn at random."""
  rows = np.random.default_rng([*seed, 7]).permutation(rows)
  labels = labels[rows]
  rank = np.zeros(len(rows), np.int64)  # of each row within its class
  for label in np.unique(labels):
    rank[labels == label] = np.arange((labels == label).sum())
  return np.sort(rows[rank < per_class])


# (time, place) -> the representatives that are chosen there and then
Choice = Callable[[int, int], batches.Batch]


def representatives(
  problem: problems.Problem,
  examples: batches.Examples,
  *,
  rows_per_class: int,
  num_classes: int,
  pool: int,
  seed: int,
) -> Choice:
  """Chooses the rows nearest k-means centroids, in class order.

  Rows from all over a class make a steadier gradient than random ones (Liu et
  al. 2023). Each choice finds the centroids of half of the pool, drawn at
  random. Pure in `seed`, the time and the place.

  Args:
    problem: Whose fresh student's features decide.
    examples: Real rows.
    rows_per_class: Rows a class in a batch, in class order.
    num_classes: C.
    pool: Rows a class that are looked at, drawn at random; all where fewer.
    seed: Of the draws and of the student.

  Raises:
    InputError: a class has too few rows.
  """
  every = np.arange(len(examples.labels))
  few = batches.take(
    examples, limited(examples.labels, every, max(pool, rows_per_class), seed)
  )
  features = student_features.features(
    problem, problem.init(jax.random.key(seed)), few
  )
  counts = np.bincount(few.labels, minlength=num_classes)
  if counts.min() < rows_per_class:
    raise errors.InputError(
      f"rows_per_class={rows_per_class}, but class {int(counts.argmin())} has "
      f"{counts.min()} rows to choose representatives from; use at most that."
    )
  half = max(int(counts.max()) // 2, rows_per_class)

  def choice(time: int, place: int) -> batches.Batch:
    draw = [seed, time, place]
    rows = limited(few.labels, np.arange(len(few.labels)), half, *draw)
    start = int(np.random.default_rng([*draw, 9]).integers(2**31))
    nearest = k_centers(features[rows], few.labels[rows], rows_per_class, start)
    return batches.as_batch(batches.take(few, rows[nearest]), num_classes)

  return choice


def refreshed(choice: Choice, refresh: int, each: int = 1) -> samplers.Sampler:
  """Samples what is chosen anew now and then: `sampler(step) -> Batch`.

  Args:
    choice: Of `representatives`.
    refresh: Outer steps from one choice to the next.
    each: Batches an outer step, every one of a choice of its own.
  """
  chosen = functools.lru_cache(maxsize=2 * each)(choice)  # only sooner
  return lambda step: chosen(step // each // refresh, step % each)
