"""What rows carry beside the truth: teachers' labels, and rationales.

The fields of a config that are about either, into objects.
"""

import dataclasses
import hashlib
import json
from typing import Any

import jax
import ml_collections
import numpy as np

from gmdistill import errors
from gmdistill.data import batches, joined, tokenizing
from gmdistill.runs.config import settings
from gmdistill.sets import spaces
from gmdistill.students import tasks
from gmdistill.teachers import (
  criteria,
  divergences,
  ensembles,
  rationales,
  trained,
)


def taught(
  corpus: batches.Corpus, config: ml_collections.ConfigDict
) -> batches.Examples:
  """Returns the training part with its teachers' labels mixed in.

  Where students lose to their teachers (`kd.loss`), with their logits too.
  Without teachers, or where `teachers.alpha` is 0 and nothing is lost to them,
  as it is.

  Raises:
    InputError: a teacher that cannot be read, or knows other classes.
  """
  if not asks_teachers(config):
    return corpus.train
  names, options = teacher_names(config), label_options(config)
  read = settings.data_options(config)
  said_KxNxC = np.stack(
    [trained.logits(trained.load(name), corpus, read) for name in names]
  )
  found = corpus.train
  if options.alpha:
    truth_NxC = np.eye(len(corpus.label_names))[corpus.train.labels]
    soft_NxC = errors.named(
      "teachers", lambda: ensembles.soft_labels(said_KxNxC, truth_NxC, options)
    )
    found = found._replace(soft=soft_NxC)
  if config.kd.loss:
    told = batches.TeacherTargets(np.moveaxis(said_KxNxC, 0, 1))
    found = found._replace(teachers=told)
  return found


def of_joined_rows(
  corpus: batches.Corpus, config: ml_collections.ConfigDict
) -> joined.Labeller:
  """Returns what the teachers say of rows made of two.

  Raises:
    InputError: no teacher, or one that does not read the student's tokens; rows
      that are pairs of texts, or have rationales.
  """
  field = f"joined_rows={config.joined_rows}"
  if not asks_teachers(config):
    raise errors.InputError(
      f"{field}: none but a teacher knows the label of two rows in one; give "
      "teachers.dirs, and teachers.alpha above 0."
    )
  if len(corpus.text_keys) > 1 or config.data.rationale_key:
    raise errors.InputError(
      f"{field} is of rows of one text, without rationales; use 0.0."
    )
  named = [trained.load(name) for name in teacher_names(config)]
  for teacher in named:
    trained.require_labels(teacher, corpus.label_names)
    length = corpus.train.token_ids.shape[1]
    trained.require_length(teacher, length, "the rows' length")
    own = tokenizing.Tokenizer.from_file(teacher.tokenizer_file)
    if teacher.slots or own.fingerprint != corpus.tokenizer.fingerprint:
      raise errors.InputError(
        f"{field}: the teacher {teacher.name} does not read the student's "
        "tokens; use one of the student's tokenizer, without rationales."
      )
  options = label_options(config)
  apply = jax.jit(lambda problem, *args: problem.apply(*args).logits)

  def label(ids, mask, truth_BxC):
    batch = batches.Batch(ids, mask, truth_BxC)
    said_KxBxC = np.stack(
      [np.asarray(apply(x.problem, x.params, batch)) for x in named]
    )
    labels_BxC = truth_BxC
    if options.alpha:
      labels_BxC = ensembles.soft_labels(said_KxBxC, truth_BxC, options)
    return labels_BxC, np.moveaxis(said_KxBxC, 0, 1)

  return label


