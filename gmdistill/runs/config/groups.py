"""The groups of a config's fields: each is read from what it is passed to."""

import dataclasses

from gmdistill import errors, fields
from gmdistill.evaluation import posterior, protocols
from gmdistill.objectives import (
  bank,
  displacements,
  finetune_ahead,
  gradient_matching,
  look_ahead,
  step_matching,
  trajectories,
)
from gmdistill.sets import spaces
from gmdistill.students import encoders, tasks
from gmdistill.system import devices
from gmdistill.teachers import ensembles


@dataclasses.dataclass(frozen=True)
class _Source:
  """Which student, over which table.

  Attributes:
    pretrained: A Hugging Face directory or hub id; empty: random weights.
    space: The `space/` folder of a finished run, to share its table.
    kind: `transformer`, `bilstm` or `textcnn`; the last two with `pretrained`:
      over its table, for sets that live there. Of a language model from random
      weights, `gpt2`, `llama`, `qwen2` or `qwen3`.
    adapter: What is trained of a pretrained decoder: `none`, all but its table;
      `lora`, low-rank changes of its matrices; `last_layers`; `head`.
    rank: Of the changes of `lora`.
    alpha: Their scale is alpha / rank; 0: 2.
    targets: Which matrices of a layer they change: some of `query`, `key`,
      `value`, `output`, `gate`, `up` and `down`; empty: all.
    trained_layers: So many of `last_layers`.
    peft: The directory of a PEFT adapter, whose change the pretrained decoder
      has before any training; empty: none.
    num_layers: With `pretrained` its first layers, 0 for all.
  """

  pretrained: str = ""
  space: str = ""
  kind: str = "transformer"
  adapter: str = "none"
  rank: fields.Count = 8
  alpha: fields.Size = 0.0
  targets: tuple[str, ...] = ()
  trained_layers: fields.Count = 4
  peft: str = ""
  num_layers: fields.LayersOrAll = encoders.Transformer.num_layers


@dataclasses.dataclass(frozen=True)
class Task:
  """What is asked of a student.

  Attributes:
    kind: `classes`, a head's word for a row's class; `label_words`, a language
      model's word for it; `next_token`, every next token of a text or answer.
    template: Of `label_words`: what stands around the texts, with {NAME} for
      each text that is read, and the place of the word at its end; empty: a
      line each, then "Label:".
    words: Of `label_words`: a word of one token for each class, in their
      order; empty: their names.
    chat: Of `next_token` and rows of prompt and completion: whether they are
      turns of a conversation, by the model's chat template.
    targets: Of `next_token`: what the set's places say, `hard`, the tokens
      that followed in the rows it started from, or `soft`, learned.
  """

  kind: str = "classes"
  template: str = ""
  words: tuple[str, ...] = ()
  chat: bool = False
  targets: str = "hard"

  def __post_init__(self) -> None:
    """Checks the names.

    Raises:
      InputError: one is unknown.
    """
    errors.choice("task.kind", self.kind, tasks.TASKS)
    errors.choice("task.targets", self.targets, ("hard", "soft"))


@dataclasses.dataclass(frozen=True)
class Rationales:
  """Of rationales, where `data.rationale_key` names some.

  Attributes:
    label_share: Of the label in a student's loss, beside its rationale.
    weights: `uniform`, or `rare`: tokens by how few rationales say them.
    curriculum: The share of training on real rows over which earlier and
      earlier steps of a rationale count.
    learned: Whether the set learns rationales too.
  """

  label_share: fields.Share = 0.5
  weights: str = "uniform"
  curriculum: fields.Share = 0.0
  learned: bool = True


@dataclasses.dataclass(frozen=True)
class Teachers(ensembles.Options):
  """How teachers' labels are mixed with the truth, and whose they are.

  Attributes:
    dirs: What `gmdistill teach` wrote, or hub ids: whose labels the outer
      loop's real rows carry. Of language models: decoders, or adapters of the
      student's own base.
    top_tokens: Of language models: so many of the likeliest tokens a place are
      kept, and what all others have together.
  """

  dirs: tuple[str, ...] = ()
  top_tokens: fields.Count = 32


@dataclasses.dataclass(frozen=True)
class Losses:
  """What a student loses to the teachers of its rows, beside its labels.

  Attributes:
    loss: One of `criteria.LOSSES`; empty: labels alone.
    weight: Of that loss, at the start of a training; the labels have the rest.
    weight_end: The same at its end.
    temperature: Of both, at the start of a training.
    temperature_end: The same at its end.
    schedule: How the two go from start to end: `constant`, `linear`, `cosine`.
    join: Of several teachers' `losses`, `probabilities` or `logits` the mean.
    weights: Of teachers: `equal`, `confidence`, `entropy`, or a learned `gate`.
    features: `cosine` or `mse` to a labelled set's `teacher_features`; or none.
    feature_weight: Of that.
    shallow_weight: Of what the last layer teaches those below it.
    teaching: A student's own teacher while it trains on a set or on real rows:
      `none`, `moving_average` of itself, or `peer`, a second student.
    decay: Of the moving average.
  """

  loss: str = ""
  weight: fields.Share = 1.0
  weight_end: fields.Share = 1.0
  temperature: fields.Positive = 1.0
  temperature_end: fields.Positive = 1.0
  schedule: str = "constant"
  join: str = "losses"
  weights: str = "equal"
  features: str = ""
  feature_weight: fields.Size = 1.0
  shallow_weight: fields.Size = 0.0
  teaching: str = "none"
  decay: fields.Fraction = 0.99


