"""Studies: configs of several runs, by name.

Two names are no runs: the fields of `each` are set in every run, and `only` is
a pattern of the names of those that run.
"""

import fnmatch
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import ml_collections

from gmdistill import errors
from gmdistill.runs.config import settings


def study(
  runs: Mapping[str, ml_collections.ConfigDict], **each: Any
) -> ml_collections.ConfigDict:
  """Returns a study of runs, with fields that are set in each.

  Args:
    runs: The config of each run by its name.
    **each: Fields of every run, which `--config.each.FIELD=` changes.
  """
  return ml_collections.ConfigDict({**runs, "only": "", "each": each})


def tiny(
  whole: ml_collections.ConfigDict, names: Sequence[str]
) -> ml_collections.ConfigDict:
  """Returns a few runs of a study, made small; `each` says what they have."""
  runs = {name: settings.tiny(whole[name]) for name in names}
  first = runs[names[0]]
  return study(runs, **_same_of(first, whole.each))


def _same_of(config, fields):
  """Returns the values that a config has of fields, which may be groups."""
  return {
    name: _same_of(config[name], value)
    if isinstance(value, ml_collections.ConfigDict)
    else config[name]
    for name, value in fields.items()
  }


def named(configs: Any) -> dict[str, ml_collections.ConfigDict]:
  """Returns the config of each run by its name, with `each` set in it.

  Raises:
    InputError: no configs of runs, a name that is no folder's, or an `each`
      that does not fit.
  """
  found = dict(configs.items())
  each, _ = found.pop("each", None), found.pop("only", None)
  if not found or not all(
    isinstance(config, ml_collections.ConfigDict) and "num_steps" in config
    for config in found.values()
  ):
    raise errors.InputError(
      "sweep needs a config that maps names to the configs of runs, such as "
      "--config=results; for a single run use gmdistill distill."
    )
  for name, config in found.items():
    if pathlib.PurePath(name).name != name or name.startswith("."):
      raise errors.InputError(
        f"the run {name!r} cannot name a folder; use letters, digits and -."
      )
    if each:
      try:
        config.update(each)
      except (KeyError, TypeError) as error:
        raise errors.InputError(
          f"the sweep's each does not fit the run {name}: "
          f"{' '.join(str(error).split())}"
        ) from error
  return found


def chosen(
  runs: Mapping[str, ml_collections.ConfigDict], configs: Any
) -> dict[str, ml_collections.ConfigDict]:
  """Returns those of the runs that `only` names.

  Raises:
    InputError: it names none.
  """
  only = configs.get("only", "")
  found = {
    name: config
    for name, config in runs.items()
    if not only or fnmatch.fnmatchcase(name, only)
  }
  if not found:
    raise errors.InputError(
      f"only={only!r} fits none of the runs: {', '.join(runs)}."
    )
  return found
