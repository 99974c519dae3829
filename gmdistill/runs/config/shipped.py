"""Config files, read: those of this package by name, others by their path.

A config file of this package has `get_config()`, or `MODES`, a function for
each mode; a user's has `get_config(mode)`. `:tiny` after any of ours makes the
recipe small enough for seconds on a CPU: by `settings.tiny`, or by a function
`tiny(config)` of the file. A study names in `TINY` which of its runs that are.
"""

import difflib
import pathlib
import runpy
from collections.abc import Mapping
from typing import Any

import ml_collections

from gmdistill import errors
from gmdistill.runs.config import settings, studies
from gmdistill.system import console, paths

# Where what a file of an earlier version said is now.
RENAMED = {
  "quickstart_kd": "quickstart:kd",
  "sst2_finetune": "sst2:finetune",
  "sst2_finetune_ahead": "sst2:finetune_ahead",
  "sst2_kd": "sst2:kd",
  "sst2_step_matching": "sst2:steps",
}


# Folders whose configs are named with them: another folder has these names.
BY_FOLDER = ("pipeline", "readable", "travelling")


def folder() -> pathlib.Path:
  """Returns where this package's config files are: installed, or a checkout."""
  package = pathlib.Path(__file__).parents[2]
  installed = package / "configs"
  return installed if installed.is_dir() else package.parent / "configs"


def names() -> dict[str, pathlib.Path]:
  """Returns this package's config files by name; those of some folders by
  these too, as others have the same names."""
  return {
    f"{path.parent.name}/{path.stem}"
    if path.parent.name in BY_FOLDER
    else path.stem: path
    for path in sorted(folder().rglob("*.py"))
  }


def sources() -> list[str]:
  """Returns every config of this package as `--config=` takes it."""
  found = []
  for name, path in names().items():
    modes = runpy.run_path(str(path)).get("MODES", {"": None})
    found += [f"{name}:{mode}" if mode else name for mode in modes]
  return found


def config_for(source: str) -> ml_collections.ConfigDict:
  """Returns the config that a command line names.

  Args:
    source: The name of one of this package's ("sst2"), or a file, with modes
      after colons ("sst2:finetune:tiny", "mine.py:small").

  Raises:
    InputError: there is no such config, it has no such mode, or it is none.
  """
  config = _read(source)
  if not isinstance(config, ml_collections.ConfigDict):
    raise errors.InputError(
      f"{source} is no config: its get_config must return "
      "gmdistill.runs.config.settings.defaults() with values changed."
    )
  return config


def _read(source: str) -> Any:
  name, *modes = source.split(":")
  path = pathlib.Path(paths.path(name))
  if not (name.endswith(".py") and path.is_file()):
    name, modes = _of_ours(name, modes)
    path = pathlib.Path(name)
  module = runpy.run_path(str(path))
  if not path.resolve().is_relative_to(folder().resolve()):
    if "get_config" not in module:
      raise errors.InputError(f"the config file {path} has no get_config.")
    return module["get_config"](*([":".join(modes)] if modes else []))
  known = module.get("MODES") or {"": module["get_config"]}
  asked = [mode for mode in modes if mode != "tiny"] or [""]
  if len(asked) > 1 or asked[0] not in known:
    mode, known_modes = ":".join(asked), [*filter(None, known), "tiny"]
    errors.not_one_of(f"mode {mode!r} of {path.stem}", mode, known_modes)
  config = known[asked[0]]()
  if "tiny" not in modes:
    return config
  if "TINY" in module:
    return studies.tiny(config, module["TINY"])
  return module.get("tiny", settings.tiny)(config)


def _of_ours(name: str, modes: list[str]) -> tuple[str, list[str]]:
  """Returns the path of a config of this package, by its name or an old path.

  Raises:
    InputError: there is none of that name.
  """
  path, known = pathlib.PurePath(name), names()
  is_file = path.suffix == ".py"
  stem = path.stem if is_file and path.parent.name == "configs" else name
  now, *more = RENAMED.get(stem, stem).split(":")
  if now not in known:
    near = difflib.get_close_matches(stem, known, n=1)
    hint = f"did you mean {near[0]}?" if near else f"or of {', '.join(known)}."
    what = "config file" if is_file else "config"
    raise errors.InputError(
      f"there is no {what} {name}; give a file such as mine.py, {hint}"
    )
  if is_file or stem in RENAMED:
    place = known[now].relative_to(folder().parent)
    console.complain(
      f"note: {name} is {':'.join([now, *more])} in {place} now; its old name "
      "goes with the next version"
    )
  return str(known[now]), [*more, *modes]


def load_config(
  source: str | ml_collections.ConfigDict, **fields: Any
) -> ml_collections.ConfigDict:
  """Returns a config, with fields changed.

  Args:
    source: The name of a shipped config ("quickstart"), with modes after colons
      ("sst2:finetune:tiny"); a config file of your own ("mine.py"); or a
      config, which is copied.
    **fields: Fields to change, such as `seed=1`; those of a group as a dict,
      such as `data={"max_length": 32}`.

  Raises:
    InputError: there is no such config, mode or field.
  """
  if isinstance(source, ml_collections.ConfigDict):
    config = source
  else:
    try:
      config = config_for(str(source))
    except errors.InputError:
      raise  # which names it
    except ValueError as error:
      raise errors.InputError(f"{source}: {error}") from error
  settings.require_one_run(config)
  config = config.copy_and_resolve_references()
  _change(config, fields)
  return config


def _change(config: Any, fields: Mapping[str, Any], group: str = "") -> None:
  for name, value in fields.items():
    require_field(config, name, group)
    if isinstance(config[name], ml_collections.ConfigDict):
      if not isinstance(value, Mapping):
        raise errors.InputError(
          f"{group}{name} is a group of fields; give a dict of those to change."
        )
      _change(config[name], value, f"{group}{name}.")
      continue
    try:
      config[name] = value
    except (TypeError, ValueError) as error:
      kind = type(config[name]).__name__
      raise errors.InputError(
        f"{group}{name}={value!r} is no {kind}, as {config[name]!r} is."
      ) from error


def require_field(config: Any, name: str, group: str = "") -> None:
  """Checks that a config, or a `group.` of its fields, has one of that name.

  Raises:
    InputError: it has none.
  """
  known = list(config) if isinstance(config, ml_collections.ConfigDict) else []
  if name not in known:
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean {near[0]}?" if near else "."
    raise errors.InputError(f"a config has no field {group}{name}{hint}")
