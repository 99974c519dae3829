"""Teachers: trained classifiers, and what they say of the real data."""

import hashlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from gmdistill import errors
from gmdistill.data import batches, loading, tokenizing
from gmdistill.sets import spaces
from gmdistill.students import (
  hugging_face,
  peft_files,
  problems,
  roles,
  weight_files,
)
from gmdistill.system import cache, logs, paths

ROWS = 64  # of a batch that a teacher labels


class Teacher(NamedTuple):
  """A classifier that reads text by its own tokenizer and table."""

  name: str
  id: str  # hash of its files
  problem: problems.Problem
  params: Any
  tokenizer_file: str
  label_names: tuple[str, ...]
  slots: int = 0  # R [MASK] after [CLS], which its rows have
  tells_pairs: bool = False  # by token types, which rows here do not have
  same_rows: bool = False  # whether it reads the student's own rows
  base: str = ""  # hash of the files of what it changes; empty: a whole model
  asked: tuple[Any, ...] = ()  # what decides its answers beside files and rows


def load(source: str) -> Teacher:
  """Reads a Hugging Face directory with a classification head.

  `BertForSequenceClassification`, or what `gmdistill teach` and `train` write
  of a mean-pooled student.

  Raises:
    InputError: it is incomplete, damaged, or has no classification head.
  """
  folder = hugging_face.find(source)
  tensors = hugging_face.read_tensors(folder)
  pooling, beside = "first", folder / "classifier.safetensors"
  if "classifier.weight" not in tensors and beside.is_file():
    pooling = "mean"
    head = weight_files.read_tensors(beside)
    tensors |= {f"classifier.{name}": x for name, x in head.items()}
  if not {"classifier.weight", "classifier.bias"} <= set(tensors):
    raise errors.InputError(
      f"{source} has no classification head (classifier.weight in "
      "model.safetensors, or classifier.safetensors beside it); a teacher is "
      "what gmdistill teach writes, or a BertForSequenceClassification."
    )
  read = hugging_face.load(source, pooling=pooling)
  weight_CxD = tensors["classifier.weight"]
  config = hugging_face.read_config(folder)
  names, slots = config.get("id2label", {}), config.get("rationale_slots", 0)
  width, classes = read.embeddings.shape[1], weight_CxD.shape[0]
  told = isinstance(names, dict) and isinstance(slots, int)
  shapes = weight_CxD.shape, tensors["classifier.bias"].shape
  if not told or shapes != ((classes, width), (classes,)):
    raise errors.InputError(
      f"{source} has a head of shapes {shapes}, or an id2label or "
      f"rationale_slots in config.json, that fit no teacher {width} wide; save "
      "it again."
    )
  known = tokenizing.Tokenizer.from_file(read.tokenizer_file).vocab_size
  if known > len(read.embeddings):
    raise errors.InputError(
      f"{source}: the tokenizer has {known} tokens, the embedding table "
      f"{len(read.embeddings)} rows; they are not of one model."
    )
  labels = tuple(str(names.get(str(i), f"LABEL_{i}")) for i in range(classes))
  module = read.family.module(len(labels), **read.student)
  head = {"kernel": weight_CxD.T, "bias": tensors["classifier.bias"]}
  params = {**read.params, roles.HEAD: jax.tree.map(jnp.asarray, head)}
  return Teacher(
    folder.name,
    identity(folder),
    problems.Problem(read.embeddings, None, module),
    params,
    read.tokenizer_file,
    labels,
    slots,
    hugging_face.tells_pairs(folder),
  )


def identity(folder: epath.Path) -> str:
  """Returns the id of a teacher: a hash of its files."""
  digest = hashlib.sha256()
  names = [*hugging_face.FILES, "classifier.safetensors"]
  if is_adapter(folder):
    names = [peft_files.CONFIG, peft_files.WEIGHTS]
  elif hugging_face.FILES[1] not in (weights := weight_files.names(folder)):
    names += weights  # of several files
  for name in names:
    if (folder / name).is_file():
      digest.update(name.encode())
      digest.update((folder / name).read_bytes())
  return digest.hexdigest()[:16]


def is_adapter(folder: epath.Path) -> bool:
  """Whether a directory holds a change of a model, and no whole one."""
  return (folder / peft_files.CONFIG).is_file()


def names_and_ids(sources: Sequence[str]) -> list[dict[str, str]]:
  """Returns what the card of a set says of the teachers that labelled it."""
  folders = [paths.path(source) for source in sources]
  folders = [
    x if is_adapter(x) else hugging_face.find(source)
    for x, source in zip(folders, sources, strict=True)
  ]
  return [{"name": x.name, "id": identity(x)} for x in folders]


def require_labels(teacher: Teacher, label_names: Sequence[str]) -> None:
  """Checks that a teacher knows the data's classes, in their order.

  Raises:
    InputError: it knows others; both are named.
  """
  theirs, ours = list(teacher.label_names), list(label_names)
  # Names that were never given say nothing against a teacher.
  generic = all(name.startswith("LABEL_") for name in theirs)
  same = [x.lower() for x in theirs] == [x.lower() for x in ours]
  if len(theirs) != len(ours) or not (generic or same):
    raise errors.InputError(
      f"the teacher {teacher.name} has {len(theirs)} classes {theirs}, the "
      f"data {len(ours)}: {ours}; use a teacher of this data."
    )


