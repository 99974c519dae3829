"""Spaces of language models: their tokens, the rows, and what is asked."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

from etils import epath

from gmdistill import errors
from gmdistill.data import batches, language, loading, plain_tokens, templates
from gmdistill.sets import spaces
from gmdistill.students import (
  adapters,
  decoder_weights,
  decoders,
  families,
  hugging_face,
  peft_files,
  problems,
  tasks,
)
from gmdistill.system import paths

ADAPTERS = ("none", "lora", "last_layers", "head")


def build(
  student: Mapping[str, Any],
  table: Mapping[str, Any],
  options: loading.Options,
  asked: Mapping[str, Any],
  place: decoder_weights.Place = decoder_weights.whole,
) -> spaces.Setup:
  """Loads the corpus and builds the problem of a language model.

  Args:
    student: As `spaces.build` has it, of a decoder.
    table: Arguments of `spaces.learn_table`, where a table is learned.
    options: Which data.
    asked: `kind`, `label_words` or `next_token`, and the task's other fields.
    place: Lays out a pretrained model's parameters as they are read.

  Raises:
    InputError: anything that does not fit together, named.
  """
  source = student.get("pretrained", "")
  kind = asked["kind"]
  if source:
    read = hugging_face.load(source, student.get("num_layers", 0), place=place)
    family, folder = read.family, hugging_face.find(source)
    _require_decoder(family, f"student.pretrained={source}", kind)
    family.check_options(student)
    tokenizer = plain_tokens.PlainTokenizer.of_folder(folder)
    tokenizer.require_rows(len(read.embeddings), folder)
    corpus, task = _rows(options, asked, tokenizer, folder)
    given = {name: student[name] for name in family.options if name in student}
    module = family.build(0, 0, {**read.student, **given})
    problem = problems.Problem(read.embeddings, read.params, module, asks=task)
    name = paths.absolute(source).name
  else:
    problem, corpus = _from_scratch(student, table, options, asked)
    module = problem.student
    name = f"{student.get('kind')} of width {module.width}"
  spaces.check_length(options, module.max_positions)
  problem, how = adapted(problem, student)
  fingerprint = corpus.tokenizer.fingerprint
  return spaces.Setup(
    problem,
    corpus,
    spaces.id_of(problem.embeddings, fingerprint),
    f"{name}, {module.num_layers} layers{how}",
  )


def _require_decoder(family, said, kind):
  if not issubclass(_class_of(family), decoders.Decoder):
    known = [
      name
      for name, x in families.FAMILIES.items()
      if issubclass(_class_of(x), decoders.Decoder)
    ]
    raise errors.InputError(
      f"task.kind={kind} asks a decoder, and {said} is none; use one of "
      f"{', '.join(known)}."
    )


def _class_of(family):
  return family.module if isinstance(family.module, type) else object


def _rows(
  options: loading.Options,
  asked: Mapping[str, Any],
  tokenizer: plain_tokens.PlainTokenizer | None,
  folder: epath.Path | None,
) -> tuple[batches.Corpus, tasks.Task]:
  if asked["kind"] == "next_token":
    corpus = language.load(options, tokenizer, folder, as_chat=asked["chat"])
    return corpus, tasks.next_tokens()
  assert tokenizer is not None
  for field in ("rationale_key", "kmer"):
    if value := getattr(options, field):
      raise errors.InputError(
        f"data.{field}={value} is of the rows of encoders, and task.kind="
        "label_words puts a template around texts; leave it out."
      )
  template = templates.Template(tokenizer, asked["template"])
  corpus = loading.load(options, template=template)
  words = template.words(asked["words"], corpus.label_names)
  return corpus, tasks.label_words(words)


def _from_scratch(student, table, options, asked):
  """Returns the problem of random weights over a learned table, and rows."""
  kind, space = student.get("kind", ""), student.get("space", "")
  family = families.named(kind)
  _require_decoder(family, f"student.kind={kind}", asked["kind"])
  if asked["kind"] != "next_token":
    raise errors.InputError(
      f"task.kind={asked['kind']} asks a model that knows words; give "
      "student.pretrained."
    )
  fields = family.takes(student)
  family.check(fields)
  tokenizer = None
  if space:
    tokenizer = plain_tokens.PlainTokenizer.of_folder(paths.path(space))
  corpus, task = _rows(options, asked, tokenizer, None)
  # What it says is learned, though the table that it reads is not.
  vocabulary = corpus.tokenizer.vocab_size
  module = family.module(
    0, **{**fields, "vocabulary": vocabulary, "tied": False}
  )
  if space:
    embeddings = spaces.read_table(paths.path(space), module.width)
  else:
    embeddings = spaces.cached_table(module, corpus, dict(table))
  return problems.Problem(embeddings, None, module, asks=task), corpus


def adapted(
  problem: problems.Problem, student: Mapping[str, Any]
) -> tuple[problems.Problem, str]:
  """Returns the problem whose students are what a config trains of a decoder,
  and words for it.

  Raises:
    InputError: there is no pretrained decoder to adapt, or not that much of it.
  """
  kind = errors.choice(
    "student.adapter", student.get("adapter", "none"), ADAPTERS
  )
  peft = student.get("peft", "")
  if kind == "none" and not peft:
    return problem, ""
  module, base = problem.student, problem.initial
  if base is None or not isinstance(module, decoders.Decoder):
    field = f"peft={peft}" if peft else f"adapter={kind}"
    raise errors.InputError(
      f"student.{field} changes a pretrained decoder, and this student is "
      "none; give one in student.pretrained, or leave it out."
    )
  if peft:
    change, own = peft_files.load(
      peft,
      module,
      family=families.form_of(module).model_type,
      base_id=adapters.identity(base),
    )
    base = change.merged(base, own)
    problem = dataclasses.replace(problem, initial=base)
  if kind == "none":
    return problem, ""
  if kind == "lora":
    make = functools.partial(adapters.lora_of, module, base, student)
    how = f", LoRA of rank {student['rank']}"
    if targets := student["targets"]:
      how += f" on {', '.join(targets)}"
  elif kind == "last_layers":
    count = student["trained_layers"]
    make = functools.partial(adapters.last_layers, module, base, count)
    how = f", the last {count} trained"
  else:
    make = functools.partial(adapters.head, module, base, problem.embeddings)
    how = ", its head trained"
  changed = errors.named("student", make)
  return adapters.over(problem, changed), how
