"""What a config's fields mean: the defaults, and fields into objects.

Below this file nobody sees a ConfigDict.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import ml_collections
import optax

from gmdistill import (
  data,
  distances,
  errors,
  evaluate,
  matching,
  mixed_mode,
  spaces,
  synthetic,
)

OBJECTIVES = ("gradient_matching", "look_ahead")


def defaults() -> ml_collections.ConfigDict:
  """Returns the fields that every config starts from, and their values."""
  # Locked: a misspelt field of a config file is an error, not a new field.
  return ml_collections.ConfigDict(
    dict(
      seed=0,
      data=dict(
        name="docstrings",  # a TFDS name, or the embedded corpus
        dir="",  # TFDS data_dir; empty: TFDS's own default
        text_keys=(),  # empty: found from the builder's info
        label_key="",
        reported_split="",
        vocab_size=4096,  # of the tokenizer trained where there is none
        max_length=64,  # tokens of a real row
        train_length=0,  # the same in the training part; 0: max_length
      ),
      student=dict(
        pretrained="",  # a Hugging Face directory or hub id
        space="",  # the space/ folder of a finished run, to share its table
        kind="transformer",  # transformer, bilstm, textcnn
        num_layers=2,  # with pretrained: its first layers, 0 for all
        pooling="first",  # first: BERT's pooler; mean
        width=128,
        num_heads=4,
        hidden=512,
        max_positions=128,
        remat=False,
        unroll=1,
      ),
      table=dict(window=4),  # how a table is learned where none is given
      # The set.
      data_per_class=1,
      sequence_length=32,
      labels="unrestricted",  # hard, softmax, unrestricted
      replay_steps=4,  # learned SGD steps T; 0: the set brings none
      initial_step_size=0.05,
      initialise="random",  # random, herding, k_centers: rows it starts from
      coreset_pool=2000,  # real rows a class that coresets choose from
      # The outer loop.
      objective="look_ahead",  # or gradient_matching, or stages: "a,b"
      stage_fractions=(),  # of num_steps, one a stage; empty: equal
      num_steps=1000,
      num_students=1,  # students an outer step
      rows_per_class=16,  # real rows a batch
      min_tokens=0,  # of the outer loop's real rows; shorter ones are left out
      rule="mixed",  # how gradients are differentiated; see mixed_mode
      gradient_matching=dict(
        distance_kind="neuron_cosine", matched="all", sum_weight=1.0
      ),
      trajectory=dict(
        max_age=100, steps_between=5, train_on="real", learning_rate=1e-4
      ),
      outer=dict(
        learning_rate=1e-2,
        label_scale=1.0,  # times the learning rate, for the labels
        step_size_scale=1.0,  # the same for the learned step sizes
        warmup=0.1,
        clip=1.0,
        ema=0.99,
      ),
      steps_per_dispatch=10,
      eval_every=100,
      checkpoint_every=100,
      # How sets are measured.
      # Of the selection split: at most so many rows, none shorter.
      selection=dict(protocol="replay", num_students=2, rows=500, min_tokens=0),
      protocols=("replay",),
      students_at_once=1,  # evaluated in one vmapped chunk
      replay=dict(rates=(0.01, 0.03, 0.1, 0.3), num_students=20),
      finetune=dict(num_steps=200, rates=(1e-4,), num_students=10),
      scratch=dict(num_steps=200, rates=(1e-3, 3e-3), num_students=20),
      full=dict(
        num_steps=1000,
        batch_size=32,
        weight_decay=0.01,
        warmup=0.1,
        rates=(1e-4,),
        num_students=3,
      ),
    )
  ).lock()


def tiny(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
  """Returns the same recipe, small enough to end in seconds on a CPU.

  It runs anywhere: the embedded corpus, and a student from random
  initialisation where the config names a pretrained one.
  """
  config.data.update(
    name="docstrings", dir="", max_length=16, train_length=0, vocab_size=500
  )
  config.student.update(
    pretrained="", num_layers=1, width=16, num_heads=2, hidden=16
  )
  config.data_per_class = min(config.data_per_class, 2)
  config.sequence_length = min(config.sequence_length, 8)
  config.replay_steps = min(config.replay_steps, 3)
  config.coreset_pool = 50
  config.num_steps = 4
  config.num_students = min(config.num_students, 2)
  config.rows_per_class = 4
  config.min_tokens = 0
  config.steps_per_dispatch = config.eval_every = config.checkpoint_every = 2
  config.selection.update(num_students=2, rows=50, min_tokens=0)
  config.students_at_once = 2
  config.replay.update(num_students=2)
  for protocol in (config.finetune, config.scratch, config.full):
    protocol.update(num_steps=4, num_students=2)
  return config


def setup(config: ml_collections.ConfigDict) -> spaces.Setup:
  """Loads the data and the student that a config names."""
  fields = config.data.to_dict()
  options = data.DataOptions(**{"data_dir": fields.pop("dir"), **fields})
  built = spaces.build(
    config.student.to_dict(), config.table.to_dict(), options
  )
  data.require_rows(
    built.corpus.train, config.data_per_class, built.corpus.label_names
  )
  positions = built.problem.student.max_positions
  if not 0 < config.sequence_length <= positions:
    raise errors.InputError(
      f"sequence_length={config.sequence_length}, but the student has "
      f"{positions} positions; use 1 to {positions}."
    )
  if "gradient_matching" in config.objective:
    matched = config.gradient_matching.matched

    def tensors(key):
      grads = built.problem.init(key)
      return [tensor.array for tensor in distances.select(grads, matched)]

    # Shapes alone: whether this student has what is to be matched.
    _named(
      "gradient_matching",
      lambda: jax.eval_shape(tensors, jax.random.key(0)),
    )
  return built


def parameterization(
  config: ml_collections.ConfigDict,
) -> synthetic.Parameterization:
  """Returns how the config's synthetic set is stored."""
  stored = _named(
    "labels",
    lambda: synthetic.with_soft_labels(synthetic.direct(), config.labels),
  )
  # Step sizes that no objective learns are chosen like any learning rate.
  learned = config.replay_steps if "look_ahead" in config.objective else 0
  return synthetic.with_learning_rates(
    stored, learned, config.initial_step_size
  )


