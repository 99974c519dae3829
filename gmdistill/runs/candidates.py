"""Rows to choose among: the training rows, and rows that were written."""

import dataclasses
import hashlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gmdistill import errors, trees
from gmdistill.data import batches
from gmdistill.data import texts as row_texts
from gmdistill.objectives import bank
from gmdistill.runs import start_rows
from gmdistill.runs.config import recipe as recipes
from gmdistill.selection import coresets, diversity, pursuit, row_gradients
from gmdistill.sets import readable, spaces, text_sets
from gmdistill.system import logs, paths


def texts(
  setup: spaces.Setup, config: recipes.Recipe
) -> tuple[row_texts.Text, ...]:
  """Returns the written texts of `choice.written`; none where it is empty."""
  if not config.choice.written:
    return ()
  return _read(setup, config).texts


def identity_of_bank(config: recipes.Recipe) -> dict[str, Any]:
  """Returns what the bank in `bank.dir` is of; {}: there is none."""
  folder = paths.path(config.bank.dir)
  is_there = config.bank.dir and (folder / "bank.json").is_file()
  return bank.read(folder) if is_there else {}


def identity(config: recipes.Recipe) -> dict[str, str]:
  """Returns a hash of the file of written rows by its name; {}: none."""
  if not config.choice.written:
    return {}
  content = paths.path(config.choice.written).read_bytes()
  return {"written": hashlib.sha256(content).hexdigest()[:16]}


def extended(setup: spaces.Setup, config: recipes.Recipe) -> spaces.Setup:
  """Returns a setup with the written rows after its training rows.

  For who chooses among rows, and for nobody else: what students train on and
  are measured by is the setup itself, which is returned where there are none.

  Raises:
    InputError: the file cannot be read, or says other rows than the data's.
  """
  if not config.choice.written:
    return setup
  text_set = _read(setup, config)
  read = text_sets.as_batch(
    text_set,
    setup.corpus.tokenizer,
    config.data.lengths["train"],
    config.data.slots,
  )
  train = _joined(setup.corpus.train, read, text_set.labels)
  taught = setup.taught
  if taught is not None:
    taught = _joined(taught, read, text_set.labels)
  corpus = setup.corpus._replace(train=train)
  return setup._replace(corpus=corpus, taught=taught)


def _read(setup, config):
  file, corpus = config.choice.written, setup.corpus
  if config.task.kind != "classes":
    raise errors.InputError(
      f"choice.written={file} are rows of classes, and task.kind="
      f"{config.task.kind} puts words around its rows; leave it out."
    )
  path = paths.path(file)
  text_sets.read_card(path, corpus.label_names)
  text_set = text_sets.read(path, corpus.label_names)
  readable.require_keys(text_set, corpus.text_keys)
  return text_set


def _joined(rows, read, labels_MxC):
  """Returns rows and those that were written, with the labels of both."""
  soft = rows.soft
  if soft is not None or labels_MxC.max(axis=1).min() < 1:
    if soft is None:
      soft = np.eye(labels_MxC.shape[1], dtype=np.float32)[rows.labels]
    soft = np.concatenate([soft, labels_MxC])
  return batches.Examples(
    np.concatenate([rows.token_ids, np.asarray(read.inputs)]),
    np.concatenate([rows.mask, np.asarray(read.mask)]),
    np.concatenate(
      [rows.labels, labels_MxC.argmax(axis=1).astype(rows.labels.dtype)]
    ),
    soft,
  )


def real_rows(setup: spaces.Setup, config: recipes.Recipe) -> batches.Examples:
  """Returns the training rows of an extended setup, without written ones."""
  count = len(texts(setup, config))
  if not count:
    return setup.rows
  return batches.take(setup.rows, np.arange(len(setup.rows.labels) - count))


