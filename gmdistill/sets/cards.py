"""A set's card: what it is of, and what it needs of a student."""

from typing import Any

from gmdistill.sets import spaces
from gmdistill.system import folders

DISTILLED = "distilled"  # what a learned set's examples are; see `first_card`


def first_card(
  setup: spaces.Setup,
  *,
  task: str,
  data_per_class: int,
  sequence_length: int,
  command: str,
  rows: str = DISTILLED,
) -> dict[str, Any]:
  """Returns what a set's card says before anything is measured.

  Args:
    setup: The space that the set lives in, and its classes.
    task: The data set's name.
    data_per_class: Examples a class.
    sequence_length: Positions of an example.
    command: What made the set.
    rows: What its examples are: distilled, a coreset's name, or texts.
  """
  return {
    "rows": rows,
    "task": task,
    "label_names": list(setup.corpus.label_names),
    "text_keys": list(setup.corpus.text_keys),
    "label_key": setup.corpus.label_key,
    "pooling": getattr(setup.problem.student, "pooling", "mean"),
    "data_per_class": data_per_class,
    "sequence_length": sequence_length,
    "embedding_space": setup.space_id,
    "provenance": folders.environment(command),
    "results": {},
  }
