"""The main job: the state of a run, its outer step, and `run`."""

import functools
import signal
import types
from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax

from gmdistill import (
  checkpoint,
  coresets,
  data,
  errors,
  evaluate,
  finish,
  metrics,
  recipe,
  spaces,
  synthetic,
  training,
  workdirs,
)
from gmdistill import problem as problems

PyTree = Any
SELECTION_SEED = 1  # of the students that choose; the reported ones are others


@flax.struct.dataclass
class DistillState:
  """Everything that changes during a run; one checkpoint."""

  step: jax.Array  # outer steps done
  params: PyTree  # of the synthetic set
  optimizer: PyTree
  ema: PyTree  # moving average of params: what is evaluated and kept
  students: PyTree  # inner state of each student, leading axis [S]
  best: PyTree  # the average that the selection split liked best
  best_accuracy: jax.Array
  best_step: jax.Array


def first_params(
  setup: spaces.Setup,
  config: ml_collections.ConfigDict,
  parameterization: synthetic.Parameterization,
) -> PyTree:
  """Returns the parameters of the set before the first step: real rows."""
  rows = coresets.choose(
    config.initialise,
    setup.problem,
    setup.corpus.train,
    per_class=config.data_per_class,
    pool=config.coreset_pool,
    seed=config.seed,
    shortest=config.sequence_length,
  )
  num_classes = len(setup.corpus.label_names)
  real = data.as_batch(data.take(setup.corpus.train, rows), num_classes)
  missing = max(0, config.sequence_length - real.inputs.shape[1])
  pad = functools.partial(np.pad, pad_width=((0, 0), (0, missing)))
  ids = pad(real.inputs, constant_values=setup.corpus.tokenizer.pad_id)
  batch = data.Batch(
    inputs=setup.problem.embeddings[ids[:, : config.sequence_length]],
    mask=jnp.ones((len(ids), config.sequence_length), bool),
    labels=jnp.asarray(real.labels),
  )
  # Inside jit: leaves that alias the seed data would be donated with it.
  return jax.jit(parameterization.init)(batch)


def enter(
  stage: recipe.Stage,
  problem: problems.Problem,
  params: PyTree,
  key: jax.Array,
  num_students: int,
) -> tuple[PyTree, PyTree]:
  """Returns a stage's first optimiser state and students."""

  @jax.jit
  def begin(problem, params, key):
    init = functools.partial(stage.objective.init, problem)
    phases_S = jnp.arange(num_students) / num_students
    keys = jax.random.split(key, num_students)
    students = jax.lax.map(lambda xs: init(*xs), (keys, phases_S))
    return stage.optimizer.init(params), students

  return begin(problem, params, key)


def outer_steps(
  stage: recipe.Stage,
  parameterization: synthetic.Parameterization,
  ema: float,
) -> Callable[..., tuple[DistillState, dict[str, jax.Array]]]:
  """Returns `steps(problem, state, real, key) -> (state, metrics)`, jitted.

  `real` has the leading axes [K, S, N]: K outer steps a dispatch, S students,
  N batches each. The state is donated; metrics come stacked [K].
  """

  def one_step(problem, state, real, root_key):
    key = jax.random.fold_in(root_key, state.step)

    def one_student(student_real_key):
      student, batches, key = student_real_key

      def loss(params):
        decoded = parameterization.decode(params)
        return stage.objective.loss(problem, decoded, student, batches, key)

      return jax.value_and_grad(loss, has_aux=True)(state.params)

    num_students = len(real.labels)
    # One student after the other: memory holds one student's graph, and only
    # gradients with respect to the set are averaged over students.
    (losses_S, (students, seen)), grads = jax.lax.map(
      one_student,
      (state.students, real, jax.random.split(key, num_students)),
    )
    grads = jax.tree.map(lambda x: x.mean(axis=0), grads)
    updates, optimizer = stage.optimizer.update(
      grads, state.optimizer, state.params
    )
    params = optax.apply_updates(state.params, updates)
    # Early on, the average follows closely: it must not remember the start.
    decay = jnp.minimum(ema, (1.0 + state.step) / (10.0 + state.step))
    average = jax.tree.map(
      lambda old, new: decay * old + (1 - decay) * new, state.ema, params
    )
    values = {name: value.mean() for name, value in seen.items()}
    values |= {
      "outer/loss": losses_S.mean(),
      "outer/grad_norm": optax.tree.norm(grads),
    }
    state = state.replace(
      step=state.step + 1,
      params=params,
      optimizer=optimizer,
      ema=average,
      students=students,
    )
    return state, values

  @functools.partial(jax.jit, donate_argnums=1)
  def steps(problem, state, real, root_key):
    step = lambda state, real: one_step(problem, state, real, root_key)  # noqa: E731
    return jax.lax.scan(step, state, real)

  return steps


