"""What a cached row of the results table is named by."""

import dataclasses
import inspect
import json

import numpy as np
import pytest
import tiny_config

from gmdistill.evaluation import baselines, protocols
from gmdistill.runs.config import assembly, outputs, settings
from gmdistill.selection import coresets

OTHER = {
  int: lambda x: x + 1,
  float: lambda x: x / 2 + 0.1,
  bool: lambda x: not x,
}


def made(maker, **fields):
  if maker is protocols.replaying:
    fields = {"num_steps": 2} | fields
  return maker(**fields)


def others(maker):
  """Every argument of a maker, with a value that it has not by itself."""
  words = {"teaching": "peer", "schedule": "linear"}
  for name, parameter in inspect.signature(maker).parameters.items():
    default = parameter.default
    if default is inspect.Parameter.empty:
      default = 2
    if name in words:
      yield pytest.param(maker, name, words[name], id=name)
    elif isinstance(default, tuple):
      yield pytest.param(maker, name, (*default, 0.5), id=name)
    else:
      other = OTHER[type(default)](default)
      yield pytest.param(maker, name, other, id=name)


@pytest.mark.parametrize(
  "maker, name, other",
  [*others(protocols.fine_tuning), *others(protocols.replaying)],
)
def test_whatever_makes_a_protocol_is_in_its_identity(maker, name, other):
  one, two = made(maker), made(maker, **{name: other})
  assert json.dumps(one.identity) == json.dumps(made(maker).identity)
  assert json.dumps(one.identity) != json.dumps(two.identity)
  chained = [protocols.bayesian(start).identity for start in (one, two)]
  assert json.dumps(chained[0]) != json.dumps(chained[1])


def test_a_protocol_without_an_identity_leaves_no_row(monkeypatch, tmp_path):
  monkeypatch.setenv("GMDISTILL_CACHE", str(tmp_path))  # no other run's rows
  config = settings.recipe(tiny_config.get_config())
  table = outputs.table(assembly.setup(config), config)
  named = assembly.protocol(config, "replay")
  found = {"mean": 0.5}

  def measure(*_, **__):
    return dataclasses.make_dataclass("Row", ["row"])(lambda: dict(found))

  monkeypatch.setattr(baselines.Table, "measure", measure)
  for protocol, kept in ((named, 0.5), (named._replace(identity=None), 0.25)):
    found["mean"] = 0.5
    table.coreset("replay", protocol, "herding")
    found["mean"] = 0.25
    assert table.coreset("replay", protocol, "herding")["mean"] == kept


def test_herding_and_k_centers_choose_from_one_reading_of_features(
  monkeypatch,
):
  config = settings.recipe(tiny_config.get_config())
  setup = assembly.setup(config)
  read, reading = [], coresets.student_features.features
  monkeypatch.setattr(
    coresets.student_features,
    "features",
    lambda *x, **y: read.append(1) or reading(*x, **y),
  )
  table = outputs.table(setup, config)
  for method in ("herding", "k_centers", "random"):
    chosen = table.coreset_rows(method, 0)
    alone = coresets.choose(
      method,
      setup.problem,
      setup.corpus.train,
      per_class=config.per_group,
      pool=config.coreset_pool,
    )
    np.testing.assert_array_equal(
      chosen.token_ids, setup.corpus.train.token_ids[alone]
    )
  assert len(read) == 1 + 2
