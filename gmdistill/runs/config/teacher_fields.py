"""What rows carry beside the truth: teachers' labels, and rationales.

The fields of a config that are about either, into objects.
"""

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from gmdistill import errors
from gmdistill.data import joined
from gmdistill.runs.config import recipe as recipes
from gmdistill.sets import spaces
from gmdistill.students import problems, tasks
from gmdistill.teachers import (
  criteria,
  divergences,
  ensembles,
  language_teachers,
  rationales,
  taught_rows,
  token_labels,
  trained,
)


def with_teachers(setup: spaces.Setup, config: recipes.Recipe) -> spaces.Setup:
  """Returns the setup with its teachers, opened, and the rows that they taught.

  Where students lose to their teachers (`kd.loss`), with their logits too.
  Without teachers, or where `teachers.alpha` is 0 and nothing is lost to them,
  rows are as they are.

  Raises:
    InputError: a teacher that cannot be read, or knows other classes.
  """
  if not asks_teachers(config):
    return setup._replace(labels=labels_id(config))
  opened = open_teachers(setup, config, config.teachers.dirs)
  teachers = taught_rows.Teachers(
    opened, label_options(config), bool(config.kd.loss)
  )
  if config.has_classes:
    rows = taught_rows.taught(setup.corpus, teachers, config.data)
  else:
    asks = language_asks(setup, config, opened)
    rows = token_labels.taught(opened, setup.corpus, asks)
  return setup._replace(
    labels=labels_id(config, teachers), taught=rows, teachers=teachers
  )


def open_teachers(
  setup: spaces.Setup, config: recipes.Recipe, names: Sequence[str]
) -> tuple[Any, ...]:
  """Opens teachers: of a language model decoders, or adapters of its base.

  Raises:
    InputError: one that cannot be read, knows other classes or has other
      tokens; nothing that a language model would lose to them.
  """
  if config.task.kind == "classes":
    return tuple(map(trained.load, names))
  if not (config.has_classes or config.kd.loss):
    raise errors.InputError(
      f"teachers.dirs={tuple(names)} has no say: students of "
      f"task.kind={config.task.kind} hear teachers by what they lose to them; "
      f"give kd.loss, one of {', '.join(criteria.LOSSES)}."
    )
  student = config.student
  opened = tuple(
    language_teachers.load(name, student.pretrained, student.compute)
    for name in names
  )
  for teacher in opened:
    language_teachers.require_tokens(teacher, setup.corpus.tokenizer)
  if not config.has_classes:
    return opened
  return tuple(language_teachers.of_words(setup, one) for one in opened)


def language_asks(
  setup: spaces.Setup,
  config: recipes.Recipe,
  opened: Sequence[language_teachers.LanguageTeacher],
) -> token_labels.Asked:
  """Returns what teachers of a language model are asked at every place."""
  return token_labels.asked(
    opened,
    len(problems.unembedding(setup.problem)),
    setup.corpus.tokenizer.vocab_size,
    config.teachers.top_tokens,
  )


def of_joined_rows(
  setup: spaces.Setup, config: recipes.Recipe
) -> joined.Labeller:
  """Returns what the teachers say of rows made of two.

  Raises:
    InputError: no teacher, or one that does not read the student's tokens; rows
      that are pairs of texts, or have rationales.
  """
  field = f"joined_rows={config.joined_rows}"
  if setup.teachers is None:
    raise errors.InputError(
      f"{field}: none but a teacher knows the label of two rows in one; give "
      "teachers.dirs, and teachers.alpha above 0."
    )
  if len(setup.corpus.text_keys) > 1 or config.data.rationale_key:
    raise errors.InputError(
      f"{field} is of rows of one text, without rationales; use 0.0."
    )
  if config.task.kind != "classes":
    raise errors.InputError(
      f"{field} is of rows that are a text alone, and task.kind="
      f"{config.task.kind} puts each into a template that ends it; use 0.0."
    )
  return taught_rows.of_joined_rows(setup.corpus, setup.teachers, field)


def for_a_bank(setup: spaces.Setup, config: recipes.Recipe) -> spaces.Setup:
  """Returns the setup whose training part is what a bank is built of.

  Raises:
    InputError: a teacher that cannot be read; labels or weights in a private
      bank that tell of other rows.
  """
  require_no_params(config)
  if asks_teachers(config) and config.bank.noise:
    raise errors.InputError(
      f"bank.noise={config.bank.noise} hides a row's own gradient, and "
      "teachers.dirs labels it by teachers that may know it; use "
      "teachers.dirs=() or bank.noise=0.0."
    )
  rare = config.data.rationale_key and config.rationales.weights == "rare"
  if rare and config.bank.noise:
    raise errors.InputError(
      f"bank.noise={config.bank.noise} hides a row's own gradient, and "
      "rationales.weights=rare weighs it by what all rows say; use uniform."
    )
  setup = with_teachers(setup, config)
  return setup._replace(corpus=setup.corpus._replace(train=setup.rows))