def dispatch_size(
  config: ml_collections.ConfigDict, stages: list[recipe.Stage]
) -> int:
  """Returns K: at most `steps_per_dispatch`, a divisor of every stretch.

  Stage ends, evaluations and saves then fall between dispatches, and each
  stage compiles one program for one shape.
  """
  stretch = int(
    np.gcd.reduce(
      [config.eval_every, config.checkpoint_every]
      + [stage.last - stage.first for stage in stages]
    )
  )
  most = max(1, config.steps_per_dispatch)
  return max(k for k in range(1, most + 1) if stretch % k == 0)


def run(
  config: ml_collections.ConfigDict, workdir: str, command: str = ""
) -> DistillState:
  """Distils, evaluates and reports; goes on where an earlier run ended.

  Args:
    config: As `recipe.defaults`, changed.
    workdir: Where everything is left; see the README.
    command: How to start the same run again, for messages and the report.

  Raises:
    InputError: something the user can mend, before anything is written.
    NotFinite: the run diverged; the last good checkpoint is kept.
    Stopped: SIGINT or SIGTERM; everything is saved.
  """
  stages = recipe.stages(config)
  protocols = recipe.protocols(config)
  _check_numbers(config)
  folder = workdirs.check(workdir, config)
  setup = recipe.setup(config)
  parameterization = recipe.parameterization(config)
  params = first_params(setup, config, parameterization)
  select = _selector(setup, config, parameterization)
  draws = [
    _real_batches(setup, config, s.objective.num_batches) for s in stages
  ]
  workdirs.claim(folder, config, command)
  metrics.say(
    f"{config.data.name}: {len(setup.corpus.train.labels)} training rows, "
    f"{len(setup.corpus.label_names)} classes; student {setup.student_name}"
  )
  root_key = jax.random.key(config.seed)
  keep = checkpoint.Checkpoints(folder / "checkpoints")
  step = keep.latest() or 0
  # A state is saved in the shape of the stage that it ends, not the next one.
  index = next(i for i, s in enumerate(stages) if step <= s.last)
  state = _first_state(params, stages[index], setup.problem, root_key, config)
  if step:
    state = keep.load(step, state)
    metrics.say(f"going on from step {step}")
  writer = metrics.Writer(folder / "metrics.jsonl", step)
  progress = metrics.Progress(config.num_steps, step, config.eval_every)
  signals = _Signals()
  num_steps = dispatch_size(config, stages)
  try:
    for i, stage in enumerate(stages[index:], start=index):
      if step == stage.first and i > 0:
        optimizer, students = enter(
          stage,
          setup.problem,
          state.params,
          _stage_key(root_key, i),
          config.num_students,
        )
        state = state.replace(optimizer=optimizer, students=students)
      steps = outer_steps(stage, parameterization, config.outer.ema)
      draw = draws[i]
      while step < stage.last:
        real = draw(step, num_steps)
        state, seen = steps(setup.problem, state, real, root_key)
        seen = jax.device_get(seen)
        metrics.check_finite(
          step + 1,
          seen["outer/loss"],
          {"set": state.params, "students": state.students},
          "Try a smaller outer.learning_rate or initial_step_size.",
        )
        step += num_steps
        accuracy = None
        if step % config.eval_every == 0 or step == config.num_steps:
          accuracy = select(state.ema)
          if accuracy >= float(state.best_accuracy):
            state = _with_best(state, accuracy)
        for k in range(num_steps):
          values = {name: value[k] for name, value in seen.items()}
          done = step - num_steps + k
          values["outer/learning_rate"] = stage.schedule(done - stage.first)
          values["outer/stage"] = i
          if accuracy is not None and k == num_steps - 1:
            values["selection/accuracy"] = accuracy
          writer.write(done + 1, values)
        progress.update(step, float(seen["outer/loss"][-1]), accuracy)
        if (
          step % config.checkpoint_every == 0
          or step in (stage.last, config.num_steps)
          or signals.received
        ):
          keep.save(step, state)
        if signals.received:
          raise errors.Stopped(
            f"saved at step {step}; go on with the same command: {command}",
            signals.status,
          )
    progress.close()
    seconds = writer.seconds
  finally:
    progress.close()
    writer.close()
    keep.close()
    signals.restore()
  finish.finish(
    config=config,
    folder=folder,
    setup=setup,
    protocols=protocols,
    best=parameterization.decode(state.best),
    chosen={
      "step": int(state.best_step),
      "accuracy": float(state.best_accuracy),
      "protocol": config.selection.protocol,
    },
    distill_seconds=seconds,
  )
  return state


