"""What an outer step with a bank costs, by its size and its differentiation.

make bench

Compiles and runs nothing: bytes of temporary memory and FLOPs of products, for
the three rules of `mixed_mode`, with layers unrolled and with layers scanned
and rematerialised; and of a language model's adapter by depth, length and
vocabulary. Adds `compiled` to runs/bench.json.
"""

import argparse

import jax
import jax.numpy as jnp
import lora_step
import optax
import record

from gmdistill.data import batches
from gmdistill.objectives import contract, gradient_matching
from gmdistill.runs import outer, states
from gmdistill.runs.config import schedule
from gmdistill.sets import synthetic
from gmdistill.students import encoders, problems
from gmdistill.system import costs, devices, units
from gmdistill.training import mixed_mode

BASE = dict(layers=6, length=32, classes=4, students=1)
SWEEPS = dict(layers=(2, 12), length=(128,), classes=(16,), students=(4,))
PER_CLASS = 2

# A rank-8 adapter of SmolLM2-135M's shape, 8 x 64 tokens, and other sizes.
DECODER = dict(layers=30, length=64, vocabulary=49152)
DECODERS = (
  DECODER,
  {**DECODER, "layers": 15},
  {**DECODER, "length": 256},
  {**DECODER, "vocabulary": 4096},
  {**DECODER, "vocabulary": 131072},
)


def cost(
  *,
  layers: int,
  length: int,
  classes: int,
  students: int,
  rule: str,
  remat: str,
  width: int,
) -> costs.Cost:
  """Returns the cost of one outer step, all of whose arguments are shapes."""
  problem = make_problem(layers, length, classes, remat, width)
  objective = gradient_matching.expert_matching(
    distance_kind="tensor_cosine", rule=rule
  )
  stage = schedule.Stage(objective, optax.adam(1e-2), lambda _: 1e-2, 0, 1)
  mesh = devices.build(students, devices=jax.devices()[:1])
  rows = classes * PER_CLASS
  stored = synthetic.direct()
  params = stored.init(
    batches.Batch(
      jnp.ones((rows, length, width)),
      jnp.ones((rows, length), bool),
      jnp.repeat(jnp.eye(classes), PER_CLASS, axis=0),
    )
  )
  shapes = jax.eval_shape(problem.init, jax.random.key(0))
  kept = jax.eval_shape(lambda x: problem.roles.keep(x, "all"), shapes)
  lie = devices.sharding(mesh, devices.EXPERTS)

  def read(tree, *axes):  # as a bank's states lie on the mesh
    return jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(
        (1, students, *axes, *x.shape), x.dtype, sharding=lie
      ),
      tree,
    )

  real = contract.Real(None, contract.Expert(read(shapes), read(kept, classes)))
  state = states.shapes(stage, problem, params, students, mesh)
  steps = outer.outer_steps(stage, stored, 0.99, mesh)
  return costs.program(steps, (problem, state, real, jax.random.key(0)))[1]


def make_problem(
  layers: int, length: int, classes: int, remat: str, width: int
) -> problems.Problem:
  """Returns a transformer of these sizes over a table of twenty tokens."""
  module = encoders.Transformer(
    classes,
    width=width,
    num_layers=layers,
    num_heads=4,
    hidden=4 * width,
    max_positions=length,
    pooling="mean",
    remat=remat,
    unroll=layers if remat == "none" else 1,
  )
  return problems.Problem(jnp.ones((20, width)), None, module)


def language_cost(
  *, layers: int, length: int, vocabulary: int, objective: str
) -> costs.Cost:
  """Returns the cost of an outer step on a language model's adapter."""
  fields = dict(
    width=576,
    num_layers=layers,
    num_heads=9,
    num_key_value_heads=3,
    hidden=1536,
    vocabulary=vocabulary,
    remat="layers",
    compute="bfloat16",
  )
  problem = lora_step.make_problem(fields, 8, lambda shape: shape)
  sizes = lora_step.Sizes(length=length)
  return lora_step.compiled(problem, objective, sizes)[1]


def settings() -> list[dict[str, int]]:
  """Returns the base and, of each size, the base with another value."""
  others = [
    {**BASE, name: value} for name, values in SWEEPS.items() for value in values
  ]
  return [BASE, *others]


def main() -> None:
  """Prints a table, and adds it to the JSON file."""
  parser = argparse.ArgumentParser()
  parser.add_argument("--width", type=int, default=128)
  parser.add_argument("--out", default="runs/bench.json")
  options = parser.parse_args()
  ways = [(r, remat) for remat in ("none", "layers") for r in mixed_mode.RULES]
  print(
    f"an outer step with a bank, width {options.width}, {PER_CLASS} a class"
  )
  print("temporary memory, and GFLOP of products, compiled for", end=" ")
  print(jax.devices()[0].device_kind)
  names = [
    rule if remat == "none" else f"{rule}, remat" for rule, remat in ways
  ]
  print(f"{'':42}" + "".join(f"{name:>21}" for name in names))
  found = []
  for sizes in settings():
    cells = []
    for (rule, remat), name in zip(ways, names, strict=True):
      one = cost(**sizes, rule=rule, remat=remat, width=options.width)
      cells.append(f"{units.size(one.temporary)} {one.flops / 1e9:6.1f}")
      found.append(
        {
          **sizes,
          "way": name,
          "temporary_bytes": one.temporary,
          "flops": one.flops,
        }
      )
    said = ", ".join(f"{value} {name}" for name, value in sizes.items())
    print(f"{said:42}" + "".join(f"{cell:>21}" for cell in cells), flush=True)
  print("an outer step on a decoder's adapter, 8 sequences, bfloat16")
  print(f"{'':42}" + "".join(f"{x:>21}" for x in lora_step.OBJECTIVES))
  language = []
  for sizes in DECODERS:
    cells = []
    for objective in lora_step.OBJECTIVES:
      one = language_cost(**sizes, objective=objective)
      cells.append(f"{units.size(one.temporary)} {one.flops / 1e9:6.0f}")
      language.append(
        {
          **sizes,
          "objective": objective,
          "temporary_bytes": one.temporary,
          "flops": one.flops,
        }
      )
    said = ", ".join(f"{value} {name}" for name, value in sizes.items())
    print(f"{said:42}" + "".join(f"{cell:>21}" for cell in cells), flush=True)
  record.update(
    options.out,
    compiled={
      "width": options.width,
      "rows": found,
      "language_model": language,
    },
  )


if __name__ == "__main__":
  main()
