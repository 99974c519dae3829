"""gmdistill beside the PyTorch loop: one machine, one run, interleaved.

make bench

Each row is the median of several rounds, in each of which both take their turn;
compile time is apart. Writes into runs/bench.json. Timings of a busy machine
are worth little, and so is a comparison of two runs.

On a GPU both run there, and both take its fast products: of float32 numbers in
TF32, or `--compute=bfloat16` (PyTorch: autocast). There `--shape=bert` is the
shape to measure, and `--real=512` says what share of the products' rate a step
comes to where the real batch fills the GPU.
"""

import argparse
import functools
import os
import sys
import time

# PyTorch's idle threads would spin through our turns.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import jax
import jax.numpy as jnp
import numpy as np
import optax
import record
import torch
import torch_loop

from gmdistill.data import batches as row_batches
from gmdistill.evaluation import measuring, protocols, readings, trainers
from gmdistill.objectives import contract, gradient_matching, trajectories
from gmdistill.runs import outer, states
from gmdistill.runs.config import schedule
from gmdistill.sets import synthetic
from gmdistill.students import encoders, problems
from gmdistill.system import costs, devices

SHAPES = {
  "minilm": dict(width=384, num_layers=6, num_heads=12, hidden=1536),
  "bert": dict(width=768, num_layers=12, num_heads=12, hidden=3072),
  "tiny": dict(width=32, num_layers=2, num_heads=2, hidden=64),
}
LENGTH, PER_CLASS, VOCABULARY = 32, 5, 2000
STEPS_BETWEEN = 5  # of real training, config.trajectory.steps_between
THEIRS = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def make_data(num_rows, seed):
  rng = np.random.default_rng(seed)
  ids = rng.integers(0, VOCABULARY, (num_rows, LENGTH)).astype(np.int32)
  lengths = rng.integers(LENGTH // 2, LENGTH + 1, num_rows)
  mask = np.arange(LENGTH)[None] < lengths[:, None]
  labels = np.repeat(np.arange(2), num_rows // 2)
  return ids, mask, labels


def our_step(problem, real_rows, bank, between=0):
  """Returns `step()`, warmed up; what it costs; the seconds to compile it.

  Without a bank the student takes `between` real AdamW steps after each match.
  """
  if bank:
    objective = gradient_matching.expert_matching(
      distance_kind="tensor_cosine", class_chunk=2, rule="linearize"
    )
  else:
    along = trajectories.trajectory(optax.adamw(1e-4), steps_between=between)
    objective = gradient_matching.gradient_matching(
      along, distance_kind="tensor_cosine", class_chunk=2, rule="linearize"
    )
  stage = schedule.Stage(objective, optax.adam(1e-2), lambda _: 1e-2, 0, 1)
  stored = synthetic.direct()
  mesh = devices.build(1, devices=jax.devices()[:1])
  key = devices.put(mesh, jax.random.key(0))
  ids, mask, labels = make_data(2 * real_rows, 0)
  real_batch = row_batches.Batch(ids, mask, np.eye(2, dtype=np.float32)[labels])
  rows = np.random.default_rng(1).integers(
    0, VOCABULARY, (2 * PER_CLASS, LENGTH)
  )
  params = stored.init(
    row_batches.Batch(
      problem.embeddings[rows],
      jnp.ones(rows.shape, bool),
      jnp.repeat(jnp.eye(2), PER_CLASS, axis=0),
    )
  )
  stacked = lambda tree: jax.tree.map(lambda x: np.asarray(x)[None, None], tree)  # noqa: E731
  if bank:
    student = problem.init(jax.random.key(1))
    targets = jax.lax.map(
      lambda batch: problem.roles.keep(
        jax.grad(problem.loss)(student, batch), "all"
      ),
      contract.by_group(jax.tree.map(jnp.asarray, real_batch), 2),
    )
    expert = stacked(contract.Expert(params=student, targets=targets))
    real = contract.Real(
      None, devices.put_own(mesh, expert, [0], 1, devices.EXPERTS)
    )
  else:
    each = lambda x: np.tile(x, (1, 1, 1 + between) + x.ndim * (1,))  # noqa: E731
    batches = jax.tree.map(each, real_batch)
    real = contract.Real(
      devices.put_own(mesh, batches, [0], 1, devices.BATCHES)
    )
  problem = devices.put(mesh, problem)
  state = states.first_state(params, stage, problem, key, 1, mesh)
  begun = time.perf_counter()
  program, cost = costs.program(
    outer.outer_steps(stage, stored, 0.99, mesh), (problem, state, real, key)
  )
  compiling = time.perf_counter() - begun
  kept = [state]

  def step():
    kept[0], seen = program(problem, kept[0], real, key)
    return float(seen["outer/loss"][0])

  step()
  return step, cost, compiling


def their_student(fields):
  return torch_loop.Student(
    fields["width"],
    fields["num_layers"],
    fields["num_heads"],
    fields["hidden"],
    LENGTH,
  ).to(THEIRS)


def their_data(fields, num_rows, seed):
  table = torch.randn(VOCABULARY, fields["width"], device=THEIRS)
  rows = make_data(num_rows, seed)
  return table, *(torch.tensor(x, device=THEIRS) for x in rows)


def in_precision(compute, turn):
  """Returns PyTorch's turn in that precision; it ends when its device has."""

  def run():
    with torch.autocast(THEIRS.type, torch.bfloat16, compute == "bfloat16"):
      turn()
    if THEIRS.type == "cuda":
      torch.cuda.synchronize()

  return run


def their_step(fields, real_rows):
  table, *rows = their_data(fields, 2 * real_rows, 0)
  loop = torch_loop.Matching(their_student(fields), table, PER_CLASS)
  return lambda: loop.step(*rows)


def our_evaluation(problem, num_students, num_steps, num_rows, at_once):
  rows = np.random.default_rng(1).integers(
    0, VOCABULARY, (2 * PER_CLASS, LENGTH)
  )
  batch = row_batches.Batch(
    problem.embeddings[rows],
    jnp.ones(rows.shape, bool),
    jnp.repeat(jnp.eye(2), PER_CLASS, axis=0),
  )
  protocol = protocols.fine_tuning(
    num_steps=num_steps, num_students=num_students
  )
  trainer = trainers.Trainer(problem, protocol, at_once)
  buckets = readings.length_buckets(
    row_batches.Examples(*make_data(num_rows, 3)), 2
  )
  splits = measuring.Splits(buckets, buckets)
  sets = measuring.stacked(synthetic.SyntheticSet(batch))
  run = lambda: measuring.measure(trainer, sets, splits)  # noqa: E731
  begun = time.perf_counter()
  run()
  return run, time.perf_counter() - begun


def their_evaluation(fields, num_students, num_steps, num_rows):
  table, ids, mask, labels = their_data(fields, num_rows, 3)
  embeddings = table[torch.randint(VOCABULARY, (2 * PER_CLASS, LENGTH))]
  own = torch.arange(2, device=THEIRS).repeat_interleave(PER_CLASS)

  def run():
    for _ in range(num_students):
      torch_loop.train_and_count(
        lambda: their_student(fields),
        embeddings,
        own,
        (table[ids], mask, labels),
        num_steps,
      )

  return run


def interleaved(rounds, *turns):
  """Returns the median seconds of each of the turns, taken in rounds."""
  seconds = [[] for _ in turns]
  for _ in range(rounds):
    for turn, spent in zip(turns, seconds, strict=True):
      begun = time.perf_counter()
      turn()
      spent.append(time.perf_counter() - begun)
  return [float(np.median(spent)) for spent in seconds]


def matmul_rate(compute, rounds=20):
  """Returns the FLOP/s of one large product, the median of several."""
  size = 1024 if jax.default_backend() == "cpu" else 8192
  # Random numbers: some chips multiply zeros and ones faster.
  x = jax.random.normal(jax.random.key(0), (size, size), compute)
  product = jax.jit(lambda x: x @ x)
  jax.block_until_ready(product(x))
  (spent,) = interleaved(rounds, lambda: jax.block_until_ready(product(x)))
  return 2 * size**3 / spent


def main():
  parser = argparse.ArgumentParser()
  parser.add_argument("--shape", choices=SHAPES, default="minilm")
  parser.add_argument("--rounds", type=int, default=15)
  parser.add_argument(
    "--real", type=int, default=16, help="real rows a class in a step"
  )
  parser.add_argument("--students", type=int, default=100)
  parser.add_argument("--steps", type=int, default=200)
  parser.add_argument("--rows", type=int, default=872)
  parser.add_argument(
    "--at_once", type=int, default=0, help="of our students; 0: 1, or 10 on GPU"
  )
  parser.add_argument(
    "--compute", choices=encoders.PRECISIONS, default="float32"
  )
  parser.add_argument("--out", default="runs/bench.json")
  options = parser.parse_args()
  fields, compute = SHAPES[options.shape], options.compute
  on_cpu = jax.default_backend() == "cpu"
  if on_cpu != (THEIRS.type == "cpu"):
    sys.exit("JAX and PyTorch must both see a GPU, or neither.")
  if not on_cpu:
    torch.set_float32_matmul_precision("high")  # TF32, as XLA's default
  module = encoders.Transformer(
    2,
    **fields,
    max_positions=LENGTH,
    pooling="mean",
    # A GPU loops over layers as fast, and compiles one layer instead of all.
    unroll=fields["num_layers"] if on_cpu else 1,
    # There, reading what a backward pass keeps takes longer than making it.
    remat="none" if on_cpu else "elementwise",
    compute=compute,
  )
  table = jax.random.normal(jax.random.key(0), (VOCABULARY, fields["width"]))
  problem = problems.Problem(table, None, module)
  build = functools.partial(our_step, problem, options.real)
  without, cost, compiling = build(bank=False)
  with_bank, _, _ = build(bank=True)
  training_too, _, _ = build(bank=False, between=STEPS_BETWEEN)
  theirs = in_precision(compute, their_step(fields, options.real))
  theirs()
  a, b, c, whole = interleaved(
    options.rounds, without, with_bank, theirs, training_too
  )
  rate = matmul_rate(compute)
  rows = {
    "step without bank": (a, c),
    "step with bank": (b, c),
  }
  at_once = options.at_once or (1 if on_cpu else min(options.students, 10))
  ours, first = our_evaluation(
    problem, options.students, options.steps, options.rows, at_once
  )
  in_precision(compute, their_evaluation(fields, 1, 2, options.rows))()
  other = in_precision(
    compute,
    their_evaluation(fields, options.students, options.steps, options.rows),
  )
  rows["evaluation"] = tuple(interleaved(1, ours, other))
  print(f"{options.shape} shape, {compute}, {options.real} rows, ", end="")
  print(f"{jax.devices()[0].device_kind}, ", end="")
  print(f"jax {jax.__version__}, torch {torch.__version__}")
  print(f"{'':20}{'gmdistill, s':>14}{'PyTorch, s':>12}  ratio")
  for name, (mine, other_seconds) in rows.items():
    print(
      f"{name:20}{mine:14.3f}{other_seconds:12.3f}  {other_seconds / mine:.1f}x"
    )
  share = cost.flops / a / rate
  print(
    f"step without bank: {cost.flops / 1e9:.1f} GFLOP in products, "
    f"{cost.flops / a / 1e9:.0f} GFLOP/s, {share:.0%} of the "
    f"{rate / 1e9:.0f} GFLOP/s of one large product; compiled in "
    f"{compiling:.1f} s; the bank's ratio {a / b:.1f}x, and {whole / b:.1f}x "
    f"where {STEPS_BETWEEN} real training steps follow each match"
  )
  record.update(
    options.out,
    shape=options.shape,
    compute=compute,
    real=options.real,
    device=jax.devices()[0].device_kind,
    rows={
      name: {"gmdistill": mine, "torch": yours, "ratio": yours / mine}
      for name, (mine, yours) in rows.items()
    },
    bank_ratio=a / b,
    bank_ratio_with_training=whole / b,
    flops=cost.flops,
    matmul_flops_per_second=rate,
    compile_seconds=compiling,
    first_evaluation_seconds=first,
  )


if __name__ == "__main__":
  main()
