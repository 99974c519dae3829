"""What a run's first lines say of its rows: what no student could learn."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from gmdistill import errors
from gmdistill.data import batches, formats, tokenizing

if TYPE_CHECKING:
  from gmdistill.data import split_rows

FEW = 30  # rows, on fewer of which a choice is hardly one


def of_corpus(
  corpus: batches.Corpus, chosen_on: batches.Examples
) -> tuple[str, ...]:
  """Returns the lines that a run says of its data; often none.

  Args:
    corpus: The data.
    chosen_on: The rows of the selection split that choices are made on.
  """
  lines = list(corpus.notes)
  if not corpus.num_classes:
    return tuple(lines)  # all else is about classes
  for part in ("train", "selection", "reported"):
    lines += _of_missing_words(part, getattr(corpus, part), corpus)
  lines += _of_same_rows(corpus.train)
  rows = len(chosen_on.labels)
  if rows < FEW:
    error = 50 / np.sqrt(max(rows, 1))
    lines.append(
      f"choices are made on {rows} rows, too few to choose by: the standard "
      f"error of an accuracy on them is up to {error:.0f} points"
    )
  return tuple(lines)


def _of_missing_words(part, examples, corpus):
  """Yields lines about rows without text, words or a rationale."""
  name = {"train": "training", "reported": "reported"}.get(part, "selection")
  pair = len(corpus.text_keys) > 1
  empty_N, unknown_N = without_words(examples, corpus.tokenizer, pair)
  yield from _share(empty_N, f"{name} rows have no text")
  yield from _share(unknown_N, f"{name} rows have no word that is known")
  if examples.tokens is not None:
    untold_N = ~(np.asarray(examples.tokens.steps) >= 0).any(axis=1)
    yield from _share(untold_N, f"{name} rows have no rationale")


def _share(which_N, what):
  if count := int(which_N.sum()):
    yield f"{count} of {len(which_N)} {what} ({100 * which_N.mean():.2g} %)"


def without_words(
  examples: batches.Examples, tokenizer: tokenizing.Tokenizer, pair: bool
) -> tuple[np.ndarray, np.ndarray]:
  """Returns which rows have no token of a text, and which no known one.

  Args:
    examples: N rows.
    tokenizer: That made them.
    pair: Whether a row is two texts.

  Returns:
    Bools [N] and [N]; a row is in one of them at most.
  """
  examples = formats.without_slots(examples)
  frame = tokenizer.frame(pair)
  tokens_N = examples.mask.sum(axis=1)
  unknown_N = np.zeros_like(tokens_N)
  for part in _parts(examples):
    ids_NxL, mask_NxL = examples.token_ids[part], examples.mask[part]
    found_NxL = (ids_NxL == tokenizer.unknown_id) & mask_NxL
    unknown_N[part] = found_NxL.sum(axis=1)
  empty_N = tokens_N <= frame
  return empty_N, ~empty_N & (tokens_N - unknown_N <= frame)


def _of_same_rows(examples):
  """Yields a line where rows of different classes are the same to a student."""
  examples = formats.without_slots(examples)
  # A row is known by a random sum of its ids, as in `overlap`.
  length = examples.token_ids.shape[1]
  factors_L = np.random.default_rng(0).integers(2**62, size=length)
  sums_N = np.zeros(len(examples.labels), np.int64)
  for part in _parts(examples):
    sums_N[part] = examples.token_ids[part].astype(np.int64) @ factors_L
  _, same_N = np.unique(sums_N, return_inverse=True)
  same_N = same_N.reshape(-1)
  least = np.full(same_N.max(initial=-1) + 1, np.iinfo(np.int32).max)
  most = np.full(len(least), -1)
  np.minimum.at(least, same_N, examples.labels)
  np.maximum.at(most, same_N, examples.labels)
  if count := int((least != most)[same_N].sum()):
    yield (
      f"{count} rows of different classes have the same tokens "
      f"({100 * count / len(same_N):.2g} % of the training rows): texts that "
      "differ do so beyond data.max_length, or the tokenizer reads them alike "
      "(of a trained one: data.lower_case, data.vocab_size)"
    )


def _parts(examples):
  """Yields slices of some rows each: what is made of them is not held."""
  for start in range(0, len(examples.labels), 1 << 16):
    yield np.s_[start : start + (1 << 16)]


def require_texts(
  parts: Mapping[str, "split_rows.Rows"], name: str, text_keys: tuple[str, ...]
) -> None:
  """Checks that each text that is read is there in some row of each part.

  Raises:
    errors.InputError: one is empty throughout.
  """
  for part, rows in parts.items():
    for number, key in enumerate(text_keys):
      texts: Iterable[str] = rows.single_texts()
      if len(text_keys) > 1:
        texts = (row[number] for row in rows.texts)
      if part != "selection" and not any(str(x).strip() for x in texts):
        where = "training" if part == "train" else "reported"
        raise errors.InputError(
          f"the text {key!r} is empty in every {where} row of {name}; name "
          "another in config.data.text_keys"
          + ("" if part == "train" else ", or another reported_split")
        )


def require_tokens(
  examples: Mapping[str, batches.Examples],
  tokenizer: tokenizing.Tokenizer,
  name: str,
  pair: bool,
) -> None:
  """Checks that some training row has a word that the tokenizer knows.

  Raises:
    errors.InputError: none has.
  """
  empty_N, unknown_N = without_words(examples["train"], tokenizer, pair)
  if (empty_N | unknown_N).all():
    raise errors.InputError(
      f"no training row of {name} has a word that the tokenizer knows; use one "
      "of the data's language, or train one (student.pretrained empty)"
    )
