"""Parameters out of a directory's tensors, whole or a part at a time."""

from collections.abc import Callable

import numpy as np
from etils import epath

from gmdistill import errors
from gmdistill.students import shards


def bare(name: str) -> str:
  """Returns a tensor's name in the checkpoint of a model without a head, such
  as a `GPT2Model` or a `LlamaModel`."""
  return name.removeprefix("transformer.").removeprefix("model.")


class Reader:
  """Fills parameters from tensors, one tensor in memory at a time."""

  def __init__(self, folder: epath.Path, dtype: np.dtype):
    """Reads which file holds what; `dtype` is that of the parameters."""
    self.folder, self.dtype = folder, dtype
    self.tensors = shards.Tensors(folder)

  def of(
    self,
    names: list[str],
    shape: tuple[int, ...],
    *,
    stacked: bool = False,
    turned: bool = False,
  ) -> Callable[[tuple[slice, ...]], np.ndarray]:
    """Returns `read(index)`, which reads a part of a parameter.

    Args:
      names: Of its tensors, one a layer; `NAME#n` is the n-th third of a fused
        one.
      shape: Of the parameter.
      stacked: Whether its first axis is that of the layers.
      turned: Whether its tensors are stored transposed.

    Raises:
      InputError: some are missing, or of other shapes.
    """
    each = shape[1:] if stacked else shape
    for name in names:
      self._check(name, each, turned)

    def read(index):
      chosen = names[index[0]] if stacked else names
      inner = index[1:] if stacked else index
      parts = [range(n)[piece] for n, piece in zip(each, inner, strict=True)]
      size = tuple(len(part) for part in parts)
      filled = np.empty((len(chosen), *size), self.dtype)
      for place, name in zip(filled, chosen, strict=True):
        pieces = tuple(slice(part.start, part.stop) for part in parts)
        tensor = self._part(name, pieces[::-1] if turned else pieces, each)
        place[...] = tensor.T if turned else tensor
      return filled if stacked else filled[0]

    return read

  def _check(self, name, each, turned):
    stored, third = self._stored(name)
    shape = self.tensors.shape(stored)
    if third:
      shape = (*shape[:-1], shape[-1] // 3)
    shape = shape[::-1] if turned else shape
    if shape != each:
      raise errors.InputError(
        f"{self.folder} has {stored} of shape {shape}, but its config.json "
        f"asks for {each}; they are not of one model."
      )

  def _stored(self, name):
    """Returns the name in the files, and which third of that tensor it is."""
    name, _, third = name.partition("#")
    stored = name if name in self.tensors else bare(name)
    if stored not in self.tensors:
      raise errors.InputError(
        f"{self.folder} has no tensor {name}; copy or download the model whole."
      )
    return stored, third

  def _part(self, name, pieces, each):
    stored, third = self._stored(name)
    if third:
      *others, last = pieces
      first = int(third) * each[-1]
      pieces = (*others, slice(first + last.start, first + last.stop))
    return self.tensors.part(stored, pieces)