def require_no_params(config: recipes.Recipe) -> None:
  """Checks that what real rows are lost by has no parameters of its own.

  Raises:
    InputError: a gate, or features, which are learned with a student.
  """
  if field := learned_field(config):
    raise errors.InputError(
      f"{field} is learned with a student, by train, evaluate or teach; leave "
      "it out of distill and bank."
    )


def learned_field(config: recipes.Recipe) -> str:
  """Returns the field by which a criterion learns beside its student, if any.

  An optimiser trains both: the protocol `replay` has none.
  """
  kd = config.kd
  if kd.loss and kd.weights == "gate":
    return "kd.weights=gate"
  return f"kd.features={kd.features}" if kd.features else ""


def labels_id(
  config: recipes.Recipe, teachers: taught_rows.Teachers | None = None
) -> str:
  """Returns what the outer loop's rows say: `true`, or a hash of what else."""
  told: list[Any] = []
  if teachers is not None:
    ids = [one.id for one in teachers.opened]
    told += [ids, dataclasses.asdict(teachers.options)]
    told += [] if config.has_classes else [config.teachers.top_tokens]
  if told or config.kd.shallow_weight:
    told.append(dataclasses.asdict(config.kd))
  if config.data.rationale_key:
    told += rationale_facts(config)
  if config.task.kind != "classes":
    told.append(dataclasses.asdict(config.task))
  if not told:
    return "true"
  text = json.dumps(told, sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()[:16]


def asks_teachers(config: recipes.Recipe) -> bool:
  """Whether teachers have a say in the outer loop's rows."""
  return bool(config.teachers.dirs) and bool(
    config.teachers.alpha or config.kd.loss
  )


def label_options(config: recipes.Recipe) -> ensembles.Options:
  """Returns how the teachers' labels are joined and mixed with the truth."""
  fields = dataclasses.asdict(config.teachers)
  for name in ("dirs", "top_tokens"):
    del fields[name]
  return ensembles.Options(**fields)


def criterion(config: recipes.Recipe) -> tasks.Criterion | None:
  """Returns what the config's students lose beside their labels, if anything.

  Raises:
    InputError: an unknown name, or a number out of its range.
  """
  kd = config.kd

  def over(start, end):
    return divergences.schedule(kd.schedule, start, end, 1)

  def parts():
    if kd.loss:
      yield criteria.to_teachers(
        kd.loss,
        weight=over(kd.weight, kd.weight_end),
        temperature=over(kd.temperature, kd.temperature_end),
        join=kd.join,
        weights=kd.weights,
      )
    if kd.features:
      yield criteria.to_features(kd.features, weight=kd.feature_weight)
    if kd.shallow_weight:
      yield criteria.to_deepest(weight=kd.shallow_weight)

  found = errors.named("kd", lambda: list(parts()))
  return criteria.in_turn(found) if found else None


def with_rationales(
  built: spaces.Setup, config: recipes.Recipe
) -> spaces.Setup:
  """Returns the setup in which rationales count as the config says.

  Raises:
    InputError: a share out of 0 to 1, an unknown way to weigh tokens, or a set
      too short for the slots.
  """
  options = config.rationales
  train = built.corpus.train
  tokens = train.tokens
  if tokens is None or tokens.steps is None:
    return built
  slots = tokens.targets.shape[1]
  if config.sequence_length < slots + 2:
    raise errors.InputError(
      f"sequence_length={config.sequence_length} has no room for {slots} slots "
      f"(data.rationale_length) and a text; use {slots + 2} or more."
    )
  ids_NxR, steps_NxR = np.asarray(tokens.targets), np.asarray(tokens.steps)
  told = (ids_NxR, steps_NxR >= 0, options.weights)
  weights_NxR = errors.named(
    "rationales", lambda: rationales.token_weights(*told)
  )
  tokens = dataclasses.replace(tokens, weights=weights_NxR)
  train = train._replace(tokens=tokens)
  asks = built.problem.task._replace(label_share=options.label_share)
  problem = dataclasses.replace(built.problem, asks=asks)
  return built._replace(
    corpus=built.corpus._replace(train=train), problem=problem
  )


def rationale_facts(config: recipes.Recipe) -> list[Any]:
  """Returns what decides a student's training beside data and protocol.

  Nothing where there are no rationales: what was kept before stays valid.
  """
  groups = [config.data.group_key] if config.data.group_key else []
  if not config.data.rationale_key:
    return groups
  told = config.rationales
  return [*groups, [told.label_share, told.weights, told.curriculum]]
