"""What the outer loop starts from: real rows, or an earlier set."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from gmdistill import errors, trees
from gmdistill.data import batches, language_tokens
from gmdistill.runs import start_rows
from gmdistill.runs.config import recipe as recipes
from gmdistill.selection import coresets
from gmdistill.sets import set_files, spaces, synthetic, wrappers
from gmdistill.students import problems
from gmdistill.teachers import rationales


def starting_set(
  setup: spaces.Setup, config: recipes.Recipe
) -> synthetic.SyntheticSet:
  """Returns the set that a run starts from.

  Raises:
    InputError: it cannot be read, or is of another shape, space or classes.
  """
  syn, card = set_files.load(config.start, setup.space_id)
  names = setup.corpus.label_names
  set_files.require_classes(syn, card, config.start, names)
  wanted = (
    len(setup.corpus.strata) * config.per_group,
    config.sequence_length,
    setup.problem.embeddings.shape[1],
  )
  if syn.batch.inputs.shape != wanted:
    raise errors.InputError(
      f"start={config.start} is a set of shape {syn.batch.inputs.shape}, the "
      f"run's is of {wanted}; use the {config.size_field} and "
      "sequence_length of the set."
    )
  if config.size_field not in card:
    raise errors.InputError(
      f"start={config.start} are texts of a file, in no order of classes; "
      "start from a set, or from a baseline's rows."
    )
  if not config.has_classes:
    return _language_start(setup, config, syn)
  least = config.label_smoothing / len(names)
  if (
    config.labels != "unrestricted"
    and syn.batch.class_labels.min() < least - 1e-3
  ):
    raise errors.InputError(
      f"start={config.start} has labels below {least:.3g}, which "
      f"label_smoothing={config.label_smoothing} leaves to every class; use "
      "that of the set."
    )
  syn = dataclasses.replace(syn, batch=synthetic.without_padding(syn.batch))
  return set_files.for_student(setup.problem, syn)


KEPT = ("polished", "frozen")  # what becomes of examples that `start` knew


def with_kept(
  stored: synthetic.Parameterization, config: recipes.Recipe
) -> synthetic.Parameterization:
  """Freezes the examples that the set of `config.start` says were learned.

  Raises:
    InputError: there is nothing to freeze, or no examples of their own.
  """
  if errors.choice("kept", config.kept, KEPT) == "polished":
    return stored
  if not config.start or config.rank:
    raise errors.InputError(
      "kept=frozen is of the examples of a start that gmdistill append wrote, "
      "stored whole (rank=0); use kept=polished."
    )
  syn, card = set_files.load(config.start)
  rows = np.isin(np.arange(len(syn.batch)), card.get("kept", []))
  if rows.all() or not rows.any():
    raise errors.InputError(
      f"kept=frozen, and of the {len(rows)} examples of start={config.start} "
      f"{rows.sum()} were learned before; gmdistill append writes a start of "
      "old and new ones. Use kept=polished."
    )
  return wrappers.with_frozen_rows(stored, rows)


def first_params(
  setup: spaces.Setup,
  config: recipes.Recipe,
  parameterization: synthetic.Parameterization,
  chosen: start_rows.Chosen | None = None,
) -> trees.PyTree:
  """Returns the parameters of the set before the first step: real rows.

  A row shorter than `sequence_length` goes on with other rows of its class.
  Labels are the teachers', where there are any. Of a set that stays text,
  rows as they are. With `config.start`, the set that is there.
  """
  if config.start:
    syn = starting_set(setup, config)
    encode = parameterization.encode
    assert encode is not None  # all that a config names have one
    return errors.named("start", lambda: jax.jit(encode)(syn))
  if not config.has_classes:
    batch = _real_start(setup, config)
    return jax.jit(parameterization.init)(batch)
  if chosen is None:
    chosen = start_rows.named(setup, config)
  rows = chosen.rows
  if config.readable:
    batch = start_rows.as_batch(setup, config, chosen)
    return jax.jit(parameterization.init)(batch)
  ids_MxL = _filled(setup.corpus.train, rows, config)
  taken = batches.take(setup.rows, rows)
  real = batches.as_batch(taken, len(setup.corpus.label_names))
  batch = dataclasses.replace(
    jax.tree.map(jnp.asarray, real),
    inputs=setup.problem.embeddings[ids_MxL],
    mask=jnp.ones(ids_MxL.shape, bool),
  )
  if batch.tokens is not None:
    # Of the same kind as the inputs: points in the embeddings' space.
    start = rationales.queries(setup.problem, batch.tokens.targets)
    tokens = dataclasses.replace(batch.tokens, targets=start, steps=None)
    batch = dataclasses.replace(batch, tokens=tokens)
  # Inside jit: leaves that alias the seed data would be donated with it.
  return jax.jit(parameterization.init)(batch)


def _language_start(setup, config, syn):
  """Returns a set without classes, whose places say what the config asks."""
  tokens = syn.batch.tokens
  assert tokens is not None
  hard = jnp.issubdtype(tokens.targets.dtype, jnp.integer)
  if hard != (config.task.targets == "hard"):
    theirs = "hard" if hard else "soft"
    raise errors.InputError(
      f"start={config.start} has {theirs} targets; use task.targets={theirs}."
    )
  return set_files.for_student(setup.problem, syn)


def _real_start(setup, config) -> batches.Batch:
  """Returns real rows as embeddings, with the tokens that follow."""
  length, count = config.sequence_length, config.num_sequences
  fit = language_tokens.fitting(setup.corpus.train, length)
  if len(fit.labels) < count:
    raise errors.InputError(
      f"num_sequences={count} is more than the {len(fit.labels)} rows that fit "
      f"sequence_length={length}; use at most that, or longer sequences."
    )
  pool = language_tokens.longest(fit, count)
  rows = coresets.choose(
    config.initialise,
    setup.problem,
    pool,
    per_class=count,
    pool=config.coreset_pool,
    seed=config.seed,
  )
  batch = jax.tree.map(
    jnp.asarray, batches.as_batch(batches.take(pool, rows), 0)
  )
  tokens = batch.tokens
  if config.task.targets == "soft":
    table = problems.unembedding(setup.problem)
    sure = rationales.queries(setup.problem, tokens.targets, 0.999, table)
    tokens = dataclasses.replace(tokens, targets=sure)
  inputs = setup.problem.embeddings[batch.inputs]
  return dataclasses.replace(batch, inputs=inputs, tokens=tokens)


def _filled(train, rows, config):
  """Returns `sequence_length` real tokens [M, L] for each of `rows`.

  What a language model is asked stands at a row's end: other rows come before.
  """
  rng = np.random.default_rng([config.seed, 8])
  at_end = config.task.kind == "label_words"
  filled = []
  for row in rows:
    same = np.flatnonzero(train.labels == train.labels[row])
    tokens = list(train.token_ids[row][train.mask[row]])
    while len(tokens) < config.sequence_length:
      other = rng.choice(same)
      more = list(train.token_ids[other][train.mask[other]])
      tokens = more + tokens if at_end else tokens + more
    place = (
      np.s_[-config.sequence_length :]
      if at_end
      else np.s_[: config.sequence_length]
    )
    filled.append(tokens[place])
  return np.array(filled)
