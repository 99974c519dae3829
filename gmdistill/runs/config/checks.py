"""What a config's fields must be, told by the config alone."""

from typing import Any

from gmdistill import errors
from gmdistill.evaluation import metrics


def require_not_apart(config: Any) -> None:
  """Checks that no rows are to be kept apart from those of a bank.

  Raises:
    InputError: they are.
  """
  if apart := config.selection.apart:
    raise errors.InputError(
      f"selection.apart={apart} is about the rows that a run draws itself; a "
      "bank takes any. Use 0."
    )


def require_no_rows(config: Any, why: str) -> None:
  """Checks that nothing is asked of real rows where a run draws none itself.

  Raises:
    InputError: names the field.
  """
  for field, unused in (("joined_rows", 0.0), ("real_rows", "random")):
    if (value := getattr(config, field)) != unused:
      raise errors.InputError(
        f"{field}={value} is of the real rows that a run draws, and "
        f"{why}; use {unused}."
      )


def require_sense(config: Any) -> None:
  """Checks the fields of a recipe that depend on one another.

  Raises:
    InputError: names the field and what would be right.
  """
  share, rows = config.joined_rows, config.rows_per_class
  if share and not round(share * rows):
    raise errors.InputError(
      f"joined_rows={share} must make a row of rows_per_class={rows}; use 0.0, "
      f"or more than {0.5 / rows:.2g}."
    )
  for name in ("replay", "finetune", "scratch", "full"):
    group = getattr(config, name)
    for field in ("rates", "head_scales"):
      if not getattr(group, field, (1.0,)):
        raise errors.InputError(
          f"{name}.{field}=() must be one or more numbers."
        )
  if not config.protocols:
    raise errors.InputError(
      "protocols is empty; use one or more of replay, finetune, scratch, bayes."
    )
  metrics.require_known(config.metrics)
  _require_steps(config)


def _require_steps(config):
  """Checks what is about the set's own steps, and the protocol's."""
  last, steps = config.look_ahead.last_steps, config.replay_steps
  if last > steps:
    raise errors.InputError(
      f"look_ahead.last_steps={last} must be from 1 to replay_steps={steps}, "
      "or 0 for all."
    )
  per_step, per_class = config.examples_per_step, config.data_per_class
  if per_step > per_class:
    raise errors.InputError(
      f"examples_per_step={per_step} must be 1 to data_per_class={per_class}, "
      "or 0 for all."
    )
