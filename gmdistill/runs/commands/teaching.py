"""The verbs of the command line that are about teachers."""

import dataclasses
import shlex
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from gmdistill import errors
from gmdistill.data import batches
from gmdistill.evaluation import baselines, measuring
from gmdistill.runs import distill
from gmdistill.runs.commands import shared
from gmdistill.runs.config import (
  assembly,
  outputs,
  recipe,
  row_fields,
  settings,
  teacher_fields,
)
from gmdistill.selection import coresets
from gmdistill.sets import (
  cards,
  hub,
  set_files,
  spaces,
  synthetic,
  text_sets,
)
from gmdistill.system import console, folders, units
from gmdistill.teachers import relabelling, token_labels, trained

TEXTS = text_sets.TEXTS


def teach(flags: Any, rest: list[str], command: str) -> None:
  """Trains a teacher on the real data; writes a Hugging Face directory."""
  shared.nothing_else(rest)
  if flags.config is None or not flags.workdir:
    raise errors.InputError("teach needs --config=NAME and --workdir=DIR.")
  config = settings.recipe(flags.config)
  folder = shared.student_folder(flags.workdir, "teacher")
  setup = assembly.setup(config)
  shared.check_exportable(setup)
  train = teacher_fields.with_teachers(setup, config).rows
  whole = batches.as_batch(train, setup.corpus.num_classes)
  row_fields.say_remarks(setup.corpus, config)
  protocol = assembly.protocol(config, "full")
  baselines.say_what_it_trains(protocol, len(train.labels), "teacher")
  params, seconds, accuracy = outputs.table(setup, config).student(
    protocol, measuring.stacked(synthetic.SyntheticSet(whole))
  )
  shared.save_of_run(folder, setup, params, config)
  field = "teachers.dirs" if config.has_classes else "student.pretrained"
  if flags.json:
    measured = {setup.problem.task.unit: accuracy, "seconds": seconds}
    console.data({**measured, "folder": str(folder)})
    return
  told = (
    f"teacher: {shared.told(setup, accuracy)} on the reported split; trained "
    f"in {units.seconds(seconds)}"
  )
  if command:  # else whoever called goes on by itself
    told += (
      f"; next: gmdistill distill {shared.config_flags(command, 'data')} "
      f"--config.{field}={shlex.quote(str(folder))} "
      f"--workdir={shlex.quote(f'{folder}-run')}"
    )
  console.show(told)


def relabel(flags: Any, rest: list[str], command: str) -> None:
  """Has one or several teachers label a set, a baseline's rows or texts."""
  shared.nothing_else(rest)
  whose = _whose(flags)
  is_set = whose == cards.DISTILLED
  config, source = shared.config_and_set(flags, needs_set=is_set)
  folder = shared.student_folder(flags.workdir, "set")
  setup = assembly.setup(config)
  spaces.require_room(folder / "space", setup.space_id)
  card = outputs.first_card(setup, config, command, whose)
  by_kind = _with_labels if config.has_classes else _with_tokens
  said = by_kind(setup, config, flags, card, source)
  labelled, named, text_set = said.syn, said.teachers, said.texts
  card = {
    **said.card,
    "sequence_length": labelled.batch.mask.shape[1],
    "teachers": [{"name": one.name, "id": one.id} for one in named],
    "provenance": folders.environment(command),
    "results": {},
  }
  folder.mkdir(parents=True, exist_ok=True)
  if text_set is not None:
    text_set = text_set._replace(labels=np.asarray(labelled.batch.labels))
  batch = batches.weighed(labelled.batch)
  labelled = dataclasses.replace(labelled, batch=batch)
  outputs.write_set(folder, labelled, card, setup, config)
  if text_set is not None:
    outputs.write_texts(folder, text_set, setup, config)
  # Who reads the set by this config is told when a teacher has changed.
  config = recipe.changed(config, teachers__dirs=tuple(flags.teacher))
  folders.write_json(folder / "config.json", config.to_dict())
  _say_labelled(folder, config, len(labelled.batch), named)


class _Labelled(NamedTuple):
  """Rows with what teachers say of them."""

  syn: synthetic.SyntheticSet
  teachers: Sequence[Any]
  card: dict[str, Any]
  texts: text_sets.TextSet | None = None  # where people can read them too


def _with_labels(setup, config, flags, card, source):
  """Returns rows with teachers' labels of classes."""
  whose = _whose(flags)
  if whose == TEXTS and config.task.kind != "classes":
    raise errors.InputError(
      f"--set={source}: texts are labelled again where task.kind=classes, not "
      f"{config.task.kind}; use a set of embeddings, or a config of classes."
    )
  named = teacher_fields.open_teachers(setup, config, flags.teacher)
  for teacher in named:
    trained.require_labels(teacher, setup.corpus.label_names)
  if whose == TEXTS:
    rows = relabelling.of_texts(setup, source, config.data)
    del card["data_per_class"]
  elif whose == cards.DISTILLED:
    rows, card = _of_set(setup, source)
  else:
    rows = _of_coreset(setup, config, whose)
  labelled = relabelling.label(
    rows,
    named,
    teacher_fields.label_options(config),
    features=bool(config.kd.features),
  )
  return _Labelled(labelled, named, card, rows.texts)


