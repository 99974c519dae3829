"""From the name of a data set to the rows that a language model learns from."""

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from etils import epath

from gmdistill import errors
from gmdistill.data import (
  batches,
  chat,
  corpus_files,
  language_tokens,
  loading,
  plain_tokens,
  splits,
  vocabularies,
)
from gmdistill.system import cache, paths

if TYPE_CHECKING:
  from gmdistill.data import language_rows

_FORMAT = 1  # Raise it when the same options come to mean other arrays.


def load(
  options: loading.Options,
  tokenizer: plain_tokens.PlainTokenizer | None,
  folder: epath.Path | None,
  *,
  as_chat: bool = False,
) -> batches.Corpus:
  """Loads texts, answers or conversations as tokens, each with what follows.

  Choices are made on a `validation` split that is not the reported one, else
  on rows cut from the training split. Kept in the user's cache folder.

  Args:
    options: Which data set, and how; `text_keys` name a text, or a prompt and
      its completion.
    tokenizer: The model's; None: one is trained on the training split.
    folder: Of the model, whose chat template conversations need.
    as_chat: Whether prompt and completion are turns of a conversation.

  Raises:
    errors.InputError: the data set, a row or an option cannot be used.
  """
  _check(options)
  source = opened(options)
  template = None
  if source.kind == "messages" or (as_chat and source.kind == "answers"):
    template = _template(source, folder)
  decisive = {
    "language": _FORMAT,
    "data": source.identity,
    "name": source.name,
    "kind": [source.kind, source.keys, source.group_key],
    "reported": options.reported_split,
    "length": options.max_length,
    "template": template and [template.source, template.special],
    "tokenizer": [options.vocab_size, vocabularies.FORMAT]
    if tokenizer is None
    else [tokenizer.fingerprint, tokenizer.special],
  }
  slug = re.sub(r"[^\w.+=-]", "-", options.name)[-40:]
  entry = cache.entry("corpora", decisive, slug)

  def build() -> batches.Corpus:
    return _build(source, options, tokenizer, template)

  corpus = corpus_files.kept(entry, build)
  special = vocabularies.BYTE_PAIR_SPECIAL
  own = tokenizer or plain_tokens.PlainTokenizer.of_json(
    corpus.tokenizer.to_json(), special
  )
  corpus = corpus._replace(tokenizer=own)
  return splits.fewer_reported(corpus, options.reported_rows)


def opened(options: loading.Options) -> "language_rows.Source":
  """Returns the data set that options name; no row is read yet."""
  # Not at the top: TensorFlow Datasets takes its time to import.
  from gmdistill.data import language_rows

  return language_rows.open_source(
    options.name,
    data_dir=options.dir,
    embedded_dir=paths.cache_folder() / "tfds",
    text_keys=options.text_keys,
    group_key=options.group_key,
  )


class Part(NamedTuple):
  """The rows of a part, before they are tokens."""

  rows: "Sequence[language_rows.Row]"
  at: np.ndarray  # [N] their places in the split that they are of


def whole_rows(
  source: "language_rows.Source", reported_split: str
) -> dict[str, Part]:
  """Returns the rows of every part, each one row of the corpus.

  Args:
    source: Of answers or conversations; a text may be several rows.
    reported_split: As the corpus was read with.
  """
  rows = _rows_of(source, reported_split)
  counts = {part: len(of_part) for part, of_part in rows.items()}
  places, _ = _places(counts, source.name)
  return {
    part: Part([rows[whose][i] for i in at], at)
    for part, (whose, at) in places.items()
  }


def _check(options):
  """Refuses what is of rows with classes alone."""
  for field in (
    *("label_key", "rationale_key", "train_length"),
    *("topics_key", "classes", "kmer"),
  ):
    if value := getattr(options, field):
      raise errors.InputError(
        f"config.data.{field}={value} is of rows that have classes; leave it "
        "out with task.kind=next_token"
      )


def _template(source, folder):
  if folder is None:
    raise errors.InputError(
      f"{source.name} holds conversations, which a student from random weights "
      "has no template for; give student.pretrained, or rows of prompt and "
      "completion"
    )
  return chat.ChatTemplate.of_folder(folder)


