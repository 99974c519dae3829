"""Reading a CSV file that is larger than memory may be: rows a second, memory.

make bench
python tests/benchmarks/read_rows.py --gigabytes=1

Writes a CSV of made-up reviews, reads and tokenizes it as a run does, and reads
what was kept once more. Of memory it tells the most that no file backs: pages
of files that are mapped, the system takes back when it wants them. Adds `rows`
to runs/bench.json.
"""

import argparse
import os
import pathlib
import random
import tempfile
import threading
import time
from typing import Any

import record

WORDS = 20_000  # different ones
OF_A_ROW = 60


def write(path: pathlib.Path, num_bytes: int) -> int:
  """Writes rows of texts of two classes; returns how many."""
  rng = random.Random(0)
  letters = "etaoinshrdlucmfwypvbgk"
  words = ["".join(rng.choices(letters, k=rng.randint(2, 10)))
           for _ in range(WORDS)]  # fmt: skip
  rows = 0
  with path.open("w") as file:
    file.write("text,label\n")
    while file.tell() < num_bytes:
      lines = []
      for _ in range(4096):
        label = rng.randrange(2)
        half = WORDS // 2 * label  # the words of a class are a little its own
        drawn = rng.choices(words, k=OF_A_ROW - 10)
        drawn += rng.choices(words[half : half + WORDS // 2], k=10)
        lines.append(f"{' '.join(drawn)},{('bad', 'good')[label]}\n")
      file.write("".join(lines))
      rows += len(lines)
  return rows


class Memory:
  """The most memory of this process that no file backs, as a thread sees it."""

  def __init__(self) -> None:
    """Begins to watch."""
    self.peak = 0
    self._over = threading.Event()
    threading.Thread(target=self._watch, daemon=True).start()

  def _watch(self):
    while not self._over.wait(0.05):
      status = pathlib.Path("/proc/self/status").read_text()
      kilobytes = int(status.partition("RssAnon:")[2].split()[0])
      self.peak = max(self.peak, kilobytes * 1024)

  def close(self) -> int:
    """Returns the peak."""
    self._over.set()
    return self.peak


def measure(path: pathlib.Path) -> dict[str, Any]:
  """Returns seconds and peak bytes of a first and a second reading."""
  from gmdistill.data import loading  # $GMDISTILL_CACHE is set by now

  found: dict[str, Any] = {"bytes": path.stat().st_size}
  for name in ("first", "kept"):
    memory, began = Memory(), time.perf_counter()
    corpus = loading.load(loading.Options(str(path), vocab_size=8192))
    found[f"{name}_seconds"] = time.perf_counter() - began
    found[f"{name}_peak_bytes"] = memory.close()
    found["rows"] = sum(
      len(part.labels)
      for part in (corpus.train, corpus.selection, corpus.reported)
    )
    found["token_bytes"] = corpus.train.token_ids.nbytes
    del corpus
  return found


def main() -> None:
  """Measures, prints and records."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--gigabytes", type=float, default=5.0)
  parser.add_argument("--folder", default=None, help="for some 3 times that")
  parser.add_argument("--out", default="runs/bench.json")
  given = parser.parse_args()
  with tempfile.TemporaryDirectory(dir=given.folder) as folder:
    os.environ["GMDISTILL_CACHE"] = f"{folder}/cache"
    path = pathlib.Path(folder) / "rows.csv"
    rows = write(path, int(given.gigabytes * 1e9))
    found = measure(path)
  assert found["rows"] == rows, (found["rows"], rows)
  from gmdistill.system import units

  print(f"{units.size(found['bytes'])} of CSV, {units.number(rows)} rows, of")
  print(f"whose tokens {units.size(found['token_bytes'])} are ids:")
  for name in ("first", "kept"):
    seconds, peak = found[f"{name}_seconds"], found[f"{name}_peak_bytes"]
    print(
      f"{name:6} {units.seconds(seconds):>12} "
      f"{units.number(rows / seconds):>8} rows/s   peak {units.size(peak)}"
    )
  record.update(given.out, rows=found)


if __name__ == "__main__":
  main()
