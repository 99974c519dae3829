"""Copies among rows: the same text, nearly the same, or the same in meaning.

Every method goes through rows in one order and drops a row where one that is
kept already is near enough, so that each dropped row has a kept one that stands
for it.
"""

import dataclasses
import unicodedata
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from gmdistill import errors, fields


@dataclasses.dataclass(frozen=True)
class Options:
  """What counts as a copy.

  Attributes:
    similarity: Of `minhash`: the share of their character n-grams that two
      texts have in common, from which one is a copy (Jaccard).
    characters: Of an n-gram.
    permutations: Of a MinHash: more find nearly all pairs, and take longer.
    cosine: Of `semantic`: of two rows' features, from which one is a copy.
    clusters: Of k-means, within which rows are compared; 0: the square root of
      the rows, halved.
    seed: Of the hashes and the centroids.
  """

  similarity: fields.Share = 0.7
  characters: fields.Count = 5
  permutations: fields.Count = 128
  cosine: fields.Share = 0.95
  clusters: fields.FromZero = 0
  seed: fields.Seed = 0


class Rows(NamedTuple):
  """The rows of a question: which are copies of others?"""

  texts: Sequence[Any]  # [N], each one text or a pair
  features: Callable[[], np.ndarray]  # [N, F] of the rows, where asked for
  front: int  # the first so many come before all others, in any method
  are_fixed: bool  # whether those in front are kept whatever they are


class Copies(NamedTuple):
  """Which rows are copies."""

  of: np.ndarray  # [N] the kept row that a row is a copy of; -1: it is kept
  similarity: np.ndarray  # [N] of the two, by the method's measure; 0: kept


def exact(rows: Rows, options: Options) -> Copies:
  """Finds rows whose normalised texts are the same; the first is kept."""
  del options
  first: dict[str, int] = {}
  copies = _none(len(rows.texts))
  for row, text in enumerate(rows.texts):
    kept = first.setdefault(normalised(text), row)
    if kept != row and not _is_fixed(rows, row):
      copies.of[row], copies.similarity[row] = kept, 1.0
  return copies


def minhash(rows: Rows, options: Options) -> Copies:
  """Finds rows that have most character n-grams in common (Broder 1997).

  MinHashes in an LSH index name candidates; a candidate is a copy where the
  Jaccard similarity of the n-grams themselves is large enough, so that hashes
  can miss a pair and never make one up.
  """
  import datasketch  # slow to import

  count = options.permutations
  # Of a larger one, the index would have a single band: candidates are
  # compared by their n-grams in any case.
  least = min(max(options.similarity, 0.05), 0.9)
  try:
    index = datasketch.MinHashLSH(least, num_perm=count)
  except ValueError as error:
    raise errors.InputError(
      f"dedup.permutations={count} are too few to look for dedup.similarity="
      f"{options.similarity}; use more, such as 128."
    ) from error
  copies = _none(len(rows.texts))
  encoded = (
    [x.encode("utf-8", "surrogatepass") for x in _grams(text, options)]
    for text in rows.texts
  )
  # Our first is that library's own default, 1.
  seed = (options.seed + 1) % 2**32
  hashes = datasketch.MinHash.generator(encoded, num_perm=count, seed=seed)
  for row, hashed in enumerate(hashes):
    if not _is_fixed(rows, row):
      near, kept = _nearest(rows, options, row, index.query(hashed))
      if near >= options.similarity and kept >= 0:
        copies.of[row], copies.similarity[row] = kept, near
        continue
    index.insert(row, hashed, check_duplication=False)
  return copies


def _nearest(rows, options, row, candidates):
  """Returns the largest similarity to a candidate, and which that is."""
  own = _grams(rows.texts[row], options)
  best, kept = 0.0, -1
  for other in sorted(candidates):
    theirs = _grams(rows.texts[other], options)
    near = len(own & theirs) / len(own | theirs)
    if near > best:
      best, kept = near, other
  return best, kept


