"""Objectives that take the set's own T steps, and look where they lead.

`look_ahead` asks the real loss there, `finetune_ahead` the same of steps that a
protocol takes. `step_matching` compares each step with the one that the real
data would take, and differentiates no step through another.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.ad_checkpoint import checkpoint_name

from gmdistill import distances, mixed_mode, objectives, replays, synthetic

PyTree = Any


def look_ahead(
  *,
  centred: bool = False,
  start: str = "fresh",
  last_steps: int = 0,
  rule: str = "mixed",
) -> objectives.Objective:
  """Minimises the real loss after the set's own T steps.

      L_real(theta_T),  theta_{t+1} = theta_t - eta_t g(theta_t, syn)

  from a freshly drawn student theta_0: what the `replay` protocol runs (Wang et
  al. 2018, unrolled; learned positive step sizes and labels as in Deng and
  Russakovsky 2022). In the engine's terms: the covector of the last synthetic
  gradient is -eta times the real gradient at theta_T.

  Args:
    centred: Take the mean logits of the class-balanced real batch out of its
      loss, and add 0.01 times their square. A shift of all logits is the
      direction in which the loss is sharpest and a batch noisiest: it makes
      the jumps of the meta-gradient, and is easily learned beside the rest.
    start: `fresh`, or `bank`: theta_0 is a state of an expert bank.
    last_steps: Differentiate the last so many steps alone, as if the student
      had come to them from elsewhere (truncated backpropagation; Feng et al.
      2023). The steps before cost no second pass; their sizes, and examples
      that they alone take, get no gradient. 0: all T.
    rule: A rule of `mixed_mode.grad`.

  Raises:
    ValueError: `start` is neither, or `last_steps` is negative.
  """
  if start not in ("fresh", "bank"):
    raise ValueError(f"start={start!r} is none of fresh, bank.")
  if last_steps < 0:
    raise ValueError(f"last_steps={last_steps} must be at least 0 (all).")

  def loss(problem, syn: synthetic.SyntheticSet, student, real, key):
    steps, first = syn.steps, 0
    params = problem.init(key) if start == "fresh" else real.expert.params
    if last_steps:
      first = max(len(steps.learning_rates) - last_steps, 0)
      before = jax.tree.map(lambda x: x[:first], steps)
      params = replays.replay(problem, params, syn.batch, before)
      params = jax.lax.stop_gradient(params)
    steps = jax.tree.map(lambda x: x[first:], steps)
    params = replays.replay(problem, params, syn.batch, steps, rule=rule)
    value, metrics = _real_loss(problem, params, real, centred)
    return value, (student, metrics)

  reads = ("params",) if start == "bank" else ()
  return objectives.Objective(objectives.no_state, loss, 1, reads)


def _real_loss(problem, params, real, centred):
  """Returns the loss of the first real batch, and its accuracy to be logged."""
  batch = jax.tree.map(lambda x: x[0], real.batches)
  value, logits_BxC = problem.loss_and_logits(params, batch, centred=centred)
  right_B = logits_BxC.argmax(axis=-1) == batch.labels.argmax(axis=-1)
  return value, {"look_ahead/accuracy": right_B.mean()}


def step_matching(
  num_steps: int,
  *,
  distance_kind: str = "tensor_cosine",
  matched: str = "all",
  centred: bool = False,
  rule: str = "mixed",
) -> objectives.Objective:
  """Matches gradients at the students that the set's own steps come to.

      mean_t D(g(theta_t, syn_t), g(theta_t, real_t))
      theta_{t+1} = theta_t - eta_t g(theta_t, syn_t)

  from a freshly drawn theta_0: gradient matching along training on the set
  (Zhao et al. 2021), each of the T steps with the examples that it takes. The
  derivative of one step does not go through those before it; the sizes of the
  steps get none, and stay as they start.

  Args:
    num_steps: T; each step reads a real batch of its own.
    distance_kind: One of `distances.KINDS`.
    matched: `head`, `last_K` or `all`; see `distances.select`.
    centred: As in `look_ahead`, of the real gradients. Those of a loss that is
      not centred mostly shift all logits, first one way and then back.
    rule: A rule of `mixed_mode.grad`.

  Raises:
    ValueError: an unknown distance or matched set.
  """
  distances.check_kind(distance_kind)
  distances.check_matched(matched)

  def loss(problem, syn: synthetic.SyntheticSet, student, real, key):
    gradient = mixed_mode.grad(problem.loss, rule)

    def real_loss(params, batch):
      return problem.loss_and_logits(params, batch, centred=centred)[0]

    def step(params, own_batch):
      own, batch = own_batch
      taken = replays.rows_of(syn.batch, own)
      syn_grads = gradient(params, taken)
      real_grads = jax.grad(real_loss)(params, batch)
      gap = distances.between(
        syn_grads, real_grads, kind=distance_kind, matched=matched
      )
      cosine = distances.cosine(syn_grads, real_grads, matched)
      moved = replays.moved(params, syn_grads, own)
      return jax.lax.stop_gradient(moved), (gap, cosine)

    params = problem.init(key)
    _, seen = jax.lax.scan(step, params, (syn.steps, real.batches))
    gap, cosine = (x.mean() for x in seen)
    return gap, (student, {"matching/cosine": cosine})

  return objectives.Objective(objectives.no_state, loss, num_steps)


class FineTuned(NamedTuple):
  """A student on its way through AdamW on the set."""

  params: PyTree
  first: PyTree  # AdamW's moments
  second: PyTree
  updates: jax.Array  # taken since it was drawn
  age: jax.Array  # where in the protocol; the first students start anywhere


def finetune_ahead(
  *,
  num_steps: int = 200,
  rate: float = 1e-4,
  weight_decay: float = 0.01,
  warmup: float = 0.5,
  batch_size: int = 64,
  window: int = 2,
  skip: int = 6,
  stride: int = 1,
  until: int = 0,
  centred: bool = False,
  rule: str = "mixed",
) -> objectives.Objective:
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
    if len(batch.labels) > batch_size:
      own = jax.random.fold_in(key, state.age)
      rows = jax.random.permutation(own, len(batch.labels))[:batch_size]
      batch = jax.tree.map(lambda x: x[rows], batch)
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
    value, metrics = _real_loss(problem, reached.params, real, centred)
    known = jax.lax.stop_gradient((reached, syn.batch))
    onwards = functools.partial(step, jax.grad(problem.loss), known[1], key)
    older = jax.lax.scan(onwards, known[0], None, skip)[0]
    older = jax.lax.cond(
      older.age >= last,
      lambda: init(problem, key, jnp.float32(0)),
      lambda: older,
    )
    return value, (older, metrics)

  return objectives.Objective(init, loss, 1)


def _adams(m, v):
  """Returns Adam's direction; its derivative is a smoother one's."""
  # The floor is above zero: a tensor without any gradient stays.
  floor = jax.lax.stop_gradient(v.mean()) + 1e-14
  smooth = m / jnp.sqrt(v + floor)
  exact = m / (jnp.sqrt(v) + 1e-8)
  return smooth + jax.lax.stop_gradient(exact - smooth)
