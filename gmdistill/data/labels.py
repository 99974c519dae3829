"""Which class a row has, by whatever feature of a data set says so."""

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from gmdistill import errors

MOST = 1000  # classes; a feature of more values is something else


def key_of(name: str, features: Any, wanted: str) -> str:
  """Returns the feature that is the label.

  Raises:
    errors.InputError: it cannot be told, or `wanted` holds no classes.
  """
  proper = [key for key in features if _is_class_label(features[key])]
  found = f"{name} has the features {listed(features)}"
  if wanted and (wanted not in features or not _may_label(features[wanted])):
    raise errors.InputError(
      f"config.data.label_key names {wanted!r}, which is no class label; "
      f"{found}"
    )
  if wanted:
    return wanted
  if "label" in proper or len(proper) == 1:
    return "label" if "label" in proper else proper[0]
  if "label" in features and _may_label(features["label"]):
    return "label"
  raise errors.InputError(
    f"Cannot tell which feature is the label: {found}; name a class label in "
    "config.data.label_key"
  )


def listed(features: Any) -> str:
  """Returns the features of a set and their kinds in words."""
  return ", ".join(
    f"{key} ({type(features[key]).__name__})" for key in sorted(features)
  )


def _inner(feature: Any) -> Any:
  """Returns what a list is of; of another feature, itself."""
  is_list = isinstance(feature, tfds.features.Sequence)
  return feature.feature if is_list else feature


def _is_class_label(feature: Any) -> bool:
  return isinstance(feature, tfds.features.ClassLabel)


def _may_label(feature: Any) -> bool:
  """Whether a feature's values may be classes: words, numbers, lists of one."""
  inner = _inner(feature)
  if _is_class_label(inner) or isinstance(inner, tfds.features.Text):
    return True
  is_number = type(inner) in (tfds.features.Tensor, tfds.features.Scalar)
  return is_number and inner.shape == () and inner.np_dtype.kind in "biuf"


def names_of(feature: Any) -> tuple[str, ...]:
  """Returns the names of the classes; none where the rows must tell them."""
  inner = _inner(feature)
  return tuple(inner.names) if _is_class_label(inner) else ()


def value(raw: Any, where: str) -> Any:
  """Returns a row's label as a word or a whole number; None: it has none.

  Args:
    raw: As TFDS reads it.
    where: The feature and its set, for messages.

  Raises:
    errors.InputError: several labels, or a number that is no class.
  """
  if isinstance(raw, bytes):
    return raw.decode("utf-8", errors="replace").strip() or None
  if isinstance(raw, str):
    return raw.strip() or None
  if np.ndim(raw) or isinstance(raw, list | tuple):
    if len(raw) > 1:
      some = ", ".join(str(value(x, where)) for x in raw[:3])
      raise errors.InputError(
        f"{where} holds {len(raw)} labels in one row ({some}); a row has one "
        "class here: name a feature of one in config.data.label_key"
      )
    return value(raw[0], where) if len(raw) else None
  if isinstance(raw, bool | np.bool_):
    return bool(raw)
  if math.isnan(raw):
    return None
  if raw != int(raw):
    raise errors.InputError(
      f"{where} holds the number {float(raw):g}, which is no class: classes "
      "are words or whole numbers; name another in config.data.label_key"
    )
  return int(raw)


def classes(values: Iterable[Any], where: str) -> tuple[Any, ...]:
  """Returns the different labels of the training rows, in order.

  Raises:
    errors.InputError: one alone, or more than classes are.
  """
  different = sorted({x for x in values if x is not None})
  if not 2 <= len(different) <= MOST:
    some = ", ".join(map(repr, different[:3])) or "none"
    raise errors.InputError(
      f"{where} has {len(different)} different values in the training rows "
      f"({some}); classes are 2 to {MOST}: name another feature in "
      "config.data.label_key"
    )
  return tuple(different)