def _with_tokens(setup, config, flags, card, source):
  """Returns rows with what teachers say after each of their tokens."""
  whose = _whose(flags)
  if whose == TEXTS:
    raise errors.InputError(
      "texts have labels of classes, and a language model's teachers say what "
      "follows; give --set, or --row=random or k_centers."
    )
  named = teacher_fields.open_teachers(setup, config, flags.teacher)
  asks = teacher_fields.language_asks(setup, config, named)
  if whose == cards.DISTILLED:
    syn, card = set_files.load(source, setup.space_id)
    set_files.require_classes(syn, card, source, ())
    card = {**card, "made_from": card.get("provenance")}
    return _Labelled(token_labels.label(setup, syn, named, asks), named, card)
  rows = outputs.table(setup, config).coreset_rows(whose, _seed(config, whose))
  return _Labelled(
    token_labels.label_rows(setup, rows, named, asks), named, card
  )


def _whose(flags: Any) -> str:
  """Returns what is labelled: distilled, a coreset's name, or texts.

  Raises:
    InputError: too little is given, or two things.
  """
  if not flags.teacher or not flags.workdir:
    raise errors.InputError(
      "relabel needs --teacher=DIR (one or several) and --workdir=DIR."
    )
  source = hub.text_file(flags.set) if flags.set else None
  texts = source is not None
  if source is not None and not source.is_file():
    raise errors.InputError(f"there is no file {flags.set}.")
  if texts and flags.row != cards.DISTILLED:
    raise errors.InputError(
      f"--row={flags.row} and --set={flags.set} are two things to label; give "
      "one of them."
    )
  if flags.config is None and (texts or flags.row != cards.DISTILLED):
    raise errors.InputError(
      "relabel needs --config=NAME for a baseline's rows or texts: it says "
      "which embeddings are theirs."
    )
  errors.choice("--row", flags.row, (cards.DISTILLED, *coresets.ALL))
  return TEXTS if texts else flags.row


def _of_set(setup, source):
  """Returns the rows of a distilled set, and its card."""
  syn, card = set_files.load(source, setup.space_id)
  set_files.require_classes(syn, card, source, setup.corpus.label_names)
  card = {**card, "made_from": card.get("provenance")}
  return relabelling.of_set(setup, syn), card


def write_coreset(
  config: recipe.Recipe, method: str, workdir: str, command: str
) -> None:
  """Writes a baseline's rows as a set, with the labels of the data."""
  folder = shared.student_folder(workdir, "set")
  setup = assembly.setup(config)
  rows = _of_coreset(setup, config, method)
  labelled = rows.syn
  card = outputs.first_card(setup, config, command, method)
  card = {**card, "sequence_length": labelled.batch.mask.shape[1]}
  folder.mkdir(parents=True, exist_ok=True)
  outputs.write_set(folder, labelled, card, setup, config)
  folders.write_json(folder / "config.json", config.to_dict())


def _of_coreset(setup, config, method):
  """Returns the rows of a baseline."""
  chosen = outputs.table(setup, config).coreset_numbers(
    method, _seed(config, method)
  )
  return relabelling.of_coreset(setup, chosen, config.data)


def _seed(config, method):
  """Returns the table's own, but of random rows, of which it takes as many as
  students."""
  return config.seed if method == "random" else coresets.CORESET_SEED


def _say_labelled(folder, config, count, named):
  did = "labelled"
  if not config.has_classes:
    did = "have what follows each of their tokens"
  elif not config.teachers.alpha:
    did = "keep their labels (teachers.alpha=0) and have logits"
  learned = bool(teacher_fields.learned_field(config))
  protocol = "finetune" if config.student.pretrained else "scratch"
  console.show(
    f"{count} examples {did} by "
    f"{', '.join(teacher.name for teacher in named)}; next: gmdistill evaluate "
    f"--set={shlex.quote(str(folder / 'set'))}"
    + f" --protocol={protocol}"
    * (learned and "replay" in config.protocols)
  )


def update(flags: Any, rest: list[str], command: str) -> None:
  """Distils on from a set for teachers that have changed since."""
  shared.nothing_else(rest)
  if not flags.teacher or not flags.workdir or not flags.set:
    raise errors.InputError(
      "update needs --set=DIR, --teacher=DIR (one or several) and "
      "--workdir=DIR."
    )
  config, folder = shared.config_and_set(flags)
  _, card = set_files.load(folder)
  before = _ids(card.get("teachers", []))
  if before == _ids(trained.names_and_ids(flags.teacher)):
    raise errors.InputError(
      f"the set in {folder} has the labels of these teachers already; give a "
      "newer --teacher."
    )
  if not (config.teachers.alpha or config.kd.loss):
    raise errors.InputError(
      "teachers.alpha=0 asks no teacher; give a --config with a larger one."
    )
  if config.labels == "hard" and not config.kd.loss:
    raise errors.InputError(
      "the labels of this set are fixed (labels=hard), so that distilling on "
      "gives it no new ones; gmdistill relabel does, or a --config with "
      "labels=unrestricted."
    )
  steps = config.num_steps
  if flags.config is None:
    steps = max(steps // 2, 1)  # the set is most of the way there
  config = recipe.changed(
    config,
    teachers__dirs=tuple(flags.teacher),
    start=str(folder),
    num_steps=steps,
  )
  distill.run(config, flags.workdir, command)


def _ids(named):
  return [one["id"] for one in named]
