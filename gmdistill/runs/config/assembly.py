"""What a recipe's fields mean: fields into objects."""

import dataclasses
import functools
from collections.abc import Callable

import jax

from gmdistill import errors
from gmdistill.data import batches, joined, samplers, splits
from gmdistill.evaluation import protocols
from gmdistill.objectives import bank, contract
from gmdistill.runs.config import (
  checks,
  row_fields,
  schedule,
  shared_bases,
  teacher_fields,
)
from gmdistill.runs.config import (
  recipe as recipes,
)
from gmdistill.selection import coresets
from gmdistill.sets import (
  following_tokens,
  language_spaces,
  readable,
  set_files,
  spaces,
  synthetic,
  wrappers,
)
from gmdistill.students import problems
from gmdistill.teachers import criteria


def setup(config: recipes.Recipe, size_field: str = "") -> spaces.Setup:
  """Loads the data and the student that a config names.

  `size_field`: what says how many rows a class, where it is not the config's.
  """
  errors.choice("stored_as", config.stored_as, set_files.PRECISIONS)
  student = dataclasses.asdict(config.student)
  table = dataclasses.asdict(config.table)
  if config.task.kind == "classes":
    built = spaces.build(student, table, config.data)
    problem, how = language_spaces.adapted(built.problem, student)
    built = built._replace(
      problem=problem, student_name=built.student_name + how
    )
  else:
    asked = dataclasses.asdict(config.task)
    built = language_spaces.build(
      student, table, config.data, asked, shared_bases.place(config)
    )
  own = dataclasses.replace(
    built.problem, criterion=teacher_fields.criterion(config)
  )
  own = shared_bases.laid_out(own, config)
  built = teacher_fields.with_rationales(built._replace(problem=own), config)
  batches.require_rows(
    built.corpus.train,
    config.per_group,
    built.corpus.strata,
    size_field or config.size_field,
  )
  checks.require_fitting(built, config)
  for name in schedule.names(config.objective):
    options = schedule.options(config, name)
    if hasattr(options, "matched"):
      checks.require_matched(built, options.matched, name)
  return built


def bank_options(config: recipes.Recipe) -> bank.Options:
  """Returns what `gmdistill bank` builds for a config."""
  fields = dataclasses.asdict(config.bank)
  fields.pop("dir")
  return bank.Options(**fields)


def experts(
  setup: spaces.Setup,
  config: recipes.Recipe,
  objective: contract.Objective,
) -> Callable[[int], contract.Expert]:
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
  checks.require_not_apart(config)
  opened = bank.Bank(config.bank.dir, setup)
  if "targets" in objective.reads:
    opened.require(config.gradient_matching.matched)
  if "later" in objective.reads:
    opened.require_float32()
  chosen = config.experts
  draws = round(chosen.curriculum * config.num_steps * config.num_students)
  return opened.sampler(
    objective.reads,
    seed=config.seed,
    max_age=chosen.max_age,
    span=chosen.span,
    curriculum=draws,
  )


def sampler(
  setup: spaces.Setup, config: recipes.Recipe, each: int
) -> samplers.Sampler:
  """Returns the outer loop's real batches, `each` of them an outer step.

  Raises:
    InputError: an unknown way to choose them, or too few rows.
  """
  names = setup.corpus.strata
  rows = row_fields.training_rows(setup, config)
  examples = splits.long_rows(rows, config.min_tokens, "min_tokens", names)
  num_classes = len(names)
  if config.real_rows == "random":
    drawn = samplers.class_balanced_sampler(
      examples,
      rows_per_class=config.rows_per_class,
      num_classes=num_classes,
      seed=config.seed,
    )
  elif config.real_rows == "representatives":
    choice = coresets.representatives(
      setup.problem,
      examples,
      rows_per_class=config.rows_per_class,
      num_classes=num_classes,
      pool=config.coreset_pool,
      seed=config.seed,
    )
    drawn = coresets.refreshed(choice, config.refresh, each)
  else:
    known = ("random", "representatives")
    errors.not_one_of(f"real_rows={config.real_rows}", config.real_rows, known)
  if not config.joined_rows:
    return drawn
  return joined.sampler(
    drawn,
    rows,
    teacher_fields.of_joined_rows(setup, config),
    share=config.joined_rows,
    label_names=names,
    seed=config.seed,
  )


