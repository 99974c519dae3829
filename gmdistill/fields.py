"""Fields: the default, the range and the meaning of what a maker takes.

A maker is a frozen dataclass of options, or a function with keyword arguments.
Its signature has the defaults, its annotations the ranges (`Count`, `Share`),
and `Args:` or `Attributes:` of its docstring the meanings. `of` reads all
three: a config, its checks and its reference are derived from the one place.
"""

import dataclasses
import inspect
import math
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated, Any, NamedTuple

from gmdistill import errors


@dataclasses.dataclass(frozen=True)
class Range:
  """Which finite numbers a field may be; its text completes "must be ...".

  Attributes:
    least: The smallest.
    most: The largest.
    above: All are larger than this.
    below: All are smaller than this.
    or_zero: 0 too, which then means something of its own.
  """

  least: float | None = None
  most: float | None = None
  above: float | None = None
  below: float | None = None
  or_zero: bool = False

  def __contains__(self, value: float) -> bool:
    """Whether a number is in the range; NaN and infinity are in none."""
    if not math.isfinite(value):
      return False
    return (self.or_zero and value == 0) or (
      (self.least is None or value >= self.least)
      and (self.most is None or value <= self.most)
      and (self.above is None or value > self.above)
      and (self.below is None or value < self.below)
    )

  def __str__(self) -> str:
    """Says the range: `from 0 to 1`, `above 0`, `0, or at least 4`."""
    low = {"at least": self.least, "above": self.above}
    high = {"at most": self.most, "below": self.below}
    ends = [
      f"{word} {_said(end)}"
      for words in (low, high)
      for word, end in words.items()
      if end is not None
    ]
    if self.least is not None and self.most is not None:
      ends = [f"from {_said(self.least)} to {_said(self.most)}"]
    elif self.least is not None and self.below is not None:
      ends = [f"from {_said(self.least)} to below {_said(self.below)}"]
    text = " and ".join(ends) or "finite"
    return f"0, or {text}" if self.or_zero else text


def _said(number: float) -> str:
  whole = {2**32 - 1: "2**32 - 1", 2**31 - 1: "2**31 - 1"}
  short = f"{number:g}" if number < 1 or number > 1e6 else f"{number:.0f}"
  return whole.get(int(number), short)


# Whole numbers.
Seed = Annotated[int, Range(0, 2**32 - 1)]  # JAX's keys repeat from there on
Count = Annotated[int, Range(1, 10**6)]  # of what is held at once
FromZero = Annotated[int, Range(0, 10**6)]
Steps = Annotated[int, Range(1, 2**31 - 1)]  # one after another, or a bound
Schedule = Annotated[int, Range(2, 2**31 - 1)]  # a warm-up, a step after it
StepsFromZero = Annotated[int, Range(0, 2**31 - 1)]
Length = Annotated[int, Range(4, 2**20)]  # of a row, in tokens
LengthOrZero = Annotated[int, Range(4, 2**20, or_zero=True)]
Width = Annotated[int, Range(1, 2**18)]
Layers = Annotated[int, Range(1, 1000)]
LayersOrAll = Annotated[int, Range(1, 1000, or_zero=True)]
KmerOrZero = Annotated[int, Range(1, 6, or_zero=True)]  # of 4^6 words
Slots = Annotated[int, Range(2, 2**16)]
Vocabulary = Annotated[int, Range(64, 2**24)]
# Other numbers.
Share = Annotated[float, Range(0, 1)]
Fraction = Annotated[float, Range(0, below=1)]
Inside = Annotated[float, Range(above=0, below=1)]
Rate = Annotated[float, Range(above=0, most=1e30)]  # of an optimiser
RateOrZero = Annotated[float, Range(0, 1e30)]
Decay = Annotated[float, Range(0, 100)]  # of weights
Positive = Annotated[float, Range(above=0, most=1e12)]
Size = Annotated[float, Range(0, 1e12)]


class Field(NamedTuple):
  """One field of a config."""

  name: str  # with its groups: `outer.learning_rate`
  default: Any
  kind: Any  # bool, int, float, str, or tuple[..., ...] of one of them
  range: Range | None  # of the number, or of each of the numbers
  meaning: str


def of(maker: Callable[..., Any]) -> dict[str, Field]:
  """Returns the fields that a maker takes by name and has defaults for."""
  bases = maker.__mro__ if isinstance(maker, type) else (maker,)
  meanings: dict[str, str] = {}
  for base in reversed(bases):
    meanings |= _meanings(base.__doc__ or "")
  hints = typing.get_type_hints(maker, include_extras=True)
  return {
    name: Field(
      name,
      parameter.default,
      *_kind_and_range(hints.get(name, Any)),
      meanings.get(name, ""),
    )
    for name, parameter in inspect.signature(maker).parameters.items()
    if parameter.default is not inspect.Parameter.empty
  }


def options(
  name: str,
  *makers: Callable[..., Any],
  only: str = "",
  without: str = "",
  **defaults: Any,
) -> Any:
  """Returns a frozen dataclass of the fields of makers.

  Args:
    name: Its name.
    *makers: Whose fields; of two with one name, the first maker's.
    only: Names of those taken, with spaces between; empty: all.
    without: Names of those left out.
    **defaults: Others than the makers'.
  """
  chosen: dict[str, Field] = {}
  for maker in makers:
    for key, field in of(maker).items():
      if (not only or key in only.split()) and key not in without.split():
        chosen.setdefault(key, field)
  entries = [
    (
      key,
      Annotated[field.kind, field.range] if field.range else field.kind,
      dataclasses.field(default=defaults.get(key, field.default)),
    )
    for key, field in chosen.items()
  ]
  made = dataclasses.make_dataclass(name, entries, frozen=True)
  listed = "\n".join(f"  {key}: {x.meaning}" for key, x in chosen.items())
  made.__doc__ = f"Of {name}.\n\nAttributes:\n{listed}\n"
  return made


