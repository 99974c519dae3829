"""The recipe of a run: every field of a config, typed and checked."""

import dataclasses
from typing import Any

from gmdistill import fields
from gmdistill.data import loading
from gmdistill.evaluation import exact_match as answering
from gmdistill.runs.config import checks, groups, set_groups
from gmdistill.selection import deduplication, pools
from gmdistill.teachers import writers


@dataclasses.dataclass(frozen=True)
class Recipe:
  """What a run is: made of a config once, and never changed.

  Attributes:
    seed: Of students, rows and the first set.
    data: Which data set is read, and how.
    subset: How `gmdistill select` chooses rows.
    dedup: What `gmdistill dedup` takes for a copy, and `write` for a near one.
    writer: What `gmdistill write` asks a language model for.
    rationales: Of rationales, where `data.rationale_key` names some.
    student: Which student.
    table: How an embedding table is learned where none is given.
    task: What is asked of a student.
    data_per_class: Examples a class.
    num_sequences: Examples of a set without classes (`task.kind=next_token`),
      where `data_per_class` counts nothing.
    sequence_length: Positions of an example.
    labels: `hard`, `softmax` or `unrestricted`.
    label_smoothing: Of the finished set's labels: what students train on. The
      objective sees the labels as they are.
    attention_labels: Whether the attention of the first token is learned.
    readable: Whether the set stays text: real rows of at most `sequence_length`
      tokens, whose labels and weights alone are learned; `set/set.jsonl` holds
      them, for any student.
    choice: How rows are chosen by `initialise=matching_pursuit` and
      `learned_weights`.
    rank: Of the embeddings, as codes times a shared basis; 0: full.
    stored_as: The embeddings on disk: `float32`, `bfloat16` or `int8`.
    replay_steps: Learned SGD steps T; 0: the set brings none.
    examples_per_step: Of a class, in turn; 0: all of them every step.
    initial_step_size: Of the body's steps.
    initial_head_step_size: Of the head's; 0: it has no sizes of its own.
    step_schedule: Of the T steps, where none is learned: `constant`, or
      `linear`, in equal parts towards zero.
    normalised_steps: Whether steps go by a learned distance for each tensor,
      instead of SGD's own.
    initialise: Which rows the set starts from: `random`, `herding`,
      `k_centers`, `matching_pursuit`, `learned_weights`, or of data with
      `data.topics_key` also `topics`.
    coreset_pool: Real rows a class that coresets choose from.
    objective: One of `schedule.OBJECTIVES`, a weighted sum `a+0.1*b`, or stages
      `a,b`.
    stage_fractions: Of `num_steps`, one a stage; empty: equal.
    num_steps: Outer steps.
    num_students: Students an outer step.
    mesh: How devices share the work.
    rows_per_class: Real rows of a class in a batch.
    real_rows: `random`, or `representatives`: rows nearest k-means centroids.
    joined_rows: The share of a real batch that is two rows in one, labelled by
      the teachers.
    refresh: Outer steps until representatives are chosen anew.
    min_tokens: Of rows in the outer loop's real batches; not of a bank's.
    teachers: Whose labels the outer loop's real rows carry.
    kd: What a student loses to the teachers of its rows.
    start: The `set/` folder that a run starts from, instead of real rows.
    kept: `polished` or `frozen`: the examples that `gmdistill append` keeps.
    rule: How gradients are differentiated: `mixed`, `reverse`, `linearize`.
    look_ahead: Of the objective `look_ahead`.
    finetune_ahead: Of `finetune_ahead`, along the protocol `finetune`, with its
      steps and the first of its rates.
    travelling: Of `travelling`: `finetune_ahead` under many ways to train.
    step_matching: Of `step_matching`.
    gradient_matching: Of `gradient_matching`.
    trajectory: Of `gradient_matching` without a bank: the students' way.
    bank: The expert bank that `gmdistill bank` builds, and that a run reads.
    experts: Which of the bank's states a run reads.
    displacement: Of `trajectory_matching` and `task_vector_matching`.
    outer: The outer loop's optimiser.
    steps_per_dispatch: Outer steps of one dispatch, at most.
    eval_every: Outer steps between two evaluations on the selection split.
    checkpoint_every: Outer steps between two saves.
    log_to: Where `metrics.jsonl` is shown too, a saved step at a time:
      `tensorboard`, `wandb`, both or none.
    selection: How the step that is kept is chosen.
    protocols: Which are reported: of `replay`, `finetune`, `scratch`, `bayes`.
    metrics: What is told of every row beside its accuracy: `macro_f1`,
      `quadratic_kappa`, `nats`.
    students_at_once: Students that are evaluated in one chunk.
    replay: The protocol of the set's own steps.
    finetune: AdamW from the student's weights.
    scratch: AdamW from random weights.
    bayes: Chains of SGLD from students of another protocol.
    full: AdamW on all real rows: the table's last row, and `teach`.
    exact_match: Of language models: answers that are generated.
    grid: Of `evaluate --protocol=grid`.
    projections: Of `evaluate --protocol=projections`.
    ranking: Of `evaluate --protocol=ranking`.
    gradient_cosine: What a run looks at last.
  """

  seed: fields.Seed = 0
  data: loading.Options = loading.Options()
  subset: pools.Options = pools.Options()
  dedup: deduplication.Options = deduplication.Options()
  writer: writers.Options = writers.Options()
  rationales: groups.Rationales = groups.Rationales()
  student: Any = groups.Student()
  table: Any = groups.Table()
  task: groups.Task = groups.Task()
  # The set.
  data_per_class: fields.Count = 1
  num_sequences: fields.Count = 4
  sequence_length: fields.Count = 32
  labels: str = "unrestricted"
  label_smoothing: fields.Fraction = 0.0
  attention_labels: bool = False
  readable: bool = False
  rank: fields.FromZero = 0
  stored_as: str = "float32"
  replay_steps: fields.FromZero = 4
  examples_per_step: fields.FromZero = 0
  initial_step_size: fields.Rate = 0.05
  initial_head_step_size: fields.RateOrZero = 0.0
  step_schedule: str = "constant"
  normalised_steps: bool = False
  initialise: str = "random"
  coreset_pool: fields.Steps = 2000
  choice: set_groups.Choice = set_groups.Choice()
  # The outer loop.
  objective: str = "look_ahead"
  stage_fractions: tuple[fields.Share, ...] = ()
  num_steps: fields.Steps = 1000
  num_students: fields.Count = 1
  mesh: Any = groups.Mesh()
  rows_per_class: fields.Count = 16
  real_rows: str = "random"
  joined_rows: fields.Share = 0.0
  refresh: fields.Steps = 10
  min_tokens: fields.FromZero = 0
  teachers: groups.Teachers = groups.Teachers()
  kd: groups.Losses = groups.Losses()
  start: str = ""
  kept: str = "polished"
  rule: str = "mixed"
  look_ahead: Any = groups.LookAhead()
  finetune_ahead: Any = groups.FinetuneAhead()
  travelling: set_groups.Travelling = set_groups.Travelling()
  step_matching: Any = groups.StepMatching()
  gradient_matching: Any = groups.GradientMatching()
  trajectory: Any = groups.Trajectory()
  bank: groups.Bank = groups.Bank()
  experts: groups.Experts = groups.Experts()
  displacement: Any = groups.Displacement()
  outer: groups.Outer = groups.Outer()
  steps_per_dispatch: fields.Steps = 10
  eval_every: fields.Steps = 100
  checkpoint_every: fields.Steps = 100
  log_to: tuple[str, ...] = ()
  # How sets are measured.
  selection: groups.Selection = groups.Selection()
  protocols: tuple[str, ...] = ("replay",)
  metrics: tuple[str, ...] = ()
  students_at_once: fields.Count = 1
  replay: Any = groups.Replay()
  finetune: Any = groups.FineTuning()
  scratch: Any = groups.FineTuning(rates=(1e-3, 3e-3), num_students=20)
  bayes: Any = groups.Bayes()
  full: Any = groups.FineTuning(
    num_steps=1000, batch_size=32, warmup=0.1, num_students=3
  )
  exact_match: answering.Options = answering.Options()
  grid: set_groups.Grid = set_groups.Grid()
  projections: set_groups.Projections = set_groups.Projections()
  ranking: set_groups.Ranking = set_groups.Ranking()
  gradient_cosine: groups.GradientCosine = groups.GradientCosine()

  def __post_init__(self) -> None:
    """Checks what fields must be beside others.

    Raises:
      InputError: names the field and what would be right.
    """
    checks.require_sense(self)

  @property
  def has_classes(self) -> bool:
    """Whether rows have classes; else every place says a token."""
    return self.task.kind != "next_token"

  @property
  def per_group(self) -> int:
    """Examples of a set in each of its groups: a class, or all rows."""
    return self.data_per_class if self.has_classes else self.num_sequences

  @property
  def size_field(self) -> str:
    """The field that `per_group` is."""
    return "data_per_class" if self.has_classes else "num_sequences"

  def to_dict(self) -> dict[str, Any]:
    """Returns the fields as a config and a `config.json` have them, nested."""
    return dataclasses.asdict(self)


def changed(own: Recipe, **changes: Any) -> Recipe:
  """Returns a recipe with other values, of `group__field` in a group.

  Raises:
    InputError: names the field that is out of its range.
  """
  values = own.to_dict()
  for name, value in changes.items():
    group, _, field = name.rpartition("__")
    (values[group] if group else values)[field] = value
  return fields.read(Recipe, values)
