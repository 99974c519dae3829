"""The files of a Hugging Face directory that hold a model's tensors."""

from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np
import safetensors
from etils import epath

from gmdistill import errors
from gmdistill.system import json_files, paths

WHOLE = "model.safetensors"

INDEX = "model.safetensors.index.json"  # of several files, with its own name

# What a download takes of a directory's tensors.
PATTERNS = (WHOLE, INDEX, "model-*.safetensors")


def names(folder: epath.Path) -> tuple[str, ...]:
  """Returns the files that hold a directory's tensors; none: it has none.

  Raises:
    InputError: the tensors are PyTorch's own, or an index names files that
      are not there.
  """
  if (folder / WHOLE).is_file():
    return (WHOLE,)
  if (folder / INDEX).is_file():
    return _of_index(folder)
  if any(folder.glob("pytorch_model*.bin")):
    raise errors.InputError(
      f"{folder} has its weights in PyTorch's own files, which are not read "
      f"here; where PyTorch is installed, run: {_conversion(folder)}"
    )
  return ()


def _of_index(folder: epath.Path) -> tuple[str, ...]:
  path = folder / INDEX
  try:
    index = json_files.parse(path.read_bytes())
    files = sorted(set(index["weight_map"].values()))
    inside = all("/" not in name for name in files)
    whole = files and inside and all((folder / x).is_file() for x in files)
  except (ValueError, KeyError, TypeError, AttributeError):
    files, whole = [], False
  if not whole:
    missing = [str(x) for x in files if not (folder / str(x)).is_file()]
    what = (
      f"names {missing[0]}, which is not there" if missing else "is damaged"
    )
    raise errors.InputError(f"{path} {what}; copy or download all of it again.")
  return tuple(files)


def _conversion(folder: epath.Path) -> str:
  """Returns a command that writes a directory's tensors as they are read."""
  return (
    'python -c "import glob, torch, safetensors.torch as s; '
    "s.save_file({k: v.contiguous().clone() for f in "
    f"glob.glob('{folder}/pytorch_model*.bin') for k, v in "
    "torch.load(f, map_location='cpu', weights_only=True).items()}, "
    f"'{folder}/{WHOLE}')\""
  )


def read(folder: epath.Path, anchor: str) -> dict[str, np.ndarray]:
  """Returns a directory's tensors in float32, by the encoder's own names.

  Args:
    folder: Has the files that `names` returns.
    anchor: The name of a tensor that every encoder of the family has.

  Raises:
    InputError: one of its files is damaged, or holds several encoders.
  """
  files = names(folder)
  tensors: dict[str, np.ndarray] = {}
  for name in files:
    tensors |= read_tensors(folder / name)
  return without_prefix(tensors, anchor, folder / files[0])


def read_tensors(path: epath.Path) -> dict[str, np.ndarray]:
  """Returns the tensors of a file in float32, by the names that it gives them.

  Raises:
    InputError: it is damaged.
  """
  try:
    loaded = paths.read_tensors(path)
  except (safetensors.SafetensorError, OSError, ValueError) as error:
    raise errors.InputError(
      f"{path} is damaged ({error}); copy or download it again."
    ) from error
  return {
    name: x.astype(np.float32)
    for name, x in loaded.items()
    if jnp.issubdtype(x.dtype, jnp.floating)  # numpy's denies bfloat16
  }


def without_prefix(
  tensors: Mapping[str, np.ndarray], anchor: str, path: epath.Path
) -> dict[str, np.ndarray]:
  """Returns a model's tensors by the names that its bare encoder has.

  A classifier, a wrapper that trains on several devices and a library of
  sentence embeddings each put a name of their own in front: `bert.`,
  `module.bert.`, `0.auto_model.`.

  Args:
    tensors: By the names of the file.
    anchor: The name of a tensor that every encoder of the family has.
    path: The file, for messages.

  Raises:
    InputError: several encoders are in the file.
  """
  prefixes = {
    name.removesuffix(anchor)
    for name in tensors
    if name == anchor or name.endswith(f".{anchor}")
  }
  if "" in prefixes or not prefixes:
    return dict(tensors)
  if len(prefixes) > 1:
    raise errors.InputError(
      f"{path} holds {len(prefixes)} encoders ({', '.join(sorted(prefixes))}); "
      "save the one that is meant alone."
    )
  (prefix,) = prefixes
  # What stands beside the encoder, such as a head, has the wrapper's name.
  parts = prefix.removesuffix(".").split(".")
  wrapper = "".join(f"{part}." for part in parts[:-1])
  inside, beside = {}, {}
  for name, x in tensors.items():
    if name.startswith(prefix):
      inside[name.removeprefix(prefix)] = x
    else:
      beside[name.removeprefix(wrapper)] = x
  return {**beside, **inside}
