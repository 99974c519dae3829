"""The command that says what there is to change: fields."""

import difflib
from typing import Any

from gmdistill import errors
from gmdistill import fields as field_table
from gmdistill.runs.config import recipe, settings
from gmdistill.system import console


def fields(flags: Any, rest: list[str], command: str) -> None:
  """Lists the fields of a config, or those whose name or meaning has words."""
  del command
  made = recipe.Recipe()
  if flags.config is not None:
    made = settings.recipe(flags.config)
  every = field_table.table(made)
  words = [word.lower() for text in rest for word in text.split()]
  chosen = [
    row
    for row in every
    if all(word in f"{row[0]} {row[2]} {row[3]}".lower() for word in words)
  ]
  if not chosen:
    _refuse(" ".join(words), [name for name, *_ in every])
  value = "default" if flags.config is None else "value"
  header = ("field", value, "must be", "meaning")
  if flags.json:
    keys = [name.replace(" ", "_") for name in header]
    console.data([dict(zip(keys, x, strict=True)) for x in chosen])
    return
  console.table(
    header, [(name, repr(is_), be, why) for name, is_, be, why in chosen]
  )


def _refuse(words, names):
  leaves = {name.rpartition(".")[2]: name for name in names}
  near = difflib.get_close_matches(words, [*names, *leaves], n=1)
  hint = f"did you mean {leaves.get(near[0], near[0])}? " if near else ""
  raise errors.InputError(
    f"no field is about {words!r}; {hint}gmdistill fields lists all "
    f"{len(names)}."
  )
