"""The fields of a config: one definition each, checked before a run."""

import math
import typing

import pytest

from gmdistill import errors, fields
from gmdistill.runs.config import recipe, settings

FIELDS = {field.name: field for field in fields.walk(recipe.Recipe)}
NUMBERS = (int, float)
ODD = (math.nan, math.inf, -math.inf, -1, 0, 10**9, True, "word", None)


def kind_of(field):
  if typing.get_origin(field.kind) is tuple:
    return typing.get_args(field.kind)[0]
  return field.kind


def recipe_with(name, value):
  config = settings.defaults().to_dict()
  group, _, field = name.rpartition(".")
  (config[group] if group else config)[field] = value
  return settings.recipe(config)


@pytest.mark.parametrize("field", FIELDS.values(), ids=FIELDS)
def test_every_field_has_a_meaning_and_every_number_a_range(field):
  assert field.meaning.endswith(".") and len(field.meaning) > 5
  assert kind_of(field) in (bool, int, float, str)
  if kind_of(field) in NUMBERS:
    assert isinstance(field.range, fields.Range)
    assert fields.said(field) not in ("", "a number")


@pytest.mark.parametrize("field", FIELDS.values(), ids=FIELDS)
def test_an_odd_value_is_in_its_fields_range_or_refused_by_name(field):
  is_list = typing.get_origin(field.kind) is tuple
  for odd in ODD:
    value = (odd,) if is_list and not isinstance(odd, str) else odd
    try:
      made = recipe_with(field.name, value)
    except errors.InputError as error:
      said = str(error)
      assert "\n" not in said
      assert all(part in said for part in field.name.split(".")), said
      continue
    kind = kind_of(field)
    assert kind is str or not isinstance(odd, str)
    assert kind is bool or not isinstance(odd, bool)
    assert odd is not None
    if kind in NUMBERS:
      assert math.isfinite(odd) and odd in field.range
      assert kind is float or isinstance(odd, int)
    assert isinstance(made, recipe.Recipe)


@pytest.mark.parametrize(
  "name, value",
  [
    ("outer.learning_rate", -1.0),
    ("outer.ema", 5.0),
    ("outer.ema", -1.0),
    ("initial_step_size", math.nan),
    ("initial_step_size", math.inf),
    ("full.weight_decay", math.nan),
    ("outer.label_scale", -1.0),
    ("outer.step_size_scale", -0.5),
    ("min_tokens", -1),
    ("selection.min_tokens", -1),
    ("experts.curriculum", 9.0),
    ("look_ahead.last_steps", 99),
    ("student.unroll", 0),
    ("kd.shallow_weight", math.nan),
    ("bayes.step_size", -1.0),
    ("seed", 2**32),
    ("replay.rates", ()),
    ("replay.rates", (0.1, math.nan)),
    ("bank.ages", (0, 8, 8)),
    ("data.vocab_size", 2),
    ("protocols", ()),
    ("seed", 0.5),
    ("outer", 3),
  ],
)
def test_a_number_that_makes_no_sense_is_refused_in_one_line(name, value):
  with pytest.raises(errors.InputError) as refused:
    recipe_with(name, value)
  assert name in str(refused.value) and "\n" not in str(refused.value)


def test_a_docstring_tells_of_no_field_that_is_not_there():
  for made in (recipe.Recipe, *map(type, vars(recipe.Recipe()).values())):
    if hasattr(made, "__dataclass_fields__"):
      told = fields._meanings(made.__doc__)
      assert set(told) <= set(made.__dataclass_fields__), made


def test_a_config_has_the_fields_of_a_recipe_and_makes_it_again():
  config = settings.defaults()
  assert config.to_dict() == recipe.Recipe().to_dict()
  assert settings.recipe(config) == recipe.Recipe()
  own = settings.recipe(config)
  assert settings.recipe(own) is own
  config.kd.weight = 0.5
  config.replay.rates = [1, 2]
  made = settings.recipe(config)
  assert made.kd.weight == 0.5 and made.replay.rates == (1.0, 2.0)
  assert recipe.changed(made, kd__weight=1.0).kd.weight == 1.0


def test_a_config_of_an_earlier_version_is_read_or_refused_with_a_way_on():
  before = settings.defaults().to_dict()
  before["outer"]["range_test"] = False
  del before["joined_rows"], before["outer"]["ema"]
  assert settings.earlier(before, "config.json") == recipe.Recipe()
  before["outer"]["range_test"] = True
  with pytest.raises(errors.InputError, match="range_test=True, which is no"):
    settings.earlier(before, "config.json")
  with pytest.raises(errors.InputError, match="sparkle is no field"):
    settings.earlier({"sparkle": 1}, "config.json")