def with_taught_rows(
  setup: spaces.Setup, config: ml_collections.ConfigDict
) -> spaces.Setup:
  """Returns the setup with its teachers' labels in the training part.

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
  train = taught(setup.corpus, config)
  return setup._replace(
    corpus=setup.corpus._replace(train=train), labels=labels_id(config)
  )


def require_no_params(config: ml_collections.ConfigDict) -> None:
  """Checks that what real rows are lost by has no parameters of its own.

  Raises:
    InputError: a gate, or features, which are learned with a student.
  """
  if field := learned_field(config):
    raise errors.InputError(
      f"{field} is learned with a student, by train, evaluate or teach; leave "
      "it out of distill and bank."
    )


def learned_field(config: ml_collections.ConfigDict) -> str:
  """Returns the field by which a criterion learns beside its student, if any.

  An optimiser trains both: the protocol `replay` has none.
  """
  kd = config.kd
  if kd.loss and kd.weights == "gate":
    return "kd.weights=gate"
  return f"kd.features={kd.features}" if kd.features else ""


def labels_id(config: ml_collections.ConfigDict) -> str:
  """Returns what the outer loop's rows say: `true`, or a hash of what else."""
  told: list[Any] = []
  if asks_teachers(config):
    ids = [one["id"] for one in trained.names_and_ids(teacher_names(config))]
    options = dataclasses.asdict(label_options(config))
    told += [ids, options]
  if told or config.kd.shallow_weight:
    told.append(config.kd.to_dict())
  if config.data.rationale_key:
    told += rationale_facts(config)
  if not told:
    return "true"
  text = json.dumps(told, sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()[:16]


def asks_teachers(config: ml_collections.ConfigDict) -> bool:
  """Whether teachers have a say in the outer loop's rows."""
  return bool(teacher_names(config)) and bool(
    config.teachers.alpha or config.kd.loss
  )


def teacher_names(config: ml_collections.ConfigDict) -> list[str]:
  """Returns the teachers' directories or hub ids."""
  names = config.teachers.dirs
  return [names] if isinstance(names, str) and names else list(names)


def label_options(config: ml_collections.ConfigDict) -> ensembles.Options:
  """Returns how the teachers' labels are joined and mixed with the truth."""
  fields = config.teachers.to_dict()
  fields.pop("dirs")
  return errors.named("teachers", lambda: ensembles.Options(**fields))


def criterion(config: ml_collections.ConfigDict) -> tasks.Criterion | None:
  """Returns what the config's students lose beside their labels, if anything.

  Raises:
    InputError: an unknown name, or a number out of its range.
  """
  kd = config.kd
  if (
    not 0 <= min(kd.weight, kd.weight_end) <= max(kd.weight, kd.weight_end) <= 1
    or min(kd.temperature, kd.temperature_end) <= 0
  ):
    raise errors.InputError(
      f"kd.weight={kd.weight} and kd.weight_end={kd.weight_end} must be 0 to "
      f"1, kd.temperature={kd.temperature} and kd.temperature_end="
      f"{kd.temperature_end} above 0."
    )

  def parts():
    over = lambda a, b: divergences.schedule(kd.schedule, a, b, 1)  # noqa: E731
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
  built: spaces.Setup, config: ml_collections.ConfigDict
) -> spaces.Setup:
  """Returns the setup in which rationales count as the config says.

  Raises:
    InputError: a share out of 0 to 1, an unknown way to weigh tokens, or a set
      too short for the slots.
  """
  options = config.rationales
  for field in ("label_share", "curriculum"):
    if not 0 <= options[field] <= 1:
      raise errors.InputError(
        f"rationales.{field}={options[field]} must be from 0 to 1."
      )
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
  problem = dataclasses.replace(built.problem, label_share=options.label_share)
  return built._replace(
    corpus=built.corpus._replace(train=train), problem=problem
  )


def rationale_facts(config: ml_collections.ConfigDict) -> list[Any]:
  """Returns what decides a student's training beside data and protocol.

  Nothing where there are no rationales: what was kept before stays valid.
  """
  groups = [config.data.group_key] if config.data.group_key else []
  if not config.data.rationale_key:
    return groups
  fields = config.rationales.to_dict()
  return [
    *groups,
    [fields[name] for name in ("label_share", "weights", "curriculum")],
  ]
