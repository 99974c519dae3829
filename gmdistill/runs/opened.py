"""A distilled set and a trained student, opened: what the face hands out."""

import functools
import pathlib
import types
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from etils import epath

from gmdistill import errors
from gmdistill.data import batches, formats, tokenizing
from gmdistill.reports import opened as opened_runs
from gmdistill.runs.commands import shared
from gmdistill.runs.config import assembly, recipe
from gmdistill.sets import hub, set_files, spaces, synthetic, text_sets
from gmdistill.students import problems
from gmdistill.system import units
from gmdistill.teachers import trained

ROWS = 64  # of a batch whose classes a student predicts


class Score(NamedTuple):
  """The mean over students: of an accuracy a fraction, or nats a token."""

  mean: float
  std: float | None  # over students; None of one
  num_students: int
  unit: str = "accuracy"

  def __repr__(self) -> str:
    """In its unit, with the number of students."""
    said = units.plus_minus(self.mean, self.std, self.unit)
    unit = "%" if self.unit == "accuracy" else self.unit
    plural = "" if self.num_students == 1 else "s"
    return f"{said} {unit} ({self.num_students} student{plural})"


class DistilledSet:
  """A distilled set on disk, with its card and the config of its run."""

  def __init__(self, folder: epath.PathLike):
    """Reads a run's `set/` folder, the workdir around it, or hf:ORG/NAME."""
    self.folder = hub.set_folder(folder)
    self.examples: synthetic.SyntheticSet
    self.card: dict[str, Any]
    self.examples, self.card = set_files.load(self.folder)

  @property
  def label_names(self) -> tuple[str, ...]:
    """The classes, in the order of the labels."""
    return tuple(self.card.get("label_names", ()))

  @functools.cached_property
  def config(self) -> recipe.Recipe:
    """The recipe of the run that made it."""
    flags = types.SimpleNamespace(set=str(self.folder), config=None)
    return shared.config_and_set(flags)[0]

  @functools.cached_property
  def setup(self) -> spaces.Setup:
    """The problem and the data that it was made for."""
    return assembly.setup(self.config)

  def __len__(self) -> int:
    """The number of examples."""
    return len(self.examples.batch.mask)

  def batches(self) -> Iterator[dict[str, np.ndarray]]:
    """Yields what a student reads in each training step, as NumPy arrays.

    Names are those of transformers: `inputs_embeds` [M, L, D] are word-level
    embeddings, `attention_mask` [M, L], `labels` [M, C] targets of the soft
    cross-entropy -(labels * log_softmax(logits)).sum(-1).mean(); of a language
    model, `targets` [M, L] follow at each place, and count `target_weights`,
    as the set's card says. A set that
    brings its own steps yields one batch a step, with its `learning_rate`, and
    where the set has them `head_learning_rate` and `tensor_shares`; another
    yields itself, once.
    """
    syn, batch = self.examples, self.examples.batch
    whole = {
      "inputs_embeds": np.asarray(batch.inputs),
      "attention_mask": np.asarray(batch.mask),
    }
    if batch.labels is not None:
      whole["labels"] = np.asarray(batch.labels)
    else:
      assert batch.tokens is not None
      whole["targets"] = np.asarray(batch.tokens.targets)
      whole["target_weights"] = np.asarray(batch.tokens.weights)
    if syn.learning_rates is None:
      yield whole
      return
    by_step = {
      "learning_rate": syn.learning_rates,
      "head_learning_rate": syn.head_learning_rates,
      "tensor_shares": syn.tensor_shares,
    }
    for step in range(len(syn.learning_rates)):
      rows = slice(None) if syn.order is None else np.asarray(syn.order[step])
      taken = {name: array[rows] for name, array in whole.items()}
      brought = {
        name: np.asarray(array[step])
        for name, array in by_step.items()
        if array is not None
      }
      yield taken | brought

  def __repr__(self) -> str:
    """Its shape, what it asks of a student, and its accuracy."""
    shape = " x ".join(map(str, self.examples.batch.inputs.shape[1:]))
    said = [f"{len(self)} examples x {shape}", f"pooling {self._pooling}"]
    if self.examples.learning_rates is not None:
      said.append(f"replay {len(self.examples.learning_rates)} steps")
    results = self.card.get("results") or {}
    said.append(opened_runs.distilled_accuracy(results))
    return ", ".join(said)

  @property
  def _pooling(self) -> str:
    return self.card.get("pooling", "unknown")


class TextSet(DistilledSet):
  """A set of texts on disk, and the student that reads them.

  `examples` are token ids, as the config's student reads the texts.
  """

  def __init__(self, path: epath.Path, config: Any = None):
    """Reads the card beside a file; its texts come when they are asked for.

    Args:
      path: A file of JSON lines.
      config: Which student reads the texts, and on which data it is measured;
        None: that of the run that made them.
    """
    if not path.is_file():
      raise errors.InputError(f"there is no file {path}.")
    self.folder, self._config = path, config
    self.card = text_sets.read_card(path)

  @functools.cached_property
  def config(self) -> recipe.Recipe:
    """The recipe of who reads the texts."""
    flags = types.SimpleNamespace(set=str(self.folder), config=self._config)
    return shared.config_and_set(flags)[0]

  @property
  def label_names(self) -> tuple[str, ...]:
    """The classes, in the order of the labels."""
    return tuple(self.card.get("label_names") or self.setup.corpus.label_names)

  @functools.cached_property
  def texts(self) -> text_sets.TextSet:
    """The texts, their labels and their weights."""
    return text_sets.read(self.folder, self.label_names)

  @functools.cached_property
  def examples(self) -> synthetic.SyntheticSet:  # type: ignore[override]
    """The texts as the student's tokenizer reads them."""
    return shared.fitting_set(self.setup, self.folder, self.config)[0]

  def batches(self) -> Iterator[dict[str, np.ndarray]]:
    """Yields what a student reads in each training step, once: `input_ids`
    [M, L], `attention_mask` [M, L] and `labels` [M, C], times the weights."""
    (whole,) = super().batches()
    yield {"input_ids": whole.pop("inputs_embeds"), **whole}

  def __repr__(self) -> str:
    """How many there are."""
    return f"{len(self.texts.texts)} texts of {', '.join(self.label_names)}"


