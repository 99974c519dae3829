"""The verbs of the command line, one function each."""

import json
import pathlib
from typing import Any

import ml_collections

from gmdistill import (
  distill as distillation,
)
from gmdistill import (
  errors,
  finish,
  metrics,
  pretrained,
  recipe,
  synthetic,
  workdirs,
)
from gmdistill import (
  evaluate as evaluation,
)
from gmdistill import (
  report as reporting,
)


def distill(flags: Any, rest: list[str], command: str) -> None:
  """The main job: ends with the results table and the report."""
  _nothing_else(rest)
  if flags.config is None or not flags.workdir:
    raise errors.InputError(
      "distill needs --config=configs/NAME.py and --workdir=DIR."
    )
  distillation.run(flags.config, flags.workdir, command)
  print(
    f"next: gmdistill train --set={flags.workdir}/set "
    f"--workdir={flags.workdir}-student"
  )


def train(flags: Any, rest: list[str], command: str) -> None:
  """Trains one student on a set; writes a Hugging Face directory."""
  del command
  _nothing_else(rest)
  config, folder = _config_and_set(flags)
  if not flags.workdir:
    raise errors.InputError("train needs --workdir=DIR for the student.")
  student = workdirs.writable(flags.workdir)
  if (student / "environment.json").exists():
    raise errors.InputError(
      f"workdir {student} holds a run, whose config.json the student's would "
      "replace; give another --workdir."
    )
  setup = recipe.setup(config)
  syn, _ = synthetic.load(folder, setup.space_id)
  pretrained.check_exportable(setup.problem.student)
  name = flags.protocol or config.protocols[0]
  params, seconds, accuracy = finish.Table(setup, config).student(
    recipe.protocol(config, name), evaluation.stacked(syn)
  )
  path = pretrained.save(
    student,
    params=params,
    embeddings=setup.problem.embeddings,
    student=setup.problem.student,
    label_names=setup.corpus.label_names,
    tokenizer_json=setup.corpus.tokenizer.to_json(),
  )
  print(
    f"{name}: accuracy {100 * accuracy:.1f} % on the reported split; trained "
    f"in {seconds:.1f} s; saved in {path}"
  )


def evaluate(flags: Any, rest: list[str], command: str) -> None:
  """Measures one row of the results table under one or all protocols."""
  del command
  _nothing_else(rest)
  config, folder = _config_and_set(flags, needs_set=flags.row == "distilled")
  setup = recipe.setup(config)
  names = [flags.protocol] if flags.protocol else list(config.protocols)
  table = finish.Table(setup, config)
  found = {}
  for name in names:
    protocol = recipe.protocol(config, name)
    if flags.row == "distilled":
      syn, _ = synthetic.load(folder, setup.space_id)
      sets = evaluation.stacked(syn)
      found[name] = table.measure(protocol, sets, f"{name}: distilled").row()
    elif flags.row == "full":
      found[name] = table.full()
    elif flags.row in finish.CORESETS:
      found[name] = table.coreset(name, protocol, flags.row)
    else:
      raise errors.InputError(
        f"--row={flags.row} is none of distilled, full, "
        f"{', '.join(finish.CORESETS)}."
      )
    found[name]["row"] = flags.row
  print(json.dumps(found, indent=2))
  if flags.workdir:
    path = pathlib.Path(flags.workdir) / "evaluation.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    workdirs.write_json(path, found)


def report(flags: Any, rest: list[str], command: str) -> None:
  """Writes report.html over the workdirs given, or over --workdir itself."""
  del command
  runs = [pathlib.Path(folder) for folder in rest] or [
    pathlib.Path(flags.workdir)
  ]
  if not rest and not flags.workdir:
    raise errors.InputError("report needs workdirs: gmdistill report DIR ...")
  target = pathlib.Path(flags.workdir or rest[0])
  path = reporting.write(runs, target / "report.html")
  metrics.say(f"report: {path}")


def _config_and_set(
  flags: Any, needs_set: bool = True
) -> tuple[ml_collections.ConfigDict, pathlib.Path]:
  """Returns the config and the set's folder; a set knows its run's config."""
  if needs_set and not flags.set:
    raise errors.InputError("this verb needs --set=DIR, a run's set/ folder.")
  folder = pathlib.Path(flags.set)
  if needs_set:
    synthetic.load(folder)  # a damaged set is refused before anything is read
  if flags.config is not None:
    config = flags.config
  else:
    path = folder.absolute().parent / "config.json"
    if not path.is_file():
      raise errors.InputError(
        f"there is no {path}; give the --config that the set was made with."
      )
    config = recipe.defaults()
    config.update(json.loads(path.read_text()))
  space = folder.absolute().parent / "space"
  if not config.student.pretrained and not config.student.space:
    if needs_set and space.is_dir():
      config.student.space = str(space)
  return config, folder


def _nothing_else(rest: list[str]) -> None:
  if rest:
    raise errors.InputError(
      f"unexpected argument {rest[0]!r}; options look like --name=value."
    )
