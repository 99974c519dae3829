"""From the name of a data set to token arrays, computed once and kept.

`load` reads a TFDS set, cuts a selection split out of its training split,
tokenizes everything, and keeps the arrays in the user's cache folder.
"""

import dataclasses
import re
from typing import TYPE_CHECKING, Any

import numpy as np

from gmdistill import errors, fields
from gmdistill.data import (
  batches,
  corpus_files,
  formats,
  remarks,
  splits,
  templates,
  tokenizing,
  vocabularies,
)
from gmdistill.system import cache, paths

if TYPE_CHECKING:
  from gmdistill.data import sources

_FORMAT = 2  # Raise it when the same options come to mean other arrays.

LEAST_LENGTH = 4  # tokens a row, two of which frame it


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
    reported_rows: of that split, at most so many, in the classes' proportions
      and the same ones every time; 0: all.
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
  reported_rows: fields.StepsFromZero = 0
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
    return dict(
      zip(corpus_files.PARTS, (train, *[self.max_length] * 2), strict=True)
    )


def load(
  options: Options,
  tokenizer_file: str = "",
  template: templates.Template | None = None,
) -> batches.Corpus:
  """Loads a text-classification set as token arrays.

  The first call reads and tokenizes every row; later calls with the same
  options, tokenizer and data read one file of the cache folder.

  Args:
    options: which data set, and how.
    tokenizer_file: a `tokenizer.json`; empty: a tokenizer is trained on the
      training part.
    template: how a language model reads the rows, with its own tokenizer; None:
      as encoders do.

  Raises:
    errors.InputError: the data set or one of the options cannot be used; the
      message is one line and says what would be right.
  """
  source = opened(options)
  given: tokenizing.Tokenizer | None = None
  if template is not None:
    given = template.tokenizer
  elif tokenizer_file:
    given = tokenizing.Tokenizer.from_file(tokenizer_file)
  elif options.kmer:
    given = vocabularies.kmers(options.kmer)
  slug = re.sub(r"[^\w.+=-]", "-", options.name)[-40:]
  decisive = _decisive(options, given, source)
  if template is not None:
    decisive["template"] = template.identity
  entry = cache.entry("corpora", decisive, slug)
  corpus = corpus_files.kept(
    entry, lambda: _build(options, given, source, template)
  )
  if given is not None:
    corpus = corpus._replace(tokenizer=given)
  return splits.fewer_reported(corpus, options.reported_rows)


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
  template: templates.Template | None,
) -> batches.Corpus:
  from gmdistill.data import parts, sources

  source = sources.with_classes(source)
  rows, dropped, notes = parts.read(source, options.reported_split)
  remarks.require_texts(rows, source.name, source.text_keys)
  tokenizer = given or _trained(rows["train"], options)
  examples, cuts = {}, []
  for part, of_part in rows.items():
    length = options.lengths[part]
    if template is None:
      examples[part] = formats.encoded(
        of_part, tokenizer, length, options.slots
      )
    else:
      examples[part], cut = template.rows(of_part, source.text_keys, length)
      cuts += [f"{part}: {cut} texts are cut at {length} tokens"] * bool(cut)
  for part, topics_NxT in formats.numbered_topics(rows).items():
    examples[part] = examples[part]._replace(topics=topics_NxT)
  if given is None:
    notes = (*notes, *vocabularies.remark(len(rows["train"].texts)))
  pair = len(source.text_keys) > 1
  remarks.require_tokens(examples, tokenizer, source.name, pair)
  told = examples["train"].tokens
  if told is not None and not (np.asarray(told.steps) >= 0).any():
    raise errors.InputError(
      f"config.data.rationale_key={options.rationale_key!r} has no text in any "
      f"training row of {source.name}; name another feature, or none"
    )
  return batches.Corpus(
    **examples,
    label_names=source.label_names,
    text_keys=source.text_keys,
    label_key=source.label_key,
    train_bytes=sum(len(x.encode()) for x in rows["train"].single_texts()),
    dropped=dropped,
    tokenizer=tokenizer,
    fingerprint="",
    notes=(*notes, *cuts),
    group_names=rows["reported"].group_names,
  )


def _trained(rows, options):
  """Returns a tokenizer of training rows."""
  learned_from = vocabularies.rows_of(len(rows.texts))
  if len(learned_from) < len(rows.texts):
    rows = rows.take(np.asarray(learned_from))
  return vocabularies.train(
    rows.single_texts(),
    options.vocab_size,
    lower_case=options.lower_case,
    strip_accents=options.strip_accents,
  )
