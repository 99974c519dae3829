"""What a run needs is known before it runs."""

import functools
import json
import types

import jax
import jax.numpy as jnp
import pytest
import tiny_config

from gmdistill import errors, main
from gmdistill.runs import distill, jobs, planning
from gmdistill.runs.config import remedies, settings
from gmdistill.system import costs, devices, processes, units

CONFIG = "--config=tests/tiny_config.py"


@functools.cache
def job():
  return jobs.prepare(tiny_config.get_config())


def test_loops_count_as_often_as_they_run():
  kernel = jnp.ones((3, 5))

  def loss(x):
    body = lambda carry, _: (jnp.tanh(carry @ kernel @ kernel.T), None)  # noqa: E731
    return jax.lax.scan(body, x, None, 7)[0].sum()

  def flops(f):
    return costs.matmul_flops(jax.make_jaxpr(f)(jnp.ones((2, 3))).jaxpr)

  once = 2 * (2 * 3 * 5) * 2
  assert flops(loss) == 7 * once
  assert flops(jax.grad(loss)) == 2 * 7 * once  # the kernel gets no gradient
  assert flops(jax.jit(jax.checkpoint(loss))) == 7 * once
  either = lambda x: jax.lax.cond(True, loss, lambda x: (x @ kernel).sum(), x)  # noqa: E731
  assert flops(either) == 7 * once


def test_convolutions_count_too():
  x, kernel = jnp.ones((2, 9, 4)), jnp.ones((3, 4, 5))
  convolve = lambda x: jax.lax.conv_general_dilated(  # noqa: E731
    x, kernel, (1,), "VALID", dimension_numbers=("NHC", "HIO", "NHC")
  )
  found = costs.matmul_flops(jax.make_jaxpr(convolve)(x).jaxpr)
  assert found == 2 * (2 * 7 * 5) * (3 * 4)


def test_what_crosses_is_read_from_the_program():
  text = """
    %a = f32[3,5]{1,0} all-reduce(%x), replica_groups={{0,1},{2,3}}, to_apply=%s
    %b = (f32[], bf16[4]{0}) all-gather-start(%y), replica_groups=[1,2]<=[2]
    %c = f32[100]{0} all-reduce(%z), replica_groups={{0},{1}}, to_apply=%s
    %d = f32[100]{0} all-reduce(%z), replica_groups=[2,1]<=[2], to_apply=%s
    %e = f32[100]{0} fusion(%all-reduce.8), kind=kLoop
  """
  assert costs.crossing(text) == 4 * 15 + 4 + 2 * 4


def test_a_loop_exchanges_as_often_as_it_runs():
  text = """
%add (a: f32[], b: f32[]) -> f32[] {
  ROOT %c = f32[] add(%a, %b)
}

%inner (p: (s32[], f32[3])) -> (s32[], f32[3]) {
  %g = f32[3]{0} all-reduce(%x), replica_groups={{0,1}}, to_apply=%add
}

%outer (p: (s32[], f32[3])) -> (s32[], f32[3]) {
  %w = (s32[], f32[3]) while(%t), condition=%until, body=%inner, \
backend_config={"known_trip_count":{"n":"5"}}
  %h = f32[2]{0} all-reduce(%y), replica_groups={{0,1}}, to_apply=%add
}

ENTRY %main (p: f32[3]) -> f32[3] {
  %v = (s32[], f32[3]) while(%t), condition=%end, body=%outer, \
backend_config={"known_trip_count":{"n":"7"}}
  %i = f32[] conditional(%q, %r), branch_computations={%inner, %add}
}
"""
  assert costs.crossing(text) == 7 * (5 * 4 * 3 + 4 * 2) + 4 * 3


def test_a_stage_costs_what_its_program_says():
  matching, ahead = (cost for _, cost in jobs.programs(job()))
  assert matching.pool > 0 and ahead.pool == 0  # only matching keeps students
  for cost in (matching, ahead):
    assert 0 < cost.temporary < cost.needed < cost.room
    assert cost.flops > 1e6 and cost.crossing == 0


def test_a_run_that_does_not_fit_is_refused_before_it_starts(
  tmp_path, monkeypatch
):
  monkeypatch.setattr("gmdistill.system.devices.room", lambda: 10_000)
  config = tiny_config.get_config()
  with pytest.raises(
    errors.InputError, match=r"which has 10 kB.*Try student.remat=layers, or"
  ):
    distill.run(config, str(tmp_path / "run"))
  assert not (tmp_path / "run").exists()


