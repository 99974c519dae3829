"""What a run on a language model needs, from the shape of the model alone.

Nothing is read but its `config.json`, and no array is made: a model is planned
for that is on no disk here, on more devices than there are.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from etils import epath

from gmdistill import errors
from gmdistill.data import batches
from gmdistill.objectives import contract
from gmdistill.runs import outer, states
from gmdistill.runs.config import assembly, schedule, shared_bases
from gmdistill.runs.config import recipe as recipes
from gmdistill.sets import language_spaces
from gmdistill.students import (
  bases,
  decoder_configs,
  decoder_forms,
  decoder_weights,
  problems,
  tasks,
  weight_files,
)
from gmdistill.system import costs, devices, paths


def folder_of(config: recipes.Recipe) -> epath.Path | None:
  """Returns the folder of a model that has a config and no weights, if any."""
  source = config.student.pretrained
  folder = paths.path(source) if source else None
  if folder is None or not (folder / decoder_configs.NAME).is_file():
    return None
  return None if weight_files.names(folder) else folder


def _problem(config: recipes.Recipe, folder: epath.Path) -> problems.Problem:
  """Returns the problem of a config, whose arrays are shapes.

  Raises:
    InputError: the model is no decoder, or the task asks for its words.
  """
  if config.task.kind != "next_token":
    raise errors.InputError(
      f"{folder} has no weights, and without them a plan is of "
      f"task.kind=next_token; this config has {config.task.kind}."
    )
  fields = decoder_configs.Fields.of_folder(folder, decoder_weights.FORMS)
  form = decoder_weights.FORMS[fields["model_type"]]
  # A change before the training would make no other shapes, and has weights.
  student = config.to_dict()["student"] | {"peft": ""}
  module = form.module(
    **decoder_forms.arguments(fields, folder, student["num_layers"]),
    **{name: student[name] for name in ("remat", "unroll", "compute")},
  )
  table: Any = jax.ShapeDtypeStruct(
    (module.vocabulary, module.width), jnp.float32
  )
  whole = problems.Problem(
    table, decoder_weights.shapes(module), module, asks=tasks.next_tokens()
  )

  def adapted(problem):
    changed, _ = language_spaces.adapted(problem, student)
    return bases.narrowed(changed)

  problem: problems.Problem = jax.eval_shape(adapted, whole)
  return bases.spread(problem) if shared_bases.is_sharded(config) else problem


def of_shape(
  config: recipes.Recipe, folder: epath.Path
) -> tuple[jax.sharding.Mesh, problems.Problem]:
  """Returns a run's mesh, and its problem, whose arrays are shapes.

  Raises:
    InputError: the model is no decoder, the task asks for its words, or the
      mesh does not fit.
  """
  mesh = devices.build(config.num_students, **dataclasses.asdict(config.mesh))
  problem = _problem(config, folder)
  return mesh, devices.put(mesh, problem, problem.layout)


def set_bytes(config: recipes.Recipe, problem: problems.Problem) -> int:
  """Returns the bytes of a set's embeddings in float32."""
  places = config.num_sequences * config.sequence_length
  return 4 * places * int(problem.embeddings.shape[1])


def stage_costs(
  config: recipes.Recipe, problem: problems.Problem, mesh: jax.sharding.Mesh
) -> list[costs.Cost]:
  """Returns what an outer step of each stage costs; no device is asked for its
  room.

  Raises:
    InputError: a stage reads a bank, whose students are on a disk.
  """
  stages = schedule.stages(config)
  stored = assembly.parameterization(config, problem)
  shape = (config.num_sequences, config.sequence_length)
  first = _rows(shape, width=problem.embeddings.shape[1])
  if config.task.targets == "soft":  # queries, as wide as embeddings
    assert first.tokens is not None
    tokens = dataclasses.replace(first.tokens, targets=first.inputs)
    first = dataclasses.replace(first, tokens=tokens)
  params = jax.eval_shape(stored.init, first)
  key = devices.put(mesh, jax.random.key(0))
  count, num_steps = config.num_students, outer.dispatch_size(config, stages)
  found = []
  for stage in stages:
    if stage.objective.reads:
      raise errors.InputError(
        f"objective={config.objective} reads a bank, which a model without "
        "weights has not; plan for another objective."
      )
    rows = (
      num_steps,
      count,
      stage.objective.num_batches,
      config.rows_per_class,
      config.data.train_length or config.data.max_length,
    )
    real = contract.Real(devices.put(mesh, _rows(rows), devices.BATCHES))
    state = states.shapes(stage, problem, params, count, mesh)
    steps = outer.outer_steps(
      stage, stored, config.outer.ema, mesh, config.outer.students_at_once
    )
    _, cost = costs.program(steps, (problem, state, real, key))
    found.append(cost._replace(room=0))
  return found


def _rows(shape: tuple[int, ...], width: int = 0) -> batches.Batch:
  """Returns shapes of rows of tokens, or of embeddings."""
  ids: Any = jax.ShapeDtypeStruct(shape, jnp.int32)
  inputs: Any = (
    jax.ShapeDtypeStruct((*shape, width), jnp.float32) if width else ids
  )
  weights: Any = jax.ShapeDtypeStruct(shape, jnp.float32)
  mask: Any = jax.ShapeDtypeStruct(shape, bool)
  return batches.Batch(inputs, mask, tokens=batches.Tokens(ids, weights))
