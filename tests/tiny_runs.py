"""Runs every shipped config in its tiny mode, in one process.

  python tests/tiny_runs.py [FOLDER]   FOLDER: configs/, or a part of it

One process imports JAX once, and a program that two configs share is compiled
once; each config still runs through the command line's own entry.
"""

import pathlib
import sys
import tempfile
import time

from gmdistill import main as command_line

ROOT = pathlib.Path(__file__).parents[1]


def main(argv: list[str]) -> int:
  folder = pathlib.Path(argv[1]) if len(argv) > 1 else ROOT / "configs"
  seconds = {}
  with tempfile.TemporaryDirectory() as runs:
    for config in sorted(folder.rglob("*.py")):
      name = str(config.relative_to(folder).with_suffix(""))
      verb = "sweep" if "gmdistill sweep" in config.read_text() else "distill"
      arguments = [
        verb,
        f"--config={config}:tiny",
        f"--workdir={runs}/{name.replace('/', '-')}",
      ]
      print("gmdistill", *arguments, flush=True)
      start = time.monotonic()
      status = command_line.main(["gmdistill", *arguments])
      if status:
        print(f"{config}:tiny ended with status {status}")
        return status
      seconds[name] = time.monotonic() - start
  for name, spent in sorted(seconds.items(), key=lambda item: -item[1]):
    print(f"{name:32}{spent:8.1f} s")
  return 0


if __name__ == "__main__":
  sys.exit(main(sys.argv))
