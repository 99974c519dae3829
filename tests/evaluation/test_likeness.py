"""MAUVE: areas known by hand, and samples that are and are not alike."""

import numpy as np
import pytest

from gmdistill.evaluation import likeness
from gmdistill.runs.commands import auditing


def test_areas_are_those_that_were_reckoned_by_hand():
  p, q = np.array([1.0, 0.0]), np.array([0.0, 1.0])
  # No cluster in common: ((1 - w)^c, w^c), whose area is c B(c + 1, c).
  assert likeness.area(p, q) == pytest.approx(1 / 252, rel=1e-4)
  assert likeness.area(p, q, scale=1.0) == pytest.approx(1 / 2, rel=1e-4)
  # (1 - w^2, (1 + w)^2 / 4) at c = 2: the integral of (1 + w)^2 w / 2.
  even = np.array([0.5, 0.5])
  assert likeness.area(p, even, scale=2.0) == pytest.approx(17 / 24, rel=1e-4)
  assert likeness.area(even, p, scale=2.0) == pytest.approx(17 / 24, rel=1e-4)
  assert likeness.area(even, even) == pytest.approx(1, rel=1e-6)


def test_samples_are_the_more_alike_the_more_they_have_in_common():
  rng = np.random.default_rng(0)
  centres = 4 * rng.normal(size=(4, 6))

  def sample(kinds, rows=300):
    return centres[rng.choice(kinds, rows)] + rng.normal(size=(rows, 6))

  against = sample([0, 1])
  alike, half, apart = (
    likeness.mauve(sample(kinds), against) for kinds in ([0, 1], [0, 2], [2, 3])
  )
  assert alike > 0.7 > 0.6 > half > 0.02 > apart
  assert likeness.mauve(against, against) == pytest.approx(1)


def test_a_set_is_told_beside_other_training_rows(monkeypatch):
  monkeypatch.setattr(likeness, "LEAST", 100)
  rng = np.random.default_rng(3)
  training = rng.normal(size=(300, 4))
  told = likeness.to_training(rng.normal(size=(120, 4)) + 3, training)
  assert told["rows"] == 120
  assert told["set"] < 0.5 < told["training_rows"]
  ((label, own, others),) = auditing._mauve(told)
  assert "120 training rows" in label and float(own) < float(others)
  assert auditing._mauve(None) == []


def test_few_rows_are_not_told():
  rng = np.random.default_rng(1)
  rows = rng.normal(size=(2 * likeness.LEAST, 3))
  assert likeness.to_training(rows[: likeness.LEAST - 1], rows) is None
  assert likeness.to_training(rows, rows[: 2 * likeness.LEAST - 1]) is None
