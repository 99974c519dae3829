"""The flags of the command line, and the config that they change."""

import re
from collections.abc import Sequence
from typing import Any

from absl import flags as absl_flags
from ml_collections import config_flags

from gmdistill import errors
from gmdistill.runs.commands import verbs


def parse(argv: list[str]) -> tuple[Any, list[str]]:
  """Returns the parsed flags, and what is left of the command line.

  Raises:
    InputError: an unknown flag or field, or a value that it cannot have.
  """
  values = absl_flags.FlagValues()
  absl_flags.DEFINE_string("workdir", "", "", flag_values=values)
  absl_flags.DEFINE_string("set", "", "", flag_values=values)
  absl_flags.DEFINE_multi_string("teacher", [], "", flag_values=values)
  absl_flags.DEFINE_string("row", "distilled", "", flag_values=values)
  absl_flags.DEFINE_string("protocol", "", "", flag_values=values)
  absl_flags.DEFINE_string("method", "", "", flag_values=values)
  absl_flags.DEFINE_string("format", "html", "", flag_values=values)
  absl_flags.DEFINE_string("table", "results", "", flag_values=values)
  absl_flags.DEFINE_bool("ablate", False, "", flag_values=values)
  absl_flags.DEFINE_bool("compare", False, "", flag_values=values)
  absl_flags.DEFINE_string("to", "", "", flag_values=values)
  absl_flags.DEFINE_string("repo", "", "", flag_values=values)
  absl_flags.DEFINE_bool("private", False, "", flag_values=values)
  absl_flags.DEFINE_integer("devices", 0, "", flag_values=values)
  absl_flags.DEFINE_bool("json", False, "", flag_values=values)
  absl_flags.DEFINE_bool("distributed", False, "", flag_values=values)
  absl_flags.DEFINE_string("coordinator", "", "", flag_values=values)
  absl_flags.DEFINE_integer("num_processes", 0, "", flag_values=values)
  absl_flags.DEFINE_integer("process_id", -1, "", flag_values=values)
  given, argv = _taken(argv, "--config=")
  try:
    if given:
      # With JAX, slow to import.
      from gmdistill.runs.config import pipelines, shipped

      names = pipelines.of_texts()
      argv = [_as_texts(argument, names) for argument in argv]
      # Before the flags that change its fields are read: they are known by it.
      config = shipped.config_for(given)
      for argument in argv:
        group, so_far = config, ""
        for name in _field_of(argument):
          shipped.require_field(group, name, so_far)
          group, so_far = group[name], f"{so_far}{name}."
      config_flags.DEFINE_config_dict(
        "config",
        config,
        flag_values=values,
        sys_argv=argv,
      )
    else:
      _require_no_fields(argv)
      absl_flags.DEFINE_string("config", None, "", flag_values=values)
    rest = values(argv)
  except errors.InputError:
    raise
  except Exception as error:  # a config file is a program: any there is
    raise errors.InputError(_first_line(error)) from error
  return values, rest[1:]


def _taken(argv: list[str], flag: str) -> tuple[str, list[str]]:
  """Returns the last value of a flag, and the arguments without it.

  Raises:
    InputError: it stands apart from its value.
  """
  if flag.rstrip("=") in argv:
    raise errors.InputError(f"write {flag}NAME, with the =.")
  given = [x.removeprefix(flag) for x in argv if x.startswith(flag)]
  return (given or [""])[-1], [x for x in argv if not x.startswith(flag)]


def _field_of(argument: str) -> list[str]:
  """Returns the names on the way to the field that a flag changes, if any."""
  flag = argument.partition("=")[0].partition("[")[0]
  if not flag.startswith("--config."):
    return []
  return flag.removeprefix("--config.").split(".")


def _require_no_fields(argv):
  """Refuses fields of a config where none is named."""
  for argument in argv:
    if field := ".".join(_field_of(argument)):
      raise errors.InputError(
        f"--config.{field} changes a field of a config, and none is named; "
        "give it too, as in --config=quickstart."
      )


# Fields of texts with commas between, which `data` itself parts.
_PARTED_THERE = ("data.text_keys", "data.classes")


def _as_texts(argument: str, names: Sequence[str]) -> str:
  """Returns a flag whose value are texts, as the library reads texts: else 0,1
  are numbers to it, a,b is one text, and names with spaces are refused.

  `names`: of the fields that are texts, with their groups.
  """
  flag, equals, value = argument.partition("=")
  is_python = value.startswith(("(", "[", "'", '"'))
  named = [name for name in names if flag.endswith(f".{name}")]
  if not equals or is_python or not named:
    return argument
  texts = [value]
  if named[0] not in _PARTED_THERE:
    texts = [x for x in value.split(",") if x.strip()]
    if named[0] != "task.words":  # which may begin with a space
      texts = [x.strip() for x in texts]
  return f"{flag}={tuple(texts)!r}"


def require_taken(verb: str, flags: Any) -> None:
  """Checks that a verb was given no flag that it does not take.

  Raises:
    InputError: it was.
  """
  takes = verbs.VERBS[verb].takes.split()
  for name in {name.partition(".")[0] for name in verbs.FLAGS}:
    present = flags[name].present or (name == "config" and flags.config)
    if present and name not in takes:
      raise errors.InputError(
        f"{verb} takes no --{name}; it takes --{', --'.join(takes)}."
      )


# What Python says of a text that is none of a kind.
_KINDS = {
  r"invalid literal for int\(\) with base 10": "whole number",
  "could not convert string to float": "number",
}


def _first_line(error: Exception) -> str:
  # ml_collections puts one error into another, whole or as its repr.
  while error.args and isinstance(error.args[0], Exception):
    error = error.args[0]
  text = str(error.args[0] if error.args else error)
  text = text.replace("\\n", "\n").replace("\\'", "'").strip()
  if "Traceback (most recent call last)" in text:
    # An error inside the config file: its last line says which.
    text = text.splitlines()[-1]
    kind, _, said = text.partition(": ")
    text = said if kind.isidentifier() and " " in said else text
  elif isinstance(error, SyntaxError):
    text = f"SyntaxError in the config file: {error}"  # with file and line
  elif " " not in text or isinstance(error, ArithmeticError):
    text = f"{type(error).__name__} in the config file: {text}"
  for pythons, ours in _KINDS.items():
    text = re.sub(f"{pythons}: (.*)", rf"\1 is no {ours}", text)
  # ml_collections lists every field of the config before its suggestion.
  text = " ".join(text.split())
  return re.sub(r' Other fields present: ".*"(?= Did you mean|$)', "", text)
