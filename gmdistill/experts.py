"""Building an expert bank: trajectories walked, gradients taken, all saved."""

import dataclasses
import functools
import hashlib
import json
import shutil
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from etils import epath

from gmdistill import (
  bank,
  checkpoint,
  coresets,
  data,
  distances,
  errors,
  metrics,
  objectives,
  paths,
  privacy,
  protocols,
  set_files,
  spaces,
  training,
  workdirs,
)

CHUNK = 32  # rows of a class whose gradient is taken at once
SET_ROWS = 64  # examples of a set at most in a step: the protocol `finetune`'s


def build(
  folder: epath.PathLike, setup: spaces.Setup, options: bank.Options
) -> epath.Path:
  """Computes a bank, or the rest of one that was interrupted.

  Says its size first. One state is in memory at a time.

  Returns:
    The folder's absolute path.

  Raises:
    InputError: a class with too few rows, a folder that holds another bank or
      cannot be written, a disk without the room.
  """
  folder = workdirs.writable(str(folder))
  if options.noise and not paths.is_local(folder):
    raise errors.InputError(
      f"a private bank keeps the key of its noise beside it until it is whole; "
      f"build it in a folder of this machine, not in {folder}."
    )
  data.require_rows(
    setup.corpus.train,
    options.rows_per_class,
    setup.corpus.label_names,
    "bank.rows_per_class",
  )
  private = bool(options.noise)
  about = bank.identity(setup, private) | {"options": _plain(options)}
  if options.noise:
    about["privacy"] = guarantee(setup, options)
  along = _set_of(setup, options)
  if along is not None:
    about["along"] = _digest(along)
  missing = _missing(folder, options, about)
  each = bank.num_bytes(setup, options) / len(options.names)
  needed = int(each * len(missing))
  metrics.say(
    f"bank: {len(options.names)} states ({options.num_trajectories} students, "
    f"ages {', '.join(map(str, options.ages))}), {workdirs.size(each)} each; "
    f"{len(missing)} to compute, {workdirs.size(needed)} in {folder}"
  )
  if options.noise:
    metrics.say(
      "bank: epsilon {epsilon:.3g} at delta {delta:.0e}, of one "
      "row's contribution".format_map(about["privacy"])
    )
  if paths.is_local(folder):
    _require_disk(folder, needed)
  folder.mkdir(parents=True, exist_ok=True)
  with workdirs.held(folder):
    # Another process may have been here since.
    missing = _missing(folder, options, about)
    workdirs.write_json(folder / "bank.json", about)
    _compute(folder, setup, options, missing, along)
  return folder


def _digest(tree):
  """Returns a hash of a set's arrays: another set at the same place differs."""
  digest = hashlib.sha256()
  for leaf in jax.tree.leaves(tree):
    digest.update(np.asarray(leaf).tobytes())
  return digest.hexdigest()[:16]


def _require_disk(folder, needed):
  existing = next(p for p in (folder, *folder.parents) if p.exists())
  free = shutil.disk_usage(existing).free
  if needed > free:
    raise errors.InputError(
      f"the bank needs {workdirs.size(needed)} and {existing} has "
      f"{workdirs.size(free)} free; use fewer bank.num_trajectories or "
      "bank.ages, bank.precision=bfloat16, or another folder."
    )


def _compute(folder, setup, options, missing, along):
  secret = folder / "noise_key"
  noise_key = privacy.secret_key(secret) if options.noise else None
  compute = _Computer(setup, options, noise_key, along)
  done = len(options.names) - len(missing)
  progress = metrics.Progress(len(options.names), done, 1)
  try:
    for trajectory in range(options.num_trajectories):
      ages = [age for h, age in missing if h == trajectory]
      # A trajectory that was cut is walked again from its start: what is
      # stored may be rounded, and the states must be the same bits.
      for age, expert in compute.trajectory(trajectory, ages):
        path = bank.entry_path(folder / "entries", trajectory, age)
        checkpoint.save_tree(path, expert)
        done += 1
        losses = expert.losses
        value = None if losses is None else float(losses.mean())
        progress.update(done, value, None)
  finally:
    progress.close()
  secret.unlink(missing_ok=True)


def _set_of(setup, options):
  """Returns the examples that the students train on; None: real rows."""
  if not options.along:
    return None
  syn, card = set_files.load(options.along, setup.space_id)
  set_files.require_classes(syn, card, options.along, setup.corpus.label_names)
  return set_files.for_student(setup.problem, syn).batch


