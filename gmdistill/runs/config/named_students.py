"""Students by short names: `own`, `transformer:3`, `textcnn`, `lora:16`."""

from typing import Any

from gmdistill import errors

OWN = "own"  # the student of the config


def changes(field: str, named: str) -> dict[str, Any]:
  """Returns the fields of `config.student` in which a named student differs.

  Args:
    field: Where the name stands, for messages.
    named: `own`; a kind and perhaps its layers, `transformer:3`; or a rank of
      LoRA and perhaps the matrices that it changes, `lora:16:query+value`.

  Raises:
    InputError: the name is none of these.
  """
  kind, _, rest = named.partition(":")
  if named == OWN:
    return {}
  if kind == "lora":
    rank, _, targets = rest.partition(":")
    if rank.isdigit() and int(rank):
      names = tuple(targets.split("+")) if targets else ()
      return {"adapter": "lora", "rank": int(rank), "targets": names}
  elif not rest:
    return {"kind": kind}
  elif rest.isdigit():
    return {"kind": kind, "num_layers": int(rest)}
  raise errors.InputError(
    f"{field}: {named!r} is no kind and layers, and no rank of LoRA; write "
    "own, transformer:3, textcnn, lora:16 or lora:16:query+value."
  )
