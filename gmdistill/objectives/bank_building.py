"""Building an expert bank: trajectories walked, gradients taken, all saved."""

import dataclasses
import hashlib
import json
import shutil
from typing import Any

import jax
import numpy as np
from etils import epath

from gmdistill import errors
from gmdistill.data import batches
from gmdistill.objectives import bank, bank_walks, privacy
from gmdistill.sets import set_files, spaces
from gmdistill.system import checkpoints, folders, logs, paths, units


def build(
  folder: epath.PathLike, setup: spaces.Setup, options: bank.Options
) -> epath.Path:
  """Computes a bank, or the rest of one that was interrupted.

  Says its size first. One state is in memory at a time.

  Returns:
    The folder's absolute path.

  Raises:
    InputError: a class with too few rows, a folder that holds another bank or
      cannot be written, a disk without the room.
  """
  folder = folders.writable(str(folder))
  if options.noise and not paths.is_local(folder):
    raise errors.InputError(
      f"a private bank keeps the key of its noise beside it until it is whole; "
      f"build it in a folder of this machine, not in {folder}."
    )
  batches.require_rows(
    setup.corpus.train,
    options.rows_per_class,
    setup.corpus.strata,
    "bank.rows_per_class",
  )
  private = bool(options.noise)
  about = bank.identity(setup, private) | {"options": _plain(options)}
  if options.noise:
    about["privacy"] = guarantee(setup, options)
  along = _set_of(setup, options)
  if along is not None:
    about["along"] = _digest(along)
  missing = _missing(folder, options, about)
  each = bank.num_bytes(setup, options) / len(options.names)
  needed = int(each * len(missing))
  logs.say(
    f"bank: {len(options.names)} states ({options.num_trajectories} students, "
    f"ages {', '.join(map(str, options.ages))}), {units.size(each)} each; "
    f"{len(missing)} to compute, {units.size(needed)} in {folder}"
  )
  if options.noise:
    logs.say(
      "bank: epsilon {epsilon:.3g} at delta {delta:.0e}, of one "
      "row's contribution".format_map(about["privacy"])
    )
  if paths.is_local(folder):
    _require_disk(folder, needed)
  folder.mkdir(parents=True, exist_ok=True)
  with folders.held(folder):
    # Another process may have been here since.
    missing = _missing(folder, options, about)
    folders.write_json(folder / "bank.json", about)
    _compute(folder, setup, options, missing, along)
  return folder


def _digest(tree):
  """Returns a hash of a set's arrays: another set at the same place differs."""
  digest = hashlib.sha256()
  for leaf in jax.tree.leaves(tree):
    digest.update(np.asarray(leaf).tobytes())
  return digest.hexdigest()[:16]


def _require_disk(folder, needed):
  existing = next(p for p in (folder, *folder.parents) if p.exists())
  free = shutil.disk_usage(existing).free
  if needed > free:
    raise errors.InputError(
      f"the bank needs {units.size(needed)} and {existing} has "
      f"{units.size(free)} free; use fewer bank.num_trajectories or "
      "bank.ages, bank.precision=bfloat16, or another folder."
    )


def _compute(folder, setup, options, missing, along):
  secret = folder / "noise_key"
  noise_key = privacy.secret_key(secret) if options.noise else None
  walker = bank_walks.Walker(setup, options, noise_key, along)
  done = len(options.names) - len(missing)
  progress = logs.Progress(len(options.names), done, 1)
  try:
    for trajectory in range(options.num_trajectories):
      ages = [age for h, age in missing if h == trajectory]
      # A trajectory that was cut is walked again from its start: what is
      # stored may be rounded, and the states must be the same bits.
      for age, expert in walker.walk(trajectory, ages):
        path = bank.entry_path(folder / "entries", trajectory, age)
        checkpoints.save_tree(path, expert)
        done += 1
        losses = expert.losses
        value = None if losses is None else float(losses.mean())
        progress.update(done, value, None)
  finally:
    progress.close()
  secret.unlink(missing_ok=True)


def _set_of(setup, options):
  """Returns the examples that the students train on; None: real rows."""
  if not options.along:
    return None
  syn, card = set_files.load(options.along, setup.space_id)
  set_files.require_classes(syn, card, options.along, setup.corpus.label_names)
  return set_files.for_student(setup.problem, syn).batch


def guarantee(setup: spaces.Setup, options: bank.Options) -> dict[str, Any]:
  """Returns epsilon and delta of a bank with noise, and what they cover.

  Rows are drawn in shuffled epochs: sums over other rows cost a row nothing.

  Raises:
    InputError: the embedding table is learned from the rows themselves, or
      there is no accountant.
  """
  if not setup.problem.is_pretrained:
    raise errors.InputError(
      "bank.noise hides rows from the gradients alone, and the embedding table "
      "of a student without pretrained weights may be learned from them; use "
      "student.pretrained, and student.kind=transformer."
    )
  scarcest = int(np.bincount(setup.corpus.train.labels).min())
  steps = options.num_trajectories * max(options.ages)
  if options.batch_rows_per_class > scarcest:
    raise errors.InputError(
      f"bank.batch_rows_per_class={options.batch_rows_per_class} takes a row "
      f"twice at once: the smallest class has {scarcest}; use at most that."
    )
  uses = privacy.uses(steps, options.batch_rows_per_class, scarcest)
  uses += privacy.uses(len(options.names), options.rows_per_class, scarcest)
  return {
    "epsilon": privacy.epsilon(options.noise, uses, options.delta),
    "delta": options.delta,
    "unit": "one row's contribution to the gradients",
    "uses": uses,
  }


def _missing(folder, options, about):
  """Returns the entries to compute; refuses another bank's folder."""
  _refuse_another(folder, about)
  missing = [
    x
    for x in options.names
    if not checkpoints.is_whole(bank.entry_path(folder / "entries", *x))
  ]
  begun = 0 < len(missing) < len(options.names)
  if options.noise and begun and not (folder / "noise_key").is_file():
    raise errors.InputError(
      f"the private bank in {folder} was whole and lacks {len(missing)} states "
      "now. Its noise is forgotten, and the same rows under other noise spend "
      "privacy anew: build one in another --workdir, and add up both epsilon."
    )
  return missing


def _refuse_another(folder, about):
  if not (folder / "bank.json").is_file():
    return
  earlier = bank.read(folder)
  # A bank begun before an option was known had its default.
  earlier["options"] = _plain(bank.options_of(earlier, folder))
  differing = folders.differences(earlier, json.loads(json.dumps(about)))
  if differing:
    raise errors.InputError(
      f"{folder} holds another bank: {'; '.join(differing)}. Use that config, "
      "or another --workdir."
    )


def _plain(options):
  fields = dataclasses.asdict(options)
  return {**fields, "ages": list(options.ages)}
