"""Which features of a TFDS set are read: its texts, and what goes with them."""

from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from gmdistill import errors
from gmdistill.data import builders, labels

# The text that opens a pair; all others go by the alphabet, which is the
# usual order (question, sentence; sentence1, sentence2).
_OPENING_TEXTS = ("premise", "title")


def own_text(builder: Any) -> tuple[str, ...]:
  """Returns what is read of an embedded set, whose rationale ends in its label;
  of others, nothing is known."""
  embedded = builder.name in builders.EMBEDDED
  return (builder.info.supervised_keys[0],) if embedded else ()


def text_keys(
  name: str, features: Any, wanted: tuple[str, ...], not_read: tuple[str, ...]
) -> tuple[str, ...]:
  """Returns the texts that are read: those wanted, or the one or two there are.

  Raises:
    errors.InputError: one is no text, or it cannot be told.
  """
  texts = [
    key
    for key in features
    if isinstance(features[key], tfds.features.Text) and key not in not_read
  ]
  found = f"{name} has the features {labels.listed(features)}"
  for key in wanted:
    if key not in texts and not _is_list(features, key):
      raise errors.InputError(
        f"config.data.text_keys names {key!r}, which is no text; {found}"
      )
  if len(wanted) > 2 or (not wanted and len(texts) not in (1, 2)):
    raise errors.InputError(
      f"Cannot tell which text or pair of texts to read: {found}; name one or "
      "two texts in config.data.text_keys"
    )
  return wanted or tuple(
    sorted(texts, key=lambda key: (key not in _OPENING_TEXTS, key))
  )


def _is_list(features: Any, key: str) -> bool:
  """Whether a feature is a list of texts, such as the choices of a question."""
  found = features[key] if key in features else None
  return isinstance(found, tfds.features.Sequence) and isinstance(
    found.feature, tfds.features.Text
  )


def require_kind(name: str, features: Any, field: str, key: str) -> None:
  """Refuses a rationale that is no text, a group that is no integer, and
  topics that are no list of texts.

  Raises:
    errors.InputError: the feature of that field is another.
  """
  found = features[key] if key in features else None
  is_text = isinstance(found, tfds.features.Text)
  is_integer = (
    isinstance(found, tfds.features.Scalar | tfds.features.ClassLabel)
    and np.dtype(found.np_dtype).kind in "iu"
  )
  kinds = {
    "rationale_key": ("text", is_text),
    "group_key": ("integer", is_integer),
    "topics_key": ("list of texts", _is_list(features, key)),
  }
  wanted, right = kinds[field]
  if key and not right:
    raise errors.InputError(
      f"config.data.{field} names {key!r}, which is no {wanted}; {name} has "
      f"the features {labels.listed(features)}"
    )