def read(made: Any, values: Mapping[str, Any], group: str = "") -> Any:
  """Returns a dataclass of nested values; what is missing has its default.

  Args:
    made: The dataclass, or one whose values are the defaults.
    values: By name; groups are mappings.
    group: The name of it all in a config, with a dot after it.

  Raises:
    InputError: names the field that is unknown, of another type, or out of its
      range.
  """
  defaults = made() if isinstance(made, type) else made
  kind = type(defaults)
  known = of(kind)
  if unknown := [name for name in values if name not in known]:
    raise errors.InputError(
      f"{group}{unknown[0]} is no field; use one of {', '.join(known)}."
    )
  found = {}
  for name, field in known.items():
    default = getattr(defaults, name)
    value = values.get(name, default)
    if dataclasses.is_dataclass(default):
      if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = dataclasses.asdict(value)
      if not isinstance(value, Mapping):
        raise errors.InputError(f"{group}{name}={value!r} must be fields.")
      found[name] = read(default, value, f"{group}{name}.")
    else:
      found[name] = checked(field._replace(name=f"{group}{name}"), value)
  return errors.named(group.rstrip("."), lambda: kind(**found))


def require(options: Any, group: str) -> None:
  """Checks the numbers of a dataclass of options, from its `__post_init__`.

  Raises:
    InputError: names the field and what would be right.
  """
  for name, field in of(type(options)).items():
    named = field._replace(name=f"{group}.{name}")
    object.__setattr__(options, name, checked(named, getattr(options, name)))


def checked(field: Field, value: Any) -> Any:
  """Returns a value as its field has it: a tuple of a list, 1.0 of 1.

  Raises:
    InputError: another type, or out of the field's range.
  """
  if typing.get_origin(field.kind) is tuple:
    return _checked_tuple(field, value)
  if not _is_of(field.kind, value) or (
    field.range is not None and value not in field.range
  ):
    raise errors.InputError(f"{field.name}={value} must be {said(field)}.")
  return float(value) if field.kind is float else value


def said(field: Field) -> str:
  """Returns what a value must be, in words."""
  if typing.get_origin(field.kind) is tuple:
    inner = field._replace(kind=typing.get_args(field.kind)[0])
    words = said(inner).replace("a whole number", "whole numbers")
    return words.replace("a number", "numbers").replace("a text", "texts")
  kind = {
    bool: "True or False",
    str: "a text",
    int: "a whole number",
    float: "a number",
  }.get(field.kind, "")
  return f"{kind}, {field.range}" if field.range else kind


def walk(made: Any, group: str = "") -> Iterator[Field]:
  """Yields every field of nested dataclasses, named with its groups."""
  defaults = made() if isinstance(made, type) else made
  for name, field in of(type(defaults)).items():
    default = getattr(defaults, name)
    if dataclasses.is_dataclass(default):
      yield from walk(default, f"{group}{name}.")
    else:
      yield field._replace(name=f"{group}{name}", default=default)


def table(made: Any) -> list[tuple[str, Any, str, str]]:
  """Returns (name, default, what it must be, meaning) of every field.

  For a reference, and for a command that lists them.
  """
  return [
    (field.name, field.default, said(field), field.meaning)
    for field in walk(made)
  ]


def _is_of(kind: Any, value: Any) -> bool:
  if kind is float:
    return isinstance(value, int | float) and not isinstance(value, bool)
  if kind is int:
    return isinstance(value, int) and not isinstance(value, bool)
  return kind is Any or isinstance(value, kind)


def _checked_tuple(field: Field, value: Any) -> tuple[Any, ...]:
  inner = typing.get_args(field.kind)[0]
  if isinstance(value, str) and inner is str:
    value = (value,) if value else ()  # a flag names one without brackets
  whole = isinstance(value, tuple | list) and all(
    _is_of(inner, x) and (field.range is None or x in field.range)
    for x in value
  )
  if not whole:
    raise errors.InputError(f"{field.name}={value} must be {said(field)}.")
  return tuple(float(x) if inner is float else x for x in value)


def _kind_and_range(hint: Any) -> tuple[Any, Range | None]:
  """Returns the plain type of an annotation, and the range in it."""
  found = None
  if typing.get_origin(hint) in (typing.Union, types.UnionType):
    hint = typing.get_args(hint)[0]  # what a config can say of several
  if typing.get_origin(hint) is Annotated:
    hint, *rest = typing.get_args(hint)
    found = next((x for x in rest if isinstance(x, Range)), None)
  if _is_sequence(hint):
    inner, of_inner = _kind_and_range(typing.get_args(hint)[0])
    return types.GenericAlias(tuple, (inner, ...)), found or of_inner
  return hint, found


def _is_sequence(hint: Any) -> bool:
  origin = typing.get_origin(hint)
  return isinstance(origin, type) and issubclass(origin, Sequence)


def _meanings(text: str) -> dict[str, str]:
  """Returns what `Args:` or `Attributes:` of a docstring say of each name."""
  found: dict[str, str] = {}
  name, inside = "", False
  for line in inspect.cleandoc(text).splitlines():
    if line and not line.startswith(" "):
      inside = line in ("Args:", "Attributes:")
    elif inside and line.startswith("    "):
      found[name] += f" {line.strip()}"
    elif inside and line.strip():
      name, _, meaning = line.strip().partition(": ")
      found[name] = meaning[:1].upper() + meaning[1:]
  return found
