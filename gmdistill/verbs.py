"""The verbs of the command line, one function each."""

import contextlib
import json
import shlex
from typing import Any

import jax
import ml_collections
from etils import epath

from gmdistill import (
  checks,
  errors,
  experts,
  jobs,
  labelling,
  metrics,
  paths,
  pretrained,
  processes,
  recipe,
  set_files,
  settings,
  spaces,
  synthetic,
  tables,
  teachers,
  workdirs,
)
from gmdistill import (
  distill as distillation,
)
from gmdistill import (
  evaluate as evaluation,
)
from gmdistill import (
  plan as planning,
)
from gmdistill import (
  sweep as sweeping,
)


def distill(flags: Any, rest: list[str], command: str) -> None:
  """The main job: ends with the results table and the report."""
  nothing_else(rest)
  if flags.config is None or not flags.workdir:
    raise errors.InputError(
      "distill needs --config=configs/NAME.py and --workdir=DIR."
    )
  distillation.run(flags.config, flags.workdir, command)
  folder = str(paths.path(flags.workdir)).rstrip("/")
  if processes.is_first():
    print(
      f"next: gmdistill train --set={shlex.quote(f'{folder}/set')} "
      f"--workdir={shlex.quote(f'{folder}-student')}"
    )


def plan(flags: Any, rest: list[str], command: str) -> None:
  """Says what a run would need of each device; runs and writes nothing."""
  del command
  nothing_else(rest)
  if flags.config is None:
    raise errors.InputError("plan needs --config=configs/NAME.py.")
  job = jobs.prepare(flags.config)
  shapes = jax.eval_shape(job.problem.init, jax.random.key(0))
  best = jax.jit(job.parameterization.decode)(job.params)
  fields = {
    "parameters": sum(x.size for x in jax.tree.leaves(shapes)),
    "set_bytes": set_files.num_bytes(best, flags.config.stored_as),
  }
  names = flags.config.objective.split(",")
  remedies = planning.remedies(flags.config, job.mesh)
  for name, cost in zip(names, jobs.costs(job), strict=True):
    print(f"{name.strip()}, on a mesh of {dict(job.mesh.shape)}:")
    print(planning.text(cost, **fields))
    if cost.needed > cost.room:
      print(f"to make it smaller: {', or '.join(remedies)}")


def sweep(flags: Any, rest: list[str], command: str) -> None:
  """Runs every run of a config of configs; reports on all of them."""
  nothing_else(rest)
  if flags.config is None or not flags.workdir:
    raise errors.InputError(
      "sweep needs --config=configs/results.py and --workdir=DIR."
    )
  failed = sweeping.run(flags.config, flags.workdir, command)
  if failed:
    raise errors.InputError(
      f"{len(failed)} of the runs did not finish: "
      + "; ".join(f"{name}: {why}" for name, why in failed.items())
    )


def bank(flags: Any, rest: list[str], command: str) -> None:
  """Builds the expert bank of a config, or the rest of one."""
  del command
  nothing_else(rest)
  if flags.config is None or not flags.workdir:
    raise errors.InputError(
      "bank needs --config=configs/NAME.py and --workdir=DIR."
    )
  checks.require_not_apart(flags.config)
  checks.require_no_rows(flags.config, "a bank draws its own")
  options = recipe.bank_options(flags.config)
  setup = labelling.with_taught_rows(recipe.setup(flags.config), flags.config)
  recipe.require_matched(setup, options.matched, "bank")
  folder = experts.build(flags.workdir, setup, options)
  print(
    f"next: gmdistill distill ... --config.bank.dir={shlex.quote(str(folder))}"
  )


