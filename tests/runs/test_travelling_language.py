"""Sets of language models that are learned for several adapters, and a grid."""

import json

import jax
import numpy as np
import pytest
import tiny_language

from gmdistill import errors
from gmdistill import main as command_line
from gmdistill.runs import distill
from gmdistill.runs.commands import projecting
from gmdistill.runs.config import assembly, named_students, settings, travellers

STUDENTS = ("own", "lora:2:query+value")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  folder = tmp_path_factory.mktemp("travelling")
  config = tiny_language.get_config(folder)
  config.objective = "travelling"
  config.replay_steps = 0
  config.travelling.update(students=STUDENTS, rates=(1e-2,))
  config.finetune.update(
    num_steps=3, batch_size=2, num_students=2, rates=(0.1,)
  )
  config.finetune_ahead.update(window=1, skip=0, stride=3, until=3)
  config.num_steps, config.eval_every = 12, 12
  config.protocols, config.selection.protocol = ("finetune",), "finetune"
  config.coreset_pool = 12
  config.grid.update(
    students=("own", "lora:4"), rates=(1e-2,), sgd_rates=(), steps=(3,)
  )
  config.grid.num_students = 2
  config.projections.update(rounds=1, num_steps=1)
  distill.run(config, str(folder / "run"), "the command")
  return folder / "run", config


def evaluated(folder, protocol, capsys):
  flags = [f"--set={folder / 'set'}", f"--protocol={protocol}", "--json"]
  assert command_line.main(["gmdistill", "evaluate", *flags]) == 0
  return json.loads(capsys.readouterr().out)


def test_a_set_is_learned_for_every_adapter(run):
  lines = (run[0] / "metrics.jsonl").read_text().splitlines()
  seen = [json.loads(line) for line in lines]
  ways = {line["travelling/way"] for line in seen if "travelling/way" in line}
  assert ways == {0, 1}
  assert all(np.isfinite(line["outer/loss"]) for line in seen[:-1])


def test_a_named_adapter_has_its_rank_and_matrices(run):
  recipe = settings.recipe(run[1])
  problem = assembly.setup(recipe).problem
  student = travellers.builder("lora:3:query+value", recipe)(problem)
  drawn = student.init(jax.random.key(0))["params"]["layers"]
  shapes = [x.shape for x in jax.tree.leaves(drawn)]
  assert len(shapes) == 4  # A and B of two matrices
  assert all(3 in shape for shape in shapes)


def test_a_grid_of_adapters_is_in_nats(run, capsys):
  told = evaluated(run[0], "grid", capsys)
  assert {cell["unit"] for cell in told["cells"]} == {"nats"}
  assert {cell["student"] for cell in told["cells"]} == {"own", "lora:4"}
  for cell in told["cells"]:
    gain = cell["zero_shot"] - cell["full"]
    assert gain > 0
  shares = [
    (cell["zero_shot"] - cell["rows"]["distilled"]["mean"])
    / (cell["zero_shot"] - cell["full"])
    for cell in told["cells"]
  ]
  assert told["recovery"]["distilled"]["mean"] == pytest.approx(np.mean(shares))
  assert f"{told['cells'][0]['full']:.3f}" in told["table"]


def test_text_made_of_a_set_says_its_own_tokens_and_is_in_nats(run, capsys):
  told = evaluated(run[0], "projections", capsys)
  assert told["unit"] == "nats" and "nats" in told["table"].splitlines()[0]
  rows = told["rows"]
  assert set(rows) == {
    *("soft", "nearest tokens", "nearest tokens, learned targets"),
    *("likely tokens", "ADMM", "nearest real rows"),
  }
  # After a few steps a set is its start rows still, but for their targets.
  real = rows["nearest real rows"]
  assert rows["nearest tokens"]["texts"] == real["texts"]
  assert rows["nearest tokens"]["mean"] == pytest.approx(real["mean"], abs=0.05)


@pytest.mark.parametrize("unit, soft, text, random", [
  ("nats", 2.0, 3.0, 4.0), ("accuracy", 0.8, 0.7, 0.6)
])  # fmt: skip
def test_gains_left_are_shares_of_what_the_set_is_better_by(
  unit, soft, text, random
):
  rows = {"soft": {"mean": soft}, "nearest tokens": {"mean": text}}
  projecting._add_gains(rows, random, unit)
  assert rows["soft"]["gain_left"] == 1
  assert rows["nearest tokens"]["gain_left"] == pytest.approx(0.5)
  projecting._add_gains(rows, soft, unit)  # it gains nothing
  assert rows["nearest tokens"]["gain_left"] is None


@pytest.mark.parametrize(
  "name", ["lora", "lora:0", "lora:x", "gpt2:x", "a:b:c"]
)
def test_a_name_of_no_student_is_refused(name):
  with pytest.raises(errors.InputError, match="write own, transformer:3"):
    named_students.changes("travelling.students", name)


@pytest.mark.parametrize("fields, words", [
  ({"adapter": "last_layers", "trained_layers": 1}, "use student.adapter=lora"),
  ({"rank": 2}, "did you mean value"),
  ({"targets": ("valu",)}, "did you mean value"),
])  # fmt: skip
def test_an_adapter_that_there_is_not_is_told(tmp_path, capsys, fields, words):
  config = tiny_language.get_config(tmp_path)
  config.student.update(fields)
  config.objective, config.replay_steps = "travelling", 0
  config.travelling.students = ("own", "lora:2:query+valu")
  config.finetune_ahead.update(window=1, skip=0, stride=1)
  with pytest.raises(errors.InputError, match=words):
    distill.run(config, str(tmp_path / "run"), "the command")
