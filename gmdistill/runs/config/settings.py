"""The fields that a config has, and their values."""

from typing import Any

import ml_collections

from gmdistill import errors, fields
from gmdistill.runs.config import recipe as recipes
from gmdistill.students import made_up
from gmdistill.system import paths


def defaults() -> ml_collections.ConfigDict:
  """Returns the fields that every config starts from, and their values."""
  # Locked: a misspelt field of a config file is an error, not a new field.
  return ml_collections.ConfigDict(recipes.Recipe().to_dict()).lock()


def recipe(config: Any) -> recipes.Recipe:
  """Returns a config as a run knows it: every field typed and checked.

  Args:
    config: `defaults()` with other values, or a recipe, which is returned.

  Raises:
    InputError: a field that is unknown, of another type, or out of its range.
  """
  if isinstance(config, recipes.Recipe):
    return config
  if isinstance(config, ml_collections.ConfigDict):
    config = config.to_dict()
  return fields.read(recipes.Recipe, config)


def earlier(values: dict[str, Any], path: str) -> recipes.Recipe:
  """Returns the recipe in a `config.json`, of this version or an earlier one.

  What was begun before a field was known had its default.

  Args:
    values: What the file holds.
    path: Its name, for the message.

  Raises:
    InputError: a field that is no more, and did something; or no config.
  """
  return fields.read(recipes.Recipe, without_removed(values, path))


class Removed(errors.InputError):
  """A run did what no version from this one on does."""


# Fields of earlier versions, by what they did nothing at.
REMOVED = {
  "outer.range_test": False,
  "outer.norm_clip": 0.0,
  "teachers.top_k": 0,
}


def without_removed(values: dict[str, Any], path: str) -> dict[str, Any]:
  """Returns a config as it was written, without fields that are no more.

  Args:
    values: Nested, of a `config.json`.
    path: Its name, for the message.

  Raises:
    Removed: one of them did something.
  """
  kept = dict(values)
  for name, nothing in REMOVED.items():
    group, _, field = name.partition(".")
    inner = kept.get(group)
    if not isinstance(inner, dict) or field not in inner:
      continue
    if inner[field] != nothing:
      raise Removed(
        f"{path} has {name}={inner[field]}, which is no field any more; go on "
        "with the version that wrote it, or start in another --workdir "
        "without it."
      )
    kept[group] = {key: x for key, x in inner.items() if key != field}
  return kept


def tiny(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
  """Returns the same recipe, small enough to end in seconds on a CPU.

  It runs anywhere: the embedded corpus, and a student from random
  initialisation where the config names a pretrained one.
  """
  config.data.update(
    name="docstrings", dir="", max_length=16, train_length=0, vocab_size=500
  )
  config.student.update(
    pretrained="", num_layers=1, width=16, num_heads=2, hidden=16
  )
  config.data_per_class = min(config.data_per_class, 2)
  config.examples_per_step = min(config.examples_per_step, 1)
  # Rows that stay text are whole.
  short = 16 if config.readable else 8
  config.sequence_length = min(config.sequence_length, short)
  config.choice.update(pool=6, states=2, sketch=64, rounds=2, num_steps=2)
  config.choice.exchanges = min(config.choice.exchanges, 3)
  config.replay_steps = min(config.replay_steps, 3)
  config.coreset_pool = 50
  config.num_steps = 4
  config.num_students = min(config.num_students, 2)
  config.rows_per_class = 4
  config.joined_rows = 0.0  # which ask for a teacher
  config.min_tokens = 0
  if config.writer.model:
    config.writer.update(
      model=str(_made_up()), num_candidates=6, shots=1, max_tokens=48
    )
    # What it writes means nothing.
    config.writer.update(length_quantile=0.0, confidence=0.01)
    config.subset.update(num_students=1, num_steps=4, checkpoints=1)
  config.bank.update(
    num_trajectories=2, ages=(0, 2), rows_per_class=8, batch_rows_per_class=4
  )
  ahead = config.finetune_ahead
  ahead.update(
    window=min(ahead.window, 2),
    stride=min(ahead.stride, 2),
    until=min(ahead.until, 4),
  )
  config.steps_per_dispatch = config.eval_every = config.checkpoint_every = 2
  config.selection.update(num_students=2, rows=50, min_tokens=0)
  config.students_at_once = 2
  config.replay.update(num_students=2)
  # Each way to train is a program.
  config.travelling.rates = config.finetune.rates[:1]
  steps = {min(x, 4) for x in config.travelling.steps}
  config.travelling.steps = tuple(sorted(steps))
  config.grid.update(steps=(4,), num_students=2)
  config.projections.update(rounds=2, num_steps=2)
  config.ranking.update(layers=(1,), rate_factors=(1.0,), num_students=2)
  config.bayes.update(samples=2, burn_in=2, thin=2, num_students=2)
  for protocol in (config.finetune, config.scratch, config.full):
    protocol.update(num_steps=4, num_students=2)
  return config


def tiny_language(
  config: ml_collections.ConfigDict, name: str = "docstrings"
) -> ml_collections.ConfigDict:
  """Returns `tiny` of a language model's recipe, over a made-up decoder.

  One from random weights stays so. `name`: of the embedded set it runs on.
  """
  pretrained, kind = config.student.pretrained, config.student.kind
  config = tiny(config)
  config.data.name = name
  config.data.max_length = 64 if config.task.kind == "label_words" else 24
  config.num_sequences = min(config.num_sequences, 2)
  config.selection.num_students = 1
  config.student.kind = kind
  if pretrained:
    config.student.pretrained = str(_made_up())
    config.student.update(num_layers=0, rank=2, compute="float32")
  return config


def _made_up():
  """Returns the folder of a made-up decoder."""
  return made_up.write(paths.cache_folder() / "made_up" / "llama-1")


def require_one_run(config: Any) -> None:
  """Checks that a config is `defaults()` with other values.

  Raises:
    InputError: it holds several runs, or lacks fields.
  """
  kind = ml_collections.ConfigDict
  values = dict(config.items()) if isinstance(config, kind) else {}
  runs = [
    x for x in values.values() if isinstance(x, kind) and "protocols" in x
  ]
  if runs:
    raise errors.InputError(
      "this config holds several runs; use gmdistill sweep and the same flags."
    )
  if set(defaults()) - set(values):
    raise errors.InputError(
      "the config is no run's: its get_config must return "
      "gmdistill.runs.config.settings.defaults() with values changed."
    )