def _first_state(params, stage, problem, root_key, config):
  optimizer, students = enter(
    stage,
    problem,
    params,
    _stage_key(root_key, 0),
    config.num_students,
  )
  copy = jax.jit(lambda x: jax.tree.map(jnp.copy, x))
  return DistillState(
    step=jnp.int32(0),
    params=params,
    optimizer=optimizer,
    ema=copy(params),
    students=students,
    best=copy(params),
    best_accuracy=jnp.float32(-1.0),
    best_step=jnp.int32(0),
  )


def _stage_key(root_key, index):
  # Counted from the end of the range: outer steps fold in 0, 1, 2 ...
  return jax.random.fold_in(root_key, 2**32 - 1 - index)


def _with_best(state, accuracy):
  # A copy: the next dispatch donates the average.
  best = jax.tree.map(jnp.copy, state.ema)
  return state.replace(
    best=best,
    best_accuracy=jnp.float32(accuracy),
    best_step=jnp.copy(state.step),
  )


def _real_batches(setup, config, num_batches):
  """Returns `draw(step, K)` -> batches with the leading axes [K, S, N]."""
  long_enough = setup.corpus.train.mask.sum(axis=1) >= config.min_tokens
  examples = data.take(setup.corpus.train, np.flatnonzero(long_enough))
  counts = np.bincount(examples.labels, minlength=len(setup.corpus.label_names))
  if not counts.all():
    raise errors.InputError(
      f"min_tokens={config.min_tokens} leaves no row of class "
      f"{setup.corpus.label_names[int(counts.argmin())]}; use a smaller one."
    )
  sampler = data.class_balanced_sampler(
    examples,
    rows_per_class=config.rows_per_class,
    num_classes=len(setup.corpus.label_names),
    seed=config.seed,
  )
  each = config.num_students * num_batches

  def draw(step, num_steps):
    batches = [
      sampler(i) for i in range(step * each, (step + num_steps) * each)
    ]
    shape = (num_steps, config.num_students, num_batches)
    return jax.tree.map(
      lambda *xs: np.stack(xs).reshape(*shape, *xs[0].shape), *batches
    )

  return draw


def _selector(setup, config, parameterization):
  """Returns `select(params) -> accuracy` on the selection split."""
  protocol = recipe.protocol(config, config.selection.protocol)
  protocol = protocol._replace(
    rates=protocol.rates[:1], num_students=config.selection.num_students
  )
  at_once = min(config.students_at_once, config.selection.num_students)
  trainer = evaluate.Trainer(setup.problem, protocol, at_once)
  examples = setup.corpus.selection
  rows = np.random.default_rng(0).permutation(len(examples.labels))
  chosen = data.take(examples, rows[: config.selection.rows])
  buckets = training.length_buckets(chosen, len(setup.corpus.label_names))
  splits = evaluate.Splits(buckets, buckets)
  decode = jax.jit(parameterization.decode)

  def select(params):
    sets = evaluate.stacked(decode(params))
    found = evaluate.measure(
      trainer, setup.problem, sets, splits, seed=SELECTION_SEED
    )
    return float(found.accuracies.mean())

  return select


def _check_numbers(config):
  positive = (
    "data_per_class num_steps num_students rows_per_class steps_per_dispatch "
    "eval_every checkpoint_every students_at_once"
  )
  for field in positive.split():
    if config[field] < 1:
      raise errors.InputError(f"{field}={config[field]} must be at least 1.")


class _Signals:
  """Remembers SIGINT and SIGTERM until the run has saved."""

  def __init__(self) -> None:
    self.received = 0
    self._before: dict[int, Any] = {}
    for number in (signal.SIGINT, signal.SIGTERM):
      try:
        self._before[number] = signal.signal(number, self._remember)
      except ValueError:  # not the main thread: a notebook's, say
        pass

  @property
  def status(self) -> int:
    # An asked-for preemption is a success; Ctrl-C is a shell's 128 + 2.
    return 0 if self.received == signal.SIGTERM else 130

  def restore(self) -> None:
    for number, handler in self._before.items():
      signal.signal(number, handler)

  def _remember(self, number: int, frame: types.FrameType | None) -> None:
    if self.received == number == signal.SIGINT:
      self.restore()
      raise KeyboardInterrupt  # a second Ctrl-C does not wait for the step
    self.received = number
