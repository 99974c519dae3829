"""Other numbers than the accuracy, of the same students on the same rows."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from gmdistill import errors

# (true [N], predicted [N], or logits [N, C]) -> how good that is
Metric = Callable[[np.ndarray, np.ndarray], float]


def macro_f1(true_N: np.ndarray, predicted_N: np.ndarray) -> float:
  """Returns the mean of the classes' F1: a rare class counts as a common one.

  Over the classes that are true or predicted of some row; one that is never
  right has 0.
  """
  from sklearn import metrics  # slow to import

  return float(
    metrics.f1_score(true_N, predicted_N, average="macro", zero_division=0.0)
  )


def quadratic_kappa(true_N: np.ndarray, predicted_N: np.ndarray) -> float:
  """Returns the quadratic weighted kappa of ordinal classes (Cohen 1968).

  1 - sum w O / sum w E with w = (i - j)^2, where O counts rows by their true
  and predicted class, and E is what chance alone would make of the two: 0 is
  chance. 0 too where every row has one and the same class in both, of which
  nothing can be told.
  """
  from sklearn import metrics  # slow to import

  classes = np.unique(np.concatenate([true_N, predicted_N]))
  if len(classes) < 2:
    return 0.0
  # All in between: a class of no row here is a step between two others still.
  labels = np.arange(classes[0], classes[-1] + 1)
  return float(
    metrics.cohen_kappa_score(
      true_N, predicted_N, labels=labels, weights="quadratic"
    )
  )


def nats(true_N: np.ndarray, logits_NxC: np.ndarray) -> float:
  """Returns the mean of -log p of the true class: the less the better."""
  logits_NxC = logits_NxC.astype(np.float64)
  shifted_NxC = logits_NxC - logits_NxC.max(axis=1, keepdims=True)
  logs_NxC = shifted_NxC - np.log(np.exp(shifted_NxC).sum(axis=1))[:, None]
  return float(-logs_NxC[np.arange(len(true_N)), true_N].mean())


METRICS: dict[str, Metric] = {
  "macro_f1": macro_f1,
  "quadratic_kappa": quadratic_kappa,
  "nats": nats,
}

OF_LOGITS = ("nats",)  # which read these, not the classes predicted


def by_part(
  logits_SxNxC: np.ndarray,
  true_N: np.ndarray,
  names: Sequence[str],
  parts: Mapping[str, np.ndarray],
) -> dict[tuple[str, str], np.ndarray]:
  """Returns what metrics are of S students, by a part's name and their own.

  Args:
    logits_SxNxC: What each student says of every row.
    true_N: The rows' classes.
    names: Of the metrics.
    parts: Numbers of rows, by name.

  Returns:
    A number a student [S], each.
  """
  predicted_SxN = logits_SxNxC.argmax(axis=-1)
  found = {}
  for part, at in parts.items():
    for name in names:
      said_S = logits_SxNxC if name in OF_LOGITS else predicted_SxN
      of = METRICS[name]
      found[part, name] = np.array([of(true_N[at], x[at]) for x in said_S])
  return found


def require_known(names: tuple[str, ...]) -> None:
  """Checks the names of metrics.

  Raises:
    InputError: there is none of that name.
  """
  for name in names:
    errors.choice("metrics", name, METRICS)
