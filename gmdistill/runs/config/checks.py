"""What a config's fields must be, told by the config alone."""

import dataclasses
from typing import Any

import jax

from gmdistill import errors
from gmdistill.evaluation import exact_match, metrics
from gmdistill.runs.config import travellers
from gmdistill.sets import spaces
from gmdistill.students import encoders
from gmdistill.teachers import divergences, ensembles


def require_not_apart(config: Any) -> None:
  """Checks that no rows are to be kept apart from those of a bank.

  Raises:
    InputError: they are.
  """
  if apart := config.selection.apart:
    raise errors.InputError(
      f"selection.apart={apart} is about the rows that a run draws itself; a "
      "bank takes any. Use 0."
    )


def require_no_rows(config: Any, why: str) -> None:
  """Checks that nothing is asked of real rows where a run draws none itself.

  Raises:
    InputError: names the field.
  """
  for field, unused in (("joined_rows", 0.0), ("real_rows", "random")):
    if (value := getattr(config, field)) != unused:
      raise errors.InputError(
        f"{field}={value} is of the real rows that a run draws, and "
        f"{why}; use {unused}."
      )


def require_classes(config: Any, verb: str) -> None:
  """Checks that the rows of a config have classes, which a verb reads.

  Raises:
    InputError: they say tokens.
  """
  if not config.has_classes:
    raise errors.InputError(
      f"{verb} is of rows that have classes, and those of task.kind="
      f"{config.task.kind} have none; give a config of classes or label words."
    )


def require_writing(config: Any) -> None:
  """Checks that a config names who writes, of classes that students tell.

  Raises:
    InputError: names the field.
  """
  if not config.writer.model:
    raise errors.InputError(
      "write needs the decoder that writes; give --config.writer.model=DIR, or "
      "a hub id such as HuggingFaceTB/SmolLM2-135M."
    )
  require_classes(config, "write")
  if config.writer.confidence and config.task.kind != "classes":
    raise errors.InputError(
      f"writer.confidence={config.writer.confidence} asks students that tell "
      f"classes, and task.kind={config.task.kind} says words; use 0, or a "
      "config of classes."
    )


def require_sense(config: Any) -> None:
  """Checks the fields of a recipe that depend on one another.

  Raises:
    InputError: names the field and what would be right.
  """
  share, rows = config.joined_rows, config.rows_per_class
  if share and not round(share * rows):
    raise errors.InputError(
      f"joined_rows={share} must make a row of rows_per_class={rows}; use 0.0, "
      f"or more than {0.5 / rows:.2g}."
    )
  student = config.student
  if student.pretrained and student.space:
    raise errors.InputError(
      f"student.pretrained={student.pretrained} and student.space="
      f"{student.space} are two embedding spaces; give one of them."
    )
  for name in ("replay", "finetune", "scratch", "full"):
    group = getattr(config, name)
    for field in ("rates", "head_scales"):
      if not getattr(group, field, (1.0,)):
        raise errors.InputError(
          f"{name}.{field}=() must be one or more numbers."
        )
  if not config.protocols:
    raise errors.InputError(
      "protocols is empty; use one or more of replay, finetune, scratch, bayes."
    )
  if not config.travelling.students:
    raise errors.InputError(
      "travelling.students is empty; use own, or others such as textcnn."
    )
  metrics.require_known(config.metrics)
  _require_steps(config)
  if config.readable:
    _require_readable(config)


def _require_readable(config):
  """Checks that what a set of texts is to learn can be written as text."""
  if config.labels not in ("hard", "softmax"):
    raise errors.InputError(
      f"labels={config.labels}, but readable=True writes labels that are "
      "probabilities; use softmax or hard."
    )
  for field, nothing in (
    ("rank", 0),
    ("attention_labels", False),
    ("label_smoothing", 0.0),
    ("start", ""),
  ):
    if (value := getattr(config, field)) != nothing:
      raise errors.InputError(
        f"{field}={value} is of embeddings, and readable=True has rows of "
        f"text; use {nothing!r}."
      )
  if "token_distance" in config.objective:
    raise errors.InputError(
      "objective=token_distance moves embeddings to tokens, and readable=True "
      "has rows of text; leave it out."
    )


def _require_steps(config):
  """Checks what is about the set's own steps, and the protocol's."""
  last, steps = config.look_ahead.last_steps, config.replay_steps
  if last > steps:
    raise errors.InputError(
      f"look_ahead.last_steps={last} must be from 1 to replay_steps={steps}, "
      "or 0 for all."
    )
  per_step, per_class = config.examples_per_step, config.per_group
  if per_step > per_class:
    raise errors.InputError(
      f"examples_per_step={per_step} must be 1 to "
      f"{config.size_field}={per_class}, or 0 for all."
    )


