"""Look-ahead along AdamW on the set, a window of steps at a time."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.ad_checkpoint import checkpoint_name

from gmdistill import fields
from gmdistill.data import batches
from gmdistill.objectives import contract, look_ahead
from gmdistill.sets import synthetic
from gmdistill.training import mixed_mode


class FineTuned(NamedTuple):
  """A student on its way through AdamW on the set."""

  params: look_ahead.PyTree
  first: look_ahead.PyTree  # AdamW's moments
  second: look_ahead.PyTree
  updates: jax.Array  # taken since it was drawn
  age: jax.Array  # where in the protocol; the first students start anywhere


def finetune_ahead(
  *,
  num_steps: int = 200,
  rate: float = 1e-4,
  weight_decay: float = 0.01,
  warmup: float = 0.5,
  batch_size: int = 64,
  window: fields.Count = 2,
  skip: fields.FromZero = 6,
  stride: fields.Count = 1,
  until: fields.StepsFromZero = 0,
  centred: bool = False,
  rule: str = "mixed",
) -> contract.Objective:
  """Minimises the real loss along the protocol `finetune`, a window at a time.

  A student trains on the set as the protocol has it: AdamW, warm-up and cosine
  decay, clip 1. From wherever it has come, `window` steps are differentiated
  and the real loss is asked where they lead (truncated backpropagation with a
  moving window; Feng et al. 2023). AdamW moves each weight by about the rate,
  however small its gradient: differentiated as it stands, a weight whose
  gradient is next to nothing says the most. A step m / sqrt(v) is therefore
  differentiated as m / sqrt(v + mean v), the mean over the tensor.

  Args:
    num_steps: Steps of the protocol.
    rate: The protocol's highest learning rate.
    weight_decay: AdamW's.
    warmup: The share of the steps in which the rate grows.
    batch_size: Examples a step, drawn at random from a larger set.
    window: Steps that are differentiated.
    skip: Steps taken, and not differentiated, between two windows.
    stride: Steps of the protocol that one step here stands for: so many times
      as large, with moments that forget so many times as fast.
    until: The protocol's step after which a student is drawn afresh; 0: the
      last one. With a window of `until / stride` steps and none skipped, every
      outer step goes the whole way from a fresh student.
    centred: As in `look_ahead`.
    rule: A rule of `mixed_mode.grad`.

  Raises:
    ValueError: no step is differentiated, a stride below 1, or an end that the
      protocol does not come to.
  """
  if window < 1 or skip < 0 or stride < 1:
    raise ValueError(
      f"window={window} and stride={stride} must be at least 1, and "
      f"skip={skip} at least 0."
    )
  if not 0 <= until <= num_steps:
    raise ValueError(
      f"until={until} must be 1 to the protocol's {num_steps} steps, or 0 for "
      "all of them."
    )
  last = until or num_steps
  schedule = optax.warmup_cosine_decay_schedule(
    0.0, rate, max(1, int(warmup * num_steps)), num_steps
  )
  keep_first, keep_second = 0.9**stride, 0.999**stride

  def init(problem, key, phase):
    params = problem.init(key)
    zeros = jax.tree.map(jnp.zeros_like, params)
    # Staggered, so that the students of a run are not drawn afresh at once.
    age = (phase * last).astype(jnp.int32)
    return FineTuned(params, zeros, zeros, jnp.int32(0), age)

  def step(gradient, batch, key, state, _):
    if len(batch) > batch_size:
      own = jax.random.fold_in(key, state.age)
      rows = jax.random.permutation(own, len(batch))[:batch_size]
      batch = batches.take_rows(batch, rows)
    grads = checkpoint_name(gradient(state.params, batch), "grads")
    shorter = 1.0 / jnp.maximum(1.0, optax.tree.norm(grads))
    clipped = jax.tree.map(lambda g: shorter * g, grads)
    first = optax.tree.update_moment(clipped, state.first, keep_first, 1)
    second = optax.tree.update_moment(clipped, state.second, keep_second, 2)
    count = state.updates + 1
    middle = state.age + (stride - 1) / 2  # of the steps that it stands for
    size = stride * schedule(middle)

    def move(param, m, v):
      return param - size * (_adams(m, v) + weight_decay * param)

    params = jax.tree.map(
      move,
      state.params,
      optax.tree.bias_correction(first, keep_first, count),
      optax.tree.bias_correction(second, keep_second, count),
    )
    later = FineTuned(params, first, second, count, state.age + stride)
    return later, None

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
    reached = jax.lax.scan(kept, student, None, window)[0]
    value, metrics = look_ahead.real_loss(
      problem, reached.params, real, centred
    )
    known = jax.lax.stop_gradient((reached, syn.batch))
    onwards = functools.partial(step, jax.grad(problem.loss), known[1], key)
    older = jax.lax.scan(onwards, known[0], None, skip)[0]
    older = jax.lax.cond(
      older.age >= last,
      lambda: init(problem, key, jnp.float32(0)),
      lambda: older,
    )
    return value, (older, metrics)

  return contract.Objective(init, loss, 1)


def _adams(m, v):
  """Returns Adam's direction; its derivative is a smoother one's."""
  # The floor is above zero: a tensor without any gradient stays.
  floor = jax.lax.stop_gradient(v.mean()) + 1e-14
  smooth = m / jnp.sqrt(v + floor)
  exact = m / (jnp.sqrt(v) + 1e-8)
  return smooth + jax.lax.stop_gradient(exact - smooth)
