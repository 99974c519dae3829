"""Names of types for what JAX maps over."""

from typing import Any

PyTree = Any  # nested dicts, lists and tuples of arrays

Params = Any  # a student's: a nested dict of arrays