@dataclasses.dataclass(frozen=True)
class _OfTrajectory:
  """What trains a student between two matches.

  Attributes:
    learning_rate: Of its AdamW.
  """

  learning_rate: fields.Rate = 1e-4


@dataclasses.dataclass(frozen=True)
class Bank(bank.Options):
  """What a bank holds, and which one is read.

  Attributes:
    dir: The folder of the bank that a run reads, in which its objective has
      what the real data say; empty: none, real gradients come with the steps.
  """

  dir: str = ""


@dataclasses.dataclass(frozen=True)
class Experts:
  """Which of the bank's states a run reads.

  Attributes:
    max_age: The oldest state drawn.
    span: How many kept ages on the later state of a pair is.
    curriculum: The share of the steps over which older and older states are
      let in.
  """

  max_age: fields.StepsFromZero = 10**6
  span: fields.Count = 1
  curriculum: fields.Share = 0.0


@dataclasses.dataclass(frozen=True)
class GradientCosine:
  """How near the set's gradients are to real ones: a run looks at it last.

  Attributes:
    num_students: At most so many, and not more than `replay.num_students`; 0:
      left out.
    rows_per_class: Real rows of a class in each of their steps, at most twice
      the outer loop's.
  """

  num_students: fields.FromZero = 3
  rows_per_class: fields.Count = 16


@dataclasses.dataclass(frozen=True)
class Outer:
  """The outer loop's optimiser: Adam, warm-up, cosine decay.

  Attributes:
    learning_rate: The highest.
    label_scale: Times the learning rate, for the labels.
    step_size_scale: Times the learning rate, for the learned step sizes.
    warmup: The share of a stage's steps in which the rate grows.
    clip: The longest gradient; 0: as it is.
    ema: Of the moving average of the set, which is evaluated and kept.
    students_at_once: Of `num_students`, so many side by side on a device:
      larger products for a GPU, more memory.
  """

  learning_rate: fields.Rate = 1e-2
  label_scale: fields.Size = 1.0
  step_size_scale: fields.Size = 1.0
  warmup: fields.Fraction = 0.1
  clip: fields.Size = 1.0
  ema: fields.Fraction = 0.99
  students_at_once: fields.Count = 1


@dataclasses.dataclass(frozen=True)
class Selection:
  """How the step that is kept is chosen, on the selection split.

  Attributes:
    protocol: Which trains the students that choose.
    by: What they are asked: their `score`, or their `loss`, whose noise on few
      rows is smaller than that of an accuracy.
    num_students: How many.
    rows: Of the split, at most so many.
    min_tokens: None of them shorter.
    apart: The outer loop's real batches leave out rows that have so many
      consecutive tokens in common with one of them; 0: none. What a set starts
      from may be any.
  """

  protocol: str = "replay"
  by: str = "score"
  num_students: fields.Count = 2
  rows: fields.Steps = 500
  min_tokens: fields.FromZero = 0
  apart: fields.FromZero = 0


@dataclasses.dataclass(frozen=True)
class _Start:
  """Where a chain of samples begins.

  Attributes:
    start: The protocol that trains its first state: `finetune`, `scratch` or
      `replay`, with its rates.
  """

  start: str = "finetune"


Student = fields.options(
  "Student",
  _Source,
  encoders.Transformer,
  only="pretrained space kind adapter rank alpha targets trained_layers "
  "peft num_layers pooling width num_heads hidden max_positions remat unroll "
  "compute",
)
Table = fields.options("Table", spaces.learn_table)
Mesh = fields.options("Mesh", devices.build, only="students data base")
Replay = fields.options(
  "Replay", protocols.replaying, only="rates head_scales num_students"
)
FineTuning = fields.options(
  "FineTuning",
  protocols.fine_tuning,
  only="num_steps batch_size weight_decay warmup rates num_students",
)
Bayes = fields.options("Bayes", _Start, protocols.bayesian, posterior.Chain)
LookAhead = fields.options("LookAhead", look_ahead.look_ahead, without="rule")
FinetuneAhead = fields.options(
  "FinetuneAhead",
  finetune_ahead.Windows,
  finetune_ahead.finetune_ahead,
  only="window skip stride until centred",
)
StepMatching = fields.options(
  "StepMatching", step_matching.step_matching, without="rule"
)
GradientMatching = fields.options(
  "GradientMatching", gradient_matching.gradient_matching, without="rule"
)
Trajectory = fields.options(
  "Trajectory", trajectories.trajectory, _OfTrajectory
)
Displacement = fields.options(
  "Displacement", displacements.task_vector_matching, without="rule"
)
