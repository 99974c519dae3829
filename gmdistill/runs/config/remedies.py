"""What makes a run smaller, and its plan in words."""

from collections.abc import Mapping

import jax

from gmdistill.runs.config import recipe as recipes
from gmdistill.runs.config import schedule
from gmdistill.students import families
from gmdistill.system import costs, units


def remedies(config: recipes.Recipe, mesh: jax.sharding.Mesh) -> list[str]:
  """Returns what would make the outer step of a config smaller, best first."""
  found = []
  options = families.named(config.student.kind).options
  if "remat" in options and config.student.remat != "layers":
    found.append("student.remat=layers")
  if "compute" in options and config.student.compute == "float32":
    found.append("student.compute=bfloat16")
  replicated = config.mesh.base == "replicated"
  if mesh.size > 1 and replicated and config.student.adapter != "none":
    found.append("mesh.base=sharded")
  if config.outer.students_at_once > 1:
    found.append("outer.students_at_once=1")
  places = mesh.shape["students"]
  if config.num_students > places:
    where = "each device" if places == mesh.size else "each group of devices"
    found.append(f"num_students={places}, one on {where}")
  objectives = schedule.names(config.objective)
  matching = "gradient_matching" in objectives
  if matching and config.gradient_matching.class_chunk != 1:
    found.append("gradient_matching.class_chunk=1")
  # A student of words has no head.
  has_head = config.task.kind == "classes"
  if matching and has_head and config.gradient_matching.matched != "head":
    found.append("gradient_matching.matched=head")
  # With examples in turn, the last two steps would learn theirs alone.
  ahead = "look_ahead" in objectives and not config.examples_per_step
  kept = config.look_ahead.last_steps or config.replay_steps
  if ahead and min(kept, config.replay_steps) > 2:
    found.append("look_ahead.last_steps=2")
  if config.rows_per_class > 1:
    found.append(f"rows_per_class={config.rows_per_class // 2}")
  if config.steps_per_dispatch > 1 and config.bank.dir:
    found.append("steps_per_dispatch=1")
  return found or ["more or larger devices"]


def devices(mesh: Mapping[str, int]) -> str:
  """Returns in words which devices a run is shared out over."""
  students, data = mesh["students"], mesh["data"]
  if students * data == 1:
    return "one device"
  groups = f"{students} groups of {data}" if data > 1 else "students apart"
  return f"{students * data} devices, {groups}"


def text(cost: costs.Cost, *, set_bytes: int, parameters: int) -> str:
  """Returns the lines that `gmdistill plan` prints of a stage."""
  needed = units.size(cost.needed)
  if cost.room:
    share = cost.needed / cost.room
    fits = "fits" if share <= 1 else "does not fit"
    needed += f" of {units.size(cost.room)} ({share:.0%}): {fits}"
  sizes = {
    "the set, stored": set_bytes,
    "what students keep between steps": cost.pool,
    "the bank's states, a dispatch": cost.bank,
    "the table and pretrained parameters": cost.base,
    "arguments": cost.arguments,
    "temporary memory": cost.temporary,
    "crosses between devices, a step": cost.crossing,
  }
  lines = {
    "a student": f"{units.number(parameters)} parameters",
    **{name: units.size(x) for name, x in sizes.items() if x},
    "FLOPs of a step's products": units.number(cost.flops),
    "needed of the device": needed,
  }
  width = max(map(len, lines))
  return "\n".join(f"{name:{width}}  {said}" for name, said in lines.items())
