"""A writer's adapter, taught by students' gradients of what it writes."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from gmdistill.data import batches
from gmdistill.runs import written_filters
from gmdistill.runs.config import recipe as recipes
from gmdistill.selection import row_gradients, warm_students
from gmdistill.sets import spaces
from gmdistill.students import adapters
from gmdistill.system import cache, waits
from gmdistill.teachers import rewards, writers

_AT_ONCE = 10  # steps, after which what was reached is kept
_REAL = 64  # rows of a class, at most, whose mean gradient is aimed at

# (label, number) -> the tokens of a prompt
Prompt = Callable[[int, int], Sequence[int]]


class Taught(NamedTuple):
  """A writer with its adapter."""

  writer: writers.Writer
  rewards: list[float]  # of each step


def taught(
  writer: writers.Writer,
  setup: spaces.Setup,
  config: recipes.Recipe,
  prompt: Prompt,
  identity: Any,
) -> Taught:
  """Returns the writer after `writer.reward_steps`, of each class in turn.

  It is kept in the cache folder, some steps at a time: a stopped call goes on
  there.

  Args:
    writer: As it was read.
    setup: The data, and the student whose gradients are compared.
    config: Says how.
    prompt: What a text of a class is to go on from.
    identity: All that decides the texts beside the students.
  """
  options, count = config.writer, config.writer.reward_steps
  fresh, names = rewards.with_adapter(writer, options), setup.corpus.label_names
  values = config.to_dict()
  of_students = (
    "seed data student task subset coreset_pool data_per_class".split()
  )
  decisive = [identity, setup.space_id, [values[x] for x in of_students]]
  if setup.problem.is_pretrained:
    decisive.append(setup.problem.weights_id)
  judge = functools.cache(lambda: _judge(setup, config))

  def prompts(step):
    first = step * options.reward_rows
    numbers = range(first, first + options.reward_rows)
    return [prompt(step % len(names), number) for number in numbers]

  progress = rewards.begun(fresh, options)
  parts = range(0, count, _AT_ONCE)
  for first in waits.over(parts, "rewarding", count, "steps", _AT_ONCE):
    until = min(first + _AT_ONCE, count)
    entry = cache.entry("writers", [*decisive, until])
    kept = _kept(entry, progress)
    if kept is None:
      kept = rewards.train(fresh, options, prompts, judge(), progress, until)
      leaves = jax.tree.leaves(kept)
      arrays = {f"{i:06d}": np.asarray(x) for i, x in enumerate(leaves)}
      cache.write_arrays(entry, arrays)
    progress = kept
  own = f"{writer.id}-{adapters.identity(progress.params)[:16]}"
  taught = fresh._replace(params=progress.params, id=own)
  return Taught(taught, progress.rewards)


def _kept(entry, begun) -> rewards.Progress | None:
  """Returns what an earlier call had reached; None: nothing."""
  arrays = cache.read_arrays(entry)
  if arrays is None:
    return None
  leaves = [arrays[name] for name in sorted(arrays)]
  count = len(jax.tree.leaves(begun[:2]))
  params, state = jax.tree.unflatten(
    jax.tree.structure(begun[:2]), leaves[:count]
  )
  return rewards.Progress(params, state, [float(x) for x in leaves[count:]])


def _judge(setup, config) -> Callable[[int, list[str]], rewards.Judged]:
  """Returns what says what texts of a step come to."""
  options, names = config.subset, setup.corpus.label_names
  pool = written_filters.student_pool(setup, config)
  warm = warm_students.along_training(pool, options, config.seed)
  students = [one.params for one in warm]
  pair = len(setup.corpus.text_keys) > 1

  @jax.jit
  def of_rows(problem, params, batch):
    def one(row):
      row = jax.tree.map(lambda x: x[None], row)
      grads = row_gradients.gradient(problem, params, row, options.matched)
      return row_gradients.sketch(grads, options.sketch)

    return jax.lax.map(one, batch)

  def at_students(batch):
    found = [of_rows(pool.problem, params, batch) for params in students]
    return np.stack(found).astype(np.float64)  # [S, B, K]

  targets = []
  for label in range(len(names)):
    rows = np.flatnonzero(pool.rows.labels == label)[:_REAL]
    real = batches.as_batch(batches.take(pool.rows, rows), len(names))
    targets.append(at_students(real).mean(axis=1))

  def judge(step, lines):
    label = step % len(names)
    texts = [writers.as_text(line, pair=pair) for line in lines]
    is_empty_B = np.array([text is None for text in texts])
    blank = (".", ".") if pair else "."
    candidates = written_filters.Candidates(
      [blank if text is None else text for text in texts],
      np.full(len(texts), label),
    )
    text_set = written_filters.as_text_set(
      candidates, np.arange(len(texts)), len(names)
    )
    batch = written_filters.as_read(
      text_set, setup, config, config.data.lengths["train"], config.data.slots
    )
    rows_SxBxK = at_students(batch)
    rows_SxBxK[:, is_empty_B] = 0  # who says nothing moves no student
    return rewards.judged(rows_SxBxK, targets[label])

  return judge
