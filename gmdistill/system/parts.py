"""Arrays of which every device holds a part: a frozen base, shared out."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax import sharding

from gmdistill import trees
from gmdistill.system import devices


def split(tree: trees.PyTree) -> trees.PyTree:
  """Returns specs of arrays of which each device has a part of the last axis.

  What a frozen base is laid out by: `gathered` makes it whole again.
  """
  return jax.tree.map(
    lambda x: sharding.PartitionSpec(*[None] * (x.ndim - 1), devices.SHARED),
    tree,
  )


def spread(
  mesh: sharding.Mesh,
  like: jax.ShapeDtypeStruct,
  read: Callable[[Any], np.ndarray],
) -> jax.Array:
  """Returns an array laid out by `split`; a process reads its own parts.

  Args:
    mesh: Where.
    like: Its shape.
    read: Returns a part [...] by its place in the whole.

  Raises:
    InputError: the last axis does not divide over the devices.
  """
  devices.require_parts(mesh, like.shape)
  where = devices.sharding(mesh, split(like))
  return jax.make_array_from_callback(like.shape, where, read)


def gathered(tree: trees.PyTree) -> trees.PyTree:
  """Returns arrays of `split` whole, inside `over_students`.

  Elsewhere they are as they were: whole already, for who computes with them.
  """
  mesh: Any = sharding.get_abstract_mesh()
  if devices.STUDENTS not in mesh.manual_axes:
    return tree

  def one(x):
    part = jax.lax.all_gather(x, devices.STUDENTS, axis=x.ndim - 1, tiled=True)
    # What a group's devices share is the compiler's: it is asked for the whole.
    return jax.lax.with_sharding_constraint(
      part, devices.sharding(mesh, devices.EVERYWHERE)
    )

  return jax.tree.map(one, tree)
