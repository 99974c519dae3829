"""Teachers of language models, opened.

A teacher is a decoder, or an adapter of the student's own base, of the
student's own tokens; what it says of them is `token_labels`.
"""

import dataclasses
from typing import Any, NamedTuple

from gmdistill import errors
from gmdistill.data import plain_tokens, tokenizing
from gmdistill.sets import spaces
from gmdistill.students import (
  adapters,
  decoders,
  generation,
  hugging_face,
  peft_files,
  problems,
  tasks,
)
from gmdistill.system import paths
from gmdistill.teachers import trained


class LanguageTeacher(NamedTuple):
  """A language model, and the tokens that it knows."""

  name: str
  id: str  # hash of its files
  problem: problems.Problem
  params: Any
  tokenizer: plain_tokens.PlainTokenizer
  file: str  # its tokenizer's
  base: str = ""  # hash of the files of what it changes; empty: a whole model


def load(source: str, base: str, compute: str = "float32") -> LanguageTeacher:
  """Reads a decoder's directory, or that of an adapter.

  Args:
    source: A Hugging Face directory or a hub id, or a PEFT directory.
    base: The directory or the hub id of the model that adapters change.
    compute: The precision of its products.

  Raises:
    InputError: it is incomplete or damaged, or no decoder; its table has too
      few rows; an adapter of another base, or without one.
  """
  folder = paths.path(source)
  is_adapter = trained.is_adapter(folder)
  if is_adapter and not base:
    raise errors.InputError(
      f"the teacher {source} is an adapter, and the student has no base that "
      "it could change; give its base in student.pretrained, or a whole model."
    )
  whole = base if is_adapter else source
  read = hugging_face.load(whole)
  kind: Any = read.family.module
  if not issubclass(kind, decoders.Decoder):
    raise errors.InputError(
      f"the teacher {source} is of model_type {read.model_type}, which says no "
      "next token; use a decoder."
    )
  module = kind(**{**read.student, "compute": compute})
  place = hugging_face.find(whole)
  tokenizer = plain_tokens.PlainTokenizer.of_folder(place)
  tokenizer.require_rows(len(read.embeddings), place)
  problem = problems.Problem(
    read.embeddings, read.params, module, asks=tasks.next_tokens()
  )
  params: Any = read.params
  if is_adapter:
    student, params = peft_files.load(
      folder,
      module,
      family=read.model_type,
      base_id=adapters.identity(read.params),
    )
    changed = adapters.Adapted(student, read.params, None)
    problem = adapters.over(problem, changed)
  own = folder if is_adapter else place
  return LanguageTeacher(
    own.name,
    trained.identity(own),
    problem,
    params,
    tokenizer,
    read.tokenizer_file,
    trained.identity(place) if is_adapter else "",
  )


def of_words(setup: spaces.Setup, teacher: LanguageTeacher) -> trained.Teacher:
  """Returns a teacher of classes, by the words that the student says."""
  problem = dataclasses.replace(teacher.problem, asks=setup.problem.task)
  compute = generation.module_of(problem).compute
  return trained.Teacher(
    teacher.name,
    teacher.id,
    problem,
    teacher.params,
    teacher.file,
    setup.corpus.label_names,
    same_rows=True,
    base=teacher.base,
    asked=(*tasks.words_of(problem.task), compute),
  )


def require_tokens(
  teacher: LanguageTeacher, tokenizer: tokenizing.Tokenizer
) -> None:
  """Checks that a teacher knows the student's tokens, by the same ids.

  Its table, and the student's, may have rows to spare.

  Raises:
    InputError: it has others; both sizes and the first that differs are named.
  """
  theirs, ours = teacher.tokenizer.tokens, tokenizer.tokens
  if theirs == ours:
    return
  common = min(len(theirs), len(ours))
  differs = (i for i in range(common) if theirs[i] != ours[i])
  first = next(differs, common)
  said = [repr(x[first]) if first < len(x) else "none" for x in (theirs, ours)]
  raise errors.InputError(
    f"the teacher {teacher.name} has {len(theirs)} tokens and the student "
    f"{len(ours)}: token {first} is {said[0]} of the one and {said[1]} of the "
    "other; use a teacher of the student's tokenizer."
  )
