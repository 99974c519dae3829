"""Pipelines: a run's config, and what goes before and after the run.

A pipeline's config has the run's as its group `run`, and a few fields of its
own beside it.
"""

import dataclasses
from typing import Any

import ml_collections

from gmdistill import errors, fields
from gmdistill.runs.config import recipe as recipes
from gmdistill.runs.config import settings
from gmdistill.selection import deduplication, methods

# In their order. `train` trains and measures students, and is never left out;
# `audit` changes nothing.
STAGES = ("dedup", "select", "distill", "relabel", "train", "audit")


_STUDENT = (
  *("student", "table", "task", "rationales", "mesh"),
  "sequence_length",  # in which rationales need room
)

# Fields of the run that decide what stages before the distilling come to, and
# are all of them that these are given: a change of others repeats none.
READ = {
  "exact": ("data", "dedup"),
  "minhash": ("data", "dedup"),
  "semantic": ("data", "dedup", *_STUDENT),
  "select": (
    *("seed", "data", "subset", "choice", "selection", "coreset_pool"),
    *_STUDENT,
  ),
}


@dataclasses.dataclass(frozen=True)
class Pipeline:
  """What a pipeline is.

  Attributes:
    run: The config of the run in its middle, whose data and student all read.
    stages: Which there are, of `STAGES`, in that order.
    dedup_method: How copies are found.
    select_method: How the rows that are distilled are chosen.
    rows_per_class: How many of them.
    teacher_layers: Of the teacher that labels the set; 0: the student's.
  """

  run: Any = recipes.Recipe()
  stages: tuple[str, ...] = STAGES
  dedup_method: str = "minhash"
  select_method: str = "less"
  rows_per_class: fields.Count = 500
  teacher_layers: fields.LayersOrAll = 0


def pipeline(
  run: ml_collections.ConfigDict, **chosen: Any
) -> ml_collections.ConfigDict:
  """Returns the config of a pipeline.

  Args:
    run: The config of its run.
    **chosen: Fields of `Pipeline` that have other values.
  """
  values = dataclasses.asdict(Pipeline()) | chosen
  return ml_collections.ConfigDict({**values, "run": run}).lock()


def of_texts() -> list[str]:
  """Returns the fields, of runs and pipelines, that are several texts."""
  texts = fields.of(Pipeline)["stages"].kind
  return [
    field.name.removeprefix("run.")
    for field in fields.walk(Pipeline)
    if field.kind == texts
  ]


def tiny(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
  """Returns the same pipeline, small enough to end in a minute on a CPU."""
  settings.tiny(config.run)
  config.rows_per_class = 20
  config.teacher_layers = 0
  config.run.subset.update(num_students=1, num_steps=4, checkpoints=2)
  return config


def read(config: Any) -> Pipeline:
  """Returns a pipeline's config, typed and checked.

  Raises:
    InputError: it is none, or a field is unknown or out of its range.
  """
  is_dict = isinstance(config, ml_collections.ConfigDict)
  if not is_dict or "run" not in config or "stages" not in config:
    raise errors.InputError(
      "pipeline needs a config of a run and what goes around it, such as "
      "--config=pipeline/quickstart."
    )
  found: Pipeline = fields.read(Pipeline, config.to_dict())
  for name in found.stages:
    errors.choice("stages", name, STAGES)
  if list(found.stages) != [x for x in STAGES if x in found.stages]:
    raise errors.InputError(
      f"stages={', '.join(found.stages)} must be in the order "
      f"{', '.join(STAGES)}, each once."
    )
  if "train" not in found.stages:
    raise errors.InputError(
      "stages must have train, which measures what the others made."
    )
  errors.choice("dedup_method", found.dedup_method, deduplication.METHODS)
  errors.choice("select_method", found.select_method, methods.METHODS)
  return found


def for_dedup(plan: Pipeline, recipe: recipes.Recipe) -> recipes.Recipe:
  """Returns the recipe by which copies are dropped."""
  return _of(recipe, plan.dedup_method)


def for_select(plan: Pipeline, recipe: recipes.Recipe) -> recipes.Recipe:
  """Returns the recipe by which rows are chosen."""
  chosen = _of(recipe, "select")
  return recipes.changed(chosen, data_per_class=plan.rows_per_class)


def _of(recipe, what):
  return recipes.Recipe(**{name: getattr(recipe, name) for name in READ[what]})
