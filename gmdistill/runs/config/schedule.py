"""The stretches of a run: what each learns from, and its optimiser."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import optax

from gmdistill import errors
from gmdistill.objectives import (
  contract,
  displacements,
  first_order,
  gradient_matching,
  look_ahead,
  step_matching,
  trajectories,
)
from gmdistill.runs.config import ahead
from gmdistill.runs.config import recipe as recipes
from gmdistill.training import mixed_mode


@dataclasses.dataclass(frozen=True)
class Stage:
  """A stretch of outer steps with one objective and one optimiser."""

  objective: contract.Objective
  optimizer: optax.GradientTransformation
  schedule: Callable[[Any], Any]
  first: int  # the steps first .. last - 1
  last: int


def stages(config: recipes.Recipe) -> list[Stage]:
  """Returns the config's stages in order.

  Raises:
    InputError: an unknown objective, or one that the set cannot serve.
  """
  errors.choice("rule", config.rule, mixed_mode.RULES)
  texts = [text.strip() for text in config.objective.split(",")]
  shares = config.stage_fractions or (1 / len(texts),) * len(texts)
  if len(shares) != len(texts) or not math.isclose(sum(shares), 1.0):
    raise errors.InputError(
      f"stage_fractions={shares} must be {len(texts)} numbers that sum to 1, "
      f"one for each of objective={config.objective}."
    )
  found, first = [], 0
  for i, text in enumerate(texts):
    last = round(config.num_steps * sum(shares[: i + 1]))
    if last <= first:
      raise errors.InputError(
        f"stage_fractions={shares} of num_steps={config.num_steps} leave no "
        f"step to {text}; give each stage at least one."
      )
    schedule = _schedule(config.outer, max(last - first, 1))
    optimizer = _optimizer(config.outer, schedule)
    objective = _sum(config, text)
    found.append(Stage(objective, optimizer, schedule, first, last))
    first = last
  return found


def _sum(config, text: str) -> contract.Objective:
  """Returns one objective, or the sum that `a+0.1*b` names."""
  parts = [(factor, _objective(config, name)) for factor, name in _terms(text)]
  if not any(OBJECTIVES[name].learns for name in names(text)):
    raise errors.InputError(
      f"objective={text} learns nothing of the data; use it as a term, such as "
      "look_ahead+0.1*token_distance."
    )
  return parts[0][1] if len(parts) == 1 else contract.weighted(parts)


def _objective(config, name: str) -> contract.Objective:
  if OBJECTIVES[name].steps and not config.replay_steps:
    raise errors.InputError(
      f"objective={name} takes the steps that the set brings; use "
      "replay_steps=1 or more."
    )
  entry = OBJECTIVES[name]
  fields = dataclasses.asdict(options(config, name)) if entry.field else {}
  field = entry.field or "objective"
  return errors.named(field, lambda: entry.make(config, fields))


def _gradient_matching(config, fields):
  if config.bank.dir:
    return gradient_matching.expert_matching(rule=config.rule, **fields)
  own = dataclasses.asdict(config.trajectory)
  optimizer = optax.adamw(own.pop("learning_rate"))
  along = errors.named(
    "trajectory", lambda: trajectories.trajectory(optimizer, **own)
  )
  return gradient_matching.gradient_matching(along, rule=config.rule, **fields)


def _trajectory_matching(config, fields):
  own = {k: x for k, x in fields.items() if k != "distance_kind"}
  return displacements.trajectory_matching(rule=config.rule, **own)


class Entry(NamedTuple):
  """An objective as a config names it.

  `field` has its own fields, if any; `make(recipe, fields)` makes it of them.
  One that `steps` takes the steps that the set brings, and most learn their
  sizes; one that `learns` asks something of the data.
  """

  field: str
  make: Callable[[recipes.Recipe, dict[str, Any]], contract.Objective]
  steps: bool = False
  learns: bool = True


OBJECTIVES: dict[str, Entry] = {
  "gradient_matching": Entry("gradient_matching", _gradient_matching),
  "look_ahead": Entry(
    "look_ahead",
    lambda config, fields: look_ahead.look_ahead(rule=config.rule, **fields),
    steps=True,
  ),
  "finetune_ahead": Entry("finetune_ahead", ahead.along_one),
  "travelling": Entry("travelling", ahead.along_many),
  "step_matching": Entry(
    "step_matching",
    lambda config, fields: step_matching.step_matching(
      config.replay_steps, rule=config.rule, **fields
    ),
    steps=True,
  ),
  "trajectory_matching": Entry(
    "displacement", _trajectory_matching, steps=True
  ),
  "task_vector_matching": Entry(
    "displacement",
    lambda config, fields: displacements.task_vector_matching(
      rule=config.rule, **fields
    ),
    steps=True,
  ),
  "distribution_matching": Entry(
    "", lambda *_: first_order.distribution_matching()
  ),
  "token_distance": Entry(
    "", lambda *_: first_order.token_distance(), learns=False
  ),
}


def stepping() -> list[str]:
  """Returns the objectives that take the steps that the set brings."""
  return [name for name, entry in OBJECTIVES.items() if entry.steps]


def names(text: str) -> list[str]:
  """Returns the objectives in `config.objective`: stages of weighted sums.

  Raises:
    InputError: an unknown one, or a weight that is no number.
  """
  return [name for stage in text.split(",") for _, name in _terms(stage)]


def options(config: recipes.Recipe, name: str) -> Any:
  """Returns the fields of an objective; None: it has none of its own."""
  field = OBJECTIVES[name].field
  return getattr(config, field) if field else None


def _terms(text: str) -> list[tuple[float, str]]:
  """Returns the weight and the name of each term of `a+0.1*b`."""
  found = []
  for term in text.split("+"):
    weight, _, name = term.rpartition("*")
    try:
      factor = float(weight or 1)
    except ValueError as error:
      raise errors.InputError(
        f"objective={text}: the weight {weight} is no number; write a+0.1*b."
      ) from error
    if not math.isfinite(factor):
      raise errors.InputError(
        f"objective={text}: the weight {weight} must be finite."
      )
    name = errors.choice("objective", name.strip(), OBJECTIVES)
    found.append((factor, name))
  return found


def _schedule(outer, num_steps: int):
  return optax.warmup_cosine_decay_schedule(
    0.0,
    outer.learning_rate,
    max(1, min(round(outer.warmup * num_steps), num_steps - 1)),
    max(2, num_steps),
    0.05 * outer.learning_rate,
  )


def _optimizer(outer, schedule):
  clips = [optax.clip_by_global_norm(outer.clip)] if outer.clip else []
  return optax.chain(
    *clips,
    optax.adam(schedule),
    _scaled(
      labels=outer.label_scale,
      row_weights=outer.label_scale,
      attention=outer.label_scale,
      step_sizes=outer.step_size_scale,
      head_step_sizes=outer.step_size_scale,
      tensor_shares=outer.step_size_scale,
    ),
  )


def _scaled(**scales: float) -> optax.GradientTransformation:
  """Multiplies the updates of the named parts of a set's parameters."""

  def scale(path, update):
    name = jax.tree_util.keystr(path[-1:], simple=True)
    return update * scales.get(name, 1.0)

  return optax.stateless(
    lambda updates, params: jax.tree_util.tree_map_with_path(scale, updates)
  )
