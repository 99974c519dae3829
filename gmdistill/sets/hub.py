"""Sets on the Hugging Face hub: fetched by name, and put there."""

import contextlib
import os
from collections.abc import Iterator
from typing import Any

from etils import epath

from gmdistill import errors
from gmdistill.system import paths

HERE = "hf:"  # begins the name of a set there: hf:ORG/NAME or hf:ORG/NAME@TAG

_LINES = ".jsonl"

_FILES = ("set/*", "space/*", "config.json", "README.md")


def set_folder(source: epath.PathLike) -> epath.Path:
  """Returns the folder of a set, with its config and its space beside it.

  Args:
    source: A `set/` folder, the folder around one, or hf:ORG/NAME.

  Raises:
    InputError: it cannot be fetched.
  """
  if os.fspath(source).startswith(HERE):
    root = _fetched(os.fspath(source))
  else:
    root = paths.path(source)
  inside = root / "set"
  return inside if (inside / "card.json").is_file() else root


def text_file(source: epath.PathLike) -> epath.Path | None:
  """Returns the file of a set that is text alone; None: it is another set.

  Args:
    source: A FILE.jsonl, which may be absent; or as of `set_folder`.
  """
  if os.fspath(source).endswith(_LINES):
    return paths.path(source)
  folder = set_folder(source)
  alone = not (folder / "set.safetensors").is_file()
  file = folder / f"set{_LINES}"
  return file if alone and file.is_file() else None


def _fetched(name: str) -> epath.Path:
  import huggingface_hub  # slow to import, and needed by hub ids alone

  repo, _, revision = name.removeprefix(HERE).partition("@")
  with _refused(f"the set {name} could not be fetched from the hub"):
    folder = huggingface_hub.snapshot_download(
      repo,
      repo_type="dataset",
      revision=revision or None,
      allow_patterns=[*_FILES],
      endpoint=huggingface_hub.constants.ENDPOINT,
    )
  return epath.Path(folder)


def publish(folder: epath.Path, repo: str, *, private: bool) -> str:
  """Puts a packed set on the hub as a data set; returns its address.

  Args:
    folder: What `packing.pack` wrote.
    repo: ORG/NAME; made where it is absent.
    private: Whether one that is made is for its owners alone.

  Raises:
    InputError: the name, the account or the hub refuses; says which.
  """
  import huggingface_hub

  about: Any = huggingface_hub.DatasetCard.load(folder / "README.md")
  api = huggingface_hub.HfApi(endpoint=huggingface_hub.constants.ENDPOINT)
  with _refused(f"the set could not be published as {repo}"):
    huggingface_hub.utils.validate_repo_id(repo)
    about.validate(repo_type="dataset")
    address = api.create_repo(
      repo, repo_type="dataset", private=private or None, exist_ok=True
    )
    api.upload_folder(
      repo_id=repo,
      repo_type="dataset",
      folder_path=os.fspath(folder),
      commit_message="A set that gmdistill distilled",
    )
  return str(address)


@contextlib.contextmanager
def _refused(what: str) -> Iterator[None]:
  """Says in a line why the hub did not do it."""
  try:
    yield
  except Exception as error:  # noqa: BLE001 the hub's errors have no common base
    status = getattr(getattr(error, "response", None), "status_code", None)
    name = type(error).__name__
    hint = "check the name ORG/NAME and the network"
    if status in (401, 403) or "Token" in name:
      hint = "log in with `hf auth login` as one who may do it"
    why = " ".join(str(error).split())[:200]
    raise errors.InputError(f"{what} ({name}: {why}); {hint}.") from error
