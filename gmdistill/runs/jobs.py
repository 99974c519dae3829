"""What a run needs and never changes, ready before anything is written."""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from gmdistill import trees
from gmdistill.evaluation import measuring, protocols, readings, trainers
from gmdistill.objectives import bank, contract
from gmdistill.runs import (
  candidates,
  first_set,
  leading_rows,
  outer,
  start_rows,
  states,
)
from gmdistill.runs.config import (
  assembly,
  checks,
  row_fields,
  schedule,
  settings,
  teacher_fields,
)
from gmdistill.runs.config import (
  recipe as recipes,
)
from gmdistill.sets import spaces, synthetic, wrappers
from gmdistill.students import bases, problems, tasks
from gmdistill.system import costs as program_costs
from gmdistill.system import devices, paths, processes, waits

SELECTION_SEED = 1  # of the students that choose; the reported ones are others


class Job(NamedTuple):
  """A run's parts."""

  config: recipes.Recipe
  command: str
  setup: spaces.Setup
  mesh: jax.sharding.Mesh
  problem: problems.Problem  # the setup's, on the mesh
  root_key: jax.Array  # on the mesh
  stages: tuple[schedule.Stage, ...]
  parameterization: synthetic.Parameterization
  finished: synthetic.Parameterization  # as students see the set
  params: trees.PyTree  # of the set, before the first step
  # [M] that the set starts from, written ones after the training rows; none of
  # `config.start`
  rows: np.ndarray
  draws: tuple[Callable[..., contract.Real], ...]  # one a stage
  select: Callable[[trees.PyTree], float]  # the set's parameters -> score
  reported: Mapping[str, protocols.Protocol]
  full: protocols.Protocol  # of students on all real rows

  @property
  def unit(self) -> str:
    """Of what is reported."""
    return self.problem.task.unit

  @property
  def chosen_by(self) -> tasks.Task:
    """By whose score the step that is kept is chosen."""
    return tasks.chosen_by(self.config.selection.by, self.problem.task)


def prepare(config: Any, command: str = "") -> Job:
  """Returns everything that a run needs; writes nothing.

  Args:
    config: As `settings.defaults`, changed; or a recipe.
    command: How to start the run.

  Raises:
    InputError: something the user can mend.
  """
  config = settings.recipe(config)
  stages = schedule.stages(config)
  mesh = devices.build(config.num_students, **dataclasses.asdict(config.mesh))
  teacher_fields.criterion(config)  # an unknown loss is told first
  teacher_fields.require_no_params(config)
  reported = assembly.reported_protocols(config)
  full = assembly.protocol(config, "full")
  at_rows = config.has_classes and not config.start
  with processes.together():  # all that one of them may not find
    setup = teacher_fields.with_teachers(assembly.setup(config), config)
    if not any(stage.objective.num_batches for stage in stages):
      checks.require_no_rows(config, f"objective={config.objective} draws none")
    parameterization = first_set.with_kept(
      assembly.parameterization(config, setup.problem), config
    )
    draws = tuple(
      real_data(setup, config, stage.objective, mesh) for stage in stages
    )
    # Whose rows may be chosen.
    among = candidates.extended(setup, config) if at_rows else setup
  finished = wrappers.with_smoothed_labels(
    parameterization, config.label_smoothing
  )
  problem = bases.narrowed(setup.problem)
  chosen = start_rows.Chosen(np.zeros(0, np.int64), np.zeros(0))
  if at_rows:
    chosen = leading_rows.choose(among, config, stages[0], mesh, draws[0])
  return Job(
    config=config,
    command=command,
    setup=setup,
    mesh=mesh,
    problem=devices.put(mesh, problem, problem.layout),
    root_key=devices.put(mesh, jax.random.key(config.seed)),
    stages=tuple(stages),
    parameterization=parameterization,
    finished=finished,
    params=first_set.first_params(among, config, finished, chosen),
    rows=chosen.rows,
    draws=draws,
    select=_selector(setup, config, finished),
    reported=reported,
    full=full,
  )


def digest(job: Job, read: dict[str, Any]) -> str:
  """Returns a hash of what a run's processes must have in common.

  Args:
    job: The run's.
    read: Its `sources`.
  """
  found = hashlib.sha256(json.dumps(read).encode())
  for leaf in jax.tree.leaves(job.params):
    found.update(np.asarray(leaf).tobytes())
  return found.hexdigest()


def sources(job: Job) -> dict[str, Any]:
  """Returns ids of what a run reads that its config only names."""
  config, problem = job.config, job.setup.problem
  teachers = job.setup.teachers
  named = [] if teachers is None else teachers.names_and_ids
  found = {
    "data": job.setup.corpus.fingerprint,
    "weights": problem.weights_id if problem.is_pretrained else "",
    "space": job.setup.space_id,
    "teachers": named,
    **candidates.identity(config),
  }
  if any(stage.objective.reads for stage in job.stages):
    about = json.dumps(bank.read(paths.path(config.bank.dir)))
    found["bank"] = hashlib.sha256(about.encode()).hexdigest()[:16]
  return found


