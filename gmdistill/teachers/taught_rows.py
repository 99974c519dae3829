"""Real rows with what teachers say of them: their labels, their logits."""

from typing import Any, NamedTuple

import numpy as np

from gmdistill import errors
from gmdistill.data import batches, joined, loading, tokenizing
from gmdistill.teachers import ensembles, trained


class Teachers(NamedTuple):
  """Teachers, opened once, and how the rows carry what they say."""

  opened: tuple[Any, ...]  # `trained.Teacher`, or a language model's
  options: ensembles.Options
  logits: bool  # kept with the rows, where students lose to their teachers

  @property
  def names_and_ids(self) -> list[dict[str, str]]:
    """What the card of a set says of them."""
    return [{"name": x.name, "id": x.id} for x in self.opened]


def taught(
  corpus: batches.Corpus, teachers: Teachers, read: loading.Options
) -> batches.Examples:
  """Returns the training part with the teachers' labels mixed in.

  Args:
    corpus: The data as the student reads it.
    teachers: Whose labels; their share 0 leaves the truth.
    read: How the data was loaded.

  Raises:
    InputError: a teacher that knows other classes, or reads fewer tokens.
  """
  said_KxNxC = np.stack(
    [trained.logits(teacher, corpus, read) for teacher in teachers.opened]
  )
  rows = corpus.train
  if teachers.options.alpha:
    truth_NxC = np.eye(len(corpus.label_names))[corpus.train.labels]
    soft_NxC = errors.named(
      "teachers",
      lambda: ensembles.soft_labels(said_KxNxC, truth_NxC, teachers.options),
    )
    rows = rows._replace(soft=soft_NxC)
  if teachers.logits:
    told = batches.TeacherTargets(np.moveaxis(said_KxNxC, 0, 1))
    rows = rows._replace(teachers=told)
  return rows


def of_joined_rows(
  corpus: batches.Corpus, teachers: Teachers, field: str
) -> joined.Labeller:
  """Returns what the teachers say of rows made of two.

  Args:
    corpus: The data as the student reads it.
    teachers: Whose labels.
    field: What asks for such rows, for the message.

  Raises:
    InputError: a teacher that does not read the student's tokens.
  """
  for teacher in teachers.opened:
    trained.require_labels(teacher, corpus.label_names)
    length = corpus.train.token_ids.shape[1]
    trained.require_length(teacher, length, "the rows' length")
    own = tokenizing.Tokenizer.from_file(teacher.tokenizer_file)
    if teacher.slots or own.fingerprint != corpus.tokenizer.fingerprint:
      raise errors.InputError(
        f"{field}: the teacher {teacher.name} does not read the student's "
        "tokens; use one of the student's tokenizer, without rationales."
      )

  def label(ids: Any, mask: Any, truth_BxC: np.ndarray):
    batch = batches.Batch(ids, mask, truth_BxC)
    said_KxBxC = np.stack(
      [np.asarray(x.problem.logits(x.params, batch)) for x in teachers.opened]
    )
    labels_BxC = truth_BxC
    if teachers.options.alpha:
      labels_BxC = ensembles.soft_labels(
        said_KxBxC, truth_BxC, teachers.options
      )
    return labels_BxC, np.moveaxis(said_KxBxC, 0, 1)

  return label
