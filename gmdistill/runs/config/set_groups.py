"""The groups of a config's fields that are about rows that stay text, and about
sets that travel."""

import dataclasses

from gmdistill import fields


@dataclasses.dataclass(frozen=True)
class Choice:
  """How rows are chosen by where training on them leads.

  Attributes:
    pool: Candidates of each class, drawn at random; of written rows as many
      more.
    narrowed_from: Training rows of each class, drawn at random, of which those
      become candidates whose gradients agree most with the class's mean: of the
      tensors `matched`, at the `states`, in the `sketch`. Up to `pool`, as 0:
      candidates are drawn.
    written: A file of rows, such as `gmdistill write` leaves, that may be
      chosen beside the training rows, by `select` too; empty: none.
    diversity: What it counts, beside a row's score, that the chosen rows stand
      for all: the weight of facility location over features, in standard
      deviations of the scores; of `exchanges` in the objective's unit. By
      `select` too, where a method scores every row. 0: nothing.
    states: Students along real training whose gradients `matching_pursuit`
      reads; of a bank where there is one.
    matched: Which of their tensors.
    sketch: Numbers that a row's gradient at one state is sketched in.
    rounds: Of `learned_weights`: after each, the lightest rows are left out,
      until `data_per_class` of a class are left.
    num_steps: Outer steps of a round.
    learning_rate: Of the weights and labels in a round.
    exchanges: Moves that exchange one row by another of its class, and stay
      where the objective is less; after any `initialise`.
  """

  pool: fields.Count = 50
  narrowed_from: fields.FromZero = 0
  written: str = ""
  diversity: fields.Size = 0.0
  states: fields.Count = 4
  matched: str = "last_1"
  sketch: fields.Count = 4096
  rounds: fields.Count = 3
  num_steps: fields.Steps = 100
  learning_rate: fields.Rate = 0.05
  exchanges: fields.FromZero = 0


@dataclasses.dataclass(frozen=True)
class Travelling:
  """The objective `travelling`: `finetune_ahead` over a range of ways.

  Attributes:
    students: Who trains on the set: `own`, the config's; a kind and its layers
      over the same table, such as `transformer:3` or `textcnn`; or LoRA of
      another rank, and perhaps of some matrices, such as `lora:16` or
      `lora:16:query+value`.
    rates: The highest of AdamW; empty: the first of `finetune.rates`, a third
      of it and three times it.
    sgd_rates: The highest of SGD with momentum; empty: none.
    steps: Numbers of steps of either, one of which is drawn every time too;
      empty: `finetune.num_steps`. More of them are no more to compile, and an
      outer step takes as long as that of the most.
    opening: The share of the outer steps over which all ways come in, one
      after the other, from the first student at the first rate on.
  """

  students: tuple[str, ...] = ("own",)
  rates: tuple[fields.Rate, ...] = ()
  sgd_rates: tuple[fields.Rate, ...] = ()
  steps: tuple[fields.Steps, ...] = ()
  opening: fields.Share = 0.0


@dataclasses.dataclass(frozen=True)
class Grid:
  """The protocol `grid`: a set under many ways of training.

  Attributes:
    students: As those of `travelling`.
    rates: The highest of AdamW; empty: the first of the student's protocol,
      `finetune` or `scratch`, a third of it and three times it.
    sgd_rates: The highest of SGD with momentum.
    steps: Of either.
    num_students: Of each cell.
  """

  students: tuple[str, ...] = ("own", "textcnn", "bilstm")
  rates: tuple[fields.Rate, ...] = ()
  sgd_rates: tuple[fields.Rate, ...] = (0.1,)
  steps: tuple[fields.Steps, ...] = (200,)
  num_students: fields.Count = 3


@dataclasses.dataclass(frozen=True)
class Projections:
  """`evaluate --protocol=projections`: text that is made of a soft set.

  Attributes:
    rounds: Turns of ADMM between embeddings and tokens; 0: it is left out.
    num_steps: Outer steps a turn.
    penalty: Of the distance between the two, over the mean square of the
      table's rows.
  """

  rounds: fields.FromZero = 5
  num_steps: fields.Steps = 20
  penalty: fields.Positive = 1.0


@dataclasses.dataclass(frozen=True)
class Ranking:
  """The protocol `ranking`: does a set rank students as all rows do?

  Attributes:
    layers: Of the students that are ranked.
    poolings: The same: `first` and `mean`.
    rate_factors: The same: times the learning rate, on the set and on all rows.
    num_students: On the set, of each; on all rows it is one.
    dropped: The share of tokens left out of the augmented set, for the
      augmentation-robust score.
  """

  layers: tuple[fields.Count, ...] = (1, 2, 3)
  poolings: tuple[str, ...] = ("first", "mean")
  rate_factors: tuple[fields.Positive, ...] = (0.3, 1.0)
  num_students: fields.Count = 3
  dropped: fields.Fraction = 0.1
