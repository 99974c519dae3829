"""The students that a set is compared by, each with what trains it."""

from typing import Any, NamedTuple

from etils import epath

from gmdistill import errors
from gmdistill.evaluation import baselines
from gmdistill.runs.commands import shared
from gmdistill.runs.config import assembly, named_students, outputs
from gmdistill.runs.config import recipe as recipes
from gmdistill.sets import spaces, synthetic
from gmdistill.students import families
from gmdistill.system import logs

OWN = named_students.OWN


class Student(NamedTuple):
  """One student, and what trains it."""

  name: str
  config: recipes.Recipe
  setup: spaces.Setup
  table: baselines.Table
  syn: synthetic.SyntheticSet

  @property
  def fine_tuning(self) -> Any:
    """The fields of the protocol that is its own: AdamW."""
    return (
      self.config.finetune
      if self.setup.problem.is_pretrained
      else self.config.scratch
    )


def of_name(named: str, config: recipes.Recipe, source: epath.Path) -> Student:
  """Returns a student by its name, such as `transformer:3` or `lora:16`.

  Raises:
    InputError: there is none of that kind for the rows, or the set.
  """
  changes = named_students.changes("grid.students", named)
  config = recipes.changed(
    config,
    # Whom the set was learned for may be deeper than this student.
    travelling__students=(OWN,),
    **{f"student__{name}": x for name, x in changes.items()},
  )
  setup = assembly.setup(config)
  if "kind" in changes:
    _require_kind(changes["kind"], setup.problem.student)
  syn, _ = shared.fitting_set(setup, source, config)
  return Student(named, config, setup, outputs.table(setup, config), syn)


def _require_kind(kind, student):
  """Refuses a kind where the pretrained model that is read is of another."""
  family = families.named(kind)
  module = getattr(student, "module", student)
  if type(module) not in (family.module, family.with_slots):
    raise errors.InputError(
      f"grid.students: {kind} would be the {type(module).__name__} that "
      "student.pretrained is; use --config.grid.students=\"('own',)\"."
    )


def of_grid(config: recipes.Recipe, source: epath.Path) -> list[Student]:
  """Returns all students of a grid: a name that is wrong is told before any is
  measured.

  Raises:
    InputError: there are none, or as of `of_name`.
  """
  if not config.grid.students:
    raise errors.InputError("grid.students=() must be one or more; use own.")
  return [of_name(named, config, source) for named in config.grid.students]


def say_size(student: Student) -> None:
  """Says so where a set is of another size than the rows beside it."""
  groups, config = student.setup.problem.groups, student.config
  ours, each = len(student.syn.batch), config.per_group
  field = config.size_field
  of = f" of {groups} classes" if config.has_classes else ""
  if ours != groups * each:
    logs.say(
      f"the set has {ours} examples, and the baselines have {groups * each}: "
      f"{field}={each}{of}; at the set's size they are "
      f"by --config.{field}={max(round(ours / groups), 1)}"
    )