def parameterization(
  config: recipes.Recipe, problem: problems.Problem
) -> synthetic.Parameterization:
  """Returns how the config's synthetic set is stored, for these students."""
  base = readable.rows_of_text() if config.readable else synthetic.direct()
  if config.rank:
    base = synthetic.factorized(config.rank)
  if config.has_classes:
    stored = errors.named(
      "labels",
      lambda: wrappers.with_soft_labels(base, config.labels),
    )
  else:
    soft = config.task.targets == "soft"
    stored = following_tokens.with_following_tokens(base, soft=soft)
  if config.readable:
    stored = wrappers.with_row_weights(stored)
  if config.attention_labels:
    stored = wrappers.with_attention_labels(
      stored, functools.partial(_attention, problem)
    )
  if config.data.rationale_key and config.rationales.learned:
    stored = wrappers.with_rationales(stored)
  # Step sizes that no objective reads are chosen like any learning rate.
  brings = any(
    schedule.OBJECTIVES[name].steps for name in schedule.names(config.objective)
  )
  num_steps = config.replay_steps if brings else 0
  if config.examples_per_step and not brings:
    raise errors.InputError(
      f"examples_per_step={config.examples_per_step} is of the set's own "
      f"steps, and objective={config.objective} gives it none; use 0, or one "
      f"of {', '.join(schedule.stepping())}."
    )
  shares = None
  if config.normalised_steps:
    init = type(problem).init  # the problem may be one of shapes
    shapes = jax.eval_shape(init, problem, jax.random.key(0))
    shares = problem.roles.even_shares(shapes)
  order = _order(config, problem.groups, num_steps)
  return errors.named(
    "step_schedule",
    lambda: wrappers.with_learning_rates(
      stored,
      num_steps,
      config.initial_step_size,
      config.initial_head_step_size,
      shares,
      order,
      config.step_schedule,
    ),
  )


def _order(config, groups, num_steps):
  """Returns the rows of each step, as the config asks; None: all of them."""
  per_class, per_step = config.per_group, config.examples_per_step
  if not (num_steps and per_step):
    return None
  if per_step * num_steps < per_class:
    raise errors.InputError(
      f"examples_per_step={per_step} in replay_steps={num_steps} steps leaves "
      f"out some of {config.size_field}={per_class}; take at least "
      f"{-(-per_class // num_steps)} a step, or more steps."
    )
  return wrappers.cyclic_order(groups, per_class, per_step, num_steps)


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


def reported_protocols(
  config: recipes.Recipe,
) -> dict[str, protocols.Protocol]:
  """Returns the protocols that the config reports, in its order."""
  return {name: protocol(config, name) for name in config.protocols}


def protocol(config: recipes.Recipe, name: str) -> protocols.Protocol:
  """Returns one protocol.

  Raises:
    InputError: an unknown name, or one that cannot train what is learned.
  """
  if name not in PROTOCOLS:
    known = tuple(each for each in PROTOCOLS if each != "full")
    errors.not_one_of(f"protocol={name}", name, known)
  return PROTOCOLS[name](config, name)


def _replaying(config, name):
  if field := teacher_fields.learned_field(config):
    raise errors.InputError(
      f"{field} is learned with a student, by an optimiser that "
      f"protocol={name} has not; use finetune or scratch, or leave it out."
    )
  return errors.named(
    "step_schedule",
    lambda: protocols.replaying(
      num_steps=max(config.replay_steps, 1),
      normalised=config.normalised_steps,
      schedule=config.step_schedule,
      **dataclasses.asdict(config.replay),
    ),
  )


def _fine_tuning(config, name):
  kd = config.kd
  if kd.teaching != "none" and not kd.loss:
    raise errors.InputError(
      f"kd.teaching={kd.teaching} gives students a teacher, but kd.loss "
      "does not say what they lose to it; use one of "
      f"{', '.join(criteria.LOSSES)}."
    )
  return errors.named(
    "kd",
    lambda: protocols.fine_tuning(
      **dataclasses.asdict(getattr(config, name)),
      teaching=kd.teaching,
      decay=kd.decay,
      curriculum=config.rationales.curriculum,
      fresh=name == "scratch",
    ),
  )


def _bayesian(config, name):
  fields = dataclasses.asdict(config.bayes)
  start = fields.pop("start")
  known = tuple(each for each in PROTOCOLS if each not in ("full", name))
  errors.choice("bayes.start", start, known)
  build = functools.partial(protocols.bayesian, protocol(config, start))
  return errors.named("bayes", lambda: build(**fields))


# By name: how a config's fields make it.
PROTOCOLS: dict[str, Callable[[recipes.Recipe, str], protocols.Protocol]] = {
  "replay": _replaying,
  "finetune": _fine_tuning,
  "scratch": _fine_tuning,
  "bayes": _bayesian,
  "full": _fine_tuning,
}
