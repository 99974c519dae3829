"""From the name of a data set to token arrays, computed once and kept.

`load` reads a TFDS set, cuts a selection split out of its training split,
tokenizes everything, and keeps the arrays in the user's cache folder.
"""

import dataclasses
import hashlib
import json
import re
from typing import TYPE_CHECKING, Any

import numpy as np

from gmdistill import errors, fields
from gmdistill.data import (
  batches,
  formats,
  remarks,
  splits,
  tokenizing,
  vocabularies,
)
from gmdistill.system import cache, json_files, paths

if TYPE_CHECKING:
  from gmdistill.data import sources

_FORMAT = 2  # Raise it when the same options come to mean other arrays.

LEAST_LENGTH = 4  # tokens a row, two of which frame it

_PARTS = ("train", "selection", "reported")


@dataclasses.dataclass(frozen=True)
class Options:
  """Which data set is read, and how; the fields of `config.data`.

  Attributes:
    name: a file of rows (.csv, .tsv, .jsonl, .parquet), a folder or glob of
      them, a TFDS name such as "glue/sst2", or "docstrings", the embedded one.
    dir: the TFDS folder; empty: TFDS's own default.
    text_keys: the features read, one text or a pair; empty: found by type.
      Two texts are read as a pair: AG News is title, then description.
    label_key: the class label; empty: found by type.
    reported_split: empty: `validation` of GLUE (`validation_matched` of MNLI),
      elsewhere `test` where it has labels, else `validation`.
    vocab_size: of the tokenizer trained where no tokenizer file is given.
    lower_case: of that tokenizer: whether "Polish" and "polish" are one word,
      as most sets of some thousand rows are best read.
    strip_accents: the same: whether "schwül" and "schwul" are one.
    max_length: tokens a row, special tokens included.
    train_length: tokens a row of the training part; 0: `max_length`. The
      selection part is cut at `max_length`, as the reported one is.
    rationale_key: a text that says why a row has its label; empty: none is
      read, and rows have no slots.
    rationale_length: tokens R of a rationale, its end included, and slots that
      every row has for them, beside its `max_length` tokens.
    group_key: by which the reported accuracy is told too: an integer, of files
      also a word; or `file`, the file that a row is of.
    topics_key: a list of words, such as subject headings, that say what a row
      is about; rows are then chosen by `topics` too, see `initialise`.
    classes: of rows in files, all classes in their order, as grades have one;
      empty: numbers in theirs, words in the alphabet's.
    kmer: letters of a token, of rows that are DNA: each is cut into words of
      so many letters, from its first on; 0: rows are text.
  """

  name: str = "docstrings"
  dir: str = ""
  text_keys: tuple[str, ...] = ()
  label_key: str = ""
  reported_split: str = ""
  vocab_size: fields.Vocabulary = 4096
  lower_case: bool = True
  strip_accents: bool = False
  max_length: fields.Length = 64
  train_length: fields.LengthOrZero = 0
  rationale_key: str = ""
  rationale_length: fields.Slots = 16
  group_key: str = ""
  topics_key: str = ""
  classes: tuple[str, ...] = ()
  kmer: fields.KmerOrZero = 0

  def __post_init__(self) -> None:
    """Checks the numbers, and takes lists and single names for several."""
    for field in ("text_keys", "classes"):
      keys = getattr(self, field)
      keys = (keys,) if isinstance(keys, str) else keys
      # A flag makes one name of several that have commas between.
      keys = tuple(part for key in keys for part in key.split(",") if part)
      object.__setattr__(self, field, keys)
    fields.require(self, "data")

  @property
  def slots(self) -> int:
    """Positions R of each row at which a rationale is to be said."""
    return self.rationale_length if self.rationale_key else 0

  @property
  def lengths(self) -> dict[str, int]:
    """Tokens a row, by part."""
    train = self.train_length or self.max_length
    return dict(zip(_PARTS, (train, *[self.max_length] * 2), strict=True))


def load(options: Options, tokenizer_file: str = "") -> batches.Corpus:
  """Loads a text-classification set as token arrays.

  The first call reads and tokenizes every row; later calls with the same
  options, tokenizer and data read one file of the cache folder.

  Args:
    options: which data set, and how.
    tokenizer_file: a `tokenizer.json`; empty: a tokenizer is trained on the
      training part.

  Raises:
    errors.InputError: the data set or one of the options cannot be used; the
      message is one line and says what would be right.
  """
  source = opened(options)
  given = None
  if tokenizer_file:
    given = tokenizing.Tokenizer.from_file(tokenizer_file)
  elif options.kmer:
    given = vocabularies.kmers(options.kmer)
  slug = re.sub(r"[^\w.+=-]", "-", options.name)[-40:]
  entry = cache.entry("corpora", _decisive(options, given, source), slug)
  corpus = _of_arrays(cache.read_arrays(entry))
  if corpus is None:
    corpus = _build(options, given, source)
    cache.write_arrays(entry, _as_arrays(corpus))
  return corpus


def opened(options: Options) -> "sources.Source":
  """Returns the data set that options name; no row is read yet."""
  # Not at the top: TensorFlow Datasets takes its time to import.
  from gmdistill.data import sources

  return sources.open_source(
    options.name,
    data_dir=options.dir,
    embedded_dir=paths.cache_folder() / "tfds",
    text_keys=options.text_keys,
    label_key=options.label_key,
    rationale_key=options.rationale_key,
    group_key=options.group_key,
    topics_key=options.topics_key,
    classes=options.classes,
  )


