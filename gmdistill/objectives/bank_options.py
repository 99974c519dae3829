"""What an expert bank holds: the fields of `config.bank`."""

import dataclasses

from gmdistill import errors, fields
from gmdistill.objectives import bank_storage
from gmdistill.students import roles


@dataclasses.dataclass(frozen=True)
class Options:
  """What a bank holds; the fields of `config.bank`.

  Attributes:
    num_trajectories: students, each with a head of its own.
    ages: training steps after which a state is kept; 0 is a fresh student.
    rows_per_class: real rows behind each class's mean gradient.
    rows: which: `random`, drawn afresh for each state; `k_centers`, the real
      rows nearest to the centroids of each class, the same for all states.
    batch_rows_per_class: real rows of each class in a training batch.
    learning_rate: of the AdamW that trains the students.
    matched: the tensors whose gradients are kept; see `Roles.select`.
    precision: of what is stored: `float32`, `bfloat16`, or `int8`: states in
      eight bits a number, gradients in four.
    clip: the largest norm of one row's gradient, in training and in what is
      kept; 0: as it is.
    noise: the noise multiplier of private gradients, see `privacy`; 0: none.
    delta: of the privacy guarantee.
    seed: of students and rows; noise is drawn from the system's randomness.
    along: the folder of a set that the students train on instead of real rows,
      as the protocol `finetune` does with `learning_rate`: real gradients where
      students of the set come. A run that starts from the set and reads them
      mends what the set says there.
    along_steps: of that protocol.
  """

  num_trajectories: fields.Count = 8
  ages: tuple[fields.StepsFromZero, ...] = (0, 3, 8, 16, 32, 64)
  rows_per_class: fields.Count = 96
  rows: str = "random"
  batch_rows_per_class: fields.Count = 16
  learning_rate: fields.Rate = 1e-4
  matched: str = "all"
  precision: str = "bfloat16"
  clip: fields.Size = 0.0
  noise: fields.Size = 0.0
  delta: fields.Inside = 1e-5
  seed: fields.Seed = 0
  along: str = ""
  along_steps: fields.Steps = 200

  def __post_init__(self) -> None:
    """Checks the values.

    Raises:
      InputError: names the field and what would be right.
    """
    fields.require(self, "bank")
    if not self.ages or list(self.ages) != sorted({*self.ages}):
      raise errors.InputError(
        f"bank.ages={self.ages} must be steps in rising order, such as "
        "(0, 8, 32)."
      )
    errors.choice("bank.precision", self.precision, bank_storage.PRECISIONS)
    errors.choice("bank.rows", self.rows, ("random", "k_centers"))
    errors.named("bank", lambda: roles.check_matched(self.matched))
    if self.along:
      _check_along(self)
    if self.noise:
      _check_noise(self)

  @property
  def names(self) -> list[tuple[int, int]]:
    """Every entry's (trajectory, age), in the order they are computed."""
    return [(h, age) for h in range(self.num_trajectories) for age in self.ages]


def _check_along(options):
  steps = options.along_steps
  if steps < 2:
    raise errors.InputError(f"bank.along_steps={steps} must be at least 2.")
  if options.ages[-1] > steps:
    raise errors.InputError(
      f"bank.ages={options.ages} reaches beyond bank.along_steps={steps}, "
      "where a student's training on the set ends."
    )
  if options.clip or options.noise:
    raise errors.InputError(
      "bank.clip and bank.noise hide rows, and nothing says that the set of "
      "bank.along hides them too; leave one of both out."
    )


def _check_noise(options):
  if not options.clip:
    raise errors.InputError(
      "bank.noise hides a row only where its gradient is bounded; give "
      "bank.clip too, such as 1.0."
    )
  if options.rows != "random":
    raise errors.InputError(
      f"bank.rows={options.rows} chooses rows by what they say, which noise on "
      "gradients does not hide; use bank.rows=random."
    )
