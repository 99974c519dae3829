"""Names of types for what JAX maps over."""

from typing import Any

import jax
import jax.numpy as jnp

PyTree = Any  # nested dicts, lists and tuples of arrays

Params = Any  # a student's: a nested dict of arrays


def learned(tree: PyTree) -> PyTree:
  """Returns the numbers of a tree that can be learned; None for its integers
  and bools, which travel with them."""
  return jax.tree.map(
    lambda x: x if jnp.issubdtype(x.dtype, jnp.inexact) else None, tree
  )


def with_learned(tree: PyTree, changed: PyTree) -> PyTree:
  """Returns a tree whose learned numbers are those of `changed`."""
  return jax.tree.map(
    lambda new, old: old if new is None else new,
    changed,
    tree,
    is_leaf=lambda x: x is None,
  )
