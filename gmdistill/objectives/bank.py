"""The expert bank: students on real trajectories, and their real gradients.

What gradient matching aims at does not depend on the synthetic set. A bank
computes it once: states of several students (one head each) at a few ages of
ordinary training, and at each state the mean real gradient of every class. Any
objective, budget, distance and seed then reads the same bank.

On disk: `bank.json`, what the bank is; `entries/HHH-AAAAA/`, one state each. An
entry is there whole or not at all, so a killed build goes on where it was.
"""

import functools
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from gmdistill import errors, fields
from gmdistill.data import samplers
from gmdistill.objectives import bank_options, bank_storage, contract
from gmdistill.sets import spaces
from gmdistill.students import roles
from gmdistill.system import checkpoints, json_files, paths

FORMAT = "gmdistill-bank-1"

Options = bank_options.Options  # what a bank holds

# What must agree between a bank and the run that reads it.
_SAME = ("format", "data", "space", "student", "weights", "labels")


def identity(setup: spaces.Setup, private: bool = False) -> dict[str, Any]:
  """Returns what a bank and its reader must have in common.

  A private bank does not name its data: a hash of all rows would tell who
  knows the others whether one is there.
  """
  return {
    "format": FORMAT,
    "data": "private" if private else setup.corpus.fingerprint,
    "space": setup.space_id,
    "student": _without_layout(repr(setup.problem.student)),
    "weights": setup.problem.weights_id,
    "labels": setup.labels,
  }


def _without_layout(student: str) -> str:
  """Returns a student's fields but those that change no number."""
  return re.sub(r"\n *(remat|unroll|split) = .*", "", student)


def float_shapes(setup: spaces.Setup, options: Options) -> contract.Expert:
  """Returns shapes of one entry's floats; computes nothing."""
  groups = setup.problem.groups

  def shapes(problem, key):
    params = problem.init(key)
    return params, problem.roles.keep(params, options.matched)

  def floats(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)

  params, kept = jax.eval_shape(shapes, setup.problem, jax.random.key(0))
  return contract.Expert(
    params=jax.tree.map(lambda x: floats(*x.shape), params),
    targets=jax.tree.map(lambda x: floats(groups, *x.shape), kept),
    losses=None
    if options.noise  # They have none, and would tell.
    else floats(groups),
  )


def entry_shapes(setup: spaces.Setup, options: Options) -> contract.Expert:
  """Returns shapes and types of one entry as it is stored."""
  return jax.eval_shape(
    lambda entry: bank_storage.stored(entry, options.precision),
    float_shapes(setup, options),
  )


def num_bytes(setup: spaces.Setup, options: Options) -> int:
  """Returns the bytes of a whole bank's arrays."""
  leaves = jax.tree.leaves(entry_shapes(setup, options))
  each = sum(x.size * x.dtype.itemsize for x in leaves)
  return each * len(options.names)


