"""Checkpoints: the only file that imports orbax."""

import contextlib
import functools
import inspect
import json
import logging
import pathlib
import sys
import warnings
import zlib
from collections.abc import Iterator

import jax
import numpy as np
from etils import epath
from orbax.checkpoint import v1 as ocp

from gmdistill import errors, trees
from gmdistill.system import interrupts, json_files, paths, processes


class Checkpoints:
  """The checkpoints of one run: whole ones only, the newest two kept.

  A checkpoint is written beside its final place and renamed when complete (in
  a bucket: marked), so a kill at any moment leaves the one before it as the
  newest.
  """

  def __init__(self, folder: epath.Path):
    """Opens the folder, which is made where it is absent."""
    _quiet()
    self._folder = folder = paths.absolute(folder)
    self._sound: int | None = None  # the last step saved or loaded here
    self._checkpointer = ocp.training.Checkpointer(
      folder,
      save_decision_policy=_always(),
      preservation_policy=ocp.training.preservation_policies.LatestN(2),
      cleanup_tmp_directories=True,
    )

  def steps(self) -> list[int]:
    """Returns the steps that were saved whole, the newest first."""
    return sorted(
      (x.step for x in self._checkpointer.checkpoints), reverse=True
    )

  def save(self, step: int, state: trees.PyTree) -> None:
    """Saves `state` and returns when it is on the disk.

    A checkpoint of that step which this process has not seen is replaced: it
    may be damaged.

    Raises:
      InputError: the disk is full or cannot be written.
    """
    if self._sound == step:
      return
    there = step in self.steps()
    with interrupts.shielded(), _one_line(self._folder, f"step {step}"):
      self._checkpointer.save(step, state, force=True, overwrite=there)
      _seal(self._folder / str(step))
    self._sound = step

  def load(self, step: int, like: trees.PyTree) -> trees.PyTree:
    """Returns the state of `step`, laid out as the arrays of `like` are.

    The devices need not be those that it was saved from, nor as many.

    Raises:
      InputError: it is damaged.
    """
    abstract = jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding),
      like,
    )
    _hush_readers()
    try:
      _check_seal(self._folder / str(step))
      found = self._checkpointer.load(step, abstract)
    except Exception as error:  # orbax and tensorstore raise many kinds
      raise errors.InputError(
        f"the checkpoint of step {step} in {self._folder} is damaged "
        f"({_first_words(error)})"
      ) from error
    self._sound = step
    return found

  def close(self) -> None:
    """Waits for what is still being written."""
    self._checkpointer.close()


def _always():
  policies = ocp.training.save_decision_policies
  return policies.FixedIntervalPolicy(1)


def save_tree(folder: epath.Path, tree: trees.PyTree) -> None:
  """Saves a tree of arrays as one folder, whole or not at all.

  Raises:
    InputError: the disk is full or cannot be written.
  """
  _quiet()
  folder.parent.mkdir(parents=True, exist_ok=True)
  with interrupts.shielded(), _one_line(folder.parent, f"entry {folder.name}"):
    ocp.save(paths.absolute(folder), tree, overwrite=True)
    _seal(folder)


def is_whole(folder: epath.Path) -> bool:
  """Whether `save_tree` has saved this folder to its end."""
  if not folder.is_dir():
    return False
  # Nothing is renamed in a bucket: orbax leaves a mark when all is there.
  return paths.is_local(folder) or (folder / "commit_success.txt").is_file()


def load_tree(folder: epath.Path, like: trees.PyTree) -> trees.PyTree:
  """Returns what `save_tree` saved, as host arrays.

  Args:
    folder: Where it is.
    like: A tree of the same structure, whose leaves have shape and dtype.

  Raises:
    InputError: it is missing, damaged, or of another shape.
  """
  _quiet()
  host = jax.tree.map(lambda x: np.empty(x.shape, x.dtype), like)
  _hush_readers()
  try:
    _check_seal(folder)
    tree = ocp.load(paths.absolute(folder), host)
    paths.finite(_by_name(tree))
    return tree
  except Exception as error:  # orbax and tensorstore raise many kinds
    raise errors.InputError(
      f"{folder} is missing or damaged ({_first_words(error)}); delete that "
      "folder and run the command that wrote it again."
    ) from error


_SEAL = "checksums.json"


def _seal(folder):
  """Writes down the checksum of every file of a checkpoint.

  Of what orbax writes, a part has none: one flipped bit would be read as
  another number. A kill before this leaves a checkpoint that is not sealed,
  and read as it is; in a bucket the provider keeps checksums.
  """
  if paths.is_local(folder) and processes.is_first():
    sums = json.dumps(_sums(folder), indent=0)
    paths.write_text(folder / _SEAL, sums)


def _check_seal(folder):
  place = folder / _SEAL
  if not paths.is_local(folder) or not place.is_file():
    return
  known, sums = json_files.parse(place.read_bytes()), _sums(folder)
  other = [x for x in {*known, *sums} if known.get(x) != sums.get(x)]
  if other:
    raise ValueError(f"{min(other)} is not as it was written")


def _sums(folder):
  files = (x for x in pathlib.Path(folder).rglob("*") if x.is_file())
  return {
    x.relative_to(folder).as_posix(): zlib.crc32(x.read_bytes())
    for x in files
    if x.name != _SEAL
  }


def _by_name(tree):
  return {
    jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(x)
    for path, x in jax.tree_util.tree_leaves_with_path(tree)
  }


def _quiet() -> None:
  logging.getLogger("absl").setLevel(logging.ERROR)  # orbax logs every save
  # Of a damaged checkpoint every task of its reader tells, after we did.
  logging.getLogger("asyncio").setLevel(logging.CRITICAL)


@functools.cache
def _hush_readers() -> None:
  """Keeps silent what a load leaves that fails, until the process ends.

  orbax closes its event loop at the first error. Reads that were under way end
  later, at once or after minutes, and find nobody to tell; coroutines that were
  not begun are collected. Python would print a line of each.
  """
  warnings.filterwarnings("ignore", "coroutine '.*' was never", RuntimeWarning)
  before = sys.unraisablehook

  def hook(unraisable):
    left = inspect.iscoroutine(unraisable.object)
    if not left and str(unraisable.exc_value) != "Event loop is closed":
      before(unraisable)

  sys.unraisablehook = hook


def _first_words(error: Exception) -> str:
  return f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"


@contextlib.contextmanager
def _one_line(folder: epath.Path, what: str) -> Iterator[None]:
  try:
    yield
  except (OSError, ValueError) as error:
    # tensorstore reports the operating system's error inside a ValueError.
    reasons = ("space left", "quota", "File too large", "Read-only", "denied")
    known = [reason for reason in reasons if reason in str(error)]
    if not known:
      raise
    raise errors.InputError(
      f"{what} could not be saved in {folder} (... {known[0]} ...); free "
      "some room or make it writable, then start the same command again: it "
      "goes on from the checkpoint before."
    ) from error
