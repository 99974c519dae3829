"""A file of texts as a report shows it: its rows, and what was measured."""

from typing import Any

import numpy as np
from etils import epath

from gmdistill import errors
from gmdistill.reports import finished
from gmdistill.sets import text_sets
from gmdistill.system import json_files


def load(path: epath.Path, measured: epath.Path | None = None) -> finished.Run:
  """Reads a text set as a run that knows its rows and little else.

  Args:
    path: A file of JSON lines.
    measured: The workdir of a `gmdistill evaluate` on it, whose numbers are
      shown; there may be none. None: those of its card alone.

  Raises:
    InputError: the file is absent or damaged.
  """
  if not path.is_file():
    raise errors.InputError(f"there is no file {path}.")
  card = text_sets.read_card(path)
  names = card.get("label_names") or text_sets.label_names(path)
  text_set = text_sets.read(path, names)
  examples = [
    {
      "label": int(labels_C.argmax()),
      "labels": labels_C.tolist(),
      "tokens": [],
      "text": text if isinstance(text, str) else " | ".join(text),
      "weight": float(weight),
    }
    for text, labels_C, weight in zip(
      text_set.texts, text_set.labels, text_set.weights, strict=True
    )
  ]
  protocols: dict[str, Any] = card.get("results") or {}
  place = measured / "evaluation.json" if measured else None
  if place and place.is_file():
    found = json_files.read(place, "measure the texts again.")
    protocols = {
      name: {"unit": row["unit"], row["row"]: row}
      for name, row in found.items()
    }
  return finished.Run(
    workdir=path,
    config={},
    environment={},
    summary={
      "dataset": card.get("task", path.name),
      "student": "any student",
      "num_texts": len(examples),
      "protocols": protocols,
    },
    metrics={},
    analysis={"examples": examples},
    tensors={"labels": np.asarray(text_set.labels)},
    card={**card, "label_names": list(names)},
    missing=(),
  )
