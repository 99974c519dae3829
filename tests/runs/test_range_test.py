"""The outer learning rate's range test."""

import json

import pytest
import tiny_config
from test_distill import assert_same_run, only_the_set

from gmdistill import errors
from gmdistill.runs import distill, finish, rate_search
from gmdistill.system import checkpoints

RATES = rate_search.RATES


def test_the_rate_is_where_the_loss_falls_fastest():
  assert rate_search.choose([1.0, 0.9, 0.7, 0.4, 0.35, 0.6]) == RATES[2]
  # A rise that ends the test does not count, nor what came after the lowest.
  assert rate_search.choose([1.0, 0.9, 0.95, 0.8, 0.85]) == RATES[2]
  assert rate_search.choose([1.0, 1.2]) == RATES[0]
  assert rate_search.choose([1.0, 0.8, float("nan")]) == RATES[0]


def test_a_run_takes_the_rate_and_keeps_it_when_resumed(tmp_path, monkeypatch):
  monkeypatch.setattr(finish, "finish", only_the_set)
  config = tiny_config.get_config("polish")
  config.outer.range_test = True
  config.num_steps = 4
  distill.run(config, str(tmp_path / "whole"))
  found = json.loads((tmp_path / "whole" / "range_test.json").read_text())["0"]
  assert found["learning_rate"] in found["rates"][:-1]
  assert found["losses"][1] < found["losses"][0]
  lines = (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()
  rates = [json.loads(line)["outer/learning_rate"] for line in lines]
  assert max(rates) == pytest.approx(found["learning_rate"])

  class Cut(Exception):
    pass

  save = checkpoints.Checkpoints.save

  def cut(self, step, state):
    save(self, step, state)
    raise Cut

  monkeypatch.setattr(checkpoints.Checkpoints, "save", cut)
  with pytest.raises(Cut):
    distill.run(config, str(tmp_path / "cut"))
  monkeypatch.setattr(checkpoints.Checkpoints, "save", save)
  distill.run(config, str(tmp_path / "cut"))
  assert_same_run(tmp_path / "whole", tmp_path / "cut")

  monkeypatch.setattr(checkpoints.Checkpoints, "save", cut)
  with pytest.raises(Cut):
    distill.run(config, str(tmp_path / "lost"))
  (tmp_path / "lost" / "range_test.json").unlink()
  with pytest.raises(errors.InputError, match="range_test.json does not say"):
    distill.run(config, str(tmp_path / "lost"))
