"""What is asked of a student beside its labels."""

from collections.abc import Callable
from typing import NamedTuple

import jax

from gmdistill import trees
from gmdistill.data import batches
from gmdistill.students import outputs


class Criterion(NamedTuple):
  """A term of a student's loss, and the parameters that are learned with it.

  `init(key, outputs, batch) -> params`, from the shapes of what a student says
  of a batch; `loss(own, params, outputs, batch) -> loss`, where `own` is what
  the student loses without it.
  """

  init: Callable[[jax.Array, outputs.Outputs, batches.Batch], trees.Params]
  loss: Callable[
    [jax.Array, trees.Params, outputs.Outputs, batches.Batch], jax.Array
  ]