def require_fitting(built: spaces.Setup, config: Any) -> None:
  """Checks the fields of a recipe that depend on its rows and its student.

  Raises:
    InputError: names the field and what would be right.
  """
  student = built.problem.student
  positions = student.max_positions
  if config.sequence_length > positions:
    raise errors.InputError(
      f"sequence_length={config.sequence_length}, but the student has "
      f"{positions} positions; use 1 to {positions}."
    )
  width = built.problem.embeddings.shape[1]
  rows = len(built.corpus.strata) * config.per_group
  most = min(rows * config.sequence_length, width)
  if config.rank > most:
    raise errors.InputError(
      f"rank={config.rank} of the embeddings must be 1 to {most} (positions "
      "and width of the set), or 0 for full."
    )
  if not config.has_classes:
    _require_language(config)
  for field in ("shallow_weight", "features"):
    value = getattr(config.kd, field)
    if value and not isinstance(student, encoders.Transformer):
      raise errors.InputError(
        f"kd.{field}={value} is about layers, and this student tells nothing "
        "of its own; use student.kind=transformer, or one of BERT's."
      )
  if "travelling" in config.objective:
    travellers.require(built.problem, config)
  outcomes, of = built.corpus.num_classes, "classes"
  if not config.has_classes:
    # The likeliest tokens, and what all others have together.
    outcomes, of = config.teachers.top_tokens + 1, "outcomes of a token"
  if config.kd.loss == "bild" and outcomes < divergences.LEAST_BILD:
    raise errors.InputError(
      f"kd.loss=bild compares differences of logits, and {outcomes} {of} "
      "have one alone; use another kd.loss."
    )
  if not config.has_classes:
    exact_match.require_answers(built.problem, built.corpus, config.exact_match)
  elif config.exact_match.num_rows:
    raise errors.InputError(
      f"exact_match.num_rows={config.exact_match.num_rows} asks a language "
      f"model, and task.kind={config.task.kind} has classes; use 0."
    )


def require_matched(
  setup: spaces.Setup, matched: str, field: str, *, some: bool = True
) -> None:
  """Checks, by shapes alone, that a student has the tensors to be matched.

  Args:
    setup: Whose student.
    matched: Which tensors.
    field: The config's, whose `matched` it is, for the message.
    some: Whether there must be any, as a student of words has no head.

  Raises:
    InputError: it has not; names the field.
  """

  def tensors(key):
    grads = setup.problem.init(key)
    return [
      tensor.array for tensor in setup.problem.roles.select(grads, matched)
    ]

  found: list[jax.Array] = errors.named(
    field, lambda: jax.eval_shape(tensors, jax.random.key(0))
  )
  if some and not found:
    raise errors.InputError(
      f"{field}.matched={matched} are no tensors of this student; use "
      f"{field}.matched=all."
    )


def _mixing(config):
  """Returns how teachers' labels of classes are mixed, and what each field is
  where there are none."""
  return {
    f"teachers.{x.name}": (getattr(config.teachers, x.name), x.default)
    for x in dataclasses.fields(ensembles.Options)
    if x.name != "alpha"
  }


def _centring(config):
  """Returns whether logits are centred, by the fields of the objectives."""
  used = config.objective.replace("travelling", "finetune_ahead")
  fields = ("look_ahead", "step_matching", "finetune_ahead")
  return {
    f"{name}.centred": (getattr(config, name).centred, False)
    for name in fields
    if name in used
  }


def _require_language(config):
  """Refuses what rows without classes have no place for."""
  if config.sequence_length > config.data.max_length:
    raise errors.InputError(
      f"sequence_length={config.sequence_length} is more than the "
      f"data.max_length={config.data.max_length} of the rows that a set starts "
      "from; use at most that."
    )
  unused = {
    "labels": (config.labels, "unrestricted"),
    "label_smoothing": (config.label_smoothing, 0.0),
    "attention_labels": (config.attention_labels, False),
    "readable": (config.readable, False),
    "joined_rows": (config.joined_rows, 0.0),
    "kd.teaching": (config.kd.teaching, "none"),
    "kd.features": (config.kd.features, ""),
    "kd.shallow_weight": (config.kd.shallow_weight, 0.0),
    "metrics": (config.metrics, ()),
    "choice.written": (config.choice.written, ""),
    "choice.exchanges": (config.choice.exchanges, 0),
    **_mixing(config),
    **_centring(config),
  }
  for field, (value, right) in unused.items():
    if value != right:
      raise errors.InputError(
        f"{field}={value} is of rows that have classes, and "
        f"task.kind={config.task.kind} has none; use {right or repr(right)}."
      )
  kd = config.kd
  if kd.loss and kd.weights not in ensembles.WEIGHTS:
    raise errors.InputError(
      f"kd.weights={kd.weights} looks at classes, and "
      f"task.kind={config.task.kind} has none; use one of "
      f"{', '.join(ensembles.WEIGHTS)}."
    )
  if kd.loss and len(config.teachers.dirs) > 1 and kd.join != "losses":
    raise errors.InputError(
      f"kd.join={kd.join} is of teachers that tell the same outcomes, and each "
      "tells its own likeliest tokens; use kd.join=losses."
    )
  if "bayes" in config.protocols:
    raise errors.InputError(
      "protocols: bayes samples students of classes; use replay, finetune or "
      f"scratch with task.kind={config.task.kind}."
    )