@dataclasses.dataclass(frozen=True)
class Stage:
  """A stretch of outer steps with one objective and one optimiser."""

  objective: matching.Objective
  optimizer: optax.GradientTransformation
  schedule: Callable[[Any], Any]
  first: int  # the steps first .. last - 1
  last: int


def stages(config: ml_collections.ConfigDict) -> list[Stage]:
  """Returns the config's stages in order.

  Raises:
    InputError: an unknown objective, or one that the set cannot serve.
  """
  if config.rule not in mixed_mode.RULES:
    raise errors.InputError(
      f"rule={config.rule} is none of {', '.join(mixed_mode.RULES)}."
    )
  names = [name.strip() for name in config.objective.split(",")]
  shares = tuple(config.stage_fractions) or (1 / len(names),) * len(names)
  if len(shares) != len(names) or not math.isclose(sum(shares), 1.0):
    raise errors.InputError(
      f"stage_fractions={shares} must be {len(names)} numbers that sum to 1, "
      f"one for each of objective={config.objective}."
    )
  found, first = [], 0
  for i, name in enumerate(names):
    last = round(config.num_steps * sum(shares[: i + 1]))
    optimizer, schedule = _outer(config.outer, max(last - first, 1))
    objective = _objective(config, name)
    found.append(Stage(objective, optimizer, schedule, first, last))
    first = last
  return found


def _objective(config, name: str) -> matching.Objective:
  if name == "look_ahead":
    if not config.replay_steps:
      raise errors.InputError(
        "objective=look_ahead learns the steps that it takes; use "
        "replay_steps=1 or more."
      )
    return matching.look_ahead(rule=config.rule)
  if name == "gradient_matching":
    fields = config.trajectory.to_dict()
    optimizer = optax.adamw(fields.pop("learning_rate"))
    along = _named(
      "trajectory", lambda: matching.trajectory(optimizer, **fields)
    )
    return _named(
      "gradient_matching",
      lambda: matching.gradient_matching(
        along, rule=config.rule, **config.gradient_matching.to_dict()
      ),
    )
  raise errors.InputError(
    f"objective={name} is none of {', '.join(OBJECTIVES)}."
  )


def _outer(outer, num_steps: int):
  schedule = optax.warmup_cosine_decay_schedule(
    0.0,
    outer.learning_rate,
    max(1, round(outer.warmup * num_steps)),
    max(2, num_steps),
    0.05 * outer.learning_rate,
  )
  optimizer = optax.chain(
    optax.clip_by_global_norm(outer.clip),
    optax.adam(schedule),
    _scaled(labels=outer.label_scale, step_sizes=outer.step_size_scale),
  )
  return optimizer, schedule


def _scaled(**scales: float) -> optax.GradientTransformation:
  """Multiplies the updates of the named parts of a set's parameters."""

  def scale(path, update):
    name = jax.tree_util.keystr(path[-1:], simple=True)
    return update * scales.get(name, 1.0)

  return optax.stateless(
    lambda updates, params: jax.tree_util.tree_map_with_path(scale, updates)
  )


def protocols(
  config: ml_collections.ConfigDict,
) -> dict[str, evaluate.Protocol]:
  """Returns the protocols that the config reports, in its order."""
  return {name: protocol(config, name) for name in config.protocols}


def protocol(config: ml_collections.ConfigDict, name: str) -> evaluate.Protocol:
  """Returns one protocol.

  Raises:
    InputError: an unknown name.
  """
  if name == "replay":
    return evaluate.replaying(
      num_steps=max(config.replay_steps, 1), **config.replay.to_dict()
    )
  if name in ("finetune", "scratch", "full"):
    return evaluate.fine_tuning(**config[name].to_dict())
  raise errors.InputError(
    f"protocol {name} is none of replay, finetune, scratch."
  )


def _named(field: str, build: Callable[[], Any]) -> Any:
  """Turns a library's refusal of a value into a line that names the field."""
  try:
    return build()
  except ValueError as error:
    raise errors.InputError(f"config.{field}: {error}") from error
