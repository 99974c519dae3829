"""Runs every shipped config in its tiny mode, in a process for each core.

  python tests/tiny_runs.py [NAME...]   these alone, such as sst2:finetune

A process imports JAX once, and a program that two of its configs share is
traced and compiled once; each config still runs through the command line's own
entry. A study that reads a bank gets a tiny one.
"""

import concurrent.futures
import multiprocessing
import os
import pathlib
import sys
import tempfile
import time

import jax

from gmdistill import main as command_line
from gmdistill.runs.config import shipped


def main(argv: list[str]) -> int:
  # Studies take the longest, and go first: all processes end together.
  sources = argv[1:] or sorted(shipped.sources(), key=is_of_one_run)
  with concurrent.futures.ProcessPoolExecutor(
    max_workers=os.cpu_count(),
    mp_context=multiprocessing.get_context("spawn"),
  ) as processes:
    ended = dict(zip(sources, processes.map(run, sources), strict=True))
  for source, (status, seconds) in ended.items():
    print(f"{source:32}{seconds:8.1f} s{f', status {status}' * bool(status)}")
  return max(status for status, _ in ended.values())


def run(source: str) -> tuple[int, float]:
  """Runs one config; returns the worst status, and the seconds it took."""
  start = time.monotonic()
  status = 0
  with tempfile.TemporaryDirectory() as folder:
    for arguments in commands(source, pathlib.Path(folder)):
      print("gmdistill", *arguments, flush=True)
      status = status or command_line.main(["gmdistill", *arguments])
  jax.clear_caches()  # a process has room for so many programs
  seconds = time.monotonic() - start
  print(f"{source}: {seconds:.1f} s, status {status}", flush=True)
  return status, seconds


def is_of_one_run(source: str) -> bool:
  name = source.partition(":")[0]
  return shipped.names()[name].parent.name != "studies"


def commands(source: str, work: pathlib.Path) -> list[list[str]]:
  """Returns what runs one config."""
  name, _, mode = source.partition(":")
  run = [f"--config={source}:tiny", f"--workdir={work / f'{name}-{mode}'}"]
  if name.startswith("pipeline/"):
    ablated = ["--ablate"] * (name == "pipeline/quickstart")  # once will do
    return [["pipeline", *run, *ablated]]
  if is_of_one_run(source):
    return [["distill", *run]]
  if name != "features":
    return [["sweep", *run]]
  bank = str(work / "bank")
  return [
    [
      "bank",
      "--config=quickstart:tiny",
      f"--workdir={bank}",
      "--config.bank.precision=float32",
    ],
    ["sweep", *run, f"--config.each.bank.dir={bank}"],
  ]


if __name__ == "__main__":
  sys.exit(main(sys.argv))