def programs(
  job: Job,
) -> list[tuple[jax.stages.Compiled, program_costs.Cost]]:
  """Returns each stage's compiled dispatch, and what its outer step costs.

  Runs that differ in nothing but their seed, their rows and how they are
  measured, one after the other in one process, share them: tracing is most of a
  small run's time.
  """
  return [_program(job, index) for index in range(len(job.stages))]


# Fields that say which rows are read, what is measured and when: what they
# change in a dispatch shows in the shapes of its arguments.
UNTRACED = frozenset(
  "seed initialise coreset_pool start real_rows refresh joined_rows min_tokens "
  "teachers eval_every checkpoint_every steps_per_dispatch selection protocols "
  "students_at_once replay scratch full bayes gradient_cosine log_to "
  "metrics exact_match".split()
)

# Of the last dispatches: a program keeps some memory of its device.
_PROGRAMS: dict[Any, tuple[jax.stages.Compiled, program_costs.Cost]] = {}
_MOST_PROGRAMS = 4


def _program(job, index):
  stage = job.stages[index]
  state = states.shapes(
    stage, job.problem, job.params, job.config.num_students, job.mesh
  )
  num_steps = outer.dispatch_size(job.config, job.stages)
  real = job.draws[index](stage.first, num_steps)
  arguments = (job.problem, state, real, job.root_key)
  # All else that a dispatch is traced from follows from these.
  fields = {k: x for k, x in job.config.to_dict().items() if k not in UNTRACED}
  shapes = tuple((x.shape, str(x.dtype)) for x in jax.tree.leaves(arguments))
  structure = jax.tree.structure(arguments)
  key = (index, json.dumps(fields), shapes, structure, job.mesh)
  if key not in _PROGRAMS:
    steps = outer.outer_steps(
      stage,
      job.parameterization,
      job.config.outer.ema,
      job.mesh,
      job.config.outer.students_at_once,
    )
    while len(_PROGRAMS) >= _MOST_PROGRAMS:
      del _PROGRAMS[next(iter(_PROGRAMS))]
    with waits.during("compiling the outer steps"):
      _PROGRAMS[key] = program_costs.program(steps, arguments)
  steps, cost = _PROGRAMS[key]
  return steps, cost._replace(room=devices.room())


def real_data(
  setup: spaces.Setup,
  config: recipes.Recipe,
  objective: contract.Objective,
  mesh: jax.sharding.Mesh,
) -> Callable[..., contract.Real]:
  """Returns `draw(step, K)` -> Real, with the leading axes [K, S].

  A process reads what its own students see, and no more.
  """
  count, num_batches = config.num_students, objective.num_batches
  own = devices.own_students(mesh, count)
  sampler = expert = None
  if num_batches:
    sampler = assembly.sampler(setup, config, count * num_batches)
  if objective.reads:
    expert = assembly.experts(setup, config, objective)

  def drawn(read, each, spec, step, num_steps):
    trees = [
      read((at * count + student) * each + i)
      for at in range(step, step + num_steps)
      for student in own
      for i in range(each)
    ]
    inner = (each,) if spec == devices.BATCHES else ()
    stacked = jax.tree.map(
      lambda *xs: np.stack(xs).reshape(
        num_steps, len(own), *inner, *xs[0].shape
      ),
      *trees,
    )
    return devices.put_own(mesh, stacked, own, count, spec)

  def draw(step, num_steps):
    found = contract.Real(None)
    if sampler:
      batches = drawn(sampler, num_batches, devices.BATCHES, step, num_steps)
      found = found._replace(batches=batches)
    if expert:
      experts = drawn(expert, 1, devices.EXPERTS, step, num_steps)
      found = found._replace(expert=experts)
    return found

  return draw


def _selector(setup, config, parameterization):
  """Returns `select(params) -> score` on the selection split, more being
  better."""
  protocol = assembly.protocol(config, config.selection.protocol)
  # A set without steps of its own is replayed at the rate that suits it.
  rates = protocol.rates if protocol.replays else protocol.rates[:1]
  protocol = protocol._replace(
    rates=rates, num_students=config.selection.num_students
  )
  at_once = min(config.students_at_once, config.selection.num_students)
  task = tasks.chosen_by(config.selection.by, setup.problem.task)
  problem = setup.problem
  if task != problem.task:
    problem = problem.replace(asks=task)
  trainer = trainers.Trainer(problem, protocol, at_once)
  chosen = row_fields.selection_rows(setup.corpus, config)
  buckets = readings.length_buckets(chosen, setup.corpus.num_classes)
  both = measuring.Splits(buckets, buckets)
  decode = jax.jit(parameterization.decode)

  def select(params):
    sets = measuring.stacked(decode(jax.device_get(params)))
    found = measuring.measure(trainer, sets, both, seed=SELECTION_SEED)
    return measuring.chosen_by(found.accuracies, task)

  return select
