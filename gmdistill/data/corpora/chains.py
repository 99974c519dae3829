"""The embedded corpus `chains`: where does a chain of operations end?

Generated text whose answer needs every step in turn, with a rationale that
says the result after each. A row starts at a digit and goes on with words, each
of which moves it: "start 3 up double flip" is 3, 4, 8, 1; its label is the last
digit, its rationale "4", "8", "1", a line each. Training chains are short; the
test split has longer ones too. A pure function of a fixed seed.
"""

import os
from collections.abc import Iterator

import numpy as np
import tensorflow_datasets as tfds

from gmdistill.data.corpora import docstrings

# What each word makes of a digit.
OPERATIONS = {
  "up": lambda digit: (digit + 1) % 10,
  "down": lambda digit: (digit - 1) % 10,
  "double": lambda digit: 2 * digit % 10,
  "flip": lambda digit: 9 - digit,
  "jump": lambda digit: (digit + 5) % 10,
}

# Rows of each length. There are few short chains: 250 of two words.
TRAIN = {2: 150, 3: 850, 4: 3000}

TEST = {2: 80, 3: 300, 4: 500, 5: 500, 6: 500}

SEED = 20230526


def results(start: int, words: list[str]) -> list[int]:
  """Returns the digit after each of the words."""
  found = []
  for word in words:
    start = OPERATIONS[word](start)
    found.append(start)
  return found


def rows() -> dict[str, list[dict[str, str | int]]]:
  """Returns the rows of both splits; no text is twice in them."""
  rng = np.random.default_rng(SEED)
  names, seen = list(OPERATIONS), set()

  def row(length: int) -> dict[str, str | int]:
    while True:
      start = int(rng.integers(10))
      words = [names[i] for i in rng.integers(len(names), size=length)]
      text = " ".join(["start", str(start), *words])
      if text not in seen:
        break
    seen.add(text)
    digits = results(start, words)
    return {
      "text": text,
      "label": digits[-1],
      "rationale": "\n".join(map(str, digits)),
      "length": length,
    }

  return {
    split: [row(length) for length, n in counts.items() for _ in range(n)]
    for split, counts in (("train", TRAIN), ("test", TEST))
  }


class Chains(tfds.core.GeneratorBasedBuilder):
  """TFDS builder `chains`: `text`, `label`, `rationale` and `length`."""

  VERSION = tfds.core.Version("1.0.0")
  RELEASE_NOTES = {"1.0.0": "First release."}

  def _info(self) -> tfds.core.DatasetInfo:
    return tfds.core.DatasetInfo(
      builder=self,
      description="Chains of operations on a digit, with all partial results.",
      features=tfds.features.FeaturesDict(
        {
          "text": tfds.features.Text(),
          "label": tfds.features.ClassLabel(names=list(map(str, range(10)))),
          "rationale": tfds.features.Text(),
          "length": tfds.features.Scalar(np.int32),
        }
      ),
      supervised_keys=("text", "label"),
    )

  def _split_generators(
    self, dl_manager: tfds.download.DownloadManager
  ) -> dict[str, Iterator[tuple[str, dict[str, str | int]]]]:
    del dl_manager  # Nothing is downloaded.
    return {
      split: ((str(row["text"]), row) for row in of_split)
      for split, of_split in rows().items()
    }

  def _generate_examples(self) -> Iterator[tuple[str, dict[str, str | int]]]:
    raise NotImplementedError  # The splits bring their rows.


def prepare(data_dir: str | os.PathLike[str]) -> Chains:
  """Returns the builder of the corpus, prepared under `data_dir`."""
  return docstrings.prepare(data_dir, Chains)
