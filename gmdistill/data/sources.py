"""From the name of a TFDS text-classification set to its texts and labels.

Reads what `tensorflow_datasets` has prepared on disk: no TensorFlow, no
network. Everything a user can get wrong ends in one line that says the fix.
"""

import hashlib
import os
import pathlib
from typing import Any, NamedTuple

import numpy as np
import tensorflow_datasets as tfds
from etils import epath

from gmdistill import errors
from gmdistill.data import (
  builders,
  labels,
  records,
  split_rows,
  table_columns,
  table_files,
  tables,
  tfds_features,
)


class Source(NamedTuple):
  """A data set whose features are known; no row is read yet."""

  name: str
  builder: Any  # tfds.core.DatasetBuilder, or tables.Table of rows in files
  text_keys: tuple[str, ...]  # One text or a pair.
  label_key: str
  label_names: tuple[str, ...]  # empty: the training rows tell; with_classes
  folder: pathlib.Path
  rationale_key: str = ""  # A text that says why; empty: none.
  group_key: str = ""  # An integer, or of files a word; empty: none.
  topics_key: str = ""  # A list of words; empty: none.
  label_values: tuple[Any, ...] = ()  # [C], where labels are no class numbers


def open_source(
  name: str,
  *,
  data_dir: str,
  embedded_dir: epath.PathLike,
  text_keys: tuple[str, ...] = (),
  label_key: str = "",
  rationale_key: str = "",
  group_key: str = "",
  topics_key: str = "",
  classes: tuple[str, ...] = (),
) -> Source:
  """Finds a data set on disk and decides which features are read.

  Args:
    name: as TFDS spells it: "ag_news_subset", "glue/sst2", or "docstrings",
      which is prepared on the spot; or a file, folder or glob of rows.
    data_dir: the TFDS folder, here or in a bucket; empty means TFDS's own
      default.
    embedded_dir: where "docstrings" is prepared when `data_dir` is empty, and
      where a set in a bucket is copied to.
    text_keys: the text features to read; empty means all, where there are one
      or two.
    label_key: the label feature; empty means `label`, or else the only one.
    rationale_key: a text feature that says why; empty: none is read.
    group_key: an integer feature, or of files a column of words too, or
      "file"; empty: none is read.
    topics_key: a feature that is a list of texts; empty: none is read.
    classes: of files, the classes in their order; empty: as labels sort.

  Raises:
    errors.InputError: the set is unknown, not prepared, or its features do not
      say which text or label is meant.
  """
  if name not in builders.EMBEDDED and table_files.are_meant(name):
    named = table_columns.Columns(
      text_keys,
      label_key,
      rationale=rationale_key,
      group=group_key,
      topics=topics_key,
      classes=classes,
    )
    return _of_table(name, data_dir, named)
  if classes:
    raise errors.InputError(
      f"config.data.classes is of rows in files, and {name} is a TFDS set, "
      "which has an order of its own; leave it empty"
    )
  builder = builders.find(name, data_dir, embedded_dir)
  features = builder.info.features
  if not isinstance(features, dict | tfds.features.FeaturesDict):
    raise errors.InputError(f"{name} has no named features to read texts from")
  label = labels.key_of(name, features, label_key)
  beside: dict[str, Any] = {
    "rationale_key": rationale_key,
    "group_key": group_key,
    "topics_key": topics_key,
  }
  for field, key in beside.items():
    tfds_features.require_kind(name, features, field, key)
  wanted = text_keys or tfds_features.own_text(builder)
  for field, key in (("rationale_key", rationale_key), ("label_key", label)):
    if key and key in wanted:
      raise errors.InputError(
        f"config.data.{field}={key!r} is among config.data.text_keys "
        f"({', '.join(wanted)}); a student must not read what it is to say"
      )
  return Source(
    name=name,
    builder=builder,
    text_keys=tfds_features.text_keys(
      name, features, wanted, (rationale_key, label)
    ),
    label_key=label,
    label_names=labels.names_of(features[label]),
    folder=pathlib.Path(os.fspath(builder.data_path)),
    **beside,
  )


def _of_table(name: str, data_dir: str, named: table_columns.Columns) -> Source:
  if data_dir:
    raise errors.InputError(
      f"config.data.dir={data_dir} is a folder of TFDS sets; leave it empty, "
      f"and give the whole path of {name} in config.data.name"
    )
  table = tables.Table(name, named)
  return Source(
    name=name,
    builder=table,
    text_keys=table.columns.texts,
    label_key=table.columns.label,
    label_names=(),
    folder=pathlib.Path(os.fspath(table.files[0].path)).parent,
    rationale_key=named.rationale,
    group_key=named.group,
    topics_key=named.topics,
  )


