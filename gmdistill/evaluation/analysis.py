"""What a report shows of a set: nearest tokens, labels, features."""

from typing import Any

import jax
import numpy as np

from gmdistill.data import batches
from gmdistill.selection import features
from gmdistill.sets import nearest_text, spaces, synthetic
from gmdistill.students import problems
from gmdistill.training import replays


def principal_components(
  real: np.ndarray, synthetic: np.ndarray
) -> tuple[np.ndarray, np.ndarray, list[float]]:
  """Projects features on the two directions in which the real ones vary most.

  Args:
    real: Features of real rows [N, F].
    synthetic: Features of synthetic examples [M, F].

  Returns:
    Coordinates [N, 2] and [M, 2], and the two explained shares of variance.
  """
  mean = real.mean(axis=0)
  # Two more rows of nothing: a single real row has directions too.
  spread = np.pad(real - mean, [(0, 2), (0, max(2 - real.shape[1], 0))])
  _, scale, directions = np.linalg.svd(spread, full_matrices=False)
  directions = directions[:, : real.shape[1]]
  share = (scale**2 / max(float((scale**2).sum()), 1e-12))[:2]

  def project(x):
    return (x - mean) @ directions[:2].T

  return project(real), project(synthetic), [float(x) for x in share]


def analysis(
  setup: spaces.Setup, best: synthetic.SyntheticSet, per_class: int
) -> dict[str, Any]:
  """Returns what a report shows of a set beside its accuracy.

  Args:
    setup: The problem and its rows.
    best: The set, `per_class` examples of each class, class by class.
    per_class: How many.

  Returns:
    `examples`: the nearest real tokens and the labels of each; `projection`:
    real and synthetic features in two dimensions.
  """
  groups = len(setup.corpus.strata)
  classes = np.repeat(np.arange(groups), per_class)
  # The space that the students end in: one trained on the set.
  params = setup.problem.init(jax.random.key(0))
  method = "PCA of the features of a student before any step"
  if best.learning_rates is not None:
    method = "PCA of a student's features after the set's own steps"
    params = jax.jit(replays.replay)(
      setup.problem, params, best.batch, best.steps
    )
  shuffled = np.random.default_rng(0).permutation(
    len(setup.corpus.selection.labels)
  )
  real = batches.take(setup.corpus.selection, shuffled[: 100 * groups])
  outputs = jax.jit(problems.Problem.apply)(setup.problem, params, best.batch)
  real_xy, synthetic_xy, explained = principal_components(
    features.features(setup.problem, params, real),
    np.asarray(outputs.features),
  )
  return {
    "examples": nearest_text.examples(
      best.batch,
      setup.problem.embeddings,
      setup.corpus.tokenizer.tokens,
      classes,
    ),
    "projection": {
      "method": method,
      "real": _points(real_xy, real.labels),
      "synthetic": _points(synthetic_xy, classes),
      "explained": explained,
    },
  }


def _points(xy, labels):
  """Returns [x, y, class] of each row, short enough to be printed."""
  return [
    [round(float(x), 5), round(float(y), 5), int(c)]
    for (x, y), c in zip(xy, labels, strict=True)
  ]
