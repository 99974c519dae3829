"""What a run needs is known before it runs."""

import functools

import jax
import jax.numpy as jnp
import pytest
import tiny_config

from gmdistill import distill, errors, jobs, main, plan

CONFIG = "--config=tests/tiny_config.py"


@functools.cache
def job():
  return jobs.prepare(tiny_config.get_config())


def test_loops_count_as_often_as_they_run():
  kernel = jnp.ones((3, 5))

  def loss(x):
    body = lambda carry, _: (jnp.tanh(carry @ kernel @ kernel.T), None)  # noqa: E731
    return jax.lax.scan(body, x, None, 7)[0].sum()

  flops = lambda f: plan.matmul_flops(jax.make_jaxpr(f)(jnp.ones((2, 3))).jaxpr)  # noqa: E731
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
  found = plan.matmul_flops(jax.make_jaxpr(convolve)(x).jaxpr)
  assert found == 2 * (2 * 7 * 5) * (3 * 4)


def test_what_crosses_is_read_from_the_program():
  text = """
    %a = f32[3,5]{1,0} all-reduce(%x), replica_groups={{0,1},{2,3}}, to_apply=%s
    %b = (f32[], bf16[4]{0}) all-gather-start(%y), replica_groups=[1,2]<=[2]
    %c = f32[100]{0} all-reduce(%z), replica_groups={{0},{1}}, to_apply=%s
    %d = f32[100]{0} all-reduce(%z), replica_groups=[2,1]<=[2], to_apply=%s
    %e = f32[100]{0} fusion(%all-reduce.8), kind=kLoop
  """
  assert plan.crossing(text) == 4 * 15 + 4 + 2 * 4


def test_a_stage_costs_what_its_program_says():
  matching, ahead = jobs.costs(job())
  assert matching.pool > 0 and ahead.pool == 0  # only matching keeps students
  for cost in (matching, ahead):
    assert 0 < cost.temporary < cost.needed < cost.room
    assert cost.flops > 1e6 and cost.crossing == 0


def test_a_run_that_does_not_fit_is_refused_before_it_starts(
  tmp_path, monkeypatch
):
  monkeypatch.setattr("gmdistill.mesh.room", lambda: 10_000)
  config = tiny_config.get_config()
  with pytest.raises(
    errors.InputError, match=r"which has 10 kB.*Try student.remat=layers, or"
  ):
    distill.run(config, str(tmp_path / "run"))
  assert not (tmp_path / "run").exists()


def test_class_chunks_are_a_remedy_of_gradient_matching_alone():
  config = tiny_config.get_config()
  named = [text.partition("=")[0] for text in plan.remedies(config, 1)]
  assert named[:5] == [
    "student.remat",
    "student.compute",
    "num_students",
    "gradient_matching.class_chunk",
    "gradient_matching.matched",
  ]
  config.gradient_matching.class_chunk = 1
  assert "gradient_matching.class_chunk=1" not in plan.remedies(config, 1)
  config.objective = "look_ahead"
  assert not any("matching" in text for text in plan.remedies(config, 1))


def test_the_verb_prints_a_table_for_every_stage(capsys):
  assert main.main(["gmdistill", "plan", CONFIG]) == 0
  said = capsys.readouterr().out
  assert said.count("temporary memory") == 2 and said.count(": fits") == 2
  assert "gradient_matching, on a mesh of" in said
  assert main.main(["gmdistill", "plan"]) == 2
