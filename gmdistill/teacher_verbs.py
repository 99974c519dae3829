"""The verbs of the command line that are about teachers."""

import shlex
from typing import Any

from gmdistill import (
  coresets,
  data,
  errors,
  finish,
  labelling,
  paths,
  pretrained,
  recipe,
  set_files,
  settings,
  spaces,
  synthetic,
  tables,
  teachers,
  verbs,
  workdirs,
)
from gmdistill import distill as distillation
from gmdistill import evaluate as evaluation
from gmdistill import relabel as relabelling


def teach(flags: Any, rest: list[str], command: str) -> None:
  """Trains a teacher on the real data; writes a Hugging Face directory."""
  del command
  verbs.nothing_else(rest)
  if flags.config is None or not flags.workdir:
    raise errors.InputError(
      "teach needs --config=configs/NAME.py and --workdir=DIR."
    )
  config = flags.config
  folder = verbs.student_folder(flags.workdir, "teacher")
  setup = recipe.setup(config)
  pretrained.check_exportable(setup.problem.student)
  train = labelling.taught(setup.corpus, config)
  whole = data.as_batch(train, len(setup.corpus.label_names))
  tables.say_what_full_trains(config, setup.corpus, "teacher")
  params, seconds, accuracy = tables.Table(setup, config).student(
    recipe.protocol(config, "full"),
    evaluation.stacked(synthetic.SyntheticSet(whole)),
  )
  verbs.save_student(folder, setup, params)
  print(
    f"teacher: accuracy {100 * accuracy:.1f} % on the reported split; trained "
    f"in {seconds:.1f} s; next: gmdistill distill ... "
    f"--config.teachers.dirs={shlex.quote(str(folder))}"
  )


def relabel(flags: Any, rest: list[str], command: str) -> None:
  """Has one or several teachers label a set, a baseline's rows or texts."""
  verbs.nothing_else(rest)
  if not flags.teacher or not flags.workdir:
    raise errors.InputError(
      "relabel needs --teacher=DIR (one or several) and --workdir=DIR."
    )
  texts = flags.set.endswith(".jsonl")
  is_set = flags.row == tables.DISTILLED and not texts
  if texts and not paths.path(flags.set).is_file():
    raise errors.InputError(f"there is no file {flags.set}.")
  if texts and flags.row != tables.DISTILLED:
    raise errors.InputError(
      f"--row={flags.row} and --set={flags.set} are two things to label; give "
      "one of them."
    )
  if not is_set and flags.config is None:
    raise errors.InputError(
      "relabel needs --config=configs/NAME.py for a baseline's rows or texts: "
      "it says which embeddings are theirs."
    )
  if flags.row not in (tables.DISTILLED, *tables.CORESETS):
    raise errors.InputError(
      f"--row={flags.row} is none of distilled, {', '.join(tables.CORESETS)}."
    )
  config, source = verbs.config_and_set(flags, needs_set=is_set)
  folder = verbs.student_folder(flags.workdir, "set")
  setup = recipe.setup(config)
  spaces.require_room(folder / "space", setup.space_id)
  named = [teachers.load(name) for name in flags.teacher]
  for teacher in named:
    teachers.require_labels(teacher, setup.corpus.label_names)
  read = settings.data_options(config)
  whose = "texts" if texts else flags.row
  card = finish.first_card(setup, config, command, whose)
  if texts:
    rows = relabelling.of_texts(setup, source, read)
  elif is_set:
    syn, card = set_files.load(source, setup.space_id)
    card = {**card, "made_from": card.get("provenance")}
    set_files.require_classes(syn, card, source, setup.corpus.label_names)
    rows = relabelling.of_set(setup, syn)
  else:
    chosen = coresets.choose(
      flags.row,
      setup.problem,
      setup.corpus.train,
      per_class=config.data_per_class,
      pool=config.coreset_pool,
      # As the table's, but random rows, of which it takes as many as students.
      seed=config.seed if flags.row == "random" else tables.CORESET_SEED,
    )
    rows = relabelling.of_coreset(setup, chosen, read)
  labelled = relabelling.label(
    rows,
    named,
    labelling.label_options(config),
    features=bool(config.kd.features),
  )
  if texts:
    del card["data_per_class"]
  card = {
    **card,
    "sequence_length": labelled.batch.mask.shape[1],
    "teachers": [{"name": one.name, "id": one.id} for one in named],
    "provenance": workdirs.environment(command),
    "results": {},
  }
  folder.mkdir(parents=True, exist_ok=True)
  finish.write_set(folder, labelled, card, setup, config)
  # Who reads the set by this config is told when a teacher has changed.
  config.teachers.dirs = tuple(flags.teacher)
  workdirs.write_json(folder / "config.json", config.to_dict())
  did = "labelled"
  if not config.teachers.alpha:
    did = "keep their labels (teachers.alpha=0) and have logits"
  learned = bool(labelling.learned_field(config))
  protocol = "finetune" if config.student.pretrained else "scratch"
  print(
    f"{len(labelled.batch.labels)} examples {did} by "
    f"{', '.join(teacher.name for teacher in named)}; next: gmdistill evaluate "
    f"--set={shlex.quote(str(folder / 'set'))}"
    + f" --protocol={protocol}"
    * (learned and "replay" in config.protocols)
  )


def update(flags: Any, rest: list[str], command: str) -> None:
  """Distils on from a set for teachers that have changed since."""
  verbs.nothing_else(rest)
  if not flags.teacher or not flags.workdir or not flags.set:
    raise errors.InputError(
      "update needs --set=DIR, --teacher=DIR (one or several) and "
      "--workdir=DIR."
    )
  config, folder = verbs.config_and_set(flags)
  _, card = set_files.load(folder)
  ids = lambda named: [one["id"] for one in named]  # noqa: E731
  before = ids(card.get("teachers", []))
  if before == ids(teachers.names_and_ids(flags.teacher)):
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
  config.teachers.dirs = tuple(flags.teacher)
  config.start = str(folder)
  if flags.config is None:
    # The set is most of the way there.
    config.num_steps = max(config.num_steps // 2, 1)
  distillation.run(config, flags.workdir, command)
