"""One pipeline: from raw rows to a student, each stage a workdir of its own.

A stage's folder is named by a hash of what it reads, so that a pipeline that
was stopped goes on, and pipelines that differ in one stage share those before.
"""

import hashlib
import json
import time
import types
from collections.abc import Callable
from typing import Any, NamedTuple

from etils import epath

from gmdistill import errors
from gmdistill.data import loading, sources
from gmdistill.reports import tables
from gmdistill.runs import candidates, deduplicating, distill, selecting
from gmdistill.runs.commands import auditing, teaching, using
from gmdistill.runs.config import assembly, checks, pipelines, schedule
from gmdistill.runs.config import recipe as recipes
from gmdistill.sets import hub, set_files, spaces
from gmdistill.students import families
from gmdistill.system import console, folders, json_files, logs, paths, units
from gmdistill.teachers import trained


class State(NamedTuple):
  """What a stage reads: what those before it made."""

  recipe: recipes.Recipe  # whose data are the rows of now
  set: str = ""  # the folder of the set of now
  teacher: str = ""  # of whom labels are asked


class Stage(NamedTuple):
  """One step of a pipeline.

  `reads(plan, state)` is all that decides its result, as JSON;
  `work(plan, state, folder, command)` does it, and goes on where it was
  stopped; `after(state, folder)` is the state once it is done.
  """

  reads: Callable[[pipelines.Pipeline, State], Any]
  work: Callable[[pipelines.Pipeline, State, epath.Path, str], None]
  after: Callable[[State, epath.Path], State]


def _dedup(plan, state, folder, command):
  recipe = pipelines.for_dedup(plan, state.recipe)
  deduplicating.run(recipe, plan.dedup_method, str(folder), command)


def _after_dedup(state, folder):
  return _reading(state, folder, "dedup", "kept.jsonl")


def _select(plan, state, folder, command):
  selecting.run(
    pipelines.for_select(plan, state.recipe),
    [plan.select_method],
    str(folder),
    command,
    measured=False,
    size_field="rows_per_class",
  )


def _after_select(state, folder):
  return _reading(state, folder, "select", "*.jsonl")


def _reading(state, folder, verb, files):
  """Returns a state whose data are the rows that a stage wrote."""
  columns = json_files.read(folder / f"{verb}.json", "give a new --workdir.")
  fields = {f"data__{name}": x for name, x in columns["columns"].items()}
  fields |= {"data__name": str(folder / files), "data__dir": ""}
  return state._replace(recipe=recipes.changed(state.recipe, **fields))


def _distill(plan, state, folder, command):
  del plan
  distill.run(state.recipe, str(folder), command)


def _with_set(state, folder):
  return state._replace(set=str(folder / "set"))


def _rows(plan, state, folder, command):
  """Without distilling: real rows stand for the set, as a baseline's do."""
  del plan
  teaching.write_coreset(state.recipe, "k_centers", str(folder), command)


def _teach(plan, state, folder, command):
  del command  # of no teacher alone
  recipe = state.recipe
  if plan.teacher_layers:
    recipe = recipes.changed(recipe, student__num_layers=plan.teacher_layers)
  teaching.teach(_flags(config=recipe, workdir=str(folder)), [], "")


def _relabel(plan, state, folder, command):
  del plan
  flags = _flags(
    config=state.recipe,
    set=state.set,
    teacher=[state.teacher],
    row="distilled",
    workdir=str(folder),
  )
  teaching.relabel(flags, [], command)


def _train(plan, state, folder, command):
  del plan
  flags = _flags(
    config=state.recipe,
    set=state.set,
    row="distilled",
    protocol="",
    workdir=str(folder),
  )
  using.train(flags, [], command)
  using.evaluate(flags, [], command)


def _audit(plan, state, folder, command):
  del plan
  flags = _flags(config=state.recipe, set=state.set, workdir=str(folder))
  auditing.audit(flags, [], command)


def _flags(**given):
  return types.SimpleNamespace(json=False, **given)


def _of_rows(plan, state):
  del plan
  return state.recipe.to_dict()


def _of_set(plan, state):
  return [_of_rows(plan, state), state.set]


STAGES: dict[str, Stage] = {
  "dedup": Stage(
    lambda plan, state: [
      pipelines.for_dedup(plan, state.recipe).to_dict(),
      plan.dedup_method,
    ],
    _dedup,
    _after_dedup,
  ),
  "select": Stage(
    lambda plan, state: [
      pipelines.for_select(plan, state.recipe).to_dict(),
      plan.select_method,
    ],
    _select,
    _after_select,
  ),
  "distill": Stage(_of_rows, _distill, _with_set),
  "rows": Stage(_of_rows, _rows, _with_set),
  "teach": Stage(
    lambda plan, state: [_of_rows(plan, state), plan.teacher_layers],
    _teach,
    lambda state, folder: state._replace(teacher=str(folder)),
  ),
  "relabel": Stage(
    lambda plan, state: [_of_set(plan, state), state.teacher],
    _relabel,
    _with_set,
  ),
  "train": Stage(_of_set, _train, lambda state, folder: state),
  "audit": Stage(_of_set, _audit, lambda state, folder: state),
}


