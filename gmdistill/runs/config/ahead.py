"""Objectives that look along AdamW and SGD on the set, as a config has them."""

import dataclasses
from typing import Any

from gmdistill.objectives import contract, finetune_ahead, travelling
from gmdistill.runs.config import recipe as recipes
from gmdistill.runs.config import travellers
from gmdistill.training import optimizers


def along_one(
  config: recipes.Recipe, fields: dict[str, Any]
) -> contract.Objective:
  """Returns `finetune_ahead`, at the first of `finetune.rates`.

  Args:
    config: Says how students are fine-tuned.
    fields: Those of `config.finetune_ahead`.

  Raises:
    ValueError: windows that the protocol does not have.
  """
  return _ahead(config, fields, config.finetune.rates[0], "adamw")


def _ahead(config, fields, rate, kind):
  """Returns `finetune_ahead` at a rate of an optimiser."""
  return _along(config, fields, rate, kind)(config.finetune.num_steps)


def _along(config, fields, rate, kind):
  """Returns `finetune_ahead` as a function of the number of steps."""
  protocol = config.finetune
  windows = _windows(fields)
  windows.check(protocol.num_steps)

  def of_steps(num_steps):
    return finetune_ahead.along(
      optimizers.FineTuning(
        num_steps, protocol.weight_decay, protocol.warmup, kind
      ),
      rate,
      windows,
      batch_size=protocol.batch_size,
      centred=fields["centred"],
      rule=config.rule,
    )

  return of_steps


def _windows(fields):
  kind = finetune_ahead.Windows
  return kind(**{name: fields[name] for name in kind._fields})


def along_many(
  config: recipes.Recipe, fields: dict[str, Any]
) -> contract.Objective:
  """Returns `travelling`: one of many students, optimisers and rates at a time.

  Args:
    config: Says how students are fine-tuned.
    fields: Those of `config.travelling`.

  Raises:
    InputError: a student that there is not.
    ValueError: windows that a protocol does not have.
  """
  windows = dataclasses.asdict(config.finetune_ahead)
  opening, counts = round(fields["opening"] * config.num_steps), fields["steps"]
  if counts:
    whole = _windows(windows).whole(config.finetune.num_steps, counts)
    windows |= whole._asdict()
  rate = config.finetune.rates[0]
  rates = fields["rates"] or (rate, rate / 3, 3 * rate)
  ways = [("adamw", x) for x in rates]
  ways += [("sgd", x) for x in fields["sgd_rates"]]
  share = -(-opening // (len(ways) * len(fields["students"])))  # of each way

  def at(kind, rate):
    if not counts:
      return _ahead(config, windows, rate, kind)
    along = _along(config, windows, rate, kind)
    return travelling.drawn_steps(along, counts, share)

  parts = [
    (student, at(kind, x)) for kind, x in ways for student in fields["students"]
  ]
  return travelling.drawn(
    [
      part
      if named == travellers.OWN
      else travelling.of_student(part, travellers.builder(named, config))
      for named, part in parts
    ],
    opening,
  )
