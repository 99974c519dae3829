"""Twenty outer steps on some mesh: `steps_on_a_mesh.py OUT STUDENTS DATA ...`.

Run with so many fake devices. Writes the set's parameters, and the bytes that
crossed in a step.
"""

import sys

import jax
import numpy as np
import tiny_config
from conftest import as_float64

from gmdistill.runs import first_set, jobs, outer, states
from gmdistill.runs.config import assembly, schedule, settings
from gmdistill.system import costs
from gmdistill.system import devices as device_mesh

NUM_STUDENTS, NUM_STEPS = 8, 20


def steps_on(students, data, mode):
  config = tiny_config.get_config(mode)
  config.num_students = NUM_STUDENTS
  config.student.kind = "textcnn"  # which is compiled soonest
  devices = jax.devices()[: students * data]
  mesh = device_mesh.build(NUM_STUDENTS, students, data, devices)
  setup = assembly.setup(settings.recipe(config))
  stage = schedule.stages(settings.recipe(config))[0]
  stored = assembly.parameterization(settings.recipe(config), setup.problem)
  # In double precision: the outer loop doubles a difference of rounding every
  # step or two, which says nothing of the layout.
  params = as_float64(
    first_set.first_params(setup, settings.recipe(config), stored)
  )
  problem = device_mesh.put(mesh, as_float64(setup.problem))
  key = device_mesh.put(mesh, jax.random.key(0))
  state = states.first_state(params, stage, problem, key, NUM_STUDENTS, mesh)
  steps = outer.outer_steps(stage, stored, 0.99, mesh)
  draw = jobs.real_data(setup, settings.recipe(config), stage.objective, mesh)
  program = steps.lower(problem, state, draw(0, 1), key).compile()
  for step in range(NUM_STEPS):
    state, _ = program(problem, state, draw(step, 1), key)
  leaves = jax.tree.leaves(jax.device_get(state.params))
  sizes = costs.crossing(program.as_text())
  memory = program.memory_analysis().temp_size_in_bytes
  return np.concatenate([x.ravel() for x in leaves]), sizes, memory


if __name__ == "__main__":
  out, mode, *shapes = sys.argv[1:]
  jax.config.update("jax_enable_x64", True)
  for shape in shapes:
    students, data = (int(n) for n in shape.split("x"))
    params, sizes, memory = steps_on(students, data, mode)
    np.savez(f"{out}/{shape}.npz", params=params, bytes=sizes, memory=memory)
