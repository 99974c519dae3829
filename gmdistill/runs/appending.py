"""A set that grows: new rows, and new classes, without distilling anew.

What the old set knows is kept: its examples start the new one, frozen or
polished, in a third of the outer steps.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from gmdistill import errors
from gmdistill.runs import distill, first_set, forgetting, workdirs
from gmdistill.runs.config import assembly, checks, outputs
from gmdistill.runs.config import recipe as recipes
from gmdistill.sets import set_files, synthetic, wrappers
from gmdistill.system import console, folders, json_files, logs

SHARE = 3  # an append takes one of so many parts of a whole run's outer steps


class _Old(NamedTuple):
  """The set that is there, among the classes of now."""

  syn: synthetic.SyntheticSet  # its labels [M, C] over all classes
  classes: np.ndarray  # the place of each of its classes among those of now
  per_class: int
  card: dict[str, Any]


def run(
  config: recipes.Recipe,
  set_folder: epath.Path,
  workdir: str,
  command: str = "",
  *,
  compare: bool = False,
) -> dict[str, Any]:
  """Distils on from a set for data with more rows, or more classes.

  The workdir is a run's, of a third of the config's steps, that started from
  `start/`; `append.json` beside it tells accuracies on old and new classes:
  of the old set, of the new one, of students of the old set that were then
  trained on real rows of the new classes alone, and, to compare, of a set that
  is distilled anew in `anew/`.

  Args:
    config: Whose data have the old classes and the new ones.
    set_folder: The old set.
    workdir: Where the run goes.
    command: How to start the same again.
    compare: Whether a set is distilled anew too.

  Raises:
    InputError: something the user can mend, before anything is written.
  """
  checks.require_classes(config, "append")
  setup = assembly.setup(config)
  old = _old(setup, config, set_folder)
  start = folders.writable(workdir) / "start"
  chosen = recipes.changed(
    config,
    start=str(start),
    num_steps=max(config.num_steps // SHARE, 1),
  )
  workdirs.check(workdir, chosen)
  source = json_files.read(set_folder / "card.json", "give a whole set.")
  _write_start(setup, config, old, start, command, source)
  logs.say(
    f"append: {len(old.classes)} classes are known, "
    f"{len(setup.corpus.label_names) - len(old.classes)} are new; "
    f"{chosen.num_steps} outer steps of {config.num_steps}, the old examples "
    f"{config.kept}"
  )
  distill.run(chosen, workdir, command)
  folder = folders.writable(workdir)
  sets = {"before": old.syn, "after": _read(setup, folder / "set")}
  steps = {"before": 0, "after": chosen.num_steps}
  if compare:
    anew = recipes.changed(config, kept="polished")  # with nothing to keep
    distill.run(anew, str(folder / "anew"), command)
    sets["anew"] = _read(setup, folder / "anew/set")
    steps["anew"] = config.num_steps
  done = {
    "schema": 1,
    "old_classes": [setup.corpus.label_names[i] for i in old.classes],
    "classes": list(setup.corpus.label_names),
    "protocol": config.protocols[0],
    "kept": config.kept,
    "steps": steps,
    "rows": forgetting.measured(setup, config, old.classes, sets),
    "provenance": folders.environment(command),
  }
  folders.write_json(folder / "append.json", done)
  console.show(forgetting.text(done))
  return done


def _read(setup, folder):
  return set_files.for_student(
    setup.problem, set_files.load(folder, setup.space_id)[0]
  )


def _old(setup, config, folder) -> _Old:
  """Reads the old set; refuses what cannot grow into the config's."""
  syn, card = set_files.load(folder, setup.space_id)
  names, theirs = setup.corpus.label_names, card.get("label_names") or []
  missing = [name for name in theirs if name not in names]
  if missing or not theirs or syn.batch.labels is None:
    raise errors.InputError(
      f"the set in {folder} has the classes {theirs}, and the data have no "
      f"{', '.join(missing) or 'classes of it'}; give data of the old classes "
      "and the new ones."
    )
  per_class = card.get("data_per_class")
  length = syn.batch.inputs.shape[1]
  if per_class is None or per_class > config.data_per_class:
    raise errors.InputError(
      f"the set in {folder} has {per_class} examples a class, and "
      f"data_per_class={config.data_per_class}; use that many, or more."
    )
  if length != config.sequence_length or config.rank:
    raise errors.InputError(
      f"the set in {folder} has whole embeddings of {length} positions; use "
      f"sequence_length={length} and rank=0, not {config.sequence_length} and "
      f"{config.rank}."
    )
  grows = len(theirs) < len(names) or per_class < config.data_per_class
  if config.kept == "frozen" and not grows:
    raise errors.InputError(
      "kept=frozen leaves nothing to learn where no class is new and "
      f"data_per_class={config.data_per_class} is the set's; use kept=polished."
    )
  errors.choice("kept", config.kept, first_set.KEPT)
  classes = np.array([names.index(name) for name in theirs])
  labels = _among_all(
    np.asarray(syn.batch.labels), classes, len(names), config.label_smoothing
  )
  batch = dataclasses.replace(syn.batch, labels=jnp.asarray(labels))
  syn = set_files.for_student(
    setup.problem, dataclasses.replace(syn, batch=batch)
  )
  return _Old(syn, classes, per_class, card)


