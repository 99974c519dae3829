"""Rows that a set starts from, chosen by where training on them leads."""

import dataclasses
import functools
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gmdistill import errors
from gmdistill.objectives import contract
from gmdistill.runs import candidates, outer, start_rows, states
from gmdistill.runs.config import assembly, schedule
from gmdistill.runs.config import recipe as recipes
from gmdistill.selection import coresets, diversity, pursuit
from gmdistill.sets import spaces
from gmdistill.system import cache, devices, logs, processes, waits

METHODS = (*coresets.ALL, "matching_pursuit", "learned_weights")

Draw = Callable[
  [int, int], contract.Real
]  # what an objective reads of the data


class _Run(NamedTuple):
  """What rows are scored by."""

  setup: spaces.Setup  # with all rows that may be chosen
  config: recipes.Recipe
  stage: schedule.Stage  # whose objective says where training leads
  mesh: jax.sharding.Mesh
  draw: Draw


def choose(
  setup: spaces.Setup,
  config: recipes.Recipe,
  stage: schedule.Stage,
  mesh: jax.sharding.Mesh,
  draw: Draw,
) -> start_rows.Chosen:
  """Returns the rows that a run starts from.

  What asks an objective is slow, and kept in the cache folder.

  Args:
    setup: With all rows that may be chosen; see `candidates.extended`.
    config: Says how.
    stage: Whose objective says where training leads.
    mesh: The devices.
    draw: What an objective reads of the data.

  Raises:
    InputError: an unknown method, or too few rows.
  """
  method = errors.choice("initialise", config.initialise, METHODS)
  if config.choice.written and not config.readable:
    raise errors.InputError(
      f"choice.written={config.choice.written} are rows of text, and this set "
      "is of embeddings; use readable=True, or leave it out."
    )
  if method in coresets.ALL and not config.choice.exchanges:
    return start_rows.named(setup, config)
  if not config.readable:
    raise errors.InputError(
      f"initialise={method} with choice.exchanges={config.choice.exchanges} "
      "chooses rows that stay text; use readable=True, or one of "
      f"{', '.join(coresets.ALL)} without exchanges."
    )
  run = _Run(setup, config, stage, mesh, draw)
  return _kept(run, "", lambda: _choose(run, method))


def _kept(
  run: _Run, part: str, make: Callable[[], start_rows.Chosen]
) -> start_rows.Chosen:
  """Returns what `make` chooses, from the cache folder where it is there."""
  setup, config = run.setup, run.config
  entry = cache.entry(
    "chosen",
    [
      setup.corpus.fingerprint,
      setup.space_id,
      setup.problem.weights_id,
      setup.labels,
      {**config.to_dict(), "num_steps": 0},
      *candidates.identity(config).values(),
      *candidates.identity_of_bank(config).items(),
      part,
    ],
  )
  kept = cache.read_arrays(entry)
  # Choosing takes all processes, and each machine may have its own cache.
  absent = processes.largest(int(kept is None))
  if kept is not None and not absent:
    return start_rows.Chosen(kept["rows"], kept["weights"])
  chosen = make()
  cache.write_arrays(entry, chosen._asdict())
  return chosen


def _choose(run: _Run, method: str) -> start_rows.Chosen:
  rows = candidates.drawn(run.setup, run.config)
  if method == "matching_pursuit":
    chosen = _pursued(run, rows)
  elif method == "learned_weights":
    chosen = _weighted(run, rows)
  else:
    chosen = start_rows.named(run.setup, run.config)
  if not run.config.choice.exchanges:
    return chosen
  return _exchanged(run, chosen, rows)


# -- matching pursuit --------------------------------------------------------


def _pursued(run: _Run, rows: np.ndarray) -> start_rows.Chosen:
  setup, options = run.setup, run.config.choice
  logs.say(
    f"matching pursuit: gradients of {len(rows)} rows at {options.states} "
    "students"
  )
  batch = start_rows.as_batch(
    setup, run.config, start_rows.Chosen(rows, np.ones(len(rows)))
  )
  sketched = errors.named(
    "choice.matched",
    lambda: pursuit.sketches(
      setup.problem,
      candidates.states(setup, run.config),
      batch,
      matched=options.matched,
      size=options.sketch,
      seed=run.config.seed,
    ),
  )
  labels = setup.corpus.train.labels[rows]
  picked, weights = pursuit.pursue(
    sketched,
    labels,
    run.config.data_per_class,
    candidates.diverse(run.setup, run.config, rows),
  )
  return start_rows.Chosen(rows[picked], weights)


# -- learned weights ---------------------------------------------------------


def _weighted(run: _Run, rows: np.ndarray) -> start_rows.Chosen:
  """Learns weights and labels of candidates; leaves out the lightest, in
  rounds."""
  options, groups = run.config.choice, run.setup.problem.groups
  chosen = start_rows.Chosen(rows, np.ones(len(rows)))
  start, budget = len(rows) // groups, run.config.data_per_class
  for number in range(1, options.rounds + 1):
    left = round(start * (budget / start) ** (number / options.rounds))
    label = f"learned weights, round {number} of {options.rounds}"
    # A round is kept by itself, so that a stopped run goes on after it.
    chosen = _kept(
      run, label, functools.partial(_one_round, run, chosen, left, label)
    )
  return chosen


