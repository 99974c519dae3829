"""Refusals: one line with the field, the value and what would be right."""

import pathlib
import re

import pytest

from gmdistill import errors

PACKAGE = pathlib.Path(__file__).parents[2] / "gmdistill"


def test_a_choice_that_is_known_comes_back():
  assert errors.choice("rows", "random", ("random", "k_centers")) == "random"


@pytest.mark.parametrize(
  "value, said",
  [
    ("k_center", "is none of random, k_centers; did you mean k_centers?"),
    ("best", "is none of random, k_centers."),
    ("", "rows='' is none of random, k_centers."),
    (3, "rows=3 is none of random, k_centers."),
  ],
)
def test_a_choice_that_is_unknown_names_the_others(value, said):
  with pytest.raises(errors.InputError) as caught:
    errors.choice("rows", value, {"random": 1, "k_centers": 2})
  assert str(caught.value).endswith(said)


def test_a_makers_choice_is_told_by_the_configs_field():
  with pytest.raises(errors.InputError) as caught:
    errors.named("kd", lambda: errors.choice("loss", "kl", ("forward_kl",)))
  assert str(caught.value) == "config.kd: loss=kl is none of forward_kl."


def test_a_refusal_that_names_its_own_field_is_left_as_it_is():
  def build():
    raise errors.InputError("bank.ages=() is empty.")

  with pytest.raises(errors.InputError, match=r"^bank\.ages"):
    errors.named("bank", build)


def test_all_refusals_of_a_choice_are_worded_in_one_place():
  worded = [
    path.relative_to(PACKAGE).as_posix()
    for path in PACKAGE.rglob("*.py")
    if re.search(r"[\"}] ?is none of ", path.read_text())
    or "} is none of " in path.read_text()
  ]
  assert worded == ["errors.py"]
