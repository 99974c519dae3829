"""The students that the objective `travelling` trains on a set."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

from gmdistill import errors
from gmdistill.students import families, problems

OWN = "own"  # the config's student


def builder(named: str, config: Any) -> Callable[[problems.Problem], Any]:
  """Returns what makes another student's module beside a problem's own.

  One of the run's own kind has other layers and is else the same; one of
  another kind has the fields of `config.student`, but is as wide as the table
  where its kind must be, and reads as many tokens as the own one where that
  has positions.

  Args:
    named: Its kind and layers, such as `transformer:3` or `textcnn`.
    config: Of the run.

  Raises:
    InputError: there is none of that name.
  """
  kind, _, layers = named.partition(":")
  family = families.named(kind)
  if layers and not layers.isdigit():
    raise errors.InputError(
      f"travelling.students: {named!r} is no kind and layers; write own, "
      "transformer:3 or textcnn."
    )
  fields = dataclasses.asdict(config.student)
  if layers:
    fields["num_layers"] = int(layers)
  return functools.partial(_module, family, fields)


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
    InputError: others, where a word is said; one that cannot be built or
      reads too few tokens; one of more layers than the pretrained one whose
      first it keeps.
  """
  students = config.travelling.students
  others = [named for named in students if named != OWN]
  if config.task.kind != "classes" and others:
    raise errors.InputError(
      f"travelling.students={students} tell classes, and task.kind="
      f"{config.task.kind} asks for words; use {OWN} alone."
    )
  rows = max(config.data.lengths.values()) + config.data.slots
  longest = max(config.sequence_length, rows)
  for named in others:
    module = builder(named, config)(problem)
    if module.max_positions < longest:
      raise errors.InputError(
        f"travelling.students: {named} would read {module.max_positions} "
        f"tokens, and rows have {longest}; use student.max_positions={longest}."
      )
    if type(module) is not type(problem.student) or problem.initial is None:
      continue
    most = problem.student.num_layers
    if module.num_layers > most:
      raise errors.InputError(
        f"travelling.students: {named} has more layers than the pretrained "
        f"student's {most}, of which it keeps the first; use at most {most}."
      )
