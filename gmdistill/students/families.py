"""The families of students: what a config's `student.kind` may name.

A family is an entry of `FAMILIES`. Its module is Linen over word-level
embeddings [B, L, D] and a mask [B, L], gives `outputs.Outputs`, and has fields
`num_classes`, `width` and `max_positions` and an attribute `roles`; see
`roles.Roles`.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from etils import epath

from gmdistill import errors
from gmdistill.students import (
  bert,
  bert_weights,
  blocks,
  decoder_forms,
  decoder_weights,
  encoders,
  small,
)

Fields = Mapping[str, Any]


class Form(NamedTuple):
  """How a family stands in a Hugging Face directory, both ways.

  `checked(folder, config)` returns its `config.json`, complete, or refuses it;
  `load(folder, config, choices)` a module's arguments but the classes, its
  parameters but the head, and the table [V, D], as the fields `choices` of a
  config ask for; `write(params, table, module)` the fields of a `config.json`,
  the tensors by their names, and those of files beside them.
  """

  model_type: str
  anchor: str  # a tensor that every such directory has: the table
  checked: Callable[[epath.Path, dict[str, Any]], dict[str, Any]]
  load: Callable[
    [epath.Path, Fields, Fields], tuple[dict[str, Any], Any, jax.Array]
  ]
  write: Callable[
    [Any, jax.Array, Any],
    tuple[
      dict[str, Any], dict[str, np.ndarray], dict[str, dict[str, np.ndarray]]
    ],
  ]


def _takes_all(fields: Fields) -> None:
  """Refuses nothing: the module says what it cannot take."""


class Family(NamedTuple):
  """One kind of student.

  `check(fields)` refuses a config's fields for one from random weights,
  `check_options(fields)` those of `options` alone, which one from a directory
  takes as well.
  """

  module: Callable[..., Any]  # (num_classes, **fields) -> module
  check: Callable[[Fields], None] = _takes_all
  options: tuple[str, ...] = ()
  check_options: Callable[[Fields], None] = _takes_all
  # The same with slots for token targets, of so many `rationale_slots`; None:
  # it has none.
  with_slots: Callable[..., Any] | None = None
  as_wide_as_table: bool = False
  form: Form | None = None  # None: from random weights alone

  def build(self, num_classes: int, slots: int, fields: Fields) -> Any:
    """Returns the module, with as many slots as the rows have."""
    if not slots:
      return self.module(num_classes, **fields)
    assert self.with_slots is not None
    return self.with_slots(num_classes, rationale_slots=slots, **fields)

  def takes(self, fields: Fields) -> dict[str, Any]:
    """Returns those of a config's fields that the module has: one config
    serves every kind."""
    known = self.module.__dataclass_fields__  # type: ignore[attr-defined]
    return {name: value for name, value in fields.items() if name in known}


def _check_options(fields: Fields) -> None:
  remat, compute = fields.get("remat", "none"), fields.get("compute", "float32")
  errors.choice("student.remat", remat, blocks.REMATS)
  errors.choice("student.compute", compute, encoders.PRECISIONS)


def _check_transformer(fields: Fields) -> None:
  width, heads = fields.get("width", 128), fields.get("num_heads", 4)
  if heads < 1 or width % heads:
    raise errors.InputError(
      f"student.width={width} does not divide into student.num_heads={heads}; "
      f"use a width of {max(heads, 1) * max(1, round(width / max(heads, 1)))}."
    )
  if fields.get("num_layers", 2) < 1:
    raise errors.InputError(
      "student.num_layers=0 means all layers of a pretrained encoder; without "
      "one, use 1 or more."
    )
  pooling = fields.get("pooling", "first")
  errors.choice("student.pooling", pooling, encoders.POOLINGS)
  _check_options(fields)


def _check_decoder(fields: Fields) -> None:
  width, heads = fields.get("width", 128), fields.get("num_heads", 4)
  pairs = 2 * max(heads, 1)  # halves of a head turn by each other
  if heads < 1 or width % pairs:
    raise errors.InputError(
      f"student.width={width} gives student.num_heads={heads} no even width "
      f"each; use a width of {pairs * max(1, round(width / pairs))}."
    )
  if fields.get("num_layers", 2) < 1:
    raise errors.InputError(
      "student.num_layers=0 means all layers of a pretrained decoder; without "
      "one, use 1 or more."
    )
  _check_options(fields)


def _decoder(model_type: str) -> Family:
  form = decoder_weights.FORMS[model_type]
  return Family(
    form.module,
    check=_check_decoder,
    options=("remat", "unroll", "compute"),
    check_options=_check_options,
    as_wide_as_table=True,
    form=Form(
      model_type,
      form.anchor,
      functools.partial(decoder_forms.checked, model_type),
      functools.partial(decoder_forms.load, model_type),
      functools.partial(decoder_forms.write, model_type),
    ),
  )


FAMILIES: dict[str, Family] = {
  "transformer": Family(
    encoders.Transformer,
    check=_check_transformer,
    options=("remat", "unroll", "compute"),
    check_options=_check_options,
    with_slots=encoders.RationaleTransformer,
    as_wide_as_table=True,
    form=Form("bert", bert_weights.ANCHOR, bert.checked, bert.load, bert.write),
  ),
  "bilstm": Family(small.BiLSTM),
  "textcnn": Family(small.TextCNN),
  **{name: _decoder(name) for name in decoder_weights.FORMS},
}


def named(kind: str) -> Family:
  """Returns the family that a config names.

  Raises:
    InputError: there is none of that name.
  """
  return FAMILIES[errors.choice("student.kind", kind, FAMILIES)]


def of_model_type(model_type: Any) -> Family | None:
  """Returns the family of a Hugging Face `model_type`; None: no student's."""
  for family in FAMILIES.values():
    if family.form is not None and family.form.model_type == model_type:
      return family
  return None


def form_of(module: Any) -> Form:
  """Returns the Hugging Face form of a student.

  Raises:
    InputError: it has none.
  """
  for family in FAMILIES.values():
    if type(module) in (family.module, family.with_slots) and family.form:
      return family.form
  known = [kind for kind, family in FAMILIES.items() if family.form]
  raise errors.InputError(
    f"a {type(module).__name__} student has no Hugging Face form; use "
    f"student.kind={' or '.join(known)}."
  )
