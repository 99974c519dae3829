"""Where metrics of a run are shown beside `metrics.jsonl`, which holds them.

A follower is told a step once it is saved, so that a run which goes on after a
kill tells none twice.
"""

import importlib
import os
import secrets
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from etils import epath

from gmdistill import errors
from gmdistill.system import folders, json_files, paths

Line = Mapping[str, Any]  # of metrics.jsonl: `step`, `time` and scalars


class Follower(Protocol):
  """What shows metrics."""

  def tell(self, lines: Sequence[Line]) -> None:
    """Shows lines that it has not seen."""

  def close(self) -> None:
    """Ends well."""


class TensorBoard:
  """Event files in the folder `tensorboard`, by tensorboardX."""

  def __init__(self, folder: epath.Path, config: Mapping[str, Any]):
    """Begins anew: all lines that are kept are told once more."""
    del config
    place = folder / "tensorboard"
    shutil.rmtree(place, ignore_errors=True)
    self._writer = _module("tensorboard").SummaryWriter(os.fspath(place))
    self._began: float | None = None

  def tell(self, lines: Sequence[Line]) -> None:
    """Adds a scalar for each number."""
    if lines and self._began is None:
      self._began = time.time() - lines[-1]["time"]
    for line in lines:
      for name, value in _scalars(line).items():
        self._writer.add_scalar(
          name, value, line["step"], walltime=self._began + line["time"]
        )
    self._writer.flush()

  def close(self) -> None:
    """Closes the event file."""
    self._writer.close()


class WeightsAndBiases:
  """A run of Weights & Biases; `wandb.json` says which, and how far it is."""

  def __init__(self, folder: epath.Path, config: Mapping[str, Any]):
    """Goes on with the run of this folder, or begins one.

    Raises:
      InputError: there is no account to log to.
    """
    self._place = folder / "wandb.json"
    about = {"id": secrets.token_hex(4), "step": 0}
    if self._place.is_file():
      about |= json_files.read(self._place, "delete it: a new run is begun.")
    self._about = about
    wandb = _module("wandb")
    try:
      self._run = wandb.init(
        project="gmdistill",
        id=about["id"],
        name=folder.name,
        resume="allow",
        dir=os.fspath(folder),
        config=dict(config),
      )
    except (wandb.errors.Error, OSError) as error:
      raise errors.InputError(
        f"config.log_to=wandb: {' '.join(str(error).split())[:160]}; log in "
        "with `wandb login`, or set WANDB_MODE=offline"
      ) from error
    folders.write_json(self._place, about)

  def tell(self, lines: Sequence[Line]) -> None:
    """Logs the steps beyond those that it has."""
    for line in lines:
      if line["step"] > self._about["step"]:
        self._run.log(_scalars(line), step=line["step"])
    if lines:
      self._about["step"] = max(self._about["step"], lines[-1]["step"])
      folders.write_json(self._place, self._about)

  def close(self) -> None:
    """Uploads what waits."""
    self._run.finish()


KNOWN: dict[str, Callable[[epath.Path, Mapping[str, Any]], Follower]] = {
  "tensorboard": TensorBoard,
  "wandb": WeightsAndBiases,
}

_MODULES = {"tensorboard": "tensorboardX", "wandb": "wandb"}


def require(names: Sequence[str], workdir: epath.Path) -> None:
  """Checks that followers can be opened.

  Raises:
    InputError: one of another name, or whose package is not here; or a workdir
      that is no folder of this machine.
  """
  for name in names:
    errors.choice("config.log_to", name, KNOWN)
    _module(name)
    if not paths.is_local(workdir):
      raise errors.InputError(
        f"config.log_to={name} writes to a folder of this machine, and "
        f"{workdir} is none; leave it empty: metrics.jsonl holds everything."
      )


def opened(
  names: Sequence[str], folder: epath.Path, config: Mapping[str, Any]
) -> list[Follower]:
  """Returns the followers of a run, in its folder."""
  return [KNOWN[name](folder, config) for name in names]


def _module(name):
  try:
    return importlib.import_module(_MODULES[name])
  except ImportError as error:
    raise errors.InputError(
      f"config.log_to={name} needs a package that is not here ({error}); pip "
      f"install 'gmdistill[{name}]', or leave it empty: metrics.jsonl holds "
      "everything."
    ) from error


def _scalars(line):
  return {k: v for k, v in line.items() if k not in ("step", "time")}