def _one_round(run, chosen, left, label) -> start_rows.Chosen:
  """Returns the `left` heaviest rows of each class by learned weights."""
  weights = _learned_weights(run, chosen, label)
  picked = _heaviest(
    weights.reshape(run.setup.problem.groups, -1),
    left,
    candidates.diverse(run.setup, run.config, chosen.rows),
  )
  heavy = weights[picked]
  logs.say(
    f"{label}: {left} rows of each class are left, with "
    f"{heavy.sum() / weights.sum():.0%} of the weight"
  )
  return start_rows.Chosen(chosen.rows[picked], heavy / heavy.mean())


def _heaviest(weights_CxP, count, diverse) -> np.ndarray:
  """Returns places of the heaviest rows of each class, in their order."""
  chosen, each = [], weights_CxP.shape[1]
  for label, weights_P in enumerate(weights_CxP):
    places = np.arange(label * each, (label + 1) * each)
    own = None if diverse is None else diverse.take(places)
    order = itertools.islice(diversity.ordered(weights_P, own), count)
    chosen.append(places[sorted(order)])
  return np.concatenate(chosen)


def _learned_weights(
  run: _Run, chosen: start_rows.Chosen, label: str
) -> np.ndarray:
  """Returns the weight of each row after a round of outer steps, [P]."""
  config, options = run.config, run.config.choice
  many = recipes.changed(
    config,
    data_per_class=len(chosen.rows) // run.setup.problem.groups,
    examples_per_step=0,
  )
  stored = assembly.parameterization(many, run.setup.problem)
  stage = dataclasses.replace(
    run.stage,
    optimizer=optax.chain(
      optax.clip_by_global_norm(config.outer.clip or 1.0),
      optax.adam(options.learning_rate),
    ),
  )
  problem = devices.put(run.mesh, run.setup.problem, run.setup.problem.layout)
  key = devices.put(run.mesh, jax.random.key(config.seed))
  batch = start_rows.as_batch(run.setup, config, chosen)
  state = states.first_state(
    jax.jit(stored.init)(batch),
    stage,
    problem,
    key,
    config.num_students,
    run.mesh,
  )
  steps = outer.outer_steps(
    stage, stored, config.outer.ema, run.mesh, config.outer.students_at_once
  )
  count = options.num_steps
  for step in waits.over(range(count), label, count, "steps"):
    state, seen = steps(problem, state, run.draw(step, 1), key)
    logs.check_finite(
      step + 1,
      np.asarray(seen["outer/loss"]),
      {"weights": state.params},
      "Try a smaller choice.learning_rate.",
    )
  decoded = jax.jit(stored.decode)(jax.device_get(state.ema))
  return np.asarray(decoded.batch.class_labels.sum(axis=-1))


# -- exchange ----------------------------------------------------------------


def _exchanged(
  run: _Run, chosen: start_rows.Chosen, others: np.ndarray
) -> start_rows.Chosen:
  """Exchanges rows by others of their class where the objective is less."""
  moves = run.config.choice.exchanges
  rng = np.random.default_rng([run.config.seed, 13])
  labels = run.setup.corpus.train.labels
  score = _diverse_score(run, np.union1d(others, chosen.rows))
  best, taken = score(chosen), 0
  first = best
  for _ in waits.over(range(moves), "exchanges", moves, "moves"):
    at = int(rng.integers(len(chosen.rows)))
    free = np.setdiff1d(
      others[labels[others] == labels[chosen.rows[at]]], chosen.rows
    )
    if not len(free):
      continue
    rows = chosen.rows.copy()
    rows[at] = rng.choice(free)
    tried = chosen._replace(rows=rows)
    if (value := score(tried)) < best:
      chosen, best, taken = tried, value, taken + 1
  logs.say(
    f"{moves} exchanges tried, {taken} made: the objective went from "
    f"{first:.4f} to {best:.4f}"
  )
  return chosen


def _diverse_score(run, every) -> Callable[[start_rows.Chosen], float]:
  """Returns the objective of rows, less what it counts that they are diverse.

  `every`: all rows that may be chosen, in their order.
  """
  score, diverse = _score(run), candidates.diverse(run.setup, run.config, every)
  if diverse is None:
    return score
  labels = run.setup.corpus.train.labels

  def less(chosen: start_rows.Chosen) -> float:
    shares = [
      diversity.share(
        diverse.take(labels[every] == label),
        np.flatnonzero(np.isin(every[labels[every] == label], chosen.rows)),
      )
      for label in np.unique(labels[every])
    ]
    return score(chosen) - diverse.weight * float(np.mean(shares))

  return less


def _score(run: _Run) -> Callable[[start_rows.Chosen], float]:
  """Returns the objective of rows, at the same students and real rows."""
  config, stage = run.config, run.stage
  stored = assembly.parameterization(config, run.setup.problem)
  real = jax.tree.map(lambda x: x[0], run.draw(0, 1))  # leaves [S, ...]
  keys = jax.random.split(jax.random.key(config.seed), config.num_students)

  @jax.jit
  def value(problem, batch):
    syn = stored.decode(stored.init(batch))

    def one(key_real):
      key, own = key_real
      student = stage.objective.init(problem, key, jnp.float32(0))
      real = own.widened()
      return stage.objective.loss(problem, syn, student, real, key)[0]

    return jax.lax.map(one, (keys, real)).mean()

  def score(chosen: start_rows.Chosen) -> float:
    batch: Any = start_rows.as_batch(run.setup, config, chosen)
    return float(value(run.setup.problem, batch))

  return score
