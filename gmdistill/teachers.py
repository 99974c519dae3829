"""Teachers: trained classifiers, and what they say of the real data."""

import dataclasses
import hashlib
import json
import zipfile
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from gmdistill import (
  data,
  ensembles,
  errors,
  loading,
  metrics,
  paths,
  pretrained,
  students,
  synthetic,
)
from gmdistill import problem as problems
from gmdistill import tokenizer as tokenizing

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


def load(source: str) -> Teacher:
  """Reads a Hugging Face directory with a classification head.

  `BertForSequenceClassification`, or what `gmdistill teach` and `train` write
  of a mean-pooled student.

  Raises:
    InputError: it is incomplete, damaged, or has no classification head.
  """
  folder = pretrained.find(source)
  path = folder / "model.safetensors"
  tensors = pretrained.read_tensors(path)
  pooling, beside = "first", folder / "classifier.safetensors"
  if "classifier.weight" not in tensors and beside.is_file():
    pooling = "mean"
    head = pretrained.read_tensors(beside)
    tensors |= {f"classifier.{name}": x for name, x in head.items()}
  if not {"classifier.weight", "classifier.bias"} <= set(tensors):
    raise errors.InputError(
      f"{source} has no classification head (classifier.weight in "
      "model.safetensors, or classifier.safetensors beside it); a teacher is "
      "what gmdistill teach writes, or a BertForSequenceClassification."
    )
  read = pretrained.load(source, 0, pooling)
  weight_CxD = tensors["classifier.weight"]
  config = pretrained.read_config(folder)
  names = config.get("id2label", {})
  labels = tuple(
    names.get(str(i), f"LABEL_{i}") for i in range(len(weight_CxD))
  )
  module = students.Transformer(len(labels), **read.student)
  head = {"kernel": weight_CxD.T, "bias": tensors["classifier.bias"]}
  params = {**read.params, "head": jax.tree.map(jnp.asarray, head)}
  return Teacher(
    folder.name,
    identity(folder),
    problems.Problem(read.embeddings, None, module),
    params,
    read.tokenizer_file,
    labels,
    config.get("rationale_slots", 0),
    pretrained.tells_pairs(folder),
  )


def identity(folder: epath.Path) -> str:
  """Returns the id of a teacher: a hash of its files."""
  digest = hashlib.sha256()
  for name in (*pretrained.FILES, "classifier.safetensors"):
    if (folder / name).is_file():
      digest.update(name.encode())
      digest.update((folder / name).read_bytes())
  return digest.hexdigest()[:16]


def names_and_ids(sources: Sequence[str]) -> list[dict[str, str]]:
  """Returns what the card of a set says of the teachers that labelled it."""
  folders = [pretrained.find(source) for source in sources]
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
  teacher: Teacher, corpus: data.Corpus, options: loading.Options
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
  own = as_read(teacher, corpus, options)
  identity = json.dumps([teacher.id, own.fingerprint, 1])
  name = hashlib.sha256(identity.encode()).hexdigest()[:20]
  path = paths.cache_folder() / "teachers" / f"{name}.npz"
  found = _cached(path, own)
  if found is None:
    metrics.say(
      f"the teacher {teacher.name} labels {len(own.train.labels)} rows"
    )
    found = _label(teacher, own.train)
    paths.save_arrays(
      path, {"logits": found, "data": np.array(own.fingerprint)}
    )
  return found


def as_read(
  teacher: Teacher, corpus: data.Corpus, options: loading.Options
) -> data.Corpus:
  """Returns the data as a teacher reads it, in the corpus's order.

  Raises:
    InputError: other classes, or rows too long for the teacher.
  """
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
  own = loading.load(loading.Options(**fields), teacher.tokenizer_file)
  if not np.array_equal(own.train.labels, corpus.train.labels):
    raise errors.InputError(
      f"the rows that the teacher {teacher.name} reads are not the student's; "
      "clear the cache folder."
    )
  return own


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