def set_of(source: epath.PathLike, config: Any = None) -> DistilledSet:
  """Opens a set, of embeddings or of texts; see `gmdistill.load_set`."""
  file = hub.text_file(source)
  if file is not None:
    return TextSet(file, config)
  if config is not None:
    raise errors.InputError(
      f"the set in {source} knows the config of its run; give a config with a "
      "file of texts."
    )
  return DistilledSet(source)


class Student:
  """A trained student: predicts classes of texts, and saves itself."""

  def __init__(
    self,
    problem: problems.Problem,
    params: Any,
    *,
    tokenizer: tokenizing.Tokenizer,
    label_names: Sequence[str],
    slots: int = 0,
    data: batches.Corpus | None = None,
  ):
    """Keeps the parameters, and what is needed to read text."""
    self.problem, self.params = problem, params
    self.tokenizer, self.label_names = tokenizer, tuple(label_names)
    self.data = data  # whose reported split `evaluate` reads
    self._slots = slots

  def logits(self, texts: Sequence[str] | Sequence[tuple[str, str]]) -> Any:
    """Returns logits [N, C] of texts, or of pairs of texts.

    Raises:
      InputError: a single string, or what is no text.
    """
    if not self.label_names:
      raise errors.InputError(
        "this student says tokens, and tells no classes; save_pretrained "
        "writes a directory that transformers reads."
      )
    if isinstance(texts, str):
      raise errors.InputError(
        "a student reads a list of texts; give [text] for one."
      )
    for text in texts:
      parts = text if isinstance(text, tuple) and len(text) == 2 else (text,)
      if not all(isinstance(part, str) for part in parts):
        raise errors.InputError(
          f"{text!r} is no text; give strings, or pairs of them."
        )
    said = [
      self._logits(texts[first : first + ROWS])
      for first in range(0, len(texts), ROWS)
    ]
    return np.concatenate([np.zeros((0, len(self.label_names))), *said])

  def _logits(self, texts):
    length = self.problem.student.max_positions - self._slots
    ids, mask = self._read(texts, length)
    rows = batches.Examples(ids, mask, np.zeros(len(texts), np.int32))
    # Padded to a few lengths and one number of rows: a program each.
    cut = min(-(-int(mask.sum(axis=1).max()) // 16) * 16, length)
    rows = batches.take(rows, np.resize(np.arange(len(texts)), ROWS))
    rows = rows._replace(token_ids=rows.token_ids[:, :cut])
    rows = rows._replace(mask=rows.mask[:, :cut])
    if self._slots:
      mask_id = self.tokenizer.special_id("mask")
      rows = formats.with_slots(rows, self._slots, mask_id)
    batch = batches.as_batch(rows, len(self.label_names))
    said = self.problem.logits(self.params, batch)
    return np.asarray(said)[: len(texts)]

  def _read(self, texts, length):
    """Returns ids [N, length] and mask [N, length] of texts."""
    return self.tokenizer.encode(texts, length)

  def probabilities(
    self, texts: Sequence[str] | Sequence[tuple[str, str]]
  ) -> np.ndarray:
    """Returns the probability of each class, [N, C]."""
    logits_NxC = self.logits(texts)
    e_NxC = np.exp(logits_NxC - logits_NxC.max(axis=1, keepdims=True))
    return e_NxC / e_NxC.sum(axis=1, keepdims=True)

  def predict(
    self, texts: Sequence[str] | Sequence[tuple[str, str]]
  ) -> list[str]:
    """Returns the name of the likeliest class of each text."""
    return [self.label_names[i] for i in self.logits(texts).argmax(axis=1)]

  def save_pretrained(self, folder: epath.PathLike) -> epath.Path:
    """Writes a Hugging Face directory, as `gmdistill train` does.

    Of a mean-pooled student it holds a `BertModel` and, beside it,
    `classifier.safetensors`: `gmdistill.load_student` reads both, and
    `BertForSequenceClassification` knows no mean pooling.

    Raises:
      InputError: this student has no Hugging Face form, or the folder holds
        something else.
    """
    return shared.save_student(
      shared.student_folder(str(pathlib.Path(folder)), "student"),
      self.problem,
      self.params,
      tokenizer=self.tokenizer,
      label_names=self.label_names,
    )

  def __repr__(self) -> str:
    """Its architecture and classes."""
    module = self.problem.student
    numbers = sum(np.size(x) for x in jax.tree.leaves(self.params))
    return (
      f"{type(module).__name__} of width {module.width}, {numbers:,} trained "
      f"parameters; classes: {', '.join(self.label_names)}"
    )


def load_student(folder: epath.PathLike) -> Student:
  """Opens a trained student: what `save_pretrained`, `gmdistill train` and
  `gmdistill teach` write, or any BertForSequenceClassification directory.

  Raises:
    InputError: the folder is incomplete, damaged, or has no classifier.
  """
  read = trained.load(str(folder))
  return Student(
    read.problem,
    read.params,
    tokenizer=tokenizing.Tokenizer.from_file(read.tokenizer_file),
    label_names=read.label_names,
    slots=read.slots,
  )
