"""Text-classification data: from a TFDS name to token arrays and batches.

`load` reads a data set, cuts a selection split out of its training split,
tokenizes everything once, and keeps the arrays in the user's cache folder. The
samplers turn them into batches as pure functions of the step.
"""

import dataclasses
import functools
import hashlib
import io
import json
import os
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import flax.struct
import jax
import numpy as np
from etils import epath

from gmdistill import errors, paths
from gmdistill import tokenizer as tokenizing

if TYPE_CHECKING:
  from gmdistill.corpora import sources

SELECTION_FRACTION = 0.05
SELECTION_ROWS = 2000  # at most
_SPLIT_SEED = 20240229
_FORMAT = 1  # Raise it when the same options come to mean other arrays.
_PARTS = ("train", "selection", "reported")


Array = jax.Array | np.ndarray  # on a device, or on the host


@flax.struct.dataclass
class Batch:
  """What a student sees; real and synthetic data are the same type."""

  inputs: Array  # [B, L] token ids, or [B, L, D] word-level embeddings
  mask: Array  # [B, L] bool
  labels: Array  # [B, C] probabilities; one-hot when hard
  # [B, layers, heads, L] labels of the first token's attention; None: none
  attention: Array | None = None
  teacher_logits: Array | None = None  # [B, K, C] of K teachers; None: none
  teacher_features: Array | None = None  # [B, layers, F] of one; None: none
  # The share of the training that is over, from 0 to 1, where a loss depends
  # on it; None: outside of training.
  progress: Array | None = None
  # What the student's slots should say, as `inputs` are: [B, R] token ids, or
  # [B, R, D] queries whose products with the table are logits. None: nothing
  rationale: Array | None = None
  rationale_weights: Array | None = None  # [B, R], a row's sum to 1, or are 0
  rationale_steps: Array | None = None  # [B, R] int; -1: no token


class Examples(NamedTuple):
  """Rows of fixed length on the host."""

  token_ids: np.ndarray  # [N, L] int32
  mask: np.ndarray  # [N, L] bool
  labels: np.ndarray  # [N] int32
  soft: np.ndarray | None = None  # [N, C], what a teacher says; None: nothing
  teacher_logits: np.ndarray | None = None  # [N, K, C] of K teachers
  # Where the data have rationales: their tokens, the step that each belongs to
  # (-1: none), and what each counts; None: they are not learned.
  rationale: np.ndarray | None = None  # [N, R] int32
  rationale_steps: np.ndarray | None = None  # [N, R] int32
  rationale_weights: np.ndarray | None = None  # [N, R] float32
  groups: np.ndarray | None = None  # [N] int32, by which accuracies are told


class Corpus(NamedTuple):
  """A tokenized data set: three disjoint parts and what travels with them."""

  train: Examples
  selection: Examples  # cut from the training split; every choice is made on it
  reported: Examples  # touched once, at the end
  label_names: tuple[str, ...]
  text_keys: tuple[str, ...]
  label_key: str
  train_bytes: int  # UTF-8 bytes of the training part's text
  dropped: int  # unlabelled rows left out, over all splits used
  tokenizer: tokenizing.Tokenizer
  fingerprint: str  # hash of all of the above


