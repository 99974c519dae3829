"""A model's tensors in safetensors files: one, or shards with an index."""

import contextlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy
from etils import epath

from gmdistill import errors
from gmdistill.students import weight_files
from gmdistill.system import paths

WHOLE, INDEX = weight_files.WHOLE, weight_files.INDEX


class Tensors(Mapping[str, np.ndarray]):
  """The tensors of a folder by name, each read when it is asked for."""

  def __init__(self, folder: epath.Path):
    """Reads which file holds what.

    Raises:
      InputError: there are no weights, a shard is missing, or the index or a
        file is damaged.
    """
    self._folder = folder
    self._files: dict[str, Any] = {}  # what is open, by its name
    shards = weight_files.names(folder)
    if not shards:
      raise errors.InputError(
        f"{folder} has neither {WHOLE} nor {INDEX}; save the model again with "
        "save_pretrained, which writes safetensors."
      )
    self._file_of = {
      name: shard for shard in shards for name in self._open(shard).keys()
    }

  def _open(self, shard: str) -> Any:
    if shard not in self._files:
      with self._named(shard):
        path = self._folder / shard
        if paths.is_local(path):
          import ml_dtypes  # noqa: F401 tells NumPy what bfloat16 is

          self._files[shard] = safetensors.safe_open(path, framework="np")
        else:
          self._files[shard] = paths.read_tensors(path)
    return self._files[shard]

  @contextlib.contextmanager
  def _named(self, shard: str) -> Iterator[None]:
    try:
      yield
    except (safetensors.SafetensorError, OSError, ValueError) as error:
      raise errors.InputError(
        f"{self._folder / shard} is damaged ({error}); copy or download it "
        "again."
      ) from error

  def __getitem__(self, name: str) -> np.ndarray:
    """Returns a tensor in the precision that it is stored in."""
    shard = self._file_of[name]
    file = self._open(shard)
    if isinstance(file, dict) and name in file:
      return file[name]
    with self._named(shard):
      return paths.finite({name: file.get_tensor(name)})[name]

  def shape(self, name: str) -> tuple[int, ...]:
    """Returns a tensor's shape; its numbers are not read."""
    file = self._open(self._file_of[name])
    if isinstance(file, dict) and name in file:
      return file[name].shape
    with self._named(self._file_of[name]):
      return tuple(file.get_slice(name).get_shape())

  def part(self, name: str, index: tuple[slice, ...]) -> np.ndarray:
    """Returns a part of a tensor; of a local file, no more is read."""
    file = self._open(self._file_of[name])
    if isinstance(file, dict) and name in file:
      return file[name][index]
    with self._named(self._file_of[name]):
      return paths.finite({name: file.get_slice(name)[index]})[name]

  def __iter__(self) -> Iterator[str]:
    """Goes through the names."""
    return iter(self._file_of)

  def __len__(self) -> int:
    """Returns the number of tensors."""
    return len(self._file_of)


def write(
  folder: epath.Path,
  tensors: Mapping[str, np.ndarray],
  shard_bytes: int = 5 * 10**9,
) -> None:
  """Writes tensors into one file, or into shards and their index.

  An earlier model's files there are replaced. The index comes last: a folder
  whose writing was interrupted is refused, not read in part.

  Args:
    folder: Made if absent.
    tensors: By name, in the order of the files.
    shard_bytes: Of a shard at most, where no single tensor is larger.
  """
  shards: list[dict[str, np.ndarray]] = [{}]
  held = 0
  for name, array in tensors.items():
    if shards[-1] and held + array.nbytes > shard_bytes:
      shards.append({})
      held = 0
    shards[-1][name] = array
    held += array.nbytes
  names = [
    f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors"
    for i in range(len(shards))
  ]
  if len(shards) == 1:
    names = [WHOLE]
  folder.mkdir(parents=True, exist_ok=True)
  for old in [folder / WHOLE, folder / INDEX, *folder.glob("model-*-of-*")]:
    if old.name != names[0] or len(names) > 1:
      old.unlink(missing_ok=True)
  for name, shard in zip(names, shards, strict=True):
    contiguous = {key: np.ascontiguousarray(x) for key, x in shard.items()}
    paths.write_bytes(
      folder / name,
      safetensors.numpy.save(contiguous, metadata={"format": "pt"}),
    )
  if len(shards) > 1:
    index = {
      "metadata": {"total_size": sum(x.nbytes for x in tensors.values())},
      "weight_map": {
        key: name
        for name, shard in zip(names, shards, strict=True)
        for key in shard
      },
    }
    paths.write_text(folder / INDEX, json.dumps(index, indent=2) + "\n")
