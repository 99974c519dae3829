"""The students that the objective `travelling` trains on a set."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

from gmdistill import errors
from gmdistill.runs.config import named_students
from gmdistill.students import adapters, families, problems

OWN, _FIELD = named_students.OWN, "travelling.students"


def builder(named: str, config: Any) -> Callable[[problems.Problem], Any]:
  """Returns what makes another student beside a problem's own.

  One of the run's own kind has other layers and is else the same; one of
  another kind has the fields of `config.student`, but is as wide as the table
  where its kind must be, and reads as many tokens as the own one where that
  has positions. Other changes of a frozen decoder differ in rank and matrices.

  Args:
    named: As `named_students.changes` takes it.
    config: Of the run.

  Raises:
    InputError: there is none of that name.
  """
  changes = named_students.changes(_FIELD, named)
  fields = dataclasses.asdict(config.student) | changes
  if "rank" in changes:
    return functools.partial(_change, fields)
  return functools.partial(_module, families.named(fields["kind"]), fields)


def _change(fields, problem):
  adapted = errors.named(
    _FIELD,
    lambda: adapters.lora_of(problem.student.module, problem.frozen, fields),
  )
  return adapted.student


def _module(family, fields, problem):
  own = problem.student
  if _is_own(family, own):
    return own.clone(num_layers=fields["num_layers"] or own.num_layers)
  if hasattr(own, "num_layers") or not family.as_wide_as_table:
    fields = {**fields, "max_positions": own.max_positions}
  if family.as_wide_as_table:
    fields = {**fields, "width": problem.embeddings.shape[1]}
  family.check(fields)
  return family.module(problem.groups, **family.takes(fields))


def _is_own(family, own):
  """Whether a kind is the run's own, and has layers to choose."""
  same = type(own) in (family.module, family.with_slots)
  return same and hasattr(own, "num_layers")


def require(problem: problems.Problem, config: Any) -> None:
  """Checks the students that a set is to travel to.

  Raises:
    InputError: one of classes, where a word is said; a change of no frozen
      decoder; one that cannot be built or reads too few tokens; one of more
      layers than the pretrained one whose first it keeps.
  """
  others = [named for named in config.travelling.students if named != OWN]
  rows = max(config.data.lengths.values()) + config.data.slots
  longest = max(config.sequence_length, rows)
  for named in others:
    _require_related(named, config)
    module = builder(named, config)(problem)
    if module.max_positions < longest:
      raise errors.InputError(
        f"{_FIELD}: {named} would read {module.max_positions} "
        f"tokens, and rows have {longest}; use student.max_positions={longest}."
      )
    if type(module) is not type(problem.student) or problem.initial is None:
      continue
    most = problem.student.num_layers
    if module.num_layers > most:
      raise errors.InputError(
        f"{_FIELD}: {named} has more layers than the pretrained "
        f"student's {most}, of which it keeps the first; use at most {most}."
      )


def _require_related(named, config):
  """Refuses a student that is asked something else than the config's."""
  adapts = "rank" in named_students.changes(_FIELD, named)
  if adapts and config.student.adapter != "lora":
    raise errors.InputError(
      f"{_FIELD}: {named} is a change of a frozen decoder, and this run has "
      f"student.adapter={config.student.adapter}; use student.adapter=lora."
    )
  if not adapts and config.task.kind != "classes":
    raise errors.InputError(
      f"{_FIELD}: {named} tells classes, and task.kind={config.task.kind} asks "
      f"for words; use {OWN}, or lora:16."
    )
