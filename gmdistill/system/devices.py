"""Where things lie: the mesh of devices, and what each process reads.

The outer step is mapped over two axes. `students`: every student lives on one
device, or on one group of them. `data`: a group splits the real batch of its
student. One device is a mesh of one.
"""

import os
import pathlib
import resource
import sys
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from gmdistill import errors, fields, trees

STUDENTS, DATA = "students", "data"

EVERYWHERE = P()  # the set, its optimiser, the table

BY_STUDENT = P(STUDENTS)  # leaves [S, ...], S / groups of them in each

# What an outer step reads, K steps at once.
BATCHES = P(None, STUDENTS, None, DATA)  # leaves [K, S, N, rows, ...]

EXPERTS = P(None, STUDENTS)  # leaves [K, S, ...]

BASES = ("replicated", "sharded")  # how devices hold a frozen base

SHARED = (STUDENTS, DATA)  # the axis of an array that all devices share out


def build(
  num_students: int,
  students: fields.FromZero = 0,
  data: fields.Count = 1,
  devices: Sequence[jax.Device] | None = None,
  base: str = "replicated",
) -> Mesh:
  """Returns the mesh that a run is laid out on.

  Args:
    num_students: Students an outer step, S.
    students: Groups of devices that share them; 0: as many as the devices
      allow and S divides over.
    data: Devices that split one student's real batch.
    devices: Those to lay the mesh over; all, where left out.
    base: How they hold the frozen base of adapters: `replicated`, each all of
      it; `sharded`, each a part of every tensor, and a layer at a time whole.

  Raises:
    InputError: the mesh does not fill the devices, or S does not divide.
  """
  errors.choice("mesh.base", base, BASES)
  devices = jax.devices() if devices is None else devices
  count = len(devices)
  if data < 1 or count % data or students < 0:
    raise errors.InputError(
      f"mesh.data={data} must divide the {count} devices, and "
      f"mesh.students={students} be at least 0."
    )
  most = count // data
  if not students:
    students = max(n for n in range(1, most + 1) if num_students % n == 0)
    if jax.process_count() > 1:
      students = most  # every process must hold a part of the mesh
  elif students != most:
    raise errors.InputError(
      f"mesh.students={students} times mesh.data={data} must be the {count} "
      f"devices; use mesh.students={most}, or 0."
    )
  if num_students % students:
    lower = num_students - num_students % students
    raise errors.InputError(
      f"num_students={num_students} does not divide over {students} groups of "
      f"devices; use {f'{lower} or ' if lower else ''}{lower + students}."
    )
  # A run with fewer students than devices leaves the rest of them idle.
  return jax.make_mesh(
    (students, data),
    (STUDENTS, DATA),
    axis_types=(AxisType.Auto, AxisType.Auto),
    devices=devices[: students * data],
  )


def whole() -> Mesh:
  """Returns a mesh of all devices, each on its own: where students that are
  only evaluated are shared out."""
  return build(len(jax.devices()))


def sharding(mesh: Mesh, spec: P) -> NamedSharding:
  """Returns the sharding of `spec` on `mesh`."""
  return NamedSharding(mesh, spec)


def require_parts(mesh: Mesh, shape: Sequence[int]) -> None:
  """Checks that every device can have a part of an array.

  Raises:
    InputError: its last axis does not divide.
  """
  if shape[-1] % mesh.size:
    raise errors.InputError(
      "mesh.base=sharded shares out the last axis of every tensor of the base, "
      f"and one of shape {tuple(shape)} does not divide over {mesh.size} "
      "devices; use mesh.base=replicated, or fewer devices."
    )


def put(
  mesh: Mesh, tree: trees.PyTree, spec: trees.PyTree = EVERYWHERE
) -> trees.PyTree:
  """Lays out arrays that every process holds whole, and equal.

  Args:
    mesh: Where.
    tree: The arrays; those of `parts.spread` may lie on several devices.
    spec: Where each lies: one for all of them, or a tree of specs.
  """
  if not isinstance(spec, P):
    return jax.tree.map(
      lambda one, part: put(mesh, part, one), spec, tree, is_leaf=_is_spec
    )

  def one(x):
    if isinstance(x, jax.ShapeDtypeStruct):
      return jax.ShapeDtypeStruct(
        x.shape, x.dtype, sharding=sharding(mesh, spec)
      )
    if SHARED in spec:
      require_parts(mesh, x.shape)
      if isinstance(x, jax.Array) and len(x.sharding.device_set) > 1:
        return jax.device_put(x, sharding(mesh, spec))
    if isinstance(x, jax.Array) and jax.dtypes.issubdtype(
      x.dtype, jax.dtypes.prng_key
    ):
      laid = one(jax.random.key_data(x))
      return jax.random.wrap_key_data(laid, impl=jax.random.key_impl(x))
    host = np.array(x)  # a copy: the outer step donates what it is given
    return jax.make_array_from_callback(
      host.shape, sharding(mesh, spec), lambda index: host[index]
    )

  return jax.tree.map(one, tree)