class Bank:
  """A bank on disk, opened for reading."""

  def __init__(self, folder: epath.PathLike, setup: spaces.Setup):
    """Reads `bank.json`, and checks that the bank is of this setup, and whole.

    Raises:
      InputError: no bank, a damaged or unfinished one, or one of other data or
        of another student: names what differs.
    """
    self.folder = paths.absolute(folder)
    about = read(self.folder)
    about.setdefault("labels", "true")  # of banks before there were teachers
    ours = identity(setup, private="privacy" in about)
    differing = [name for name in _SAME if about.get(name) != ours[name]]
    if differing:
      which = "; ".join(
        f"{name} is {about.get(name)} there, {ours[name]} here"
        for name in differing
      )
      raise errors.InputError(
        f"the bank in {self.folder} does not fit this run: {which}. Build one "
        "with gmdistill bank and this config."
      )
    self.options = options_of(about, self.folder)
    self._entries = self.folder / "entries"
    self._floats = float_shapes(setup, self.options)
    self._shapes = entry_shapes(setup, self.options)
    absent = [
      name
      for name in self.options.names
      if not checkpoints.is_whole(entry_path(self._entries, *name))
    ]
    if absent:
      raise errors.InputError(
        f"the bank in {self.folder} lacks {len(absent)} of its "
        f"{len(self.options.names)} states; finish it with gmdistill bank "
        f"--workdir={self.folder} and the config it was begun with."
      )
    self._load = functools.lru_cache(maxsize=None)(self._read)

  def require(self, matched: str) -> None:
    """Checks that the bank holds the gradients of the tensors `matched`.

    Raises:
      InputError: it holds fewer.
    """
    if not roles.contains(self.options.matched, matched):
      raise errors.InputError(
        f"the bank in {self.folder} holds the gradients of "
        f"matched={self.options.matched}, which lacks some of {matched}; match "
        "fewer tensors, or build a bank with bank.matched=all."
      )

  def require_float32(self) -> None:
    """Checks that the difference of two states is that of the students.

    Rounded to bfloat16, a weight near 1 moves by 0.004 or not at all, where a
    step of AdamW moves it by 0.0001.

    Raises:
      InputError: the states are rounded.
    """
    if self.options.precision != "float32":
      raise errors.InputError(
        f"the bank in {self.folder} is stored in {self.options.precision}, "
        "which rounds away how far a student moves from one state to another; "
        "build one with --config.bank.precision=float32."
      )

  def expert(
    self, trajectory: int, index: int, reads: tuple[str, ...], span: int = 1
  ) -> contract.Expert:
    """Returns the state at `ages[index]` (host arrays of floats).

    Args:
      trajectory: Which student.
      index: Which of the bank's ages.
      reads: The fields wanted; the others are None.
      span: `later` is the state this many ages on.
    """
    entry = self._entry(trajectory, index)
    fields = {name: getattr(entry, name) for name in reads if name != "later"}
    if "later" in reads:
      fields["later"] = self._entry(trajectory, index + span).params
    return contract.Expert(**fields)

  def sampler(
    self,
    reads: tuple[str, ...],
    *,
    max_age: fields.StepsFromZero = 10**6,
    span: fields.Count = 1,
    seed: int = 0,
    curriculum: int = 0,
  ) -> Callable[[int], contract.Expert]:
    """Returns `sample(step) -> expert`, pure in (seed, step).

    States come in shuffled epochs: each once before any comes again.

    Args:
      reads: The fields wanted.
      max_age: The oldest state drawn.
      span: See `expert`.
      seed: Decides the order.
      curriculum: Draws over which older and older states are let in, before
        the epochs begin.

    Raises:
      InputError: no state is young enough, or none has one `span` ages on.
    """
    ages = self.options.ages
    last = len(ages) - (span if "later" in reads else 0)
    if "later" in reads and self.options.along:
      raise errors.InputError(
        f"the bank in {self.folder} has students of a set "
        f"({self.options.along}), which this objective would make it follow; "
        "build one without bank.along."
      )
    usable = [i for i in range(last) if ages[i] <= max_age]
    if span < 1 or not usable:
      raise errors.InputError(
        f"the bank in {self.folder} has the ages {ages}: none is at most "
        f"experts.max_age={max_age} with another experts.span={span} places on."
      )
    pairs = np.array(
      [(h, i) for h in range(self.options.num_trajectories) for i in usable]
    )
    draw = samplers.shuffled_epochs(np.arange(len(pairs)), (seed, 2))

    def sample(step: int) -> contract.Expert:
      if step < curriculum:
        young = usable[: 1 + len(usable) * step // curriculum]
        rng = np.random.default_rng((seed, 3, step))
        trajectory = rng.integers(self.options.num_trajectories)
        index = rng.choice(young)
      else:
        trajectory, index = pairs[draw(step, 1)[0]]
      return self.expert(int(trajectory), int(index), reads, span)

    return sample

  def _entry(self, trajectory, index):
    kept = self._load(trajectory, index)
    return bank_storage.restored(kept, self.options.precision, self._floats)

  def _read(self, trajectory, index):
    path = entry_path(self._entries, trajectory, self.options.ages[index])
    return checkpoints.load_tree(path, self._shapes)


def read(folder: epath.Path) -> dict[str, Any]:
  """Returns what `bank.json` says: identity and options.

  Raises:
    InputError: there is none, or it is damaged.
  """
  path = folder / "bank.json"
  if not path.is_file():
    raise errors.InputError(
      f"there is no bank in {folder} (no bank.json); build one with gmdistill "
      f"bank --workdir={folder}."
    )
  about = json_files.read(path, "build the bank again in an empty folder.")
  # Of banks that named the layout too.
  return {**about, "student": _without_layout(str(about.get("student")))}


def options_of(about: dict[str, Any], folder: epath.Path) -> Options:
  """Returns the options in what `read` found in a folder.

  Raises:
    InputError: they are none, or have a field that this version has not.
  """
  try:
    return Options(**about["options"])
  except (KeyError, TypeError) as error:
    raise errors.InputError(
      f"{folder / 'bank.json'} is damaged, or of another version of gmdistill; "
      "build the bank again in an empty folder."
    ) from error


def entry_path(entries: epath.Path, trajectory: int, age: int) -> epath.Path:
  """Returns the folder of one state."""
  return entries / f"{trajectory:03d}-{age:05d}"