class _Computer:
  """Walks trajectories and takes the gradients."""

  def __init__(
    self,
    setup: spaces.Setup,
    options: bank.Options,
    noise_key: jax.Array | None,
    along: data.Batch | None,
  ):
    self._setup, self._options = setup, options
    self._num_classes = len(setup.corpus.label_names)
    sampler = functools.partial(
      data.class_balanced_sampler,
      setup.corpus.train,
      num_classes=self._num_classes,
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
      optimizer = protocols.fine_tuning_optimizer(
        options.learning_rate, num_steps=options.along_steps
      )
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
      updates, state = optimizer.update(grads, state, params)
      return optax.apply_updates(params, updates), state

    self._step = step
    self._measure = jax.jit(
      functools.partial(
        class_gradients,
        num_classes=self._num_classes,
        matched=options.matched,
        private=private if options.clip else None,
      )
    )
    # Without noise, a key that nothing draws from.
    self._noise_key = jax.random.key(0) if noise_key is None else noise_key

  def trajectory(self, trajectory, ages):
    """Yields (age, expert) for each of `ages`, in rising order."""
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
    options, own = self._options, self._along
    if own is None:
      first = trajectory * max(options.ages)
      return lambda age: self._training(first + age)
    rows_TxB = training.shuffled_rows(
      jax.random.fold_in(key, 1),
      len(own.labels),
      options.along_steps,
      SET_ROWS,
    )
    return lambda age: jax.tree.map(lambda x: x[rows_TxB[age]], own)

  def _expert(self, params, trajectory, age):
    options = self._options
    index = trajectory * len(options.ages) + options.ages.index(age)
    if options.rows == "random":
      rows = self._random(index)
    else:
      rows = self._representatives
    key = jax.random.fold_in(self._noise_key, 2 * index + 1)
    targets, losses = self._measure(self._setup.problem, params, rows, key)
    stored = lambda x: np.asarray(x.astype(options.precision))  # noqa: E731
    return objectives.Expert(
      params=jax.tree.map(stored, params),
      targets=jax.tree.map(stored, targets),
      losses=None if options.noise else np.asarray(losses),
    )

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
    return data.as_batch(data.take(corpus.train, rows), self._num_classes)


def class_gradients(
  problem: Any,
  params: Any,
  batch: data.Batch,
  key: jax.Array | None = None,
  *,
  num_classes: int,
  matched: str,
  private: Callable[..., tuple[jax.Array, Any]] | None = None,
) -> tuple[Any, jax.Array]:
  """Returns each class's mean gradient [C, ...] and mean loss [C].

  `batch` is in class order. Rows are taken a chunk at a time, so memory does
  not grow with their number. `private` is `privacy.gradient` with its clip and
  noise, which `key` draws.
  """

  def kept_gradient(params, rows):
    value, grads = jax.value_and_grad(problem.loss)(params, rows)
    return value, distances.keep(grads, matched)

  def one_class(rows_key):
    rows, own_key = rows_key
    if private is not None:
      return private(kept_gradient, params, rows, key=own_key)
    count = len(rows.labels)
    size = max(d for d in range(1, min(CHUNK, count) + 1) if count % d == 0)
    chunks = jax.tree.map(
      lambda x: x.reshape(count // size, size, *x.shape[1:]), rows
    )

    def add(total, chunk):
      return jax.tree.map(jnp.add, total, kept_gradient(params, chunk)), None

    zeros = jax.tree.map(jnp.zeros_like, distances.keep(params, matched))
    total, _ = jax.lax.scan(add, (jnp.float32(0.0), zeros), chunks)
    return jax.tree.map(lambda x: x * size / count, total)

  by_class = objectives.by_class(jax.tree.map(jnp.asarray, batch), num_classes)
  keys_C = None if key is None else jax.random.split(key, num_classes)
  losses_C, grads = jax.lax.map(one_class, (by_class, keys_C))
  return grads, losses_C


def guarantee(setup: spaces.Setup, options: bank.Options) -> dict[str, Any]:
  """Returns epsilon and delta of a bank with noise, and what they cover.

  Rows are drawn in shuffled epochs: sums over other rows cost a row nothing.

  Raises:
    InputError: the embedding table is learned from the rows themselves, or
      there is no accountant.
  """
  if setup.problem.initial is None:
    raise errors.InputError(
      "bank.noise hides rows from the gradients alone, and this student's "
      "embedding table is learned from them; use student.pretrained."
    )
  scarcest = int(np.bincount(setup.corpus.train.labels).min())
  steps = options.num_trajectories * max(options.ages)
  if options.batch_rows_per_class > scarcest:
    raise errors.InputError(
      f"bank.batch_rows_per_class={options.batch_rows_per_class} takes a row "
      f"twice at once: the smallest class has {scarcest}; use at most that."
    )
  uses = privacy.uses(steps, options.batch_rows_per_class, scarcest)
  uses += privacy.uses(len(options.names), options.rows_per_class, scarcest)
  return {
    "epsilon": privacy.epsilon(options.noise, uses, options.delta),
    "delta": options.delta,
    "unit": "one row's contribution to the gradients",
    "uses": uses,
  }


def _missing(folder, options, about):
  """Returns the entries to compute; refuses another bank's folder."""
  _refuse_another(folder, about)
  missing = [
    x
    for x in options.names
    if not checkpoint.is_whole(bank.entry_path(folder / "entries", *x))
  ]
  begun = 0 < len(missing) < len(options.names)
  if options.noise and begun and not (folder / "noise_key").is_file():
    raise errors.InputError(
      f"the private bank in {folder} was whole and lacks {len(missing)} states "
      "now. Its noise is forgotten, and the same rows under other noise spend "
      "privacy anew: build one in another --workdir, and add up both epsilon."
    )
  return missing


def _refuse_another(folder, about):
  if not (folder / "bank.json").is_file():
    return
  earlier = bank.read(folder)
  # A bank begun before an option was known had its default.
  earlier["options"] = _plain(bank.Options(**earlier["options"]))
  differing = workdirs.differences(earlier, json.loads(json.dumps(about)))
  if differing:
    raise errors.InputError(
      f"{folder} holds another bank: {'; '.join(differing)}. Use that config, "
      "or another --workdir."
    )


def _plain(options):
  fields = dataclasses.asdict(options)
  return {**fields, "ages": list(options.ages)}