def own_students(mesh: Mesh, num_students: int) -> list[int]:
  """Returns the students of which this process holds at least a part."""
  pieces = sharding(mesh, BY_STUDENT).addressable_devices_indices_map(
    (num_students,)
  )
  students: set[int] = set()
  for piece in pieces.values():
    students.update(range(num_students)[piece[0]] if piece else ())
  return sorted(students)


def put_own(
  mesh: Mesh,
  tree: trees.PyTree,
  students: Sequence[int],
  num_students: int,
  spec: P,
) -> trees.PyTree:
  """Lays out what this process has read for its own students.

  Args:
    mesh: Where.
    tree: Host arrays [K, len(students), ...].
    students: What `own_students` returned.
    num_students: S, of all processes.
    spec: `BATCHES` or `EXPERTS`.

  Returns:
    Arrays [K, S, ...] over all processes.

  Raises:
    InputError: the rows do not divide over the devices of a group.
  """
  place = {student: i for i, student in enumerate(students)}

  def one(x):
    whole = (x.shape[0], num_students, *x.shape[2:])
    if spec == BATCHES and x.shape[3] % mesh.shape[DATA]:
      raise errors.InputError(
        f"a real batch of {x.shape[3]} rows does not divide over "
        f"mesh.data={mesh.shape[DATA]} devices; change rows_per_class or "
        "mesh.data."
      )

    def piece(index):
      chosen = [place[i] for i in range(num_students)[index[1]]]
      return x[index[0]][:, chosen][(slice(None), slice(None), *index[2:])]

    return jax.make_array_from_callback(whole, sharding(mesh, spec), piece)

  return jax.tree.map(one, tree)


def over_students(
  mesh: Mesh, function: Callable[..., Any], in_specs: Any, out_specs: Any
) -> Callable[..., Any]:
  """Maps a function over the mesh's groups of devices (`jax.shard_map`).

  Inside, an array of `BY_STUDENT` is its group's part, and one of
  `parts.split` a part that `parts.gathered` completes. What a group's devices
  do together (`data`) is left to the compiler, which splits along the real
  batch: objectives are written for one device.
  """
  in_specs = jax.tree.map(_of_groups, in_specs, is_leaf=_is_spec)
  return jax.shard_map(
    function,
    mesh=mesh,
    in_specs=in_specs,
    out_specs=out_specs,
    axis_names={STUDENTS},
    check_vma=False,
  )


def _is_spec(x):
  return isinstance(x, P)


def _of_groups(spec):
  return P(*[STUDENTS if axis == SHARED else axis for axis in spec])


def host(x: Any) -> np.ndarray:
  """Returns an array whole on the host, wherever its parts lie."""
  if isinstance(x, jax.Array) and not x.is_fully_addressable:
    return np.asarray(multihost_utils.process_allgather(x, tiled=True))
  return np.asarray(x)


def mean_over_groups(tree: trees.PyTree) -> trees.PyTree:
  """Returns the mean over the mesh's groups, inside `over_students`."""
  return jax.lax.pmean(tree, STUDENTS)


def room() -> int:
  """Returns the bytes of memory that each device of this process has."""
  device = jax.local_devices()[0]
  limit = (device.memory_stats() or {}).get("bytes_limit")
  if limit:
    return int(limit)
  whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
  return whole // jax.local_device_count()


def peak_memory() -> int:
  """Returns the most bytes that this process has had, on its first device."""
  stats = jax.local_devices()[0].memory_stats()
  if stats and "peak_bytes_in_use" in stats:
    return int(stats["peak_bytes_in_use"])
  return peak_host_memory()


def peak_host_memory() -> int:
  """Returns the most bytes of the host's memory that this process has had."""
  # Linux counts kilobytes, macOS bytes.
  unit = 1 if sys.platform == "darwin" else 1024
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def forget_peak() -> bool:
  """Lets `peak_memory` begin anew; returns whether it does.

  Of a process on Linux it does; a device of its own keeps its peak.
  """
  stats = jax.local_devices()[0].memory_stats()
  if stats and "peak_bytes_in_use" in stats:
    return False
  try:
    # 5: the peak of resident memory, man proc_pid_clear_refs.
    pathlib.Path("/proc/self/clear_refs").write_text("5")
  except OSError:
    return False
  return True
