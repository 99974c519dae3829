"""Data sets of the Hugging Face hub, fetched and kept by `datasets`."""

from typing import Any

from etils import epath

from gmdistill import errors
from gmdistill.data import table_files


def files(name: str) -> tuple[table_files.TableFile, ...]:
  """Returns the Arrow files in which `datasets` keeps a data set.

  Args:
    name: hf:ORG/NAME, or hf:ORG/NAME:CONFIG.

  Raises:
    errors.InputError: the package is not here, or the set cannot be fetched.
  """
  told = f"config.data.name={name}"
  try:
    import datasets
  except ImportError as error:
    raise errors.InputError(
      f"{told} needs a package that is not here ({error}); pip install "
      "'gmdistill[hub-data]'"
    ) from error
  path, _, config = name.removeprefix(table_files.ON_THE_HUB).partition(":")
  try:
    fetched: Any = datasets.load_dataset(path, config or None)
  except Exception as error:  # noqa: BLE001 its errors have no common base
    why = " ".join(str(error).split())[:300]
    raise errors.InputError(
      f"{told} cannot be read ({type(error).__name__}: {why}); give "
      "hf:ORG/NAME or hf:ORG/NAME:CONFIG as the hub has it"
    ) from error
  found = [
    table_files.TableFile(epath.Path(x["filename"]), "arrow", which)
    for split, rows in fetched.items()
    for which in [table_files.split_of(str(split))]
    for x in rows.cache_files
    if which
  ]
  if not found:
    raise errors.InputError(
      f"{told} has the splits {', '.join(map(str, fetched))}; a split of rows "
      "to train on is called train"
    )
  return tuple(found)
