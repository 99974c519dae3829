"""Look-ahead along AdamW on the set, a window of steps at a time."""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from gmdistill import fields
from gmdistill.data import batches
from gmdistill.objectives import contract, look_ahead
from gmdistill.sets import synthetic
from gmdistill.training import mixed_mode, optimizers


class Windows(NamedTuple):
  """Which steps of a protocol are differentiated.

  Attributes:
    window: Steps that are differentiated.
    skip: Steps taken, and not differentiated, between two windows.
    stride: Steps of the protocol that one step here stands for; see
      `optimizers.adamw_step`.
    until: The protocol's step after which a student is drawn afresh; 0: the
      last one. With a window of `until / stride` steps and none skipped, every
      outer step goes the whole way from a fresh student.
  """

  window: fields.Count = 2
  skip: fields.FromZero = 6
  stride: fields.Count = 1
  until: fields.StepsFromZero = 0

  def check(self, num_steps: int) -> None:
    """Checks the steps against those of the protocol.

    Raises:
      ValueError: no step is differentiated, a stride below 1, or an end that
        the protocol does not come to.
    """
    if self.window < 1 or self.skip < 0 or self.stride < 1:
      raise ValueError(
        f"window={self.window} and stride={self.stride} must be at least 1, "
        f"and skip={self.skip} at least 0."
      )
    if not 0 <= self.until <= num_steps:
      raise ValueError(
        f"until={self.until} must be 1 to the protocol's {num_steps} steps, or "
        "0 for all of them."
      )

  def whole(self, num_steps: int, counts: Sequence[int]) -> "Windows":
    """Returns the windows of students that go on to the last of their steps.

    A window that is the whole way becomes that of the longest of `counts`.

    Raises:
      ValueError: these end before the protocol's `num_steps`.
    """
    if self.until not in (0, num_steps):
      raise ValueError(
        f"finetune_ahead.until={self.until} ends students before their last "
        "step, and steps gives each a number of them; use until=0."
      )
    window = self.window
    if window * self.stride >= num_steps:
      window = -(-max(counts) // self.stride)
    return self._replace(window=window, until=0)


class FineTuned(NamedTuple):
  """A student on its way through AdamW on the set."""

  params: Any
  first: Any  # AdamW's moments
  second: Any
  updates: jax.Array  # taken since it was drawn
  age: jax.Array  # where in the protocol; the first students start anywhere


def finetune_ahead(
  protocol: optimizers.FineTuning,
  rate: float,
  windows: Windows,
  *,
  batch_size: int = 64,
  centred: bool = False,
  rule: str = "mixed",
) -> contract.Objective:
  """Minimises the real loss along the protocol `finetune`, a window at a time.

  A student trains on the set as the protocol has it: AdamW, warm-up and cosine
  decay, clip 1. From wherever it has come, `window` steps are differentiated
  and the real loss is asked where they lead (truncated backpropagation with a
  moving window; Feng et al. 2023), each by the derivative of
  `optimizers.adamw_step`.

  Args:
    protocol: How students are fine-tuned.
    rate: The highest learning rate.
    windows: Which of the protocol's steps are differentiated.
    batch_size: Examples a step, drawn at random from a larger set.
    centred: As in `look_ahead`.
    rule: A rule of `mixed_mode.grad`.

  Raises:
    ValueError: windows that the protocol does not have.
  """
  windows.check(protocol.num_steps)
  return along(
    protocol, rate, windows, batch_size=batch_size, centred=centred, rule=rule
  )


def along(
  protocol: optimizers.FineTuning,
  rate: float,
  windows: Windows,
  *,
  batch_size: int,
  centred: bool,
  rule: str,
) -> contract.Objective:
  """As `finetune_ahead`, of a protocol whose number of steps may be traced.

  A window goes no further than the protocol: after its last step the rate is
  0, and the student stays.
  """
  stride, last = windows.stride, windows.until or protocol.num_steps
  step = _stepper(protocol, rate, stride, batch_size)

  def init(problem, key, phase):
    params = problem.init(key)
    zeros = jax.tree.map(jnp.zeros_like, params)
    # Staggered, so that the students of a run are not drawn afresh at once.
    age = (phase * last).astype(jnp.int32)
    return FineTuned(params, zeros, zeros, jnp.int32(0), age)

  def loss(problem, syn: synthetic.SyntheticSet, student, real, key):
    gradient = mixed_mode.grad(problem.loss, rule)
    ahead = functools.partial(step, gradient, syn.batch, key)
    # AdamW is cheap to do again; what it computes on the way, of the size of
    # all weights many times over, is not kept for every step.
    kept = jax.checkpoint(
      ahead,
      prevent_cse=False,
      policy=jax.checkpoint_policies.save_only_these_names("grads"),
    )
    reached = jax.lax.scan(kept, student, None, windows.window)[0]
    value, metrics = look_ahead.real_loss(
      problem, reached.params, real, centred
    )
    known = jax.lax.stop_gradient((reached, syn.batch))
    onwards = functools.partial(step, jax.grad(problem.loss), known[1], key)
    older = jax.lax.scan(onwards, known[0], None, windows.skip)[0]
    older = jax.lax.cond(
      older.age >= last,
      lambda: init(problem, key, jnp.float32(0)),
      lambda: older,
    )
    return value, (older, metrics)

  return contract.Objective(init, loss, 1)


def _stepper(protocol, rate, stride, batch_size):
  """Returns `step(gradient, batch, key, state, None)`, as a scan takes it."""
  rate_at = protocol.rate(rate)

  def step(gradient, batch, key, state, _):
    drawn = _drawn(batch, batch_size, jax.random.fold_in(key, state.age))
    grads = checkpoint_name(gradient(state.params, drawn), "grads")
    middle = state.age + (stride - 1) / 2  # of the steps that it stands for
    params, moments = protocol.step(
      state.params,
      grads,
      optimizers.Moments(state.first, state.second, state.updates),
      rate_at(middle),
      stride,
    )
    first, second, updates = moments
    after = FineTuned(params, first, second, updates, state.age + stride)
    return after, None

  return step


def _drawn(batch, batch_size, key):
  """Returns examples of a batch at random, where it has more than wanted."""
  if len(batch) <= batch_size:
    return batch
  rows = jax.random.permutation(key, len(batch))[:batch_size]
  return batches.take_rows(batch, rows)