def reported_candidates(source: Source, wanted: str = "") -> tuple[str, ...]:
  """Returns the splits that may be the reported one, the best first.

  The first with labelled rows is it. GLUE's test splits have no labels. None,
  where there is a training split alone.

  Raises:
    errors.InputError: there is no training split, or no split to report on.
  """
  is_table = isinstance(source.builder, tables.Table)
  splits = source.builder.splits() if is_table else source.builder.info.splits
  splits = list(splits)
  if "train" not in splits:
    raise errors.InputError(
      f"{source.name} has no 'train' split; it has {', '.join(splits)}"
    )
  if wanted and (wanted not in splits or wanted == "train"):
    others = ", ".join(split for split in splits if split != "train")
    others = others or "none; leave it empty, and one is cut from 'train'"
    raise errors.InputError(
      f"config.data.reported_split={wanted!r} is not one of the splits of "
      f"{source.name} beside 'train': {others}"
    )
  if wanted:
    return (wanted,)
  if not is_table and source.builder.name == "glue":
    preferred = ["validation", "validation_matched"]
  else:
    preferred = ["test", "validation", "validation_matched"]
  candidates = tuple(split for split in preferred if split in splits)
  if not candidates and splits != ["train"]:
    raise errors.InputError(
      f"{source.name} has the splits {', '.join(splits)}; name the one to "
      "report on in config.data.reported_split"
    )
  return candidates


def read_reported(
  source: Source, wanted: str = ""
) -> tuple[str, split_rows.Rows]:
  """Reads the reported split: its name and its labelled rows.

  Raises:
    errors.InputError: no candidate has a labelled row.
  """
  candidates = reported_candidates(source, wanted)
  for split in candidates:
    rows = read(source, split)
    if len(rows.labels):
      return split, rows
  raise errors.InputError(
    f"No row of {' or '.join(candidates)} of {source.name} has a label; name a "
    "labelled split in config.data.reported_split"
  )


def with_classes(source: Source) -> Source:
  """Returns a source whose classes are known, from its training rows if need
  be.

  Raises:
    errors.InputError: the values of the label are no classes.
  """
  if source.label_names:
    return source
  if isinstance(source.builder, tables.Table):
    return source._replace(label_names=source.builder.classes())
  where = f"{source.label_key!r} of {source.name}"
  values = labels.classes(
    (
      labels.value(row[source.label_key], where)
      for row in records.rows(source.builder, "train")
    ),
    where,
  )
  return source._replace(
    label_names=tuple(map(str, values)), label_values=values
  )


def read(source: Source, split: str) -> split_rows.Rows:
  """Reads one split of a source with classes, without the rows of none.

  A class label below zero is none.
  """
  if isinstance(source.builder, tables.Table):
    return source.builder.part(split)
  where = f"{source.label_key!r} of {source.name}"
  numbers = {x: number for number, x in enumerate(source.label_values)}
  texts: list[Any] = []
  found: list[int] = []
  rationales: list[str] = []
  groups: list[int] = []
  topics: list[list[str]] = []
  dropped = unseen = 0
  for row in records.rows(source.builder, split):
    label = labels.value(row[source.label_key], where)
    number = numbers.get(label, -1) if source.label_values else label
    if number is None or number < 0:
      dropped += 1
      unseen += bool(source.label_values) and label is not None
      continue
    found.append(number)
    read = [_decoded(row[key]) for key in source.text_keys]
    texts.append(read[0] if len(read) == 1 else tuple(read))
    if source.rationale_key:
      rationales.append(_decoded(row[source.rationale_key]))
    if source.group_key:
      groups.append(int(row[source.group_key]))
    if source.topics_key:
      topics.append([_decoded(x) for x in row[source.topics_key]])
  return split_rows.Rows(
    texts,
    np.array(found, np.int32),
    dropped,
    unseen,
    rationales,
    np.array(groups, np.int64) if source.group_key else None,
    topics=topics,
  )


def _decoded(value: Any) -> str:
  """Returns a text; of a list of texts, all of them, with " ; " between."""
  if not isinstance(value, bytes | str):
    return " ; ".join(_decoded(text) for text in value)
  if isinstance(value, str):
    return value
  # One bad byte among a million rows should cost a letter, not the run.
  return value.decode("utf-8", errors="replace")


def identity(source: Source) -> dict[str, str]:
  """Returns what decides the rows, whatever folder they lie in.

  That is: TFDS's own record of the set (version, configuration, rows and bytes
  of every split), the features, and size, head and tail of every data file.
  """
  if isinstance(source.builder, tables.Table):
    return source.builder.identity()
  found = {"full_name": source.builder.info.full_name}
  for path in sorted(source.folder.iterdir()):
    if path.is_file():
      digest = hashlib.sha256(str(path.stat().st_size).encode())
      with path.open("rb") as file:
        digest.update(file.read(1 << 16))
        file.seek(max(0, path.stat().st_size - (1 << 16)))
        digest.update(file.read())
      found[path.name] = digest.hexdigest()
  return found
