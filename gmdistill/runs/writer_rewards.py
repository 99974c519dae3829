"""A writer's adapter, taught by students' gradients of what it writes."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from gmdistill.data import batches
from gmdistill.runs import written_filters
from gmdistill.runs.config import recipe as recipes
from gmdistill.selection import row_gradients, warm_students
from gmdistill.sets import spaces, text_sets
from gmdistill.students import adapters
from gmdistill.system import cache, logs
from gmdistill.teachers import rewards, writers

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

  It is kept in the cache folder.

  Args:
    writer: As it was read.
    setup: The data, and the student whose gradients are compared.
    config: Says how.
    prompt: What a text of a class is to go on from.
    identity: All that decides the texts beside the students.
  """
  fresh, options = rewards.with_adapter(writer, config.writer), config.writer
  structure = jax.tree.structure(fresh.params)
  values = config.to_dict()
  of_students = "seed data student subset coreset_pool data_per_class".split()
  decisive = [identity, setup.space_id, [values[x] for x in of_students]]
  entry = cache.entry("writers", decisive)
  kept = cache.read_arrays(entry)
  if kept is None:
    logs.say(
      f"{writer.name} learns from {options.reward_steps} batches of "
      f"{options.reward_rows} of its texts"
    )
    names = setup.corpus.label_names

    def prompts(step):
      numbers = range(options.reward_rows)
      first = step * options.reward_rows
      return [prompt(step % len(names), first + number) for number in numbers]

    trained, found = rewards.train(
      fresh, options, prompts, _judge(setup, config)
    )
    leaves = jax.tree.leaves(trained.params)
    kept = {f"{i:04d}": np.asarray(leaf) for i, leaf in enumerate(leaves)}
    kept["rewards"] = np.array(found)
    cache.write_arrays(entry, kept)
  leaves = [kept[name] for name in sorted(kept) if name != "rewards"]
  params = jax.tree.unflatten(structure, leaves)
  own = f"{writer.id}-{adapters.identity(params)[:16]}"
  told = [float(reward) for reward in kept["rewards"]]
  logs.say(f"the reward went from {told[0]:.4f} to {told[-1]:.4f}")
  return Taught(fresh._replace(params=params, id=own), told)


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
    batch = text_sets.as_batch(
      text_set,
      setup.corpus.tokenizer,
      config.data.lengths["train"],
      config.data.slots,
    )
    rows_SxBxK = at_students(batch)
    rows_SxBxK[:, is_empty_B] = 0  # who says nothing moves no student
    return rewards.judged(rows_SxBxK, targets[label])

  return judge
