"""What a config's fields mean: fields into objects.

Below this file nobody sees a ConfigDict.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import ml_collections
import numpy as np

from gmdistill import (
  bank,
  coresets,
  data,
  distances,
  errors,
  evaluate,
  metrics,
  objectives,
  rationales,
  replays,
  schedule,
  set_files,
  spaces,
  synthetic,
  teachers,
)
from gmdistill import problem as problems


def data_options(config: ml_collections.ConfigDict) -> data.DataOptions:
  """Returns which data a config reads, and how."""
  fields = config.data.to_dict()
  return data.DataOptions(**{"data_dir": fields.pop("dir"), **fields})


def setup(config: ml_collections.ConfigDict) -> spaces.Setup:
  """Loads the data and the student that a config names."""
  built = spaces.build(
    config.student.to_dict(), config.table.to_dict(), data_options(config)
  )
  built = with_rationales(built, config)
  data.require_rows(
    built.corpus.train, config.data_per_class, built.corpus.label_names
  )
  positions = built.problem.student.max_positions
  if not 0 < config.sequence_length <= positions:
    raise errors.InputError(
      f"sequence_length={config.sequence_length}, but the student has "
      f"{positions} positions; use 1 to {positions}."
    )
  width = built.problem.embeddings.shape[1]
  rows = len(built.corpus.label_names) * config.data_per_class
  most = min(rows * config.sequence_length, width)
  if not 0 <= config.rank <= most:
    raise errors.InputError(
      f"rank={config.rank} of the embeddings must be 1 to {most} (positions "
      "and width of the set), or 0 for full."
    )
  if "gradient_matching" in config.objective:
    matched = config.gradient_matching.matched

    def tensors(key):
      grads = built.problem.init(key)
      return [tensor.array for tensor in distances.select(grads, matched)]

    # Shapes alone: whether this student has what is to be matched.
    schedule.named(
      "gradient_matching",
      lambda: jax.eval_shape(tensors, jax.random.key(0)),
    )
  return built


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
  if train.rationale is None or train.rationale_steps is None:
    return built
  slots = train.rationale.shape[1]
  if config.sequence_length < slots + 2:
    raise errors.InputError(
      f"sequence_length={config.sequence_length} has no room for {slots} slots "
      f"(data.rationale_length) and a text; use {slots + 2} or more."
    )
  told = (train.rationale, train.rationale_steps >= 0, options.weights)
  weights_NxR = schedule.named(
    "rationales", lambda: rationales.token_weights(*told)
  )
  train = train._replace(rationale_weights=weights_NxR)
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


def training_rows(
  corpus: data.Corpus, config: ml_collections.ConfigDict
) -> data.Examples:
  """Returns the rows that the outer loop may draw.

  With `selection.apart`, none that shares so many consecutive tokens with a
  row on which choices are made: of phrases of one sentence, in several splits,
  the accuracy says little.

  Raises:
    InputError: a class has none long enough, or none apart.
  """
  train, apart = taught(corpus, config), config.selection.apart
  if apart:
    texts = (train, selection_rows(corpus, config))
    shared = data.sharing(*map(data.without_slots, texts), apart)
    train = data.take(train, np.flatnonzero(~shared))
    if not len(train.labels):
      raise errors.InputError(
        f"selection.apart={apart} leaves no training row; use more tokens, or "
        "0 to keep all."
      )
    metrics.say(
      f"{shared.sum()} training rows share {apart} tokens with the selection "
      "split and are left out of the outer loop"
    )
  return _long_rows(train, config.min_tokens, "min_tokens", corpus.label_names)


def taught(
  corpus: data.Corpus, config: ml_collections.ConfigDict
) -> data.Examples:
  """Returns the training part with its teachers' labels mixed in.

  Without teachers, or where `teachers.alpha` is 0, as it is.

  Raises:
    InputError: a teacher that cannot be read, or knows other classes.
  """
  fields = config.teachers.to_dict()
  names = fields.pop("dirs")
  names = [names] if isinstance(names, str) else list(names)
  if not names or not fields["alpha"]:
    return corpus.train
  options = data_options(config)
  said = np.stack(
    [teachers.logits(teachers.load(name), corpus, options) for name in names]
  )
  soft = schedule.named(
    "teachers",
    lambda: teachers.soft_labels(said, corpus.train.labels, **fields),
  )
  return corpus.train._replace(soft=soft)


def selection_rows(
  corpus: data.Corpus, config: ml_collections.ConfigDict
) -> data.Examples:
  """Returns the rows on which iterations and learning rates are chosen.

  Raises:
    InputError: a class has none long enough.
  """
  options = config.selection
  found = _long_rows(
    corpus.selection,
    options.min_tokens,
    "selection.min_tokens",
    corpus.label_names,
  )
  order = np.random.default_rng(0).permutation(len(found.labels))
  return data.take(found, order[: options.rows])


def _long_rows(examples, min_tokens, field, label_names):
  """Returns the rows of at least `min_tokens` tokens."""
  lengths_N = data.without_slots(examples).mask.sum(axis=1)
  found = data.take(examples, np.flatnonzero(lengths_N >= min_tokens))
  counts = np.bincount(found.labels, minlength=len(label_names))
  # A class too rare for the split is no fault of the lengths.
  had = np.bincount(examples.labels, minlength=len(label_names)) > 0
  if not counts[had].all():
    raise errors.InputError(
      f"{field}={min_tokens} leaves no row of class "
      f"{label_names[int(np.where(had, counts, 1).argmin())]}; use a smaller "
      "one."
    )
  return found


def bank_options(config: ml_collections.ConfigDict) -> bank.Options:
  """Returns what `gmdistill bank` builds for a config."""
  fields = config.bank.to_dict()
  fields.pop("dir")
  return bank.Options(**fields)


def experts(
  setup: spaces.Setup,
  config: ml_collections.ConfigDict,
  objective: objectives.Objective,
) -> Callable[[int], objectives.Expert]:
  """Returns `sample(step)` of the bank's states, as an objective reads them.

  Raises:
    InputError: no bank, or one that does not serve this run.
  """
  if not config.bank.dir:
    raise errors.InputError(
      f"objective={config.objective} reads an expert bank: build one with "
      "gmdistill bank --config=... --workdir=DIR, and give "
      "--config.bank.dir=DIR."
    )
  opened = bank.Bank(config.bank.dir, setup)
  if "targets" in objective.reads:
    opened.require(config.gradient_matching.matched)
  fields = config.experts.to_dict()
  share = fields.pop("curriculum")
  if not 0 <= share <= 1:
    raise errors.InputError(
      f"experts.curriculum={share} must be a fraction of the steps, 0 to 1."
    )
  draws = round(share * config.num_steps * config.num_students)
  return opened.sampler(
    objective.reads, seed=config.seed, curriculum=draws, **fields
  )


def sampler(
  setup: spaces.Setup, config: ml_collections.ConfigDict, each: int
) -> data.Sampler:
  """Returns the outer loop's real batches, `each` of them an outer step.

  Raises:
    InputError: an unknown way to choose them, or too few rows.
  """
  examples = training_rows(setup.corpus, config)
  num_classes = len(setup.corpus.label_names)
  if config.real_rows == "random":
    return data.class_balanced_sampler(
      examples,
      rows_per_class=config.rows_per_class,
      num_classes=num_classes,
      seed=config.seed,
    )
  if config.real_rows == "representatives":
    return coresets.representatives_sampler(
      setup.problem,
      examples,
      rows_per_class=config.rows_per_class,
      num_classes=num_classes,
      pool=config.coreset_pool,
      refresh=config.refresh,
      each=each,
      seed=config.seed,
    )
  raise errors.InputError(
    f"real_rows={config.real_rows} is none of random, representatives."
  )


def parameterization(
  config: ml_collections.ConfigDict, problem: problems.Problem
) -> synthetic.Parameterization:
  """Returns how the config's synthetic set is stored, for these students."""
  if config.stored_as not in set_files.PRECISIONS:
    raise errors.InputError(
      f"stored_as={config.stored_as} is none of "
      f"{', '.join(set_files.PRECISIONS)}."
    )
  base = (
    synthetic.factorized(config.rank) if config.rank else synthetic.direct()
  )
  stored = schedule.named(
    "labels",
    lambda: synthetic.with_soft_labels(base, config.labels),
  )
  if config.attention_labels:
    stored = synthetic.with_attention_labels(
      stored, functools.partial(_attention, problem)
    )
  if config.data.rationale_key and config.rationales.learned:
    stored = synthetic.with_rationales(stored)
  # Step sizes that no objective learns are chosen like any learning rate.
  learns = any(name in config.objective for name in schedule.STEPPING)
  learned = config.replay_steps if learns else 0
  shares = None
  if config.normalised_steps:
    shapes = jax.eval_shape(problem.init, jax.random.key(0))
    shares = replays.even_shares(shapes)
  per_class, per_step = config.data_per_class, config.examples_per_step
  if not 0 <= per_step <= per_class:
    raise errors.InputError(
      f"examples_per_step={per_step} must be 1 to data_per_class={per_class}, "
      "or 0 for all."
    )
  return synthetic.with_learning_rates(
    stored,
    learned,
    config.initial_step_size,
    config.initial_head_step_size,
    shares,
    per_step,
  )


def _attention(problem, batch):
  """Returns a fresh student's attention: what its labels start at."""
  params = problem.init(jax.random.key(0))
  found = problem.apply(params, batch).attention
  if found is None:
    raise errors.InputError(
      "attention_labels=True, but this student has no attention; use "
      "student.kind=transformer, or attention_labels=False."
    )
  return found


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
      num_steps=max(config.replay_steps, 1),
      normalised=config.normalised_steps,
      **config.replay.to_dict(),
    )
  if name in ("finetune", "scratch", "full"):
    curriculum = config.rationales.curriculum
    return evaluate.fine_tuning(**config[name].to_dict(), curriculum=curriculum)
  raise errors.InputError(
    f"protocol {name} is none of replay, finetune, scratch."
  )
