"""Teachers: trained classifiers, and what they say of the real data."""

import hashlib
import json
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gmdistill import data, ensembles, errors, metrics, pretrained, students
from gmdistill import problem as problems

ROWS = 64  # of a batch that a teacher labels
JOINS = ("probabilities", "logits")
WEIGHTS = ("equal", "confidence", "entropy")


class Teacher(NamedTuple):
  """A classifier that reads text by its own tokenizer and table."""

  name: str
  id: str  # hash of its files
  problem: problems.Problem
  params: Any
  tokenizer_file: str
  label_names: tuple[str, ...]
  slots: int = 0  # R [MASK] after [CLS], which its rows have


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
  digest = hashlib.sha256(pooling.encode())
  for file in (path, beside, folder / "tokenizer.json", folder / "config.json"):
    if file.is_file():
      digest.update(file.read_bytes())
  return Teacher(
    folder.name,
    digest.hexdigest()[:16],
    problems.Problem(read.embeddings, None, module),
    params,
    read.tokenizer_file,
    labels,
    config.get("rationale_slots", 0),
  )


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
  teacher: Teacher, corpus: data.Corpus, options: data.DataOptions
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
  require_labels(teacher, corpus.label_names)
  positions = teacher.problem.student.max_positions
  if teacher.slots not in (0, options.slots):
    raise errors.InputError(
      f"the teacher {teacher.name} reads {teacher.slots} slots for rationales; "
      "set data.rationale_key, and data.rationale_length to that."
    )
  if options.max_length + teacher.slots > positions:
    raise errors.InputError(
      f"config.data.max_length={options.max_length}, but the teacher "
      f"{teacher.name} has {positions - teacher.slots} positions; use at most "
      "that."
    )
  # The same texts: without the rationale's key, it would look like one of them.
  fields = {
    **options.__dict__,
    "train_length": 0,
    "text_keys": corpus.text_keys,
  }
  if not teacher.slots:
    fields["rationale_key"] = ""
  own = data.load(data.DataOptions(**fields), teacher.tokenizer_file)
  if not np.array_equal(own.train.labels, corpus.train.labels):
    raise errors.InputError(
      f"the rows that the teacher {teacher.name} reads are not the student's; "
      "clear the cache folder."
    )
  identity = json.dumps([teacher.id, own.fingerprint, 1])
  name = hashlib.sha256(identity.encode()).hexdigest()[:20]
  path = data.cache_folder() / "teachers" / f"{name}.npz"
  found = _cached(path, own)
  if found is None:
    metrics.say(
      f"the teacher {teacher.name} labels {len(own.train.labels)} rows"
    )
    found = _label(teacher, own.train)
    data.save_arrays(path, {"logits": found, "data": np.array(own.fingerprint)})
  return found


def _cached(path, corpus):
  if not path.is_file():
    return None
  try:
    with np.load(path) as file:
      found, of = file["logits"], str(file["data"])
  except (OSError, ValueError, KeyError, EOFError) as error:
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
  return found


def soft_labels(
  logits_KxNxC: np.ndarray,
  labels_N: np.ndarray,
  *,
  alpha: float = 1.0,
  temperature: float = 1.0,
  join: str = "probabilities",
  weights: str = "equal",
  top_k: int = 0,
) -> np.ndarray:
  """Returns alpha times what the teachers say, 1 - alpha times the truth.

  Args:
    logits_KxNxC: The teachers' logits.
    labels_N: The true classes.
    alpha: From 0, the truth alone, to 1.
    temperature: Of the teachers.
    join: `probabilities` or `logits`, whose mean is taken.
    weights: `equal`, `confidence` (in the true label) or `entropy`.
    top_k: Classes that are kept; the mass of the others is spread evenly over
      them. 0: all, exactly.

  Returns:
    Labels [N, C], float32; each row sums to 1.

  Raises:
    ValueError: an unknown choice, or a number out of its range.
  """
  classes = logits_KxNxC.shape[-1]
  if not 0 <= alpha <= 1 or temperature <= 0 or not 0 <= top_k <= classes:
    raise ValueError(
      f"alpha={alpha} must be 0 to 1, temperature={temperature} above 0, and "
      f"top_k={top_k} 0 to {classes}."
    )
  if join not in JOINS or weights not in WEIGHTS:
    raise ValueError(
      f"join={join!r} must be one of {', '.join(JOINS)}, and "
      f"weights={weights!r} one of {', '.join(WEIGHTS)}."
    )
  own_KxN = {
    "equal": lambda: ensembles.equal_weights(logits_KxNxC),
    "confidence": lambda: ensembles.confidence_weights(logits_KxNxC, labels_N),
    "entropy": lambda: ensembles.entropy_weights(logits_KxNxC),
  }[weights]()
  mean = {
    "probabilities": ensembles.mean_of_probabilities,
    "logits": ensembles.mean_of_logits,
  }[join]
  said_NxC = np.asarray(
    jax.nn.softmax(mean(logits_KxNxC, own_KxN, temperature)), np.float32
  )
  if top_k and top_k < classes:
    said_NxC = _largest(said_NxC, top_k)
  truth_NxC = np.eye(classes, dtype=np.float32)[labels_N]
  return (alpha * said_NxC + (1 - alpha) * truth_NxC).astype(np.float32)


def _largest(said_NxC, top_k):
  order_NxC = np.argsort(-said_NxC, axis=1, kind="stable")
  kept_NxC = np.zeros(said_NxC.shape, bool)
  np.put_along_axis(kept_NxC, order_NxC[:, :top_k], True, axis=1)
  missing_Nx1 = np.where(kept_NxC, 0.0, said_NxC).sum(axis=1, keepdims=True)
  rest = said_NxC.shape[1] - top_k
  return np.where(kept_NxC, said_NxC, missing_Nx1 / rest)
