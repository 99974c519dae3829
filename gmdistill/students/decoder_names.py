"""The tensors of a decoder's students by the names that Hugging Face has.

Those of LoRA by PEFT's names; a third of a fused tensor is named `NAME#n`, as
in `decoder_weights.Names`.
"""

from typing import Any

import jax

from gmdistill import trees
from gmdistill.students import adapters, decoder_weights, decoders, roles

_PEFT = "base_model.model."


def is_one(student: Any) -> bool:
  """Whether a student is a decoder, or a change or a part of one."""
  return isinstance(_module(student), decoders.Decoder)


def _module(student):
  return getattr(student, "module", student)


def _names(student) -> decoder_weights.Names:
  module = type(_module(student))
  forms = decoder_weights.FORMS.values()
  return next(form.names for form in forms if form.module is module)


def moved(student: Any, shapes: trees.Params) -> tuple[list[str], list[str]]:
  """Returns the names of what normalised steps move, in the steps' order, and
  of what else is trained, which they leave.

  A head, whose steps are their own, is in neither.

  Args:
    student: The student, over a decoder.
    shapes: Its parameters, or their shapes.
  """
  of: roles.Roles = student.roles
  moved: list[str] = []
  still: list[str] = []
  for path, x in jax.tree_util.tree_leaves_with_path(shapes):
    if of.of(path) == "fresh":
      continue
    count = of.num_movable(path, x)
    every = _every(student, path, x.shape[0] if of.is_stacked(path) else 1)
    (moved if count else still).extend(every)
  return moved, still


def _every(student, path, count):
  """Returns a parameter's name in every layer, or its one name."""
  names = _names(student)
  *parents, leaf = [part.key for part in path]
  stack = parents[0] if parents else leaf
  if stack not in ("layers", "lower_layers"):
    ending = "bias" if leaf == "bias" else "weight"
    return [f"{names.top['/'.join(parents) or leaf]}.{ending}"]
  part, _, third = names.layer["/".join(parents[1:])].partition("#")
  third = f"#{third}" if third else ""
  first = _module(student).lower if stack == "layers" else 0
  places = [f"{names.layers}.{first + i}.{part}" for i in range(count)]
  if leaf in ("A", "B"):
    return [f"{_PEFT}{place}.lora_{leaf}.weight{third}" for place in places]
  ending = "bias" if leaf == "bias" else "weight"
  return [f"{place}.{ending}{third}" for place in places]


def frozen(student: Any) -> list[str]:
  """Returns the names of what no step of such a student moves.

  Of LoRA all that the decoder has, which goes without saying: the table alone
  is named.
  """
  found = [f"{_names(student).table}.weight"]
  if isinstance(student, adapters.Part) and student.module.lower:
    count = student.module.lower
    names = _names(student)
    found += [f"{names.layers}.{i}" for i in range(count)]
  return found