def test_class_chunks_are_a_remedy_of_gradient_matching_alone():
  config = tiny_config.get_config()
  mesh = devices.build(1, devices=jax.devices()[:1])
  named = [
    text.partition("=")[0]
    for text in remedies.remedies(settings.recipe(config), mesh)
  ]
  assert named[:5] == [
    "student.remat",
    "student.compute",
    "num_students",
    "gradient_matching.class_chunk",
    "gradient_matching.matched",
  ]
  config.gradient_matching.class_chunk = 1
  assert "gradient_matching.class_chunk=1" not in remedies.remedies(
    settings.recipe(config), mesh
  )
  config.objective = "look_ahead"
  assert not any(
    "matching" in text
    for text in remedies.remedies(settings.recipe(config), mesh)
  )


def test_a_remedy_makes_the_step_smaller():
  config = tiny_config.get_config()
  config.objective = "look_ahead"
  config.update(replay_steps=6, num_students=8)
  mesh = devices.build(1, devices=jax.devices()[:1])
  assert "look_ahead.last_steps=2" in remedies.remedies(
    settings.recipe(config), mesh
  )
  for few in (1, 2):
    config.look_ahead.last_steps = few
    assert "look_ahead.last_steps=2" not in remedies.remedies(
      settings.recipe(config), mesh
    )
  # Two devices share each student's batch: four students have two such groups.
  groups = types.SimpleNamespace(shape={"students": 2, "data": 2}, size=4)
  said = [
    x
    for x in remedies.remedies(settings.recipe(config), groups)
    if "num_students" in x
  ]
  assert said == ["num_students=2, one on each group of devices"]


def test_a_device_without_memory_is_one_line(monkeypatch, tmp_path, capsys):
  def full(*_):
    raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")

  monkeypatch.setattr(jobs, "prepare", full)
  argv = ["gmdistill", "distill", CONFIG, f"--workdir={tmp_path / 'run'}"]
  assert main.main(argv) == 2
  (line,) = capsys.readouterr().err.splitlines()
  assert "ran out of memory (RESOURCE_EXHAUSTED" in line
  assert "smaller students_at_once" in line


OBJECTIVES = ["gradient_matching", "look_ahead"]


def test_the_verb_prints_a_table_for_every_stage(capsys):
  assert main.main(["gmdistill", "plan", CONFIG]) == 0
  said = capsys.readouterr().out
  assert said.count("temporary memory") == 2 and said.count(": fits") == 2
  assert "gradient_matching, on one device:" in said
  assert "12 outer steps take about" in said and "0 bytes" not in said
  assert main.main(["gmdistill", "plan", CONFIG, "--json"]) == 0
  told = json.loads(capsys.readouterr().out)
  assert [x["objective"] for x in told["stages"]] == OBJECTIVES
  assert told["seconds"] > 0 and told["stages"][0]["needed"] > 1000
  assert main.main(["gmdistill", "plan"]) == 2


def plan_of_a_shape(folder):
  """Returns the words that plan for a model without weights there."""
  shape = dict(
    model_type="llama",
    vocab_size=200,
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
  )
  (folder / "config.json").write_text(json.dumps(shape))
  plan = ["gmdistill", "plan", "--config=shakespeare"]
  return [
    *plan,
    f"--config.student.pretrained={folder}",
    "--config.steps_per_dispatch=1",
  ]


@pytest.mark.parametrize("as_json", [[], ["--json"]])
def test_the_first_of_several_processes_prints_the_plan(
  as_json, tmp_path, monkeypatch, capsys
):
  plan = [*plan_of_a_shape(tmp_path), *as_json]
  monkeypatch.setattr(
    planning, "stage_costs", lambda *_: [costs.Cost(*[1] * 8)]
  )
  printed = []
  for is_first in (True, False):
    monkeypatch.setattr(processes, "is_first", lambda x=is_first: x)
    assert main.main(plan) == 0
    printed.append(bool(capsys.readouterr().out))
  assert printed == [True, False]


def test_a_model_without_weights_is_planned_for_by_its_shape(tmp_path, capsys):
  plan = plan_of_a_shape(tmp_path)
  assert main.main([*plan, "--config.mesh.base=sharded"]) == 0
  said = capsys.readouterr().out
  # LoRA of rank 8 in three layers: seven pairs each.
  width, keys, hidden = 32, 16, 64
  pairs = 2 * (width + width) + 2 * (width + keys) + 3 * (width + hidden)
  assert f"{units.number(3 * 8 * pairs)} parameters" in said
  assert "table and pretrained parameters" in said and "fits" not in said
  first = [*plan, "--config.student.peft=elsewhere"]
  assert main.main([*first, "--config.student.num_layers=1"]) == 0
  assert f"{units.number(8 * pairs)} parameters" in capsys.readouterr().out
  assert main.main([*plan, "--config.task.targets=soft"]) == 0
  capsys.readouterr()
  assert main.main([*plan, "--config.student.num_layers=4"]) == 2
  assert "has 3 layers; use 1 to 3" in capsys.readouterr().err
  assert main.main([*plan, "--config.task.kind=label_words"]) == 2
  assert "has no weights" in capsys.readouterr().err
