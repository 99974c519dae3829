"""The embedded corpus `motifs`: which known DNA motif does a sequence hold?

Simulated, so that what decides a row is known: a background of independent
letters, 42 % of them G or C as in the human genome, into which the motif of the
row's class is written at a random place. Each letter of a motif is drawn anew
with a chance of one in ten. A pure function of a fixed seed.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow_datasets as tfds

from gmdistill.data.corpora import docstrings

# Consensus sequences of where proteins bind: the TATA-binding protein, CREB,
# NF-kB and GATA-1.
MOTIFS = {
  "TATA box": "TATAAAAG",
  "CRE": "TGACGTCA",
  "kappa B": "GGGACTTTCC",
  "GATA": "AGATAAGA",
}

LETTERS, SHARES = "ACGT", (0.29, 0.21, 0.21, 0.29)

LENGTH = 90  # letters a row

CHANGED = 0.1  # of a motif's letters, some of which are drawn the same

ROWS = {"train": 1000, "test": 400}  # a class

SEED = 20240611


def rows() -> dict[str, list[dict[str, str | int]]]:
  """Returns the rows of both splits, class by class in turn."""
  rng = np.random.default_rng(SEED)

  def row(label: int, motif: str) -> dict[str, str | int]:
    letters = rng.choice(list(LETTERS), LENGTH, p=SHARES)
    written = np.array(list(motif))
    other = rng.choice(list(LETTERS), len(motif), p=SHARES)
    written = np.where(rng.random(len(motif)) < CHANGED, other, written)
    start = int(rng.integers(LENGTH - len(motif) + 1))
    letters[start : start + len(motif)] = written
    return {"text": "".join(letters), "label": label}

  return {
    split: [
      row(label, motif)
      for _ in range(count)
      for label, motif in enumerate(MOTIFS.values())
    ]
    for split, count in ROWS.items()
  }


class Motifs(tfds.core.GeneratorBasedBuilder):
  """TFDS builder `motifs`: `text` and `label`."""

  VERSION = tfds.core.Version("1.0.0")
  RELEASE_NOTES = {"1.0.0": "First release."}

  def _info(self) -> tfds.core.DatasetInfo:
    return tfds.core.DatasetInfo(
      builder=self,
      description="Simulated DNA that holds one of four known motifs.",
      features=tfds.features.FeaturesDict(
        {
          "text": tfds.features.Text(),
          "label": tfds.features.ClassLabel(names=list(MOTIFS)),
        }
      ),
      supervised_keys=("text", "label"),
    )

  def _split_generators(
    self, dl_manager: tfds.download.DownloadManager
  ) -> dict[str, Iterator[tuple[str, dict[str, str | int]]]]:
    del dl_manager  # Nothing is downloaded.
    return {
      split: ((str(number), row) for number, row in enumerate(of_split))
      for split, of_split in rows().items()
    }

  def _generate_examples(self) -> Iterator[tuple[str, dict[str, str | int]]]:
    raise NotImplementedError  # The splits bring their rows.


def prepare(data_dir: str | os.PathLike[str]) -> Motifs:
  """Returns the builder of the corpus, prepared under `data_dir`."""
  return docstrings.prepare(data_dir, Motifs)


class Rediscovery(NamedTuple):
  """How much of a motif stands in what a set learned."""

  found: tuple[str, ...]  # the motif's words among the enriched ones
  words: int  # how many different words the motif has
  expected: float  # how many of them chance alone would find


def rediscovered(
  examples: Sequence[Mapping[str, Any]], k: int
) -> dict[str, Rediscovery]:
  """Says which words of each motif are among what its class's examples say.

  A motif of n letters has n - k + 1 words of k letters, wherever it stands in
  the cut of a row. Of each class, as many words are looked at as its motif has
  different ones: those whose share among the nearest tokens of the class's
  examples is most above their share in the other classes' examples.

  Args:
    examples: `examples` of a run's `analysis.json`.
    k: Letters of a word.
  """
  names = list(MOTIFS)
  words = sorted(
    {
      near[0]["token"]
      for example in examples
      for near in example["tokens"]
      if set(near[0]["token"]) <= set(LETTERS) and len(near[0]["token"]) == k
    }
  )
  counts_CxV = np.zeros((len(names), len(words)))
  for example in examples:
    for near in example["tokens"]:
      if near[0]["token"] in words:
        counts_CxV[example["label"], words.index(near[0]["token"])] += 1
  shares_CxV = counts_CxV / np.maximum(counts_CxV.sum(1, keepdims=True), 1)
  found = {}
  for label, (name, motif) in enumerate(MOTIFS.items()):
    of_motif = {motif[i : i + k] for i in range(len(motif) - k + 1)}
    others_V = np.delete(shares_CxV, label, axis=0).mean(axis=0)
    above_V = shares_CxV[label] - others_V
    order = np.argsort(-above_V, kind="stable")[: len(of_motif)]
    enriched = [words[i] for i in order if above_V[i] > 0]
    found[name] = Rediscovery(
      tuple(x for x in enriched if x in of_motif),
      len(of_motif),
      len(of_motif) ** 2 / len(LETTERS) ** k,
    )
  return found
