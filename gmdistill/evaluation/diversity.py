"""How unlike one another the texts of a set are."""

import collections
import gzip
import math
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np

Row = Sequence[Hashable]  # the words of a text, or its tokens

_SMALL = 0.1  # in the place of no match, as NLTK's smoothing `method1` has it


def ngrams(row: Row, n: int) -> list[tuple[Hashable, ...]]:
  """Returns the n consecutive words from every place of a row."""
  return [tuple(row[i : i + n]) for i in range(len(row) - n + 1)]


def distinct(rows: Sequence[Row], n: int) -> tuple[int, int]:
  """Returns how many different n-grams rows have, and how many in all.

  Their ratio is distinct-n (Li et al. 2016). It falls with length: compare
  sets of like size.
  """
  every = [gram for row in rows for gram in ngrams(row, n)]
  return len(set(every)), len(every)


def self_bleu(rows: Sequence[Row], n: int = 4) -> float:
  """Returns the mean BLEU-n of each row against all others (Zhu et al. 2018).

  1: every row is said by the others; smoothed as NLTK's `method1`. 0 of one
  row, which has no others.
  """
  if len(rows) < 2:
    return 0.0
  grams = [
    [collections.Counter(ngrams(x, k + 1)) for x in rows] for k in range(n)
  ]
  largest = [_two_largest(of_rows) for of_rows in grams]
  lengths = [len(row) for row in rows]
  values = []
  for m in range(len(rows)):
    logs = []
    for k in range(n):
      counts = grams[k][m]
      matched = sum(
        min(count, largest[k](gram, m)) for gram, count in counts.items()
      )
      if not k and not matched:
        break  # not a word in common
      logs.append(math.log((matched or _SMALL) / max(sum(counts.values()), 1)))
    values.append(
      _brevity(lengths, m) * math.exp(sum(logs) / n) if len(logs) == n else 0.0
    )
  return float(np.mean(values))


def _two_largest(
  of_rows: Sequence[collections.Counter[Any]],
) -> Callable[[Any, int], int]:
  """Returns `most(gram, m)`: its largest count in any row but m."""
  best: dict[Any, list[tuple[int, int]]] = {}
  for m, counts in enumerate(of_rows):
    for gram, count in counts.items():
      best[gram] = sorted([*best.get(gram, []), (count, m)], reverse=True)[:2]

  def most(gram, m):
    return max((count for count, row in best[gram] if row != m), default=0)

  return most


def _brevity(lengths, m):
  """Returns BLEU's penalty of a row that is shorter than the nearest other."""
  own = lengths[m]
  others = lengths[:m] + lengths[m + 1 :]
  nearest = min(others, key=lambda x: (abs(x - own), x))
  if own >= nearest:
    return 1.0
  return math.exp(1 - nearest / own) if own else 0.0


def gzip_ratio(rows: Sequence[Sequence[str]], tokens: int) -> float:
  """Returns how many times smaller gzip makes the first so many words.

  The larger, the more the texts repeat. Longer texts compress better: compare
  at equal tokens (Shaib et al. 2024).
  """
  words = [word for row in rows for word in row][:tokens]
  content = " ".join(words).encode()
  return len(content) / len(gzip.compress(content, mtime=0)) if content else 0.0


def vendi(features_NxF: np.ndarray, q: float = 1.0) -> float:
  """Returns the Vendi score: how many rows there are, alike ones being one.

  exp of the order-q Renyi entropy of the eigenvalues of K / N, with K the
  cosines of the rows (Friedman and Dieng 2023; orders as in Pasarkar and
  Dieng 2024). They are those of the covariance [F, F] of unit rows, which has
  F of them, however many rows there are.
  """
  norms_Nx1 = np.linalg.norm(features_NxF, axis=1, keepdims=True)
  unit_NxF = features_NxF / np.maximum(norms_Nx1, 1e-12)
  small = unit_NxF.shape[0] <= unit_NxF.shape[1]
  gram = unit_NxF @ unit_NxF.T if small else unit_NxF.T @ unit_NxF
  shares = np.linalg.eigvalsh(gram.astype(np.float64) / len(unit_NxF))
  shares = shares[shares > 1e-12]
  shares = shares / max(shares.sum(), 1e-12)
  if q == 1:
    return float(np.exp(-(shares * np.log(shares)).sum()))
  return float((shares**q).sum() ** (1 / (1 - q)))