def semantic(rows: Rows, options: Options) -> Copies:
  """Finds rows that mean the same (SemDeDup, Abbas et al. 2023).

  k-means parts the rows by their features; within a cluster, a row is dropped
  whose cosine with another is large enough. Of a group of copies the one
  farthest from the centroid is kept, as in the paper. Unlike there, a row is
  compared with rows that are kept alone.
  """
  from sklearn import cluster  # slow to import

  features = rows.features().astype(np.float32)
  lengths = np.linalg.norm(features, axis=1, keepdims=True)
  unit_NxF = features / np.maximum(lengths, 1e-12)
  count = options.clusters or max(round(np.sqrt(len(unit_NxF)) / 2), 1)
  distinct = len(np.unique(unit_NxF[:5000], axis=0))
  means = cluster.MiniBatchKMeans(
    min(count, distinct), n_init=1, batch_size=4096, random_state=options.seed
  ).fit(unit_NxF)
  copies = _none(len(unit_NxF))
  near_N = (unit_NxF * means.cluster_centers_[means.labels_]).sum(axis=1)
  behind_N = np.arange(len(unit_NxF)) >= rows.front
  # The rows in front first, then the farthest from its centroid.
  order_N = np.lexsort((near_N, behind_N, means.labels_))
  ends = np.searchsorted(
    means.labels_[order_N], np.arange(means.n_clusters), side="right"
  )
  for start, end in zip([0, *ends[:-1]], ends, strict=True):
    _within(rows, unit_NxF, order_N[start:end], options.cosine, copies)
  return copies


_AT_ONCE = 1024  # rows of a cluster that are compared with the kept ones

_ROUNDING = 1e-6  # by which float32 misses a cosine of 1


def _within(rows, unit_NxF, order, least, copies):
  """Marks the copies within one cluster, its rows in their order."""
  kept: list[int] = []
  for start in range(0, len(order), _AT_ONCE):
    block = order[start : start + _AT_ONCE]
    before = np.array(kept, int)
    earlier_BxK = unit_NxF[block] @ unit_NxF[before].T
    within_BxB = unit_NxF[block] @ unit_NxF[block].T
    new: list[int] = []
    for place, row in enumerate(block):
      near = np.concatenate([earlier_BxK[place], within_BxB[place, new]])
      if (
        not _is_fixed(rows, row)
        and len(near)
        and near.max() >= least - _ROUNDING
      ):
        at = int(near.argmax())
        own = before[at] if at < len(before) else block[new[at - len(before)]]
        copies.of[row], copies.similarity[row] = own, near[at]
      else:
        new.append(place)
    kept += block[new].tolist()


METHODS: dict[str, Callable[[Rows, Options], Copies]] = {
  "exact": exact,
  "minhash": minhash,
  "semantic": semantic,
}


def normalised(text: Any) -> str:
  """Returns a text, or a pair, as it is compared: letters, their marks and
  digits alone.

  Case, accents' encoding, punctuation and spaces make no difference, but of a
  text that has nothing else.
  """
  if not isinstance(text, str):
    return "\n".join(map(normalised, text))
  folded = unicodedata.normalize("NFKC", text).casefold()
  return " ".join(folded.translate(_LETTERS).split()) or " ".join(
    folded.split()
  )


class _Letters(dict[int, str]):
  """What becomes of each character, for `str.translate`."""

  def __missing__(self, code: int) -> str:
    letter = chr(code)
    # Vowels are marks in many scripts; what chooses a glyph is none.
    is_mark = unicodedata.category(letter) in ("Mn", "Mc")
    kept = letter.isalnum() or (is_mark and not 0xFE00 <= code <= 0xFE0F)
    self[code] = letter if kept else " "
    return self[code]


_LETTERS = _Letters()


def _grams(text, options):
  """Returns the set of character n-grams; of a shorter text, itself."""
  whole, size = normalised(text), options.characters
  return {whole[i : i + size] for i in range(max(len(whole) - size + 1, 1))}


def _none(count):
  return Copies(np.full(count, -1), np.zeros(count, np.float32))


def _is_fixed(rows, row):
  return rows.are_fixed and row < rows.front
