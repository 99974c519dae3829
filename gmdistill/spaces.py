"""The embedding space of a run: a frozen table, its tokenizer, its problem.

A space is either read from a pretrained encoder or learned in a short training
on the real data. Every student of a run, and every reader of its synthetic
set, shares it; its id is a hash of table and tokenizer.
"""

import hashlib
import json
import os
import pathlib
import shutil
import tempfile
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import safetensors
import safetensors.numpy

from gmdistill import data, errors, pretrained, students, synthetic, training
from gmdistill import problem as problems
from gmdistill import tokenizer as tokenizing


class Setup(NamedTuple):
  """What a run works on."""

  problem: problems.Problem
  corpus: data.Corpus
  space_id: str
  student_name: str


def build(
  student: Mapping[str, Any],
  table: Mapping[str, Any],
  options: data.DataOptions,
) -> Setup:
  """Loads the corpus and builds the problem that a config describes.

  Args:
    student: `pretrained`, a Hugging Face directory or hub id, with
      `num_layers` (0: all) and `pooling`; or else `kind` and that student's
      own arguments, over the space in the folder `space` or, where that is
      empty, over one learned now.
    table: Arguments of `learn_table`, read where a table is learned.
    options: Which data; their rows must fit the student's positions.

  Raises:
    InputError: anything that does not fit together, named.
  """
  fields = dict(student)
  source = fields.pop("pretrained", "")
  space = fields.pop("space", "")
  kind = fields.pop("kind", "transformer")
  common = {k: fields[k] for k in ("remat", "unroll") if k in fields}
  if source:
    read = pretrained.load(
      source, fields.get("num_layers", 0), fields.get("pooling", "first")
    )
    arguments = {**read.student, **common}
    _check_length(options, arguments["max_positions"])
    corpus = data.load(options, read.tokenizer_file)
    module = students.Transformer(len(corpus.label_names), **arguments)
    setup = problems.Problem(read.embeddings, read.params, module)
    name = f"{pathlib.Path(source).name}-{module.num_layers}"
  else:
    if kind not in students.KINDS:
      raise errors.InputError(
        f"student.kind={kind} is none of {', '.join(students.KINDS)}."
      )
    if kind == "transformer":
      _check_length(options, fields.get("max_positions", 128))
    tokenizer_file = f"{space}/tokenizer.json" if space else ""
    corpus = data.load(options, tokenizer_file)
    try:
      module = students.KINDS[kind](len(corpus.label_names), **fields)
    except TypeError as error:
      raise errors.InputError(f"student of kind {kind}: {error}.") from error
    if space:
      embeddings = read_table(pathlib.Path(space))
      if embeddings.shape[1] != module.width and kind == "transformer":
        raise errors.InputError(
          f"student.width={module.width}, but the table in {space} is "
          f"{embeddings.shape[1]} wide; use student.width={embeddings.shape[1]}."
        )
    else:
      embeddings = _cached_table(module, corpus, dict(table))
    setup = problems.Problem(embeddings, None, module)
    name = f"{kind}-{module.width}"
  vocabulary = corpus.tokenizer.vocab_size
  if vocabulary > setup.embeddings.shape[0]:
    raise errors.InputError(
      f"the tokenizer has {vocabulary} tokens, the embedding table "
      f"{setup.embeddings.shape[0]} rows; they are not of one model."
    )
  space_id = synthetic.space_id(setup.embeddings, corpus.tokenizer.fingerprint)
  return Setup(setup, corpus, space_id, name)