def _build(source, options, tokenizer, template) -> batches.Corpus:
  from gmdistill.data import language_rows

  rows, notes = _rows_of(source, options.reported_split), []
  if tokenizer is None:
    learned_from = vocabularies.rows_of(len(rows["train"]))
    notes = vocabularies.remark(len(rows["train"]))
    texts = [x for i in learned_from for x in _texts(rows["train"][i].value)]
    tokenizer = vocabularies.train_byte_pairs(texts, options.vocab_size)
  encoder = language_tokens.Encoder(tokenizer, template, options.max_length)
  encoded = {
    part: encoder.encode(of_part, source.kind) for part, of_part in rows.items()
  }
  names = sorted({x for part in encoded.values() for x in part.groups})
  names = names if source.group_key else []
  parts = {part: _grouped(one, names) for part, one in encoded.items()}
  for part in encoded:
    notes += _remarks(part, encoded[part], options)
  counts = {part: len(one.labels) for part, one in parts.items()}
  places, more = _places(counts, source.name)
  return batches.Corpus(
    **{
      part: parts[whose]
      if len(at) == counts[whose]
      else batches.take(parts[whose], at)
      for part, (whose, at) in places.items()
    },
    label_names=(),
    text_keys=source.keys,
    label_key="",
    train_bytes=language_rows.num_bytes(rows["train"]),
    dropped=sum(one.dropped for one in encoded.values()),
    tokenizer=tokenizer,
    fingerprint="",
    notes=(*notes, *more),
    group_names=tuple(names),
  )


def _texts(value):
  return [value] if isinstance(value, str) else list(value)


def _rows_of(source, wanted):
  """Returns the rows of every part that is a split of its own."""
  chosen = _splits(source, wanted)
  rows = {part: list(source.rows(split)) for part, split in chosen.items()}
  for part, split in chosen.items():
    if not rows[part]:
      raise errors.InputError(
        f"the split {split!r} of {source.name} has no row; add some"
      )
  return rows


def _splits(source, wanted) -> dict[str, str]:
  """Returns which split is which part; a part that is absent is cut later."""
  splits_ = list(source.splits)
  if "train" not in splits_:
    raise errors.InputError(
      f"{source.name} has no 'train' split; it has {', '.join(splits_)}"
    )
  others = [x for x in splits_ if x != "train"]
  if wanted and wanted not in others:
    said = ", ".join(others) or "none; leave it empty, and one is cut"
    raise errors.InputError(
      f"config.data.reported_split={wanted!r} is not one of the splits of "
      f"{source.name} beside 'train': {said}"
    )
  found = {"train": "train"}
  reported = wanted or next(
    (x for x in ("test", "validation") if x in others), ""
  )
  if reported:
    found["reported"] = reported
  if "validation" in others and reported != "validation":
    found["selection"] = "validation"
  return found


def _grouped(encoded, names):
  if not names:
    return encoded.examples
  numbers = {name: i for i, name in enumerate(names)}
  groups = np.array([numbers[x] for x in encoded.groups], np.int64)
  return encoded.examples._replace(groups=groups)


def _places(
  counts: Mapping[str, int], name: str
) -> tuple[dict[str, tuple[str, np.ndarray]], list[str]]:
  """Returns of which part's rows all three are, and which of these; those that
  no split is are cut from training."""
  found = {part: (part, np.arange(count)) for part, count in counts.items()}
  notes = []
  cuts = {
    "reported": splits.reported_split,
    "selection": splits.selection_split,
  }
  for part, cut in cuts.items():
    if part in found:
      continue
    _, train = found["train"]
    kept, chosen = cut(np.zeros(len(train), np.int32))
    if not len(chosen):
      raise errors.InputError(
        f"{name} has {len(train)} rows of config.data.max_length, too "
        "few to cut a reported split from; give it more, or a 'test' split"
      )
    found["train"], found[part] = (
      ("train", train[kept]),
      ("train", train[chosen]),
    )
    if part == "reported":
      notes.append(
        f"{name} has a 'train' split alone: {len(chosen)} of its "
        f"{len(train)} rows are cut as the reported split (seed "
        f"{splits.REPORTED_SEED})"
      )
  return found, notes


def _remarks(part, encoded, options):
  name = "training" if part == "train" else part
  told = encoded.examples.tokens
  count = len(encoded.groups)
  yield (f"{name}: {count} rows, {int((told.weights > 0).sum())} tokens to say")
  if encoded.cut:
    yield (
      f"{name}: {encoded.cut} of {count} answers are cut at "
      f"data.max_length={options.max_length}"
    )
  if encoded.dropped:
    yield f"{name}: {encoded.dropped} texts without two tokens are left out"
