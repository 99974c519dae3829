"""Students along training trajectories, and their gradients on the way."""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gmdistill.data import batches, samplers
from gmdistill.objectives import bank, bank_storage, contract, privacy
from gmdistill.selection import coresets
from gmdistill.sets import spaces
from gmdistill.training import fitting, optimizers

CHUNK = 32  # rows of a class whose gradient is taken at once

SET_ROWS = 64  # examples of a set at most in a step: the protocol `finetune`'s


class Walker:
  """Walks trajectories, and takes what a bank keeps of their students."""

  def __init__(
    self,
    setup: spaces.Setup,
    options: bank.Options,
    noise_key: jax.Array | None,
    along: batches.Batch | None,
  ):
    """Computes nothing yet.

    Args:
      setup: The data, and the problem of its students.
      options: Of the bank.
      noise_key: Draws the noise; None: there is none.
      along: The set that the students train on; None: real rows.
    """
    self._setup, self._options = setup, options
    groups = self._groups = setup.problem.groups
    sampler = functools.partial(
      samplers.class_balanced_sampler,
      setup.corpus.train,
      num_classes=groups,
    )
    seed = options.seed
    self._training = sampler(
      rows_per_class=options.batch_rows_per_class, seed=seed
    )
    self._random = sampler(rows_per_class=options.rows_per_class, seed=seed + 1)
    self._along = along
    if along is None:
      optimizer = optax.adamw(options.learning_rate)
    else:
      protocol = optimizers.FineTuning(options.along_steps)
      optimizer = protocol.optimizer(options.learning_rate)
    self._optimizer = optimizer

    private = functools.partial(
      privacy.gradient, clip=options.clip, noise=options.noise
    )

    @jax.jit
    def step(problem, params, state, batch, key):
      if options.clip:
        both = jax.value_and_grad(problem.loss)
        _, grads = private(both, params, batch, key=key)
      else:
        grads = jax.grad(problem.loss)(params, batch)
      return fitting.update(optimizer, grads, state, params)

    self._step = step
    self._measure = jax.jit(
      group_gradients(
        groups, options.matched, private if options.clip else None
      )
    )
    # Without noise, a key that nothing draws from.
    self._noise_key = jax.random.key(0) if noise_key is None else noise_key

  def walk(
    self, trajectory: int, ages: Sequence[int]
  ) -> Iterator[tuple[int, contract.Expert]]:
    """Yields (age, expert) for each of `ages` of a trajectory, in order."""
    if not ages:
      return
    options, problem = self._options, self._setup.problem
    key = jax.random.fold_in(jax.random.key(options.seed), trajectory)
    params = problem.init(key)
    state = self._optimizer.init(params)
    longest = max(options.ages)
    train = self._batches(trajectory, key)
    for age in range(max(ages) + 1):
      if age in ages:
        yield age, self._expert(params, trajectory, age)
      if age < max(ages):
        index = trajectory * longest + age
        batch = train(age)
        key = jax.random.fold_in(self._noise_key, 2 * index)
        params, state = self._step(problem, params, state, batch, key)

  def _batches(self, trajectory, key):
    """Returns `batch(age)` of a trajectory: real rows, or the set's own."""
    options, examples = self._options, self._along
    if examples is None:
      first = trajectory * max(options.ages)
      return lambda age: self._training(first + age)
    rows_TxB = fitting.shuffled_rows(
      jax.random.fold_in(key, 1),
      len(examples),
      options.along_steps,
      SET_ROWS,
    )
    return lambda age: batches.take_rows(examples, rows_TxB[age])

  def _expert(self, params, trajectory, age):
    options = self._options
    index = trajectory * len(options.ages) + options.ages.index(age)
    if options.rows == "random":
      rows = self._random(index)
    else:
      rows = self._representatives
    key = jax.random.fold_in(self._noise_key, 2 * index + 1)
    targets, losses = self._measure(self._setup.problem, params, rows, key)

    expert = contract.Expert(
      params=params,
      targets=targets,
      losses=None if options.noise else losses,
    )
    kept = bank_storage.stored(expert, options.precision)
    return jax.tree.map(np.asarray, kept)

  @functools.cached_property
  def _representatives(self):
    corpus = self._setup.corpus
    rows = coresets.choose(
      "k_centers",
      self._setup.problem,
      corpus.train,
      per_class=self._options.rows_per_class,
      seed=self._options.seed,
    )
    return batches.as_batch(batches.take(corpus.train, rows), self._groups)


def group_gradients(
  groups: int,
  matched: str,
  private: Callable[..., tuple[jax.Array, Any]] | None = None,
) -> Callable[..., tuple[Any, jax.Array]]:
  """Returns `gradients(problem, params, batch, key)` of a batch in group order.

  They are each group's mean gradient [G, ...] and mean loss [G]. Rows are taken
  a chunk at a time, so memory does not grow with their number. `private` is
  `privacy.gradient` with its clip and noise, which `key` draws.
  """

  def one_group(problem, params, rows, key):
    roles = problem.roles

    def kept_gradient(params, rows):
      value, grads = jax.value_and_grad(problem.loss)(params, rows)
      return value, roles.keep(grads, matched)

    if private is not None:
      return private(kept_gradient, params, rows, key=key)
    count = len(rows)
    size = max(d for d in range(1, min(CHUNK, count) + 1) if count % d == 0)
    chunks = jax.tree.map(
      lambda x: x.reshape(count // size, size, *x.shape[1:]), rows
    )

    def add(total, chunk):
      return jax.tree.map(jnp.add, total, kept_gradient(params, chunk)), None

    zeros = jax.tree.map(jnp.zeros_like, problem.roles.keep(params, matched))
    total, _ = jax.lax.scan(add, (jnp.float32(0.0), zeros), chunks)
    return jax.tree.map(lambda x: x * size / count, total)

  def gradients(problem, params, batch, key):
    by_group = contract.by_group(jax.tree.map(jnp.asarray, batch), groups)
    keys_G = jax.random.split(key, groups)
    losses_G, grads = jax.lax.map(
      lambda rows_key: one_group(problem, params, *rows_key), (by_group, keys_G)
    )
    return grads, losses_G

  return gradients
