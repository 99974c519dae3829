"""How like two samples of texts are as distributions: MAUVE of features."""

from typing import Any

import numpy as np
from scipy import special

LEAST = 1000  # rows of either: of fewer the clusters say little

_SCALE = 5.0  # c, as Pillutla et al. have it
_VARIANCE = 0.9  # that the principal components keep
_STARTS = 5  # of k-means
_ROWS = 10  # to a cluster, on average, of one sample


def mauve(p_NxF: np.ndarray, q_MxF: np.ndarray, *, seed: int = 0) -> float:
  """Returns MAUVE of two samples' features (Pillutla et al. 2021).

  Both are clustered together, by k-means of unit principal components. Between
  the shares of the clusters in either lies a curve of divergences; the area
  under it is 1 where both are alike and near 0 where they have no cluster in
  common. It grows with the number of rows: compare at equal numbers.
  """
  from sklearn import cluster, decomposition, preprocessing  # slow to import

  both = np.concatenate([p_NxF, q_MxF]).astype(np.float64)
  parts = decomposition.PCA(_VARIANCE, random_state=seed).fit_transform(
    preprocessing.normalize(both)
  )
  count = max(min(len(p_NxF), len(q_MxF)) // _ROWS, 2)
  found = cluster.KMeans(count, n_init=_STARTS, random_state=seed).fit_predict(
    preprocessing.normalize(parts)
  )
  p_K, q_K = (
    np.bincount(x, minlength=count) / len(x)
    for x in np.split(found, [len(p_NxF)])
  )
  return area(p_K, q_K)


def area(p_K: np.ndarray, q_K: np.ndarray, scale: float = _SCALE) -> float:
  """Returns the area under the divergence curve of two distributions.

  The curve is (exp(-c KL(q | r)), exp(-c KL(p | r))), r = w p + (1 - w) q, for
  w from 0 to 1.
  """
  w_Wx1 = np.linspace(0, 1, 1002)[1:-1, None]
  r_WxK = w_Wx1 * p_K[None] + (1 - w_Wx1) * q_K[None]
  x_W, y_W = (np.exp(-scale * _kl(one_K[None], r_WxK)) for one_K in (q_K, p_K))
  # From w = 0, all q, to w = 1, all p: x falls from 1 as y rises to 1.
  x = np.concatenate([[1.0], x_W, [0.0]])
  y = np.concatenate([[0.0], y_W, [1.0]])
  return float(-np.trapezoid(y, x))


def _kl(p_1xK, r_WxK):
  return special.rel_entr(p_1xK, r_WxK).sum(axis=1)


def to_training(
  own_MxF: np.ndarray, training_NxF: np.ndarray, seed: int = 0
) -> dict[str, Any] | None:
  """Returns MAUVE of a set against training rows, beside that of others.

  Args:
    own_MxF: The set's features.
    training_NxF: Of training rows: one half of those that are drawn is what the
      set is held against, and so is the other half.
    seed: Of the rows and the clusters.

  Returns:
    `rows` of each sample, and MAUVE of the `set` and of `training_rows`. None:
    there are too few of either.
  """
  count = min(len(own_MxF), len(training_NxF) // 2)
  if count < LEAST:
    return None
  rng = np.random.default_rng([seed, 17])
  own = own_MxF[rng.permutation(len(own_MxF))[:count]]
  drawn = training_NxF[rng.permutation(len(training_NxF))[: 2 * count]]
  against, others = drawn[:count], drawn[count:]
  return {
    "rows": count,
    "set": mauve(own, against, seed=seed),
    "training_rows": mauve(others, against, seed=seed),
  }
