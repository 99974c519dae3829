"""Runs every shipped config in its tiny mode, in one process.

  python tests/tiny_runs.py [NAME...]   these alone, such as sst2:finetune

One process imports JAX once, and a program that two configs share is compiled
once; each config still runs through the command line's own entry. A study that
reads a bank gets a tiny one.
"""

import pathlib
import sys
import tempfile
import time

import jax

from gmdistill import main as command_line
from gmdistill.runs.config import shipped


def main(argv: list[str]) -> int:
  seconds = {}
  with tempfile.TemporaryDirectory() as folder:
    for source in argv[1:] or shipped.sources():
      start = time.monotonic()
      for arguments in commands(source, pathlib.Path(folder)):
        print("gmdistill", *arguments, flush=True)
        status = command_line.main(["gmdistill", *arguments])
        if status:
          print(f"{source}:tiny ended with status {status}")
          return status
      seconds[source] = time.monotonic() - start
      jax.clear_caches()  # a process has room for so many programs
  for source, spent in sorted(seconds.items(), key=lambda item: -item[1]):
    print(f"{source:32}{spent:8.1f} s")
  return 0


def commands(source: str, work: pathlib.Path) -> list[list[str]]:
  """Returns what runs one config."""
  name, _, mode = source.partition(":")
  run = [f"--config={source}:tiny", f"--workdir={work / f'{name}-{mode}'}"]
  if name.startswith("pipeline/"):
    return [["pipeline", *run, "--ablate"]]
  if shipped.names()[name].parent.name != "studies":
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