def train(flags: Any, rest: list[str], command: str) -> None:
  """Trains one student on a set; writes a Hugging Face directory."""
  del command
  nothing_else(rest)
  config, folder = config_and_set(flags)
  if not flags.workdir:
    raise errors.InputError("train needs --workdir=DIR for the student.")
  name = flags.protocol or config.protocols[0]
  if name == "bayes":
    raise errors.InputError(
      "train writes one student, and the protocol bayes ends in many samples "
      "of one; use --protocol=replay, finetune or scratch, or measure it with "
      "gmdistill evaluate."
    )
  student = student_folder(flags.workdir, "student")
  setup = recipe.setup(config)
  syn, _ = _fitting_set(setup, folder, config)
  pretrained.check_exportable(setup.problem.student)
  params, seconds, accuracy = tables.Table(setup, config).student(
    recipe.protocol(config, name), evaluation.stacked(syn)
  )
  path = save_student(student, setup, params)
  print(
    f"{name}: accuracy {100 * accuracy:.1f} % on the reported split; trained "
    f"in {seconds:.1f} s; saved in {path}"
  )
  if setup.problem.student.pooling != "first":
    print(
      "a BertModel, and classifier.safetensors for the mean of its hidden "
      "states: BertForSequenceClassification knows no mean pooling"
    )


def student_folder(workdir: str, whose: str) -> epath.Path:
  """Returns a folder for a `set`, `student` or `teacher` that is no run's.

  Raises:
    InputError: something is there already whose `config.json` would be lost.
  """
  folder = workdirs.writable(workdir)
  others = {"a run": "environment.json"}
  if whose == "set":
    others["a student"] = "model.safetensors"
  else:
    others["a set"] = "set"
  for held, name in others.items():
    if (folder / name).exists():
      raise errors.InputError(
        f"workdir {folder} holds {held}, whose config.json the {whose}'s would "
        "replace; give another --workdir."
      )
  return folder


def save_student(
  folder: epath.Path, setup: spaces.Setup, params: Any
) -> epath.Path:
  """Writes a student of a run as a Hugging Face directory; returns it."""
  return pretrained.save(
    folder,
    params=params,
    embeddings=setup.problem.embeddings,
    student=setup.problem.student,
    label_names=setup.corpus.label_names,
    tokenizer_json=setup.corpus.tokenizer.to_json(),
  )


def evaluate(flags: Any, rest: list[str], command: str) -> None:
  """Measures one row of the results table, and how far its students' word can
  be trusted, under one or all protocols."""
  del command
  nothing_else(rest)
  config, folder = config_and_set(
    flags, needs_set=flags.row == tables.DISTILLED
  )
  target = workdirs.writable(flags.workdir) if flags.workdir else None
  setup = recipe.setup(config)
  names = [flags.protocol] if flags.protocol else list(config.protocols)
  table = tables.Table(setup, config, calibrated=True)
  sets, row = None, flags.row
  if flags.row == tables.DISTILLED:
    syn, card = _fitting_set(setup, folder, config)
    sets, row = evaluation.stacked(syn), card.get("rows", tables.DISTILLED)
  found = {}
  for name in names:
    protocol = recipe.protocol(config, name)
    if sets is not None:
      found[name] = table.measure(protocol, sets, f"{name}: {row}").row()
    elif flags.row == "full":
      found[name] = table.full()
    elif flags.row in tables.CORESETS:
      found[name] = table.coreset(name, protocol, flags.row)
    else:
      raise errors.InputError(
        f"--row={flags.row} is none of distilled, full, "
        f"{', '.join(tables.CORESETS)}."
      )
    found[name]["row"] = row
  print(json.dumps(found, indent=2))
  if target is not None:
    target.mkdir(parents=True, exist_ok=True)
    workdirs.write_json(target / "evaluation.json", found)


def report(flags: Any, rest: list[str], command: str) -> None:
  """Writes report.html over the workdirs given, or over --workdir itself."""
  del command
  runs = rest or [flags.workdir]
  if not rest and not flags.workdir:
    raise errors.InputError("report needs workdirs: gmdistill report DIR ...")
  if len(runs) > 1 and not flags.workdir:
    raise errors.InputError(
      "report over several workdirs needs --workdir=DIR, where its page goes: "
      "each has a report.html of its own."
    )
  target = workdirs.writable(flags.workdir or rest[0])
  from gmdistill import report as reporting  # matplotlib is slow to import

  path = reporting.write(runs, target / "report.html")
  metrics.say(f"report: {path}")