def _decisive(
  options: Options,
  given: tokenizing.Tokenizer | None,
  source: "sources.Source",
) -> dict[str, Any]:
  """Returns everything that decides the arrays of a corpus."""
  from gmdistill.data import sources

  trained = [
    options.vocab_size,
    options.lower_case,
    options.strip_accents,
    vocabularies.FORMAT,
    tokenizing.LIBRARY_VERSION,
  ]
  decisive = {
    "format": _FORMAT,
    "split": [
      splits.SELECTION_FRACTION,
      splits.SELECTION_ROWS,
      splits.SPLIT_SEED,
    ],
    "cut": [
      splits.REPORTED_FRACTION,
      splits.REPORTED_ROWS,
      splits.REPORTED_SEED,
    ],
    "data": sources.identity(source),
    "keys": [source.text_keys, source.label_key],
    "reported": _reported(options, source),
    "lengths": options.lengths,
    "tokenizer": given.fingerprint if given else trained,
  }
  if options.slots:
    decisive["rationale"] = [options.rationale_key, options.slots]
  if options.group_key:
    decisive["groups"] = options.group_key
  if options.topics_key or options.classes:
    decisive["table"] = [options.topics_key, options.classes]
  return decisive


def _reported(options, source):
  """Returns what decides the reported split; of files, without reading them."""
  from gmdistill.data import sources, tables

  if isinstance(source.builder, tables.Table):
    return options.reported_split
  return sources.reported_candidates(source, options.reported_split)


def _build(
  options: Options,
  given: tokenizing.Tokenizer | None,
  source: "sources.Source",
) -> batches.Corpus:
  from gmdistill.data import parts, sources

  source = sources.with_classes(source)
  rows, dropped, notes = parts.read(source, options.reported_split)
  remarks.require_texts(rows, source.name, source.text_keys)
  train_texts = rows["train"].single_texts()
  tokenizer = given or vocabularies.train(
    train_texts,
    options.vocab_size,
    lower_case=options.lower_case,
    strip_accents=options.strip_accents,
  )
  examples = {
    part: formats.encoded(
      of_part, tokenizer, options.lengths[part], options.slots
    )
    for part, of_part in rows.items()
  }
  for part, topics_NxT in formats.numbered_topics(rows).items():
    examples[part] = examples[part]._replace(topics=topics_NxT)
  pair = len(source.text_keys) > 1
  remarks.require_tokens(examples, tokenizer, source.name, pair)
  told = examples["train"].tokens
  if told is not None and not (np.asarray(told.steps) >= 0).any():
    raise errors.InputError(
      f"config.data.rationale_key={options.rationale_key!r} has no text in any "
      f"training row of {source.name}; name another feature, or none"
    )
  corpus = batches.Corpus(
    **examples,
    label_names=source.label_names,
    text_keys=source.text_keys,
    label_key=source.label_key,
    train_bytes=sum(len(text.encode()) for text in train_texts),
    dropped=dropped,
    tokenizer=tokenizer,
    fingerprint="",
    notes=notes,
    group_names=rows["reported"].group_names,
  )
  return corpus._replace(fingerprint=_fingerprint(corpus))


def _facts(corpus: batches.Corpus) -> dict[str, Any]:
  """Returns what a corpus holds beside arrays, tokenizer and fingerprint."""
  kept = corpus._asdict()
  for key in (*_PARTS, "tokenizer", "fingerprint"):
    del kept[key]
  return kept


def _fingerprint(corpus: batches.Corpus) -> str:
  facts = _facts(corpus)
  del facts["notes"]  # words about the rows, which are all hashed
  if not facts["group_names"]:
    del facts["group_names"]  # so that what was kept before stays valid
  digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
  digest.update(corpus.tokenizer.to_json().encode())
  for part in _PARTS:
    for array in _stored(getattr(corpus, part)).values():
      digest.update(f"{array.shape} {array.dtype}".encode())
      digest.update(np.ascontiguousarray(array).data)
  return digest.hexdigest()


def _stored(examples: batches.Examples) -> dict[str, np.ndarray]:
  """Returns the arrays that are part of the data, by their names.

  No teacher is, nor what is made of a rationale.
  """
  made = ("soft", "teachers", "tokens/weights")
  return {
    name: np.asarray(array)
    for name, array in batches.named(examples).items()
    if not name.startswith(made)
  }


def _as_arrays(corpus: batches.Corpus) -> dict[str, np.ndarray]:
  """Returns a corpus as arrays by name, which `_of_arrays` reads."""
  facts = _facts(corpus) | {"fingerprint": corpus.fingerprint}
  arrays = {
    "facts": np.array(json.dumps(facts)),
    "tokenizer": np.array(corpus.tokenizer.to_json()),
  }
  for part in _PARTS:
    for field, array in _stored(getattr(corpus, part)).items():
      arrays[f"{part}/{field}"] = array
  return arrays


def _of_arrays(arrays: dict[str, np.ndarray] | None) -> batches.Corpus | None:
  """Returns the corpus, or None where the arrays are not a whole one's."""
  if arrays is None:
    return None
  try:
    facts = json_files.parse(str(arrays["facts"]))
    facts["label_names"] = tuple(facts["label_names"])
    facts["text_keys"] = tuple(facts["text_keys"])
    facts["notes"] = tuple(facts["notes"])
    facts["group_names"] = tuple(facts.get("group_names", ()))
    tokenizer = tokenizing.Tokenizer.from_json(str(arrays["tokenizer"]))
    examples = {
      part: batches.Examples(
        **batches.of_named(
          {
            name.removeprefix(f"{part}/"): array
            for name, array in arrays.items()
            if name.startswith(f"{part}/")
          }
        )
      )
      for part in _PARTS
    }
    corpus = batches.Corpus(**(facts | examples), tokenizer=tokenizer)
  except (ValueError, KeyError, TypeError):
    return None
  return corpus if _fingerprint(corpus) == corpus.fingerprint else None
