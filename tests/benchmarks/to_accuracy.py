"""Seconds from a cold start to an accuracy, compiling included.

make bench

The quickstart's run as a command of its own, with an empty cache of compiled
programs and with the one that it leaves; beside it the same run in PyTorch
(torch_look_ahead.py). The clock runs from the start of the process to the
evaluation, on selection rows, that reaches the accuracy. The corpus and its
table are cached before. Adds `to_accuracy` to runs/bench.json.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import record

from gmdistill.runs import first_set
from gmdistill.runs.config import assembly, row_fields, settings, shipped

HERE = pathlib.Path(__file__).parent


def write_arrays(config: Any, folder: pathlib.Path) -> list[str]:
  """Writes what the PyTorch run reads; returns its arguments."""
  setup = assembly.setup(settings.recipe(config))
  stored = assembly.parameterization(settings.recipe(config), setup.problem)
  start = stored.decode(
    first_set.first_params(setup, settings.recipe(config), stored)
  ).batch
  chosen = row_fields.selection_rows(setup.corpus, settings.recipe(config))
  parts = {"train": setup.corpus.train, "selection": chosen}
  arrays = {
    "table": setup.problem.embeddings,
    "embeddings": start.inputs,
    "labels": start.labels,
  }
  for name, rows in parts.items():
    arrays[f"{name}_ids"] = rows.token_ids
    arrays[f"{name}_mask"] = rows.mask
    arrays[f"{name}_labels"] = rows.labels.astype(np.int64)
  np.savez(
    folder / "arrays.npz", **{k: np.asarray(x) for k, x in arrays.items()}
  )
  student = config.student
  options = {
    "student": {
      "width": student.width,
      "layers": student.num_layers,
      "heads": student.num_heads,
      "hidden": student.hidden,
      "positions": student.max_positions,
      "classes": len(setup.corpus.label_names),
    },
    "step_size": config.initial_step_size,
    "replay_steps": config.replay_steps,
    "rate": config.outer.learning_rate,
    "warmup": max(1, round(config.outer.warmup * config.num_steps)),
    "num_steps": config.num_steps,
    "num_students": config.num_students,
    "rows_per_class": config.rows_per_class,
    "eval_every": config.eval_every,
    "students": config.selection.num_students,
  }
  (folder / "options.json").write_text(json.dumps(options))
  return [str(folder / "arrays.npz"), str(folder / "options.json")]


def seconds_to(
  command: list[str], log: pathlib.Path, wanted: float, limit: float
) -> tuple[float | None, float]:
  """Starts a run; returns the seconds to an accuracy, and the best one seen.

  Args:
    command: Writes lines of JSON with the accuracy into `log`.
    log: Read as it grows.
    wanted: The accuracy at which the run is stopped.
    limit: Seconds after which it is stopped anyway; then None is returned.
  """
  log.parent.mkdir(exist_ok=True)
  begun, best = time.perf_counter(), 0.0
  with log.with_suffix(".out").open("w") as out:
    streams = {"stdout": out, "stderr": subprocess.STDOUT}
    process = subprocess.Popen(command, **streams)
    try:
      while (spent := time.perf_counter() - begun) < limit:
        ended = process.poll() is not None
        best = max([best, *accuracies(log)])
        if best >= wanted:
          return spent, best
        if ended:
          if process.returncode:
            raise RuntimeError(log.with_suffix(".out").read_text()[-2000:])
          break
        time.sleep(0.05)
    finally:
      process.kill()
      process.wait()
  return None, best


def accuracies(log: pathlib.Path) -> Iterator[float]:
  """Yields the accuracies in the whole lines of a log."""
  text = log.read_text() if log.is_file() else ""
  for line in text[: text.rfind("\n") + 1].splitlines():
    if line.startswith("{"):
      seen = json.loads(line)
      value = seen.get("selection/accuracy", seen.get("accuracy"))
      if value is not None:
        yield value


def runs(folder: pathlib.Path) -> Iterable[tuple[str, list[str], pathlib.Path]]:
  """Yields a name, a command and its log for each of the runs."""
  config = shipped.config_for("quickstart")
  arguments = write_arrays(config, folder)
  os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder / "programs")
  for name in ("cold", "warm"):
    command = [sys.executable, "-m", "gmdistill", "distill"]
    command += ["--config=quickstart", f"--workdir={folder / name}"]
    yield f"gmdistill, {name}", command, folder / name / "metrics.jsonl"
  command = [sys.executable, str(HERE / "torch_look_ahead.py"), *arguments]
  yield "PyTorch", command, folder / "torch.out"


def main() -> None:
  """Prints a table, and adds it to the JSON file."""
  parser = argparse.ArgumentParser()
  parser.add_argument("--accuracy", type=float, default=0.75)
  parser.add_argument("--limit", type=float, default=600.0)
  parser.add_argument("--out", default="runs/bench.json")
  options = parser.parse_args()
  found = {}
  with tempfile.TemporaryDirectory() as folder:
    print(f"quickstart, to {options.accuracy:.0%} on the selection rows:")
    for name, command, log in runs(pathlib.Path(folder)):
      spent, best = seconds_to(command, log, options.accuracy, options.limit)
      said = f"{spent:.1f} s" if spent else f"not in {options.limit:.0f} s"
      print(f"{name:18}{said:>14}  (best seen {best:.1%})", flush=True)
      found[name] = {"seconds": spent, "best": best}
  record.update(
    options.out,
    to_accuracy={
      "accuracy": options.accuracy,
      "limit": options.limit,
      "rows": found,
    },
  )


if __name__ == "__main__":
  main()