def require_length(teacher: Teacher, length: int, field: str) -> None:
  """Checks that a teacher has positions for so many tokens.

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
  own = tokenizing.Tokenizer.from_file(teacher.tokenizer_file)
  return synthetic.space_id(teacher.problem.embeddings, own.fingerprint)


def _cached(path, corpus):
  if not path.is_file():
    return None
  try:
    with path.open("rb") as opened, np.load(opened) as file:
      found, of = file["logits"], str(file["data"])
  except (
    OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile
  ) as error:  # fmt: skip
    raise errors.InputError(
      f"{path} is damaged; delete it, and the teacher labels anew."
    ) from error
  if of != corpus.fingerprint or len(found) != len(corpus.train.labels):
    raise errors.InputError(
      f"{path} holds labels of other data ({of[:12]}, not "
      f"{corpus.fingerprint[:12]}); delete it, and the teacher labels anew."
    )
  return found


def _label(teacher, examples):
  """Returns logits [N, C]; rows of like length share a batch."""
  apply = jax.jit(lambda *args: teacher.problem.apply(*args).logits)
  lengths = examples.mask.sum(axis=1)
  full = examples.mask.shape[1]
  found = np.zeros((len(lengths), len(teacher.label_names)), np.float32)
  order = np.argsort(lengths, kind="stable")
  for first in range(0, len(order), ROWS):
    rows = order[first : first + ROWS]
    # A few lengths and one size of batch: a program each.
    cut = min(-(-int(lengths[rows].max()) // 16) * 16, full)
    padded = np.resize(rows, ROWS)
    short = data.Examples(
      examples.token_ids[padded, :cut],
      examples.mask[padded, :cut],
      examples.labels[padded],
    )
    batch = data.as_batch(short, len(teacher.label_names))
    found[rows] = np.asarray(apply(teacher.params, batch))[: len(rows)]
  require_finite(teacher, found)
  return found


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


@dataclasses.dataclass(frozen=True)
class Options:
  """How several teachers and the truth become one label.

  Attributes:
    alpha: The teachers' share, from 0, the truth alone, to 1.
    temperature: Of the teachers.
    temperatures: One for each of the teachers instead.
    join: `probabilities` or `logits`, whose mean is taken.
    weights: `equal`, `confidence` (in the true label; equal where a row has
      none) or `entropy`.
    certainty: Each row's share is alpha times the teachers' certainty, which is
      0 where what they say is uniform, and 1 where they name one class.
    top_k: Classes that are kept; the mass of the others is spread evenly over
      them. 0: all, exactly.
  """

  alpha: float = 1.0
  temperature: float = 1.0
  temperatures: tuple[float, ...] = ()
  join: str = "probabilities"
  weights: str = "equal"
  certainty: bool = False
  top_k: int = 0

  def __post_init__(self) -> None:
    """Checks the fields.

    Raises:
      ValueError: an unknown choice, or a number out of its range.
    """
    object.__setattr__(self, "temperatures", tuple(self.temperatures))
    lowest = min(self.temperature, *self.temperatures, np.inf)
    if not 0 <= self.alpha <= 1 or lowest <= 0:
      raise ValueError(
        f"alpha={self.alpha} must be 0 to 1, and temperatures above 0."
      )
    if self.join not in ensembles.JOINS:
      known = ", ".join(ensembles.JOINS)
      raise ValueError(f"join={self.join!r} is none of {known}.")
    if self.weights not in ensembles.WEIGHTS:
      known = ", ".join(ensembles.WEIGHTS)
      raise ValueError(f"weights={self.weights!r} is none of {known}.")


def soft_labels(
  logits_KxNxC: np.ndarray, truth_NxC: np.ndarray, options: Options
) -> np.ndarray:
  """Returns alpha times what the teachers say, 1 - alpha times the truth.

  Args:
    logits_KxNxC: The teachers' logits.
    truth_NxC: The true labels, one-hot where they are hard.
    options: See `Options`.

  Returns:
    Labels [N, C], float32; each row sums to 1 where the truth does.

  Raises:
    ValueError: more temperatures than teachers, or too large a `top_k`.
  """
  count, _, classes = logits_KxNxC.shape
  temperatures = options.temperatures or (options.temperature,) * count
  if len(temperatures) != count or not 0 <= options.top_k <= classes:
    raise ValueError(
      f"temperatures={options.temperatures} must be one for each of {count} "
      f"teachers, and top_k={options.top_k} from 0 to {classes}."
    )
  weights_KxN = ensembles.weights(options.weights, logits_KxNxC, truth_NxC)
  joined_NxC = ensembles.JOINS[options.join](
    logits_KxNxC, weights_KxN, np.asarray(temperatures, np.float32)
  )
  said_NxC = np.asarray(jax.nn.softmax(joined_NxC), np.float32)
  if 0 < options.top_k < classes:
    said_NxC = _largest(said_NxC, options.top_k)
  share_Nx1 = np.full((len(truth_NxC), 1), options.alpha, np.float32)
  if options.certainty:
    share_Nx1 *= np.asarray(ensembles.certainty(joined_NxC))[:, None]
  mixed_NxC = share_Nx1 * said_NxC + (1 - share_Nx1) * truth_NxC
  return mixed_NxC.astype(np.float32)


def _largest(said_NxC, top_k):
  order_NxC = np.argsort(-said_NxC, axis=1, kind="stable")
  kept_NxC = np.zeros(said_NxC.shape, bool)
  np.put_along_axis(kept_NxC, order_NxC[:, :top_k], True, axis=1)
  missing_Nx1 = np.where(kept_NxC, 0.0, said_NxC).sum(axis=1, keepdims=True)
  rest = said_NxC.shape[1] - top_k
  return np.where(kept_NxC, said_NxC, missing_Nx1 / rest)
