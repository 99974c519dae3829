"""What the benchmarks write into: one JSON file, a key for each of them."""

import json
import pathlib
from typing import Any


def update(path: str, **parts: Any) -> None:
  """Puts `parts` in the place of those of the same names."""
  file = pathlib.Path(path)
  file.parent.mkdir(parents=True, exist_ok=True)
  found = json.loads(file.read_text()) if file.is_file() else {}
  file.write_text(json.dumps({**found, **parts}, indent=2) + "\n")