def logits(
  teacher: Teacher, corpus: batches.Corpus, options: loading.Options
) -> np.ndarray:
  """Returns a teacher's logits [N, C] of the training part, in its order.

  Computed once for a teacher and a data set, and kept in the cache folder.

  Args:
    teacher: Reads the text by its own tokenizer.
    corpus: The data as the student reads it.
    options: How the data was loaded; the teacher's rows are cut at
      `max_length`, whatever the student's are cut at.

  Raises:
    InputError: other classes, or rows too long for the teacher.
  """
  read = as_read(teacher, corpus, options)
  decides = [teacher.id + teacher.base, read.fingerprint, 2, *teacher.asked]
  entry = cache.entry("teachers", decides)
  shape = (len(read.train.labels), len(teacher.label_names))
  arrays = cache.read_arrays(entry) or {}
  if "logits" in arrays and arrays["logits"].shape == shape:
    return arrays["logits"]
  logs.say(f"the teacher {teacher.name} labels {shape[0]} rows")
  logits = _label(teacher, read.train)
  cache.write_arrays(entry, {"logits": logits})
  return logits


def as_read(
  teacher: Teacher, corpus: batches.Corpus, options: loading.Options
) -> batches.Corpus:
  """Returns the data as a teacher reads it, in the corpus's order.

  Raises:
    InputError: other classes, or rows too long for the teacher.
  """
  if teacher.same_rows:
    return corpus
  pairs = len(corpus.text_keys) > 1
  require_reads(teacher, corpus.label_names, options, pairs)
  # The same texts: without the rationale's key, it would look like one of them.
  fields = {
    **options.__dict__,
    "train_length": 0,
    "text_keys": corpus.text_keys,
  }
  if not teacher.slots:
    fields["rationale_key"] = ""
  read = loading.load(loading.Options(**fields), teacher.tokenizer_file)
  if not np.array_equal(read.train.labels, corpus.train.labels):
    raise errors.InputError(
      f"the rows that the teacher {teacher.name} reads are not the student's; "
      "clear the cache folder."
    )
  return read


def require_reads(
  teacher: Teacher,
  label_names: Sequence[str],
  options: loading.Options,
  pairs: bool,
) -> None:
  """Checks that a teacher can read texts, or pairs of them, of a config's data.

  Raises:
    InputError: other classes, other slots, too few positions, or token types.
  """
  require_labels(teacher, label_names)
  if teacher.tells_pairs and pairs:
    raise errors.InputError(
      f"the teacher {teacher.name} tells the two texts of a row apart by token "
      "types, which are not read here; use one that gmdistill teach wrote."
    )
  if teacher.slots not in (0, options.slots):
    raise errors.InputError(
      f"the teacher {teacher.name} reads {teacher.slots} slots for rationales; "
      "set data.rationale_key, and data.rationale_length to that."
    )
  longest = options.max_length + teacher.slots
  require_length(teacher, longest, "config.data.max_length and its slots")


def require_length(teacher: Any, length: int, field: str) -> None:
  """Checks that a teacher, of classes or of tokens, has positions for a row.

  Raises:
    InputError: it has fewer.
  """
  positions = teacher.problem.student.max_positions
  if length > positions:
    raise errors.InputError(
      f"{field}={length}, but the teacher {teacher.name} has {positions} "
      "positions; use at most that."
    )


def space_id(teacher: Teacher) -> str:
  """Returns the id of the embedding space that a teacher reads."""
  tokenizer = tokenizing.Tokenizer.from_file(teacher.tokenizer_file)
  return spaces.id_of(teacher.problem.embeddings, tokenizer.fingerprint)


def _label(teacher, examples):
  """Returns logits [N, C]; rows of like length share a batch."""
  lengths = examples.mask.sum(axis=1)
  full = examples.mask.shape[1]
  logits = np.zeros((len(lengths), len(teacher.label_names)), np.float32)
  order = np.argsort(lengths, kind="stable")
  for first in range(0, len(order), ROWS):
    rows = order[first : first + ROWS]
    # A few lengths and one size of batch: a program each.
    cut = min(-(-int(lengths[rows].max()) // 16) * 16, full)
    padded = np.resize(rows, ROWS)
    short = batches.Examples(
      examples.token_ids[padded, :cut],
      examples.mask[padded, :cut],
      examples.labels[padded],
    )
    batch = batches.as_batch(short, len(teacher.label_names))
    said = teacher.problem.logits(teacher.params, batch)
    logits[rows] = np.asarray(said)[: len(rows)]
  require_finite(teacher, logits)
  return logits


def require_finite(teacher: Teacher, logits: np.ndarray) -> None:
  """Checks what a teacher says.

  Raises:
    InputError: some of it is NaN or infinite.
  """
  if not np.isfinite(logits).all():
    raise errors.InputError(
      f"the teacher {teacher.name} says numbers that are not finite; train it "
      "anew, with smaller full.rates."
    )
