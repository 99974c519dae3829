"""The embedded default corpus: where does this docstring come from?

A text-classification set that every installation can build by itself: the
docstrings of the Python standard library and of packages that gmdistill depends
on anyway, read from their source files (never imported), reduced to prose, and
labelled by where they are from. It needs no network, takes seconds to prepare,
and is a pure function of what is installed.
"""

import contextlib
import importlib.metadata
import importlib.util
import io
import os
import pathlib
import platform
import re
import sysconfig
import tempfile
from collections import Counter
from collections.abc import Iterator
from typing import Any

import tensorflow_datasets as tfds

from gmdistill import errors
from gmdistill.data.corpora import prose

# Import name -> distribution name.
PACKAGES = {
  "sklearn": "scikit-learn",
  "matplotlib": "matplotlib",
  "jax": "jax",
}

STANDARD_LIBRARY = "python"


def label_names() -> list[str]:
  """Returns the classes, in the order of their numbers."""
  return [STANDARD_LIBRARY, *PACKAGES]


ROWS_PER_CLASS = 1500

TEST_PARTS = 6  # One part in six is the test split.


def split_of(text: str) -> str:
  """Returns "train" or "test", decided by the opening words alone."""
  part = int(
    prose.digest("split " + prose.near_duplicate_keys(text)[0])[:8], 16
  )
  return "test" if part % TEST_PARTS == 0 else "train"


def _folder(label: str) -> pathlib.Path:
  if label == STANDARD_LIBRARY:
    return pathlib.Path(sysconfig.get_paths()["stdlib"])
  return _package_folder(label)


def _package_folder(package: str) -> pathlib.Path:
  spec = importlib.util.find_spec(package)
  if spec is None or not spec.submodule_search_locations:
    raise errors.InputError(
      f"The data set 'docstrings' reads the package {package}, which is not "
      f"installed; run: pip install {PACKAGES[package]}"
    )
  return pathlib.Path(next(iter(spec.submodule_search_locations)))


def rows() -> dict[str, list[str]]:
  """Returns the texts of every class, equally many of each.

  Texts that occur in more than one class are left out.
  """
  folders = {label: _folder(label) for label in label_names()}
  texts = prose.read(folders)
  owners = Counter(
    key
    for of_label in texts.values()
    for key in {
      key for text in of_label for key in prose.near_duplicate_keys(text)
    }
  )
  unique = {
    label: [
      text
      for text in of_label
      if all(owners[key] == 1 for key in prose.near_duplicate_keys(text))
    ]
    for label, of_label in texts.items()
  }
  count = min(ROWS_PER_CLASS, *(len(kept) for kept in unique.values()))
  return {label: kept[:count] for label, kept in unique.items()}


def installed_versions() -> str:
  """Returns Python and the packages with their versions, as a folder name."""
  names = [f"{STANDARD_LIBRARY}-{platform.python_version()}"]
  names += [
    f"{package}-{importlib.metadata.version(distribution)}"
    for package, distribution in PACKAGES.items()
  ]
  return re.sub(r"[^\w.-]", "-", "_".join(names))


class Docstrings(tfds.core.GeneratorBasedBuilder):
  """TFDS builder `docstrings`: `text`, and `label`, where it is from.

  The configuration is named after the installed versions, so that an upgrade
  prepares the corpus afresh.
  """

  VERSION = tfds.core.Version("1.0.0")
  RELEASE_NOTES = {"1.0.0": "First release."}
  BUILDER_CONFIGS = [
    tfds.core.BuilderConfig(
      name=installed_versions(), description="Of the packages as installed."
    )
  ]

  def _info(self) -> tfds.core.DatasetInfo:
    return tfds.core.DatasetInfo(
      builder=self,
      description="Docstrings, labelled by where they are from.",
      features=tfds.features.FeaturesDict(
        {
          "text": tfds.features.Text(),
          "label": tfds.features.ClassLabel(names=label_names()),
        }
      ),
      supervised_keys=("text", "label"),
    )

  def _split_generators(
    self, dl_manager: tfds.download.DownloadManager
  ) -> dict[str, Iterator[tuple[str, dict[str, str]]]]:
    del dl_manager  # Nothing is downloaded.
    by_label = rows()
    return {
      split: self._generate_examples(by_label, split)
      for split in ("train", "test")
    }

  def _generate_examples(
    self, by_label: dict[str, list[str]], split: str
  ) -> Iterator[tuple[str, dict[str, str]]]:
    for label, texts in by_label.items():
      for text in texts:
        if split_of(text) == split:
          yield prose.digest(text), {"text": text, "label": label}


def prepare(data_dir: str | os.PathLike[str], corpus: Any = Docstrings) -> Any:
  """Returns the builder of a corpus of our own, prepared under `data_dir`.

  Prepares on first use, into a temporary folder that is renamed when complete:
  of two processes that prepare at once, one wins and both read its files.

  Raises:
    errors.InputError: a labelled package is not installed.
  """
  builder = corpus(data_dir=data_dir)
  if builder.is_prepared():
    return builder
  with (
    tempfile.TemporaryDirectory() as downloads,
    contextlib.redirect_stdout(io.StringIO()),  # TFDS reports every shard.
    contextlib.redirect_stderr(io.StringIO()),
  ):
    try:
      builder.download_and_prepare(
        download_dir=downloads, file_format="array_record"
      )
    except OSError:
      # The rename fails where another process has finished first.
      builder = corpus(data_dir=data_dir)
      if not builder.is_prepared():
        raise
  return builder