def _fitting_set(
  setup: spaces.Setup, folder: epath.Path, config: ml_collections.ConfigDict
) -> tuple[synthetic.SyntheticSet, dict[str, Any]]:
  """Reads a set and its card; refuses what the student cannot train on."""
  syn, card = set_files.load(folder, setup.space_id)
  _say_stale(card, folder, config)
  set_files.require_classes(syn, card, folder, setup.corpus.label_names)
  length, most = syn.batch.mask.shape[1], setup.problem.student.max_positions
  if length > most:
    raise errors.InputError(
      f"the set in {folder} has sequences of {length}, but the student has "
      f"{most} positions; use a student with more student.max_positions."
    )
  wanted = {
    "teacher_logits": config.kd.loss,
    "teacher_features": config.kd.features,
  }
  for name, loss in wanted.items():
    if loss and getattr(syn.batch, name) is None:
      metrics.say(
        f"the set brings no {name}, so students lose no {loss} to them; "
        "gmdistill relabel gives it some"
      )
  return set_files.for_student(setup.problem, syn), card


def _say_stale(card, folder, config):
  """Says so where the set's teachers are other ones by now."""
  before: dict[str, set[str]] = {}
  for one in card.get("teachers", []):
    before.setdefault(one["name"], set()).add(one["id"])
  sources = {*labelling.teacher_names(config)}
  with contextlib.suppress(errors.InputError):  # a set may stand alone
    sources |= {*labelling.teacher_names(_config_beside(folder))}
  for source in sorted(sources):
    path = paths.absolute(source)
    known = before.get(path.name) if path.is_dir() else None
    if known and teachers.identity(path) not in known:
      metrics.say(
        f"the set in {folder} is stale: its teacher {path.name} has changed; "
        f"gmdistill update --set={folder} --teacher={source} --workdir=DIR "
        "distils on from it"
      )


def _config_beside(folder):
  """Returns the config of the run that a set is of."""
  path = paths.absolute(folder).parent / "config.json"
  if not path.is_file():
    raise errors.InputError(
      f"there is no {path}; give the --config that the set was made with."
    )
  config = settings.defaults()
  try:
    config.update(json.loads(path.read_text()))
  except (ValueError, KeyError, TypeError, AttributeError) as error:
    raise errors.InputError(
      f"{path} is damaged, or no run's config; give the --config that the "
      "set was made with."
    ) from error
  return config


def config_and_set(
  flags: Any, needs_set: bool = True
) -> tuple[ml_collections.ConfigDict, epath.Path]:
  """Returns the config and the set's folder; a set knows its run's config."""
  if needs_set and not flags.set:
    raise errors.InputError("this verb needs --set=DIR, a run's set/ folder.")
  folder = paths.path(flags.set)
  if needs_set:
    set_files.load(folder)  # a damaged set is refused before anything is read
  if flags.config is not None:
    config = flags.config
  elif not flags.set:
    raise errors.InputError(
      "this verb needs --config=configs/NAME.py, or the --set=DIR of a run, "
      "whose config is taken."
    )
  else:
    config = _config_beside(folder)
  space = paths.absolute(folder).parent / "space"
  # The run's own config may name the space that it was made from.
  unnamed = flags.config is None or not config.student.space
  own = needs_set or flags.config is None
  if own and unnamed and not config.student.pretrained and space.is_dir():
    config.student.space = str(space)
  checks.require_numbers(config)
  return config, folder


def nothing_else(rest: list[str]) -> None:
  """Refuses what is left of a command line.

  Raises:
    InputError: something is.
  """
  if rest:
    raise errors.InputError(
      f"unexpected argument {rest[0]!r}; options look like --name=value."
    )
