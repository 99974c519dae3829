"""A frozen base may lie on all devices together; the set stays what it was."""

import os
import pathlib
import subprocess
import sys

import base_on_a_mesh
import jax
import numpy as np
import pytest
import tiny_language
from conftest import make_problem
from etils import epath

from gmdistill import errors
from gmdistill.runs.config import assembly, settings
from gmdistill.students import bases, decoder_reader, decoder_weights
from gmdistill.system import devices, parts

HERE = pathlib.Path(__file__).parents[1]


@pytest.fixture(scope="module")
def layouts(tmp_path_factory):
  """What a few outer steps give on one device, and on eight."""
  out = tmp_path_factory.mktemp("layouts")
  flags = [
    *(x for x in os.environ["XLA_FLAGS"].split() if "device_count" not in x),
    "--xla_force_host_platform_device_count=8",
  ]
  subprocess.run(
    [sys.executable, "base_on_a_mesh.py", out],
    cwd=HERE,
    env={**os.environ, "XLA_FLAGS": " ".join(flags)},
    check=True,
    timeout=600,
  )
  return {path.stem: dict(np.load(path)) for path in out.glob("*.npz")}


@pytest.mark.parametrize(
  "layout, alone",
  [("students", "alone"), ("data", "alone"), ("part_students", "part_alone")],
)
def test_a_base_on_eight_devices_gives_the_set_of_one(layouts, layout, alone):
  many, one = layouts[layout], layouts[alone]
  np.testing.assert_allclose(many["params"], one["params"], atol=1e-5)
  assert np.abs(one["moved"]).max() > 0.01


@pytest.mark.parametrize("layout", ["students", "data"])
def test_each_device_has_an_eighth_of_the_base(layouts, layout):
  many, one = layouts[layout], layouts["alone"]
  assert 8 * many["base"] == one["base"]
  # All that a device is given fell by what it has no more of the base.
  fell = one["arguments"] - many["arguments"]
  assert fell >= one["base"] - many["base"]
  # Nor does the program make it whole: a layer is, at a time.
  assert one["kernels"] and not many["kernels"]
  assert many["temporary"] < one["temporary"]


def test_a_part_of_a_parameter_is_read_alone(tmp_path, monkeypatch):
  folder = epath.Path(tmp_path)
  base_on_a_mesh.write_base(folder)
  whole, _ = decoder_weights.read_weights(
    folder, "qwen2", base_on_a_mesh.MODULE
  )
  read = []
  part = decoder_reader.shards.Tensors.part

  def counted(tensors, name, index):
    read.append(part(tensors, name, index))
    return read[-1]

  monkeypatch.setattr(decoder_reader.shards.Tensors, "part", counted)

  def second_eighth(like, read):
    size = like.shape[-1] // 8
    *others, _ = (slice(None),) * len(like.shape)
    return read((*others, slice(size, 2 * size)))

  parts, table = decoder_weights.read_weights(
    folder, "qwen2", base_on_a_mesh.MODULE, place=second_eighth
  )
  sizes = sum(x.size for x in jax.tree.leaves(whole))
  assert sum(x.size for x in read) == sizes // 8 + table.size

  def equal(part, whole):
    size = whole.shape[-1] // 8
    np.testing.assert_array_equal(part, whole[..., size : 2 * size])

  jax.tree.map(equal, parts, whole)


def test_a_config_asks_for_it(tmp_path, capfd):
  config = tiny_language.get_config(tmp_path)
  config.mesh.base = "sharded"
  problem = assembly.setup(settings.recipe(config)).problem
  assert problem.student.module.split == ("layers",)
  assert "of the host's memory at most" in capfd.readouterr().err
  up = problem.frozen["layers"]["up"]["kernel"]
  assert up.sharding.spec == parts.split(up)
  config.student.adapter = "none"
  with pytest.raises(errors.InputError, match="use student.adapter=lora"):
    assembly.setup(settings.recipe(config))


def test_what_cannot_be_shared_out_is_refused():
  with pytest.raises(errors.InputError, match="use student.adapter=lora"):
    bases.spread(make_problem())
  fake = type("Mesh", (), {"size": 8})
  with pytest.raises(errors.InputError, match=r"shape \(3, 12\) does not div"):
    devices.require_parts(fake, (3, 12))