@dataclasses.dataclass(frozen=True)
class DataOptions:
  """Which data set is read, and how; the fields of `config.data`.

  Attributes:
    name: a TFDS name such as "glue/sst2", or "docstrings", the embedded one.
    data_dir: the TFDS folder; empty: TFDS's own default.
    text_keys: the features read, one text or a pair; empty: found by type.
      Two texts are read as a pair: AG News is title, then description.
    label_key: the class label; empty: found by type.
    reported_split: empty: `validation` of GLUE (`validation_matched` of MNLI),
      elsewhere `test` where it has labels, else `validation`.
    vocab_size: of the tokenizer trained where no tokenizer file is given.
    max_length: tokens a row, special tokens included.
    train_length: tokens a row of the training part; 0: `max_length`. The
      selection part is cut at `max_length`, as the reported one is.
    rationale_key: a text that says why a row has its label; empty: none is
      read, and rows have no slots.
    rationale_length: tokens R of a rationale, its end included, and slots that
      every row has for them, beside its `max_length` tokens.
    group_key: an integer by which the reported accuracy is told too.
  """

  name: str = "docstrings"
  data_dir: str = ""
  text_keys: tuple[str, ...] = ()
  label_key: str = ""
  reported_split: str = ""
  vocab_size: int = 4096
  max_length: int = 64
  train_length: int = 0
  rationale_key: str = ""
  rationale_length: int = 16
  group_key: str = ""

  def __post_init__(self) -> None:
    """Checks the numbers, and takes lists and single names for `text_keys`."""
    keys = self.text_keys
    keys = tuple(keys.split(",")) if isinstance(keys, str) and keys else keys
    object.__setattr__(self, "text_keys", tuple(keys))
    for field, least in (("max_length", 4), ("vocab_size", 64)):
      if getattr(self, field) < least:
        raise errors.InputError(
          f"config.data.{field}={getattr(self, field)} is too small; it must "
          f"be at least {least}"
        )
    if self.train_length != 0 and self.train_length < 4:
      raise errors.InputError(
        f"config.data.train_length={self.train_length} is too small; use 0 for "
        "max_length, or at least 4"
      )
    if self.rationale_length < 2:
      raise errors.InputError(
        f"config.data.rationale_length={self.rationale_length} is too small; "
        "it must be at least 2"
      )

  @property
  def slots(self) -> int:
    """Positions R of each row at which a rationale is to be said."""
    return self.rationale_length if self.rationale_key else 0

  @property
  def lengths(self) -> dict[str, int]:
    """Tokens a row, by part."""
    train = self.train_length or self.max_length
    return dict(zip(_PARTS, (train, *[self.max_length] * 2), strict=True))


def cache_folder() -> epath.Path:
  """Returns the folder for what can be computed again; it may not exist yet.

  $GMDISTILL_CACHE, $XDG_CACHE_HOME/gmdistill or ~/.cache/gmdistill.
  """
  chosen = os.environ.get("GMDISTILL_CACHE", "")
  if chosen:
    return paths.path(chosen).expanduser()
  base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
  return paths.path(base).expanduser() / "gmdistill"


def load(options: DataOptions, tokenizer_file: str = "") -> Corpus:
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
  # Not at the top: TensorFlow Datasets takes its time to import.
  from gmdistill.corpora import sources

  cache = cache_folder()
  source = sources.open_source(
    options.name,
    data_dir=options.data_dir,
    embedded_dir=cache / "tfds",
    text_keys=options.text_keys,
    label_key=options.label_key,
    rationale_key=options.rationale_key,
    group_key=options.group_key,
  )
  given = None
  if tokenizer_file:
    given = tokenizing.Tokenizer.from_file(tokenizer_file)
  key = _cache_key(options, given, source)
  slug = options.name.replace("/", "-").replace(":", "-")
  path = cache / "corpora" / f"{slug}-{key[:20]}.npz"
  corpus = _from_cache(path)
  if corpus is None:
    corpus = _build(options, given, source)
    _to_cache(path, corpus)
  return corpus


