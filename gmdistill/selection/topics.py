"""How close rows are by what they are about: subject headings in common.

How close two headings of a hierarchy are is told by the information content of
what they share (Lin 1998); so do Xiao et al. 2025 (m-KAILIN) weigh questions by
the MeSH hierarchy. Here the headings are the set's own, without the tree: one
says more, the fewer rows have it.
"""

import numpy as np


def information(topics_NxT: np.ndarray) -> np.ndarray:
  """Returns each topic's information content [V], in nats: -log of its share.

  Args:
    topics_NxT: The numbers of each row's topics, each once; -1: no more.
  """
  held = topics_NxT[topics_NxT >= 0]
  counts = np.bincount(held, minlength=int(topics_NxT.max(initial=-1)) + 1)
  return np.log(len(topics_NxT) / np.maximum(counts, 1))


def closeness(topics_NxT: np.ndarray) -> np.ndarray:
  """Returns how close each two rows are [N, N], from 0 to 1.

  2 sum of the shared topics' information / sum of both rows' (Lin 1998, of
  sets). A row without a topic that tells anything is close to none.
  """
  content_V = information(topics_NxT)
  rows_NxV = np.zeros((len(topics_NxT), len(content_V)), np.float32)
  row, place = np.nonzero(topics_NxT >= 0)
  rows_NxV[row, topics_NxT[row, place]] = 1.0
  weighted_NxV = rows_NxV * content_V.astype(np.float32)
  total_N = weighted_NxV.sum(axis=1)
  both_NxN = total_N[:, None] + total_N
  return 2 * (weighted_NxV @ rows_NxV.T) / np.maximum(both_NxN, 1e-9)
