"""Outer steps on a language model's adapter, beside a plain PyTorch loop.

make bench

A rank-8 adapter of a decoder of SmolLM2-135M's shape, random weights, a set and
a real batch of 8 x 64 tokens: seconds of an outer step of look-ahead over two
steps and of matching, and memory. Each turn is a process of its own, whose
memory is what it takes above its weights: of ours as compiled, of PyTorch's as
it had at most. Adds `language_model` to runs/bench.json.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import time

import numpy as np
import record

SHAPES = {
  "smollm2": dict(
    width=576,
    num_layers=30,
    num_heads=9,
    num_key_value_heads=3,
    hidden=1536,
    vocabulary=49152,
  ),
  "tiny": dict(
    width=32,
    num_layers=2,
    num_heads=4,
    num_key_value_heads=2,
    hidden=64,
    vocabulary=500,
  ),
}
RANK, ROWS, LENGTH, AHEAD = 8, 8, 64, 2
PRECISIONS = ("float32", "bfloat16")


def ours(shape, objective, compute, rounds):
  """Returns seconds of each step, and bytes beside the arguments."""
  import lora_step

  step, cost = lora_step.build(
    dict(**SHAPES[shape], compute=compute, remat="layers"),
    objective,
    lora_step.Sizes(RANK, ROWS, LENGTH, AHEAD),
  )
  seconds = []
  for _ in range(rounds + 1):
    begun = time.perf_counter()
    step()
    seconds.append(time.perf_counter() - begun)
  return seconds[1:], cost.temporary


def theirs(shape, objective, compute, rounds):
  """Returns seconds of each step, and bytes beside the weights."""
  import torch
  import torch_lora

  torch.manual_seed(0)
  fields = SHAPES[shape]
  model = torch_lora.Model(fields, RANK, getattr(torch, compute))
  rows = torch.randint(fields["vocabulary"], (2, ROWS, LENGTH + 1))
  inputs = model.table[rows[0, :, :-1]].float().requires_grad_()
  arguments = (model, inputs, rows[0, :, 1:], rows[1])
  run = torch_lora.matching
  if objective == "look_ahead":
    run, arguments = torch_lora.look_ahead, (*arguments, AHEAD)
  before = resident("VmRSS")
  seconds = []
  for _ in range(rounds + 1):
    begun = time.perf_counter()
    run(*arguments)
    seconds.append(time.perf_counter() - begun)
  return seconds[1:], resident("VmHWM") - before


def resident(which):
  """Returns the bytes of memory that this process has, or had at most."""
  lines = pathlib.Path("/proc/self/status").read_text().splitlines()
  (line,) = [x for x in lines if x.startswith(which)]
  return 1024 * int(line.split()[1])


def main():
  """Prints a table, and adds it to the JSON file."""
  parser = argparse.ArgumentParser()
  parser.add_argument("--shape", choices=SHAPES, default="smollm2")
  parser.add_argument("--rounds", type=int, default=3)
  parser.add_argument("--out", default="runs/bench.json")
  parser.add_argument("--compute", choices=PRECISIONS, action="append")
  parser.add_argument("--turn", nargs=2, help=argparse.SUPPRESS)
  options = parser.parse_args()
  if options.turn:
    run = {"ours": ours, "theirs": theirs}[options.turn[0]]
    (compute,) = options.compute
    seconds, memory = run(
      options.shape, options.turn[1], compute, options.rounds
    )
    print(json.dumps([float(np.median(seconds)), memory]))
    return
  print(
    f"{options.shape} shape, adapter of rank {RANK}, {ROWS} x {LENGTH} tokens"
  )
  print(f"{'':28}{'gmdistill':>18}{'PyTorch':>20}  ratio of time, memory")
  table = []
  for compute in options.compute or PRECISIONS:
    for objective in ("look_ahead", "matching"):
      cells = {}
      for side in ("ours", "theirs"):
        command = [sys.executable, __file__, f"--shape={options.shape}"]
        command += [f"--compute={compute}", f"--rounds={options.rounds}"]
        done = subprocess.run(
          [*command, "--turn", side, objective],
          stdout=subprocess.PIPE,
          check=True,
        )
        cells[side] = json.loads(done.stdout.splitlines()[-1])
      (mine, held), (other, theirs_held) = cells.values()
      print(
        f"{objective + ', ' + compute:28}"
        f"{mine:8.2f} s{held / 2**20:5.0f} MiB"
        f"{other:10.2f} s{theirs_held / 2**20:5.0f} MiB"
        f"  {other / mine:.2f}x  {theirs_held / held:.1f}x",
        flush=True,
      )
      table.append(
        {
          "objective": objective,
          "compute": compute,
          "gmdistill": mine,
          "torch": other,
          "temporary_bytes": held,
          "torch_bytes": theirs_held,
        }
      )
  record.update(
    options.out, language_model={"shape": options.shape, "rows": table}
  )


if __name__ == "__main__":
  main()