def learn_table(
  examples: data.Examples,
  *,
  shape: tuple[int, int],
  num_steps: int = 400,
  batch_size: int = 32,
  learning_rate: float = 3e-3,
  window: int = 4,
) -> jax.Array:
  """Learns a table [V, D] from real text alone: each token from its neighbours.

  Continuous bag of words (Mikolov et al. 2013) with a full softmax over the
  vocabulary, by Adam. It reads no labels: a table trained on them would hand
  the task's answers to every student, whatever set it trains on.

  Args:
    examples: Rows of token ids.
    shape: (V, D).
    num_steps: Updates.
    batch_size: Rows an update.
    learning_rate: Peak rate of a cosine schedule.
    window: Neighbours on either side.
  """
  vocab_size, width = shape
  optimizer = optax.adam(
    optax.warmup_cosine_decay_schedule(
      0.0, learning_rate, max(1, num_steps // 10), num_steps
    )
  )

  def loss(params, batch):
    table_VxD, context_VxD, bias_V = params
    weight_BxL = batch.mask.astype(jnp.float32)
    words_BxLxD = context_VxD[batch.inputs] * weight_BxL[..., None]
    total_BxLxD = jnp.zeros_like(words_BxLxD)
    count_BxL = jnp.zeros_like(weight_BxL)
    for shift in range(1, window + 1):
      for roll, edge in (
        (shift, slice(0, shift)),
        (-shift, slice(-shift, None)),
      ):
        total_BxLxD += jnp.roll(words_BxLxD, roll, axis=1).at[:, edge].set(0.0)
        count_BxL += jnp.roll(weight_BxL, roll, axis=1).at[:, edge].set(0.0)
    mean_BxLxD = total_BxLxD / jnp.maximum(count_BxL, 1.0)[..., None]
    logits_BxLxV = mean_BxLxD @ table_VxD.T + bias_V[None, None]
    losses_BxL = optax.softmax_cross_entropy_with_integer_labels(
      logits_BxLxV, batch.inputs
    )
    return (losses_BxL * weight_BxL).sum() / jnp.maximum(weight_BxL.sum(), 1.0)

  @jax.jit
  def learn(key, batch):
    *table_keys, order_key = jax.random.split(key, 3)
    tables = [0.05 * jax.random.normal(k, shape) for k in table_keys]
    rows = training.shuffled_rows(
      order_key, len(examples.labels), num_steps, batch_size
    )
    params = (*tables, jnp.zeros((vocab_size,)))
    table_VxD = training.descend(loss, params, batch, optimizer, rows=rows)[0]
    # As BERT's: entries of about 0.05, whatever the training's scale.
    return table_VxD * (0.05 / jnp.std(table_VxD))

  batch = data.as_batch(examples, int(examples.labels.max()) + 1)
  return learn(jax.random.key(0), jax.tree.map(jnp.asarray, batch))


def write(
  folder: pathlib.Path, embeddings: jax.Array, tokenizer: tokenizing.Tokenizer
) -> None:
  """Writes `embeddings.safetensors` and `tokenizer.json`, or neither."""
  folder.parent.mkdir(parents=True, exist_ok=True)
  partial = pathlib.Path(
    tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent)
  )
  safetensors.numpy.save_file(
    {"embeddings": np.ascontiguousarray(embeddings)},
    partial / "embeddings.safetensors",
  )
  tokenizer.save(partial / "tokenizer.json")
  try:
    os.rename(partial, folder)
  except OSError:  # Another process, or an earlier run, was here first.
    shutil.rmtree(partial)
    if not (folder / "embeddings.safetensors").is_file():
      raise


def read_table(folder: pathlib.Path) -> jax.Array:
  """Returns the table [V, D] that `write` wrote.

  Raises:
    InputError: no such file, or a damaged one.
  """
  path = folder / "embeddings.safetensors"
  try:
    return jnp.asarray(safetensors.numpy.load_file(path)["embeddings"])
  except (OSError, KeyError, safetensors.SafetensorError) as error:
    raise errors.InputError(
      f"{path} is missing or damaged ({error}); give the space/ folder of a "
      "finished run."
    ) from error


def _cached_table(
  module: Any, corpus: data.Corpus, table: dict[str, Any]
) -> jax.Array:
  identity = json.dumps([corpus.fingerprint, module.width, table, 2])
  digest = hashlib.sha256(identity.encode()).hexdigest()[:16]
  folder = data.cache_folder() / "spaces" / digest
  if not folder.is_dir():
    shape = (corpus.tokenizer.vocab_size, module.width)
    learned = learn_table(corpus.train, shape=shape, **table)
    write(folder, learned, corpus.tokenizer)
  return read_table(folder)


def _check_length(options: data.DataOptions, positions: int) -> None:
  longest = max(options.max_length, options.train_length)
  if longest > positions:
    raise errors.InputError(
      f"data.max_length={longest}, but the student has {positions} positions; "
      f"use at most {positions}."
    )