def _names(stages):
  """Returns the stages that are worked: relabelling asks for a teacher, and
  without distilling real rows stand for the set."""
  found: list[str] = []
  for name in pipelines.STAGES:
    if name in stages:
      found += ["teach", name] if name == "relabel" else [name]
    elif name == "distill":
      found.append("rows")
  return found


def run(
  config: Any, workdir: str, command: str = "", *, ablate: bool = False
) -> dict[str, Any]:
  """Runs a pipeline; with `ablate`, once more without each of its stages.

  Leaves a folder for each stage, and `pipeline.json`: which are whose, and how
  good students are at the end of each way.

  Args:
    config: As `pipelines.pipeline` returns.
    workdir: Where the stages' folders go.
    command: How to start the same again.
    ablate: Whether each stage that makes the set is left out in turn.

  Raises:
    InputError: something the user can mend.
    Stopped: SIGINT or SIGTERM; the same command goes on.
  """
  plan = pipelines.read(config)
  checks.require_classes(plan.run, "pipeline")
  # What would end a later stage, before there is any.
  if families.named(plan.run.student.kind).form is None:
    raise errors.InputError(
      f"run.student.kind={plan.run.student.kind} has no Hugging Face form, "
      "which the stage train writes; use another kind of student."
    )
  assembly.reported_protocols(plan.run)
  if "distill" in plan.stages:
    schedule.stages(plan.run)
  folder = folders.writable(workdir)
  identity = identity_of(plan.run)  # unknown data: before all else
  ways = {"whole": plan.stages}
  if ablate:
    ways |= {
      f"without {name}": tuple(
        x for x in plan.stages if x not in (name, "audit")
      )
      for name in plan.stages
      if name not in ("train", "audit")
    }
  folder.mkdir(parents=True, exist_ok=True)
  with folders.held(folder):
    done: dict[str, Any] = {"schema": 1, "ways": {}}
    for name, stages in ways.items():
      logs.say(f"pipeline, {name}: {', '.join(_names(stages))}")
      done["ways"][name] = _way(plan, stages, folder, identity, command)
    done["provenance"] = folders.environment(command)
    folders.write_json(folder / "pipeline.json", done)
  console.show(text(done))
  return done


def identity_of(recipe: recipes.Recipe) -> list[Any]:
  """Returns ids of what the config of a run only names, for every stage.

  Raises:
    InputError: some of it cannot be read.
  """
  student = recipe.student.pretrained
  return [
    sources.identity(loading.opened(recipe.data)),
    trained.names_and_ids([*[student] * bool(student), *recipe.teachers.dirs]),
    candidates.identity(recipe),
    candidates.identity_of_bank(recipe),
    _hashes_of_arrays(recipe),
  ]


def _hashes_of_arrays(recipe):
  """Returns hashes of the set a run starts from and of the space it is in."""
  hashes = []
  if recipe.start:
    set_files.load(recipe.start)  # whole, or refused in its own words
    content = (hub.set_folder(recipe.start) / "set.safetensors").read_bytes()
    hashes.append(hashlib.sha256(content).hexdigest())
  if recipe.student.space:
    hashes.append(spaces.id_of_folder(paths.path(recipe.student.space)))
  return hashes


def _way(plan, stages, root, identity, command):
  """Returns what one way through the stages came to."""
  state, made, seconds = State(plan.run), {}, 0.0
  for name in _names(stages):
    stage = STAGES[name]
    reads = json.dumps([name, identity, stage.reads(plan, state)])
    # Wherever the pipeline's folder lies.
    reads = reads.replace(str(root), "")
    digest = hashlib.sha256(reads.encode()).hexdigest()[:10]
    folder = root / f"{name}-{digest}"
    mark = folder / "stage.json"
    if mark.is_file():
      logs.say(f"{name}: done before, in {folder.name}")
    else:
      logs.say(f"{name}: in {folder.name}")
      start = time.monotonic()
      stage.work(plan, state, folder, command)
      spent = time.monotonic() - start
      folders.write_json(mark, {"stage": name, "seconds": spent})
    seconds += json_files.read(mark, "remove it, and start again.")["seconds"]
    made[name] = folder.name
    state = stage.after(state, folder)
  trained = root / made["train"]
  measured = json_files.read(trained / "evaluation.json", "remove its folder.")
  rows = {name: _rows_of(root / made[name], name) for name in made}
  return {
    "stages": made,
    "seconds": seconds,
    "rows": {name: count for name, count in rows.items() if count},
    "protocols": measured,
  }


def _rows_of(folder, stage):
  """Returns how many training rows a stage left; None: it chooses none."""
  if stage not in ("dedup", "select"):
    return None
  found = json_files.read(folder / f"{stage}.json", "remove its folder.")
  if stage == "dedup":
    return found["kept"]
  return next(iter(found["methods"].values()))["rows"]


def text(done: dict[str, Any]) -> str:
  """Returns the table of the ways through a pipeline, for a terminal."""
  ways = done["ways"]
  names = list(ways["whole"]["protocols"])
  header = ["Pipeline", "Rows", "Time", *names]
  body = []
  for name, way in ways.items():
    rows = " > ".join(str(x) for x in way["rows"].values()) or "all"
    accuracies = [selecting.accuracy(way["protocols"][x]) for x in names]
    body.append([name, rows, units.seconds(way["seconds"]), *accuracies])
  return tables.aligned(header, body)
