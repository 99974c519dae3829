"""Results do not depend on the layout; little crosses between devices."""

import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from gmdistill import errors
from gmdistill.system import devices as device_mesh

HERE = pathlib.Path(__file__).parents[1]
SET_BYTES = 8 * (8 * 6 * 16 + 8 * 4 + 2 + 2)  # embeddings, labels, step sizes


def run(folder, mode, shapes, devices):
  flags = [
    *(x for x in os.environ["XLA_FLAGS"].split() if "device_count" not in x),
    f"--xla_force_host_platform_device_count={devices}",
  ]
  subprocess.run(
    [sys.executable, "steps_on_a_mesh.py", folder, mode, *shapes],
    cwd=HERE,
    env={**os.environ, "XLA_FLAGS": " ".join(flags)},
    check=True,
    timeout=600,
  )
  return {shape: np.load(folder / f"{shape}.npz") for shape in shapes}


@pytest.mark.parametrize("mode, shapes", [("", "2x2"), ("polish", "8x1 2x2")])
def test_the_set_does_not_depend_on_the_layout(tmp_path, mode, shapes):
  found = run(tmp_path, mode, ["1x1", *shapes.split()], 8)
  alone = found["1x1"]
  for shape, other in found.items():
    np.testing.assert_allclose(
      other["params"], alone["params"], atol=1e-5, err_msg=shape
    )
  for shape in set(found) - {"1x1", "2x2"}:
    assert 0 < found[shape]["bytes"] <= 2 * SET_BYTES + 2**10
    assert found[shape]["memory"] <= alone["memory"]
  assert alone["bytes"] == 0


def test_a_mesh_that_the_devices_do_not_fill_is_refused():
  one = jax.devices()[:1]
  with pytest.raises(errors.InputError, match=r"mesh.students=2 .* use mesh"):
    device_mesh.build(4, students=2, devices=one)
  with pytest.raises(errors.InputError, match="mesh.data=2 must divide the 1"):
    device_mesh.build(4, data=2, devices=one)


def test_students_and_rows_that_do_not_divide_are_refused():
  three = jax.devices()[:1] * 3
  with pytest.raises(errors.InputError, match="num_students=4 .* use 3 or 6"):
    device_mesh.build(4, students=3, devices=three)
  mesh = device_mesh.build(2, devices=jax.devices()[:1])
  rows = np.zeros((1, 2, 1, 4, 6))
  laid = device_mesh.put_own(mesh, rows, [0, 1], 2, device_mesh.BATCHES)
  assert laid.sharding.spec == device_mesh.BATCHES and laid.shape == rows.shape
  fake = type("Mesh", (), {"shape": {"data": 3}})
  with pytest.raises(errors.InputError, match="4 rows does not divide"):
    device_mesh.put_own(fake, rows, [0, 1], 2, device_mesh.BATCHES)


def test_laid_out_arrays_are_copies():
  mesh = device_mesh.build(1, devices=jax.devices()[:1])
  host = np.ones((2, 3))
  laid = device_mesh.put(mesh, {"a": host, "key": jax.random.key(3)})
  host[:] = 0
  np.testing.assert_array_equal(laid["a"], np.ones((2, 3)))
  assert laid["a"].sharding.spec == P()
  assert jax.random.key_data(laid["key"]).tolist() == [0, 3]
