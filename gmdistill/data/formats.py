"""How a row is framed: slots for what a student should say beside the text."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from gmdistill.data import batches, tokenizing

if TYPE_CHECKING:
  from gmdistill.data import split_rows


def numbered_topics(
  rows: "Mapping[str, split_rows.Rows]",
) -> dict[str, np.ndarray]:
  """Returns each part's topics as numbers [N, T], -1 after the last of a row.

  A topic has one number in all parts; {} where rows have none.
  """
  lists = {part: [sorted(set(x)) for x in r.topics] for part, r in rows.items()}
  names = sorted({name for part in lists.values() for x in part for name in x})
  numbers = {name: number for number, name in enumerate(names)}
  longest = max((len(x) for part in lists.values() for x in part), default=0)
  found = {}
  for part, of_rows in lists.items():
    topics_NxT = np.full((len(of_rows), longest), -1, np.int32)
    for row, of_row in enumerate(of_rows):
      topics_NxT[row, : len(of_row)] = [numbers[name] for name in of_row]
    found[part] = topics_NxT
  return found if longest else {}


def encoded(
  rows: "split_rows.Rows",
  tokenizer: tokenizing.Tokenizer,
  length: int,
  slots: int,
) -> batches.Examples:
  """Returns rows as tokens, with R `slots` for their rationales, or none."""
  ids, mask = tokenizer.encode(cast(Any, rows.texts), length)
  examples = batches.Examples(ids, mask, rows.labels, groups=rows.groups)
  if not slots:
    return examples
  told, steps = tokenizer.encode_steps(rows.rationales, slots)
  examples = with_slots(examples, slots, tokenizer.special_id("mask"))
  return examples._replace(tokens=batches.Tokens(told, steps=steps))


def with_slots(
  examples: batches.Examples, slots: int, mask_id: int
) -> batches.Examples:
  """Returns rows with R slots after the first token: [CLS] [MASK]*R text.

  The slots stand in front, so that they have the same positions in every row,
  and a row stays masked after its last token alone. Every split has them: what
  a student should say there is not known where it is used.
  """
  ids_NxL, mask_NxL = examples.token_ids, examples.mask
  blanks_NxR = np.full((len(ids_NxL), slots), mask_id, ids_NxL.dtype)

  def join(x, middle):
    return np.concatenate([x[:, :1], middle, x[:, 1:]], axis=1)

  return examples._replace(
    token_ids=join(ids_NxL, blanks_NxR),
    mask=join(mask_NxL, np.ones(blanks_NxR.shape, bool)),
  )


def without_slots(examples: batches.Examples) -> batches.Examples:
  """Returns the rows' text alone; rows without slots as they are."""
  if examples.tokens is None or batches.is_language(examples):
    return examples
  slots = np.s_[1 : 1 + examples.tokens.targets.shape[1]]
  return examples._replace(
    token_ids=np.delete(examples.token_ids, slots, axis=1),
    mask=np.delete(examples.mask, slots, axis=1),
  )
