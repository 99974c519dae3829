"""Dataset distillation of text in JAX: `import gmdistill as gd`.

Every name below is looked up when it is first asked for, so that importing the
package costs nothing, and JAX is imported only by what needs it.
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# Where each name is defined, by what it is for; after a colon, under which
# name there.
_PLACES = {
  # Do.
  "load_config": "runs.config.shipped",
  "load_data": "runs.python",
  "load_problem": "runs.python",
  "load_set": "runs.python",
  "load_student": "runs.opened",
  "distill": "runs.python",
  "train": "runs.python",
  "evaluate": "runs.python",
  "load_run": "reports.opened",
  "compare": "reports.opened",
  "report": "reports.opened",
  # What these hand out.
  "DistilledSet": "runs.opened",
  "Student": "runs.opened",
  "Score": "runs.opened",
  "FinishedRun": "reports.opened",
  "InputError": "errors",
  # Data, students and how they train.
  "Batch": "data.batches",
  "Examples": "data.batches",
  "Corpus": "data.batches",
  "as_batch": "data.batches",
  "Problem": "students.problems",
  "Roles": "students.roles",
  "Task": "students.tasks",
  "classes": "students.tasks",
  "fit": "training.fitting",
  "replay": "training.replays",
  "Protocol": "evaluation.protocols",
  "replaying": "evaluation.protocols",
  "fine_tuning": "evaluation.protocols",
  # How a set is stored while it is learned.
  "SyntheticSet": "sets.synthetic",
  "Parameterization": "sets.synthetic",
  "direct": "sets.synthetic",
  "factorized": "sets.synthetic",
  "with_soft_labels": "sets.wrappers",
  "with_learning_rates": "sets.wrappers",
  # The parts of an objective, and the objectives.
  "grad": "training.mixed_mode",
  "Objective": "objectives.contract",
  "Real": "objectives.contract",
  "Expert": "objectives.contract",
  "weighted": "objectives.contract",
  "distance": "objectives.distances:between",
  "trajectory": "objectives.trajectories",
  "look_ahead": "objectives.look_ahead",
  "finetune_ahead": "objectives.finetune_ahead",
  "gradient_matching": "objectives.gradient_matching",
  "step_matching": "objectives.step_matching",
  "trajectory_matching": "objectives.displacements",
  "task_vector_matching": "objectives.displacements",
  "distribution_matching": "objectives.first_order",
  "token_distance": "objectives.first_order",
}

__all__ = ["__version__", *_PLACES]  # noqa: PLE0604

if TYPE_CHECKING:  # the same names, as a type checker reads them
  from gmdistill.data.batches import Batch as Batch
  from gmdistill.data.batches import Corpus as Corpus
  from gmdistill.data.batches import Examples as Examples
  from gmdistill.data.batches import as_batch as as_batch
  from gmdistill.errors import InputError as InputError
  from gmdistill.evaluation.protocols import Protocol as Protocol
  from gmdistill.evaluation.protocols import fine_tuning as fine_tuning
  from gmdistill.evaluation.protocols import replaying as replaying
  from gmdistill.objectives.contract import Expert as Expert
  from gmdistill.objectives.contract import Objective as Objective
  from gmdistill.objectives.contract import Real as Real
  from gmdistill.objectives.contract import weighted as weighted
  from gmdistill.objectives.displacements import (
    task_vector_matching as task_vector_matching,
  )
  from gmdistill.objectives.displacements import (
    trajectory_matching as trajectory_matching,
  )
  from gmdistill.objectives.distances import between as distance  # noqa: F401
  from gmdistill.objectives.finetune_ahead import (
    finetune_ahead as finetune_ahead,
  )
  from gmdistill.objectives.first_order import (
    distribution_matching as distribution_matching,
  )
  from gmdistill.objectives.first_order import token_distance as token_distance
  from gmdistill.objectives.gradient_matching import (
    gradient_matching as gradient_matching,
  )
  from gmdistill.objectives.look_ahead import look_ahead as look_ahead
  from gmdistill.objectives.step_matching import step_matching as step_matching
  from gmdistill.objectives.trajectories import trajectory as trajectory
  from gmdistill.reports.opened import FinishedRun as FinishedRun
  from gmdistill.reports.opened import compare as compare
  from gmdistill.reports.opened import load_run as load_run
  from gmdistill.reports.opened import report as report
  from gmdistill.runs.config.shipped import load_config as load_config
  from gmdistill.runs.opened import DistilledSet as DistilledSet
  from gmdistill.runs.opened import Score as Score
  from gmdistill.runs.opened import Student as Student
  from gmdistill.runs.opened import load_student as load_student
  from gmdistill.runs.python import distill as distill
  from gmdistill.runs.python import evaluate as evaluate
  from gmdistill.runs.python import load_data as load_data
  from gmdistill.runs.python import load_problem as load_problem
  from gmdistill.runs.python import load_set as load_set
  from gmdistill.runs.python import train as train
  from gmdistill.sets.synthetic import Parameterization as Parameterization
  from gmdistill.sets.synthetic import SyntheticSet as SyntheticSet
  from gmdistill.sets.synthetic import direct as direct
  from gmdistill.sets.synthetic import factorized as factorized
  from gmdistill.sets.wrappers import with_learning_rates as with_learning_rates
  from gmdistill.sets.wrappers import with_soft_labels as with_soft_labels
  from gmdistill.students.problems import Problem as Problem
  from gmdistill.students.roles import Roles as Roles
  from gmdistill.students.tasks import Task as Task
  from gmdistill.students.tasks import classes as classes
  from gmdistill.training.fitting import fit as fit
  from gmdistill.training.mixed_mode import grad as grad
  from gmdistill.training.replays import replay as replay


def __getattr__(name: str) -> Any:
  """Imports the module of a name; the next time it is there at once."""
  if name not in _PLACES:
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
  place, _, there = _PLACES[name].partition(":")
  module = importlib.import_module(f"{__name__}.{place}")
  globals()[name] = value = getattr(module, there or name)
  return value


def __dir__() -> list[str]:
  """Returns the names that are there, imported or not."""
  return sorted({*globals(), *__all__})