def _cache_key(
  options: DataOptions,
  given: tokenizing.Tokenizer | None,
  source: "sources.Source",
) -> str:
  """Returns a hash of everything that decides the arrays of a corpus."""
  from gmdistill.corpora import sources

  trained = f"trained {options.vocab_size} {tokenizing.LIBRARY_VERSION}"
  decisive = {
    "format": _FORMAT,
    "split": [SELECTION_FRACTION, SELECTION_ROWS, _SPLIT_SEED],
    "data": sources.identity(source),
    "keys": [source.text_keys, source.label_key],
    "reported": sources.reported_candidates(source, options.reported_split),
    "lengths": options.lengths,
    "tokenizer": given.fingerprint if given else trained,
  }
  if options.slots:
    decisive["rationale"] = [options.rationale_key, options.slots]
  if options.group_key:
    decisive["groups"] = options.group_key
  text = json.dumps(decisive, sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()


def _build(
  options: DataOptions,
  given: tokenizing.Tokenizer | None,
  source: "sources.Source",
) -> Corpus:
  from gmdistill.corpora import sources

  whole = sources.read(source, "train")
  if not len(whole.labels):
    raise errors.InputError(
      f"No row of the 'train' split of {source.name} has a label"
    )
  _, reported = sources.read_reported(source, options.reported_split)
  kept, held_out = selection_split(whole.labels)
  parts = {
    "train": whole.take(kept),
    "selection": whole.take(held_out),
    "reported": reported,
  }
  train_texts = list(_flat(parts["train"].texts))
  tokenizer = given or tokenizing.train(train_texts, options.vocab_size)
  examples = {
    part: _encoded(rows, options, tokenizer, options.lengths[part])
    for part, rows in parts.items()
  }
  found = examples["train"].rationale_steps
  if found is not None and not (found >= 0).any():
    raise errors.InputError(
      f"config.data.rationale_key={options.rationale_key!r} has no text in any "
      f"training row of {source.name}; name another feature, or none"
    )
  corpus = Corpus(
    **examples,
    label_names=source.label_names,
    text_keys=source.text_keys,
    label_key=source.label_key,
    train_bytes=sum(len(text.encode()) for text in train_texts),
    dropped=whole.dropped + reported.dropped,
    tokenizer=tokenizer,
    fingerprint="",
  )
  return corpus._replace(fingerprint=_fingerprint(corpus))


def _encoded(
  rows: "sources.Rows",
  options: DataOptions,
  tokenizer: tokenizing.Tokenizer,
  length: int,
) -> Examples:
  ids, mask = tokenizer.encode(cast(Any, rows.texts), length)
  examples = Examples(ids, mask, rows.labels, groups=rows.groups)
  if not options.slots:
    return examples
  told, steps = tokenizer.encode_steps(rows.rationales, options.slots)
  examples = with_slots(examples, options.slots, tokenizer.special_id("mask"))
  return examples._replace(rationale=told, rationale_steps=steps)


def with_slots(examples: Examples, slots: int, mask_id: int) -> Examples:
  """Returns rows with R slots after the first token: [CLS] [MASK]*R text.

  The slots stand in front, so that they have the same positions in every row,
  and a row stays masked after its last token alone. Every split has them: what
  a student should say there is not known where it is used.
  """
  ids_NxL, mask_NxL = examples.token_ids, examples.mask
  blanks_NxR = np.full((len(ids_NxL), slots), mask_id, ids_NxL.dtype)
  join = lambda x, middle: np.concatenate([x[:, :1], middle, x[:, 1:]], axis=1)  # noqa: E731
  return examples._replace(
    token_ids=join(ids_NxL, blanks_NxR),
    mask=join(mask_NxL, np.ones(blanks_NxR.shape, bool)),
  )


def without_slots(examples: Examples) -> Examples:
  """Returns the rows' text alone; rows without slots as they are."""
  if examples.rationale is None:
    return examples
  slots = np.s_[1 : 1 + examples.rationale.shape[1]]
  return examples._replace(
    token_ids=np.delete(examples.token_ids, slots, axis=1),
    mask=np.delete(examples.mask, slots, axis=1),
  )


def _facts(corpus: Corpus) -> dict[str, Any]:
  """Returns what a corpus holds beside arrays, tokenizer and fingerprint."""
  kept = corpus._asdict()
  for key in (*_PARTS, "tokenizer", "fingerprint"):
    del kept[key]
  return kept


def _fingerprint(corpus: Corpus) -> str:
  digest = hashlib.sha256(json.dumps(_facts(corpus), sort_keys=True).encode())
  digest.update(corpus.tokenizer.to_json().encode())
  for part in _PARTS:
    for array in _stored(getattr(corpus, part)).values():
      digest.update(f"{array.shape} {array.dtype}".encode())
      digest.update(np.ascontiguousarray(array).data)
  return digest.hexdigest()


def _stored(examples: Examples) -> dict[str, np.ndarray]:
  """Returns the arrays that are part of the data, by their names.

  No teacher is, nor what is made of a rationale.
  """
  return {
    name: array
    for name, array in examples._asdict().items()
    if array is not None and name not in ("soft", "rationale_weights")
  }


def _flat(texts: Iterable[str | tuple[str, str]]) -> Iterable[str]:
  for text in texts:
    if isinstance(text, str):
      yield text
    else:
      yield from text


def selection_split(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Cuts rows into a training part and a selection split, always the same.

  The selection split takes 5 % of the rows, at most 2,000 and where there are
  two rows at least one, in the proportions of the classes.

  Args:
    labels: [N] integers.

  Returns:
    The rows of the training part and those of the selection split, ascending.
  """
  classes, counts = np.unique(labels, return_counts=True)
  wanted = max(round(SELECTION_FRACTION * len(labels)), min(len(labels) - 1, 1))
  wanted = min(wanted, SELECTION_ROWS)
  shares = counts * wanted / len(labels)
  quotas = shares.astype(int)
  # The rows that rounding down left over go to the largest remainders.
  order = np.argsort(quotas - shares, kind="stable")
  quotas[order[: wanted - quotas.sum()]] += 1
  chosen = [
    np.random.default_rng([_SPLIT_SEED, int(of_class)]).permutation(
      np.flatnonzero(labels == of_class)
    )[:quota]
    for of_class, quota in zip(classes, quotas, strict=True)
  ]
  selection = np.sort(np.concatenate(chosen))
  return np.setdiff1d(np.arange(len(labels)), selection), selection


def _to_cache(path: epath.Path, corpus: Corpus) -> None:
  """Writes a corpus in one file, which appears complete or not at all."""
  facts = _facts(corpus) | {"fingerprint": corpus.fingerprint}
  arrays = {
    "facts": np.array(json.dumps(facts)),
    "tokenizer": np.array(corpus.tokenizer.to_json()),
  }
  for part in _PARTS:
    for field, array in _stored(getattr(corpus, part)).items():
      arrays[f"{part}/{field}"] = array
  save_arrays(path, arrays)


def save_arrays(path: epath.Path, arrays: dict[str, Any]) -> None:
  """Writes an npz file of the cache folder, whole or not at all.

  Raises:
    errors.InputError: the folder cannot be written.
  """
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, unfinished = tempfile.mkstemp(dir=path.parent, suffix=".unfinished")
  except OSError as error:
    raise errors.InputError(
      f"Cannot write to the cache folder {path.parent} ({error.strerror}); set "
      "$GMDISTILL_CACHE to a folder you can write to"
    ) from error
  try:
    with os.fdopen(handle, "wb") as file:
      np.savez(file, **cast(Any, arrays))
    os.replace(unfinished, path)
  finally:
    epath.Path(unfinished).unlink(missing_ok=True)


def _from_cache(path: epath.Path) -> Corpus | None:
  """Reads a corpus, or returns None where there is none, or a damaged one."""
  try:
    content = io.BytesIO(path.read_bytes())
    with zipfile.ZipFile(content) as archive:
      if archive.testzip():  # Checksums first: numpy parses before it checks.
        return None
    content.seek(0)
    with np.load(content) as arrays:
      facts = json.loads(str(arrays["facts"]))
      facts["label_names"] = tuple(facts["label_names"])
      facts["text_keys"] = tuple(facts["text_keys"])
      tokenizer = tokenizing.Tokenizer.from_json(str(arrays["tokenizer"]))
      examples = {
        part: Examples(
          **{
            name: arrays[f"{part}/{name}"]
            for name in Examples._fields
            if f"{part}/{name}" in arrays
          }
        )
        for part in _PARTS
      }
      corpus = Corpus(**(facts | examples), tokenizer=tokenizer)
  except (OSError, EOFError, ValueError, KeyError, TypeError):
    return None
  except (zipfile.BadZipFile, zlib.error):
    return None
  return corpus if _fingerprint(corpus) == corpus.fingerprint else None


def take(examples: Examples, rows: np.ndarray | Sequence[int]) -> Examples:
  """Returns the chosen rows, in the order chosen."""
  chosen = np.asarray(rows, np.int64)
  return Examples._make(x if x is None else x[chosen] for x in examples)


def by_group(examples: Examples) -> dict[str, Examples]:
  """Returns the rows of each group by its number; {} where there are none."""
  if examples.groups is None:
    return {}
  return {
    str(group): take(examples, np.flatnonzero(examples.groups == group))
    for group in np.unique(examples.groups)
  }


def sharing(examples: Examples, others: Examples, length: int) -> np.ndarray:
  """Returns whether each row has `length` tokens in a row in common with any.

  Phrases cut from the same sentence are found so. Rows shorter than that share
  nothing.

  Args:
    examples: The rows [N] that are asked about.
    others: The rows that they are compared with.
    length: Consecutive tokens.

  Returns:
    [N] bools.
  """
  # A window is known by a random sum of its ids: equal sums of different
  # windows are as rare as equal hashes.
  factors = np.random.default_rng(0).integers(2**62, size=length)

  def windows(rows):
    ids = rows.token_ids.astype(np.int64)
    if ids.shape[1] < length:
      return np.zeros((len(ids), 0), np.int64), np.zeros((len(ids), 0), bool)
    view = functools.partial(
      np.lib.stride_tricks.sliding_window_view, window_shape=length, axis=1
    )
    return view(ids) @ factors, view(rows.mask).all(axis=-1)

  theirs, whole = windows(others)
  ours, ours_whole = windows(examples)
  found = np.isin(ours, theirs[whole]) & ours_whole
  return found.any(axis=1)


def as_batch(examples: Examples, num_classes: int) -> Batch:
  """Returns all rows as one batch of numpy arrays; the labels are a teacher's
  where the rows have some, else one-hot."""
  labels = examples.soft
  if labels is None:
    labels = np.eye(num_classes, dtype=np.float32)[examples.labels]
  # Host arrays: where they go on the device is decided by who uses them.
  batch = Batch(
    inputs=examples.token_ids,
    mask=examples.mask,
    labels=labels,
    teacher_logits=examples.teacher_logits,
  )
  if examples.rationale_weights is None:
    return batch
  return dataclasses.replace(
    batch,
    rationale=examples.rationale,
    rationale_weights=examples.rationale_weights,
    rationale_steps=examples.rationale_steps,
  )


def require_rows(
  examples: Examples, per_class: int, label_names: Sequence[str]
) -> None:
  """Checks that every class has at least `per_class` rows.

  Raises:
    errors.InputError: one has fewer; names it and what would be possible.
  """
  counts = np.bincount(examples.labels, minlength=len(label_names))
  scarcest = int(counts.argmin())
  if counts[scarcest] < per_class:
    raise errors.InputError(
      f"data_per_class={per_class} is more than the {counts[scarcest]} rows "
      f"of the class {label_names[scarcest]!r}; use at most "
      f"{counts[scarcest]}"
    )


# step -> host batch; pure, so resuming needs no iterator state
Sampler = Callable[[int], Batch]


def class_balanced_sampler(
  examples: Examples, *, rows_per_class: int, num_classes: int, seed: int
) -> Sampler:
  """Samples equally many rows of each class: `sampler(step) -> Batch`.

  A batch holds [num_classes * rows_per_class] rows, class by class. Over the
  steps, a class's rows come in shuffled epochs, each row once an epoch. Pure
  in `(seed, step)`.

  Raises:
    errors.InputError: a class has no rows, or `rows_per_class` is below one.
  """
  if rows_per_class < 1:
    raise errors.InputError(
      f"config.rows_per_class={rows_per_class} must be at least 1"
    )
  by_class = [
    np.flatnonzero(examples.labels == of_class)
    for of_class in range(num_classes)
  ]
  for of_class, rows in enumerate(by_class):
    if not len(rows):
      raise errors.InputError(
        f"Class {of_class} of {num_classes} has no rows to sample from; use "
        "data with rows of every class"
      )
  streams = [
    shuffled_epochs(rows, (seed, 1, of_class))
    for of_class, rows in enumerate(by_class)
  ]

  def sample(step: int) -> Batch:
    start = step * rows_per_class
    rows = [stream(start, rows_per_class) for stream in streams]
    return as_batch(take(examples, np.concatenate(rows)), num_classes)

  return sample


def shuffled_epochs(
  rows: np.ndarray, seed: tuple[int, ...]
) -> Callable[[int, int], np.ndarray]:
  """Returns `(start, count) -> rows` of an endless series of permutations.

  Pure in `(seed, start, count)`; each row comes once an epoch.
  """

  @functools.lru_cache(maxsize=2)  # The same value, only sooner.
  def epoch_rows(epoch: int) -> np.ndarray:
    return np.random.default_rng([*seed, epoch]).permutation(rows)

  def draw(start: int, count: int) -> np.ndarray:
    first, last = start // len(rows), (start + count - 1) // len(rows)
    epochs = [epoch_rows(epoch) for epoch in range(first, last + 1)]
    offset = start - first * len(rows)
    return np.concatenate(epochs)[offset : offset + count]

  return draw
