"""A set's card: what it is of, and what it needs of a student."""

from typing import Any

import ml_collections
from etils import epath

from gmdistill.sets import set_files, spaces, synthetic
from gmdistill.system import folders

DISTILLED = "distilled"  # what a learned set's examples are; see `first_card`


def first_card(
  setup: spaces.Setup,
  config: ml_collections.ConfigDict,
  command: str,
  rows: str = DISTILLED,
) -> dict[str, Any]:
  """Returns what a set's card says before anything is measured.

  Args:
    setup: The space that the set lives in, and its classes.
    config: The run's.
    command: What made the set.
    rows: What its examples are: distilled, a coreset's name, or texts.
  """
  return {
    "rows": rows,
    "task": config.data.name,
    "label_names": list(setup.corpus.label_names),
    "text_keys": list(setup.corpus.text_keys),
    "label_key": setup.corpus.label_key,
    "pooling": getattr(setup.problem.student, "pooling", "mean"),
    "data_per_class": config.data_per_class,
    "sequence_length": config.sequence_length,
    "embedding_space": setup.space_id,
    "provenance": folders.environment(command),
    "results": {},
  }


def write_set(
  folder: epath.Path,
  syn: synthetic.SyntheticSet,
  card: dict[str, Any],
  setup: spaces.Setup,
  config: ml_collections.ConfigDict,
) -> None:
  """Writes `set/`, and the `space/` that it lives in where none is known."""
  set_files.save(folder / "set", syn, card, config.stored_as)
  if not config.student.pretrained:
    spaces.write(
      folder / "space", setup.problem.embeddings, setup.corpus.tokenizer
    )
