"""Which columns of a file are the text, the label and the split.

By their names, and where these do not tell, by what is in them.
"""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from gmdistill import errors
from gmdistill.data import table_files

_TEXTS = (
  "text sentence review content body comment document message tweet post "
  "question utterance description abstract passage headline snippet input "
  "premise title essay answer"
).split()

_LABELS = (
  "label labels class category target sentiment intent topic emotion rating "
  "stars score gold y tag polarity coarse_label final_decision"
).split()

_PAIRS = (
  ("sentence1", "sentence2"),
  ("premise", "hypothesis"),
  ("question1", "question2"),
  ("question", "sentence"),
  ("question", "passage"),
  ("text1", "text2"),
  ("text_a", "text_b"),
  ("title", "description"),
  ("title", "text"),
  ("title", "content"),
  ("title", "body"),
  ("title", "abstract"),
  ("subject", "body"),
)

FILE = "file"  # a group that is no column: the file that a row is of

_SPLITS = ("split", "fold", "subset", "partition", "set")


class Columns(NamedTuple):
  """The columns that are read."""

  texts: tuple[str, ...]
  label: str
  split: str = ""  # empty: none
  rationale: str = ""
  group: str = ""
  topics: str = ""
  classes: tuple[str, ...] = ()  # in their order; empty: as labels sort
  by_file: bool = False  # whether the group is the file

  @property
  def names(self) -> tuple[str, ...]:
    """Each column that is read, once."""
    group = "" if self.by_file else self.group
    beside = (self.label, self.split, self.rationale, group, self.topics)
    return tuple(x for x in dict.fromkeys([*self.texts, *beside]) if x)


def choose(
  where: str, sample: Mapping[str, Sequence[Any]], wanted: Columns
) -> Columns:
  """Returns the columns that are read.

  Args:
    where: The file, for messages.
    sample: The first rows, column by column.
    wanted: What the config names; an empty field is to be told here.

  Raises:
    errors.InputError: one that is named is not there, or it cannot be told.
  """
  by_file = wanted.group == FILE and FILE not in sample
  wanted = wanted._replace(by_file=by_file)
  listed = f"{where} has the columns {', '.join(map(repr, sample))}"
  fields = {
    "text_keys": wanted.texts,
    "label_key": (wanted.label,),
    "rationale_key": (wanted.rationale,),
    "group_key": () if by_file else (wanted.group,),
    "topics_key": (wanted.topics,),
  }
  for field, names in fields.items():
    for name in names:
      if name and name not in sample:
        raise errors.InputError(
          f"config.data.{field} names {name!r}, but {listed}"
        )
  if len(wanted.texts) > 2:
    raise errors.InputError(
      f"config.data.text_keys names {len(wanted.texts)} columns; one text or "
      "a pair is read"
    )
  split = _split(sample, wanted)
  free = [x for x in sample if x not in (*wanted.names, split)]
  texts = wanted.texts or _texts(sample, free, listed)
  label = wanted.label or _label(free, texts, listed)
  if not texts:
    texts = _longest(sample, [x for x in free if x != label], listed)
  not_read = {"rationale_key": wanted.rationale, "label_key": label}
  for field, name in not_read.items():
    if name and name in texts:
      raise errors.InputError(
        f"config.data.{field}={name!r} is among config.data.text_keys "
        f"({', '.join(texts)}); a student must not read what it is to say"
      )
  return wanted._replace(texts=texts, label=label, split=split)


def _normal(name):
  return name.strip().lower().replace(" ", "_").replace("-", "_")


def _named(free, names):
  """Returns the free columns of these names, the likeliest first."""
  return [x for name in names for x in free if _normal(x) == name]


def _split(sample, wanted):
  """Returns the column that says the split: most of its first values do."""
  for name in _named([x for x in sample if x not in wanted.names], _SPLITS):
    values = [x for x in sample[name] if x not in (None, "")]
    if 2 * sum(bool(table_files.split_of(x)) for x in values) > len(values):
      return name
  return ""


def _texts(sample, free, listed):
  """Returns the texts by their names; none, where no name is a text's."""
  for pair in _PAIRS:
    names = [name for part in pair for name in _named(free, [part])]
    if len(names) == 2:
      return tuple(names)
  named = _named(free, _TEXTS)
  # One alone is meant, whatever it holds; of several, those of text.
  named = [x for x in named if _is_text(sample[x])] or named[:1]
  if len(named) > 1:
    raise errors.InputError(
      f"{listed}, of which {' and '.join(map(repr, named))} could be the text; "
      "name one, or two as a pair, in config.data.text_keys"
    )
  return tuple(named)


def _is_text(values):
  return any(isinstance(x, str | list) for x in values)


def _label(free, texts, listed):
  named = _named([x for x in free if x not in texts], _LABELS)
  if named:
    return named[0]
  rest = [x for x in free if x not in texts]
  if len(rest) == 1 and texts:
    return rest[0]
  raise errors.InputError(
    f"{listed}, of which none is known as the label; name it in "
    "config.data.label_key, or give the file a first line of names, such as "
    "text,label"
  )


def _longest(sample, free, listed):
  """Returns the one column that has texts of several words."""

  def words(name):
    values = [x for x in sample[name] if x]
    if not values or not all(isinstance(x, str) for x in values):
      return 0
    return statistics.fmean(len(x.split()) for x in values)

  found = [name for name in free if words(name) >= 2]
  if len(found) == 1:
    return tuple(found)
  said = f"{' and '.join(map(repr, found))} could be" if found else "none is"
  raise errors.InputError(
    f"{listed}, of which {said} the text; name one, or two as a pair, in "
    "config.data.text_keys"
  )