def _among_all(labels_MxO, classes, num_classes, smoothing):
  """Returns labels [M, C] of old classes among all, as smooth as they were."""
  new = smoothing / num_classes
  labels_MxC = np.full((len(labels_MxO), num_classes), new, np.float32)
  rest = 1 - new * (num_classes - len(classes))
  labels_MxC[:, classes] = rest * labels_MxO
  return labels_MxC


def _write_start(setup, config, old, folder, command, source):
  """Writes the set that the run starts from, unless the run has begun."""
  begun = (folder.parent / "config.json").is_file()  # which is this config
  if begun and (folder / "card.json").is_file():
    before = json_files.read(folder / "card.json", "give a new --workdir.")
    if before.get("made_from") != source.get("sha256"):
      raise errors.InputError(
        f"{folder} was made from another set; give that --set, or a new "
        "--workdir."
      )
    return
  # As the old set is: finished, its labels smoothed.
  stored = wrappers.with_smoothed_labels(
    assembly.parameterization(config, setup.problem), config.label_smoothing
  )
  params = first_set.first_params(setup, config, stored)
  fresh = jax.device_get(jax.jit(stored.decode)(params))
  rows = _places(old, config.data_per_class)
  syn = _with_old(fresh, old.syn, rows)
  card = outputs.first_card(setup, config, command)
  card |= {"kept": rows.tolist(), "made_from": source.get("sha256")}
  set_files.save(folder, syn, card)


def _places(old, per_class):
  """Returns where the old examples are in the new set, in their order."""
  firsts = old.classes[:, None] * per_class + np.arange(old.per_class)
  return firsts.reshape(-1)


def _with_old(fresh, old, rows):
  """Returns a fresh set with the old one's examples, and its step sizes."""

  def placed(new, before):
    if new is None or before is None or new.shape[1:] != before.shape[1:]:
      return new
    whole = np.array(new)
    whole[rows] = np.asarray(before)
    return whole

  # Every position of a start is read.
  filled = synthetic.without_padding(old.batch)
  batch = dataclasses.replace(
    fresh.batch,
    inputs=placed(fresh.batch.inputs, filled.inputs),
    labels=placed(fresh.batch.labels, old.batch.labels),
    attention=placed(fresh.batch.attention, old.batch.attention),
  )
  steps = {}
  for name in ("learning_rates", "head_learning_rates", "tensor_shares"):
    new, before = getattr(fresh, name), getattr(old, name)
    same = new is not None and before is not None and new.shape == before.shape
    steps[name] = before if same else new
  return dataclasses.replace(fresh, batch=batch, **steps)