def drawn(setup: spaces.Setup, config: recipes.Recipe) -> np.ndarray:
  """Returns rows [P] in class order, at most `choice.pool` of a class; and as
  many more that were written.

  Args:
    setup: An extended one.
    config: Says how many.

  Raises:
    InputError: no written row of a class fits.
  """
  labels = setup.corpus.train.labels
  rows = start_rows.short_rows(setup, config)
  count = len(labels) - len(texts(setup, config))
  real = _of_training(setup, config, rows[rows < count])
  if not config.choice.written:
    return real
  written = rows[rows >= count]
  for label, name in enumerate(setup.corpus.label_names):
    if not (labels[written] == label).any():
      raise errors.InputError(
        f"choice.written={config.choice.written} has no row of the class "
        f"{name!r} of min_tokens={config.min_tokens} to sequence_length="
        f"{config.sequence_length} tokens; write more, or leave it out."
      )
  both = np.concatenate([real, _drawn(labels, written, config)])
  return both[np.argsort(labels[both], kind="stable")]


def _of_training(setup, config, rows):
  """Returns candidates among training rows: drawn, or narrowed."""
  labels = setup.corpus.train.labels
  counts = np.bincount(labels[rows])
  pool = max(config.choice.pool, config.data_per_class)
  if min(config.choice.narrowed_from, max(counts)) <= pool:
    return _drawn(labels, rows, config)
  return _narrowed(setup, config, rows, min(pool, min(counts)))


def _narrowed(setup, config, rows, most) -> np.ndarray:
  """Returns the rows whose gradients agree most with their class's mean."""
  options, groups = config.choice, range(setup.problem.groups)
  train = setup.corpus.train
  rows = np.random.default_rng(config.seed).permutation(rows)
  of_classes = [np.flatnonzero(train.labels[rows] == x) for x in groups]
  rows = rows[np.concatenate([x[: options.narrowed_from] for x in of_classes])]
  logs.say(
    f"candidates: gradients of {len(rows)} rows at {options.states} students, "
    f"of which {most} of each class are left"
  )
  sketched = row_gradients.Sketched(
    options.matched, options.sketch, config.seed
  )
  scores = errors.named(
    "choice.matched",
    lambda: row_gradients.agreement(
      dataclasses.replace(setup.problem, criterion=None),
      states(setup, config),
      start_rows.on_host(setup, config, rows),
      sketched,
    ),
  )
  order = rows[np.argsort(-scores, kind="stable")]
  best = [np.sort(order[train.labels[order] == x][:most]) for x in groups]
  return np.concatenate(best)


def _drawn(labels, rows, config):
  """Returns some of the rows, equally many of each class."""
  counts = np.bincount(labels[rows])
  most = min(max(config.choice.pool, config.data_per_class), min(counts))
  return rows[coresets.random(labels[rows], int(most), config.seed)]


def states(setup: spaces.Setup, config: recipes.Recipe) -> list[trees.Params]:
  """Returns students along real training: a bank's, or trained here."""
  count = config.choice.states
  if not config.bank.dir:
    return pursuit.states(
      setup.problem,
      real_rows(setup, config),
      count=count,
      rate=config.full.rates[0],
      seed=config.seed,
    )
  opened = bank.Bank(config.bank.dir, setup)
  there = len(opened.options.ages) * opened.options.num_trajectories
  if there < count:
    raise errors.InputError(
      f"the bank in {config.bank.dir} has {there} states, fewer than "
      f"choice.states={count}; use at most that, or a bank of more."
    )
  sample = opened.sampler(("params",), seed=config.seed)
  found = [sample(i).params for i in range(count)]
  return [jax.tree.map(jnp.float32, params) for params in found]


def diverse(
  setup: spaces.Setup, config: recipes.Recipe, rows: np.ndarray
) -> diversity.Diversity | None:
  """Returns what counts beside the scores of rows; None: nothing."""
  if not config.choice.diversity:
    return None
  chosen = batches.take(setup.corpus.train, rows)
  return diversity.of_features(setup.problem, chosen, config.choice.diversity)
