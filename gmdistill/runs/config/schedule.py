"""The stretches of a run: what each learns from, and its optimiser."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import optax

from gmdistill import errors
from gmdistill.objectives import (
  contract,
  displacements,
  finetune_ahead,
  first_order,
  gradient_matching,
  look_ahead,
  step_matching,
  trajectories,
)
from gmdistill.training import mixed_mode


@dataclasses.dataclass(frozen=True)
class Stage:
  """A stretch of outer steps with one objective and one optimiser."""

  objective: contract.Objective
  optimizer: optax.GradientTransformation
  schedule: Callable[[Any], Any]
  first: int  # the steps first .. last - 1
  last: int


def stages(config: ml_collections.ConfigDict) -> list[Stage]:
  """Returns the config's stages in order.

  Raises:
    InputError: an unknown objective, or one that the set cannot serve.
  """
  if config.rule not in mixed_mode.RULES:
    raise errors.InputError(
      f"rule={config.rule} is none of {', '.join(mixed_mode.RULES)}."
    )
  names = [name.strip() for name in config.objective.split(",")]
  shares = tuple(config.stage_fractions) or (1 / len(names),) * len(names)
  if len(shares) != len(names) or not math.isclose(sum(shares), 1.0):
    raise errors.InputError(
      f"stage_fractions={shares} must be {len(names)} numbers that sum to 1, "
      f"one for each of objective={config.objective}."
    )
  found, first = [], 0
  for i, name in enumerate(names):
    last = round(config.num_steps * sum(shares[: i + 1]))
    if last <= first:
      raise errors.InputError(
        f"stage_fractions={shares} of num_steps={config.num_steps} leave no "
        f"step to {name}; give each stage at least one."
      )
    schedule = _schedule(config.outer, max(last - first, 1))
    optimizer = _optimizer(config.outer, schedule)
    objective = _sum(config, name)
    found.append(Stage(objective, optimizer, schedule, first, last))
    first = last
  return found


def at_rate(
  stage: Stage,
  outer: ml_collections.ConfigDict,
  rate: float | Callable[[Any], Any],
) -> Stage:
  """Returns the stage with another learning rate, or another schedule."""
  if callable(rate):
    schedule = rate
  else:
    num_steps = max(stage.last - stage.first, 1)
    schedule = _schedule(outer, num_steps, rate)
  optimizer = _optimizer(outer, schedule)
  return dataclasses.replace(stage, optimizer=optimizer, schedule=schedule)


def _sum(config, text: str) -> contract.Objective:
  """Returns one objective, or the sum that `a+0.1*b` names."""
  parts = []
  for term in text.split("+"):
    weight, _, name = term.rpartition("*")
    try:
      factor = float(weight or 1)
    except ValueError as error:
      raise errors.InputError(
        f"objective={text}: the weight {weight} is no number; write a+0.1*b."
      ) from error
    parts.append((factor, _objective(config, name.strip())))
  if all(term.endswith("token_distance") for term in text.split("+")):
    raise errors.InputError(
      f"objective={text} learns nothing of the data; use it as a term, such as "
      "look_ahead+0.1*token_distance."
    )
  return parts[0][1] if len(parts) == 1 else contract.weighted(parts)


def _objective(config, name: str) -> contract.Objective:
  if name not in OBJECTIVES:
    raise errors.InputError(
      f"objective={name} is none of {', '.join(OBJECTIVES)}."
    )
  if name in STEPPING and not config.replay_steps:
    raise errors.InputError(
      f"objective={name} takes the steps that the set brings; use "
      "replay_steps=1 or more."
    )
  field, build = OBJECTIVES[name]
  fields = config.to_dict()[field]
  return errors.named(field, lambda: build(config, fields))


def _gradient_matching(config, fields):
  if config.bank.dir:
    return gradient_matching.expert_matching(rule=config.rule, **fields)
  own = config.trajectory.to_dict()
  optimizer = optax.adamw(own.pop("learning_rate"))
  along = errors.named(
    "trajectory", lambda: trajectories.trajectory(optimizer, **own)
  )
  return gradient_matching.gradient_matching(along, rule=config.rule, **fields)


def _finetune_ahead(config, fields):
  protocol = config.finetune.to_dict()
  own = ("num_steps", "warmup", "weight_decay", "batch_size")
  return finetune_ahead.finetune_ahead(
    rate=protocol["rates"][0],
    rule=config.rule,
    **{name: protocol[name] for name in own if name in protocol},
    **fields,
  )


def _trajectory_matching(config, fields):
  own = {k: x for k, x in fields.items() if k != "distance_kind"}
  return displacements.trajectory_matching(rule=config.rule, **own)


# By name: the field of a config that it reads, and what makes it of the two.
OBJECTIVES: dict[str, tuple[str, Callable[..., contract.Objective]]] = {
  "gradient_matching": ("gradient_matching", _gradient_matching),
  "look_ahead": (
    "look_ahead",
    lambda config, fields: look_ahead.look_ahead(rule=config.rule, **fields),
  ),
  "finetune_ahead": ("finetune_ahead", _finetune_ahead),
  "step_matching": (
    "step_matching",
    lambda config, fields: step_matching.step_matching(
      config.replay_steps, rule=config.rule, **fields
    ),
  ),
  "trajectory_matching": ("displacement", _trajectory_matching),
  "task_vector_matching": (
    "displacement",
    lambda config, fields: displacements.task_vector_matching(
      rule=config.rule, **fields
    ),
  ),
  "distribution_matching": (
    "objective",
    lambda *_: first_order.distribution_matching(),
  ),
  "token_distance": ("objective", lambda *_: first_order.token_distance()),
}

# These take the steps that the set brings, and most learn their sizes.
STEPPING = (
  "look_ahead",
  "step_matching",
  "trajectory_matching",
  "task_vector_matching",
)


def _schedule(outer, num_steps: int, rate: float | None = None):
  rate = outer.learning_rate if rate is None else rate
  return optax.warmup_cosine_decay_schedule(
    0.0,
    rate,
    max(1, min(round(outer.warmup * num_steps), num_steps - 1)),
    max(2, num_steps),
    0.05 * rate,
  )


def _optimizer(outer, schedule):
  clips = []
  if outer.norm_clip:
    clips.append(clip_by_norm_average(outer.norm_clip))
  if outer.clip:
    clips.append(optax.clip_by_global_norm(outer.clip))
  return optax.chain(
    *clips,
    optax.adam(schedule),
    _scaled(
      labels=outer.label_scale,
      attention=outer.label_scale,
      step_sizes=outer.step_size_scale,
      head_step_sizes=outer.step_size_scale,
      tensor_shares=outer.step_size_scale,
    ),
  )


class NormAverage(NamedTuple):
  """The state of `clip_by_norm_average`."""

  average: jax.Array  # of the norm; 0 before the first step


def clip_by_norm_average(
  factor: float, decay: float = 0.95
) -> optax.GradientTransformation:
  """Shortens a gradient longer than `factor` times the usual one.

  The usual norm is the moving average of the norms as clipped, so that one
  jump of the unrolled loop moves neither the set nor what counts as usual.
  """

  def init(params):
    del params
    return NormAverage(jnp.float32(0.0))

  def update(updates, state, params=None):
    del params
    norm = optax.tree.norm(updates)
    first = state.average == 0
    clipped = jnp.where(first, norm, jnp.minimum(norm, factor * state.average))
    average = decay * state.average + (1 - decay) * clipped
    shorter = clipped / jnp.maximum(norm, 1e-12)
    return (
      jax.tree.map(lambda x: x * shorter, updates),
      NormAverage(jnp.where(first, norm, average)),
    )

  return optax.GradientTransformation(init, update)


def _scaled(**scales: float) -> optax.GradientTransformation:
  """Multiplies the updates of the named parts of a set's parameters."""

  def scale(path, update):
    name = jax.tree_util.keystr(path[-1:], simple=True)
    return update * scales.get(name, 1.0)

  return optax.stateless(
    lambda updates, params: jax.tree_util.tree_map_with_path(scale, updates)
  )
