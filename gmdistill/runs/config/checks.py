"""What a config's fields must be, told by the config alone."""

import math
import operator

import ml_collections

from gmdistill import errors


def require_not_apart(config: ml_collections.ConfigDict) -> None:
  """Checks that no rows are to be kept apart from those of a bank.

  Raises:
    InputError: they are.
  """
  if apart := config.selection.apart:
    raise errors.InputError(
      f"selection.apart={apart} is about the rows that a run draws itself; a "
      "bank takes any. Use 0."
    )


def require_no_rows(config: ml_collections.ConfigDict, why: str) -> None:
  """Checks that nothing is asked of real rows where a run draws none itself.

  Raises:
    InputError: names the field.
  """
  for field, unused in (("joined_rows", 0.0), ("real_rows", "random")):
    if config[field] != unused:
      raise errors.InputError(
        f"{field}={config[field]} is of the real rows that a run draws, and "
        f"{why}; use {unused}."
      )


def require_numbers(config: ml_collections.ConfigDict) -> None:
  """Checks the fields that are numbers with a least or a largest value.

  Raises:
    InputError: names the field and what would be right.
  """
  positive = (
    "data_per_class num_steps num_students rows_per_class steps_per_dispatch "
    "eval_every checkpoint_every students_at_once coreset_pool refresh "
    "outer.students_at_once student.width student.num_heads student.hidden "
    "selection.num_students selection.rows full.batch_size full.num_students "
    "replay.num_students finetune.num_students scratch.num_students "
    "table.window"
  )
  from_zero = "seed replay_steps selection.apart trajectory.steps_between"
  at_least = dict.fromkeys(positive.split(), 1)
  at_least |= dict.fromkeys(from_zero.split(), 0)
  for field in ("seed", "bank.seed"):
    value = operator.attrgetter(field)(config)
    if value >= 2**32:  # JAX's keys repeat from there on
      raise errors.InputError(f"{field}={value} must be below 2**32.")
  for protocol in ("finetune", "scratch", "full"):
    at_least[f"{protocol}.num_steps"] = 2  # a warm-up, and a step after it
  for field, least in at_least.items():
    value = operator.attrgetter(field)(config)
    if value < least:
      raise errors.InputError(f"{field}={value} must be at least {least}.")
  if config.initial_step_size <= 0 or config.initial_head_step_size < 0:
    raise errors.InputError(
      f"initial_step_size={config.initial_step_size} must be above 0, and "
      f"initial_head_step_size={config.initial_head_step_size} not below it."
    )
  share, rows = config.joined_rows, config.rows_per_class
  if not 0 <= share <= 1 or (share and not round(share * rows)):
    raise errors.InputError(
      f"joined_rows={share} must be a share, from 0 to 1, and make a row of "
      f"rows_per_class={rows}; use 0.0, or more than {0.5 / rows:.2g}."
    )
  for field in ("outer.warmup", "full.warmup"):
    value = operator.attrgetter(field)(config)
    if not 0 <= value < 1:
      raise errors.InputError(
        f"{field}={value} must be a fraction of the steps, from 0 to below 1."
      )
  for field in ("outer.clip", "outer.norm_clip"):
    value = operator.attrgetter(field)(config)
    if value < 0:
      raise errors.InputError(f"{field}={value} must not be below 0.")
  if not 0 <= config.label_smoothing < 1:
    raise errors.InputError(
      f"label_smoothing={config.label_smoothing} must be from 0 to below 1."
    )
  for field in (
    "replay.rates",
    "replay.head_scales",
    "finetune.rates",
    "scratch.rates",
    "full.rates",
    "stage_fractions",
    "teachers.temperatures",
  ):
    numbers = operator.attrgetter(field)(config)
    if not all(
      isinstance(x, int | float) and math.isfinite(x) for x in numbers
    ):
      raise errors.InputError(f"{field}={numbers} must be numbers.")
  for protocol in ("replay", "finetune", "scratch", "full"):
    rates = config[protocol].rates
    if not rates or min(rates) <= 0:
      raise errors.InputError(
        f"{protocol}.rates={rates} must be one or more learning rates above 0."
      )
  scales = config.replay.head_scales
  if not scales or min(scales) < 0:
    raise errors.InputError(
      f"replay.head_scales={scales} must be one or more numbers from 0 on."
    )
  if not config.protocols:
    raise errors.InputError(
      "protocols is empty; use one or more of replay, finetune, scratch, bayes."
    )
