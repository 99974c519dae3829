"""Records what small runs leave, to the bit, and compares with a record.

  python tests/goldens.py record FILE    runs them; writes their hashes
  python tests/goldens.py compare FILE   runs them again; status 1, and what
                                         differs, where a hash is another

Bits depend on the kind of processor and on JAX: record and compare on one
machine, in one environment, before and after a change that must not change a
number. Only the command line is used, so that the record of one version can
be compared with any later one.
"""

import hashlib
import json
import os
import pathlib
import sys
import tempfile

ROOT = pathlib.Path(__file__).parents[1]
RUNS = ("quickstart", "sst2_step_matching", "quickstart_kd", "chains")
TIMES = ("time", "seconds", "bytes", "break_even")  # of the machine's hour


def main(argv: list[str]) -> int:
  if len(argv) != 3 or argv[1] not in ("record", "compare"):
    print(__doc__)
    return 2
  path = pathlib.Path(argv[2])
  with tempfile.TemporaryDirectory() as folder:
    os.environ["GMDISTILL_CACHE"] = f"{folder}/cache"
    hashes = run_all(pathlib.Path(folder))
  if argv[1] == "record":
    path.write_text(json.dumps(hashes, indent=2, sort_keys=True) + "\n")
    return 0
  before = json.loads(path.read_text())
  names = sorted(set(before) | set(hashes))
  differing = [x for x in names if before.get(x) != hashes.get(x)]
  for name in differing:
    print(f"{name}: was {before.get(name)}, is {hashes.get(name)}")
  print(f"{len(names) - len(differing)} of {len(names)} hashes are the same")
  return 1 if differing else 0


def run_all(folder: pathlib.Path) -> dict[str, str]:
  """Returns `{"run/file": hash}` of every run's metrics, set and results."""
  hashes: dict[str, str] = {}
  for name in RUNS:
    config = f"--config={ROOT}/configs/{name}.py:tiny"
    gmdistill("distill", config, f"--workdir={folder / name}")
    hashes |= hashes_of(folder / name, name)
  config = f"--config={ROOT}/configs/quickstart.py:tiny"
  gmdistill("bank", config, f"--workdir={folder / 'bank'}")
  gmdistill(
    "distill",
    config,
    "--config.objective=gradient_matching",
    f"--config.bank.dir={folder / 'bank'}",
    f"--workdir={folder / 'against_bank'}",
  )
  return hashes | hashes_of(folder / "against_bank", "against_bank")


def gmdistill(*arguments: str) -> None:
  from gmdistill import main as command_line

  status = command_line.main(["gmdistill", *arguments])
  if status:
    raise SystemExit(f"gmdistill {' '.join(arguments)} ended with {status}")


def hashes_of(workdir: pathlib.Path, name: str) -> dict[str, str]:
  """Returns the hashes of one finished run, without what time changes."""
  lines = (workdir / "metrics.jsonl").read_text().splitlines()
  metrics = [without_times(json.loads(line)) for line in lines]
  summary = without_times(json.loads((workdir / "summary.json").read_text()))
  rows = {  # hashes are of before rows had a unit
    name: {row: x for row, x in protocol.items() if row != "unit"}
    for name, protocol in summary["protocols"].items()
  }
  tensors = (workdir / "set" / "set.safetensors").read_bytes()
  return {
    f"{name}/set.safetensors": hashlib.sha256(tensors).hexdigest(),
    f"{name}/metrics.jsonl": hash_of(metrics),
    f"{name}/summary.json": hash_of(rows),
    f"{name}/gradient_cosine": hash_of(summary.get("gradient_cosine")),
  }


def without_times(values: dict) -> dict:
  return {
    key: without_times(value) if isinstance(value, dict) else value
    for key, value in values.items()
    if not any(word in key for word in TIMES)
  }


def hash_of(values: object) -> str:
  text = json.dumps(values, sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()


if __name__ == "__main__":
  sys.exit(main(sys.argv))
