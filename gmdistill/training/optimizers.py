"""The optimisers that students train with."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

B1, B2, EPSILON = 0.9, 0.999, 1e-8  # of Adam


MOMENTUM = 0.9  # of SGD


class FineTuning(NamedTuple):
  """AdamW, linear warm-up, cosine decay, clip 1: the protocol `finetune`.

  Or SGD with momentum, under the same schedule and clip.
  """

  num_steps: Any = 200  # where `rate` alone is asked, traced ones too
  weight_decay: float = 0.01  # AdamW's
  warmup: float = 0.5  # the share of the steps in which the rate grows
  kind: str = "adamw"  # or sgd

  def rate(self, highest: float | jax.Array) -> Callable[[Any], Any]:
    """Returns the learning rate as a function of the step."""
    if isinstance(self.num_steps, jax.Array):  # optax asks whether it is > 0
      shape = functools.partial(_warmup_cosine, self.warmup, self.num_steps)
      return lambda step: highest * shape(step)
    schedule = optax.warmup_cosine_decay_schedule(
      0.0, 1.0, max(1, int(self.warmup * self.num_steps)), self.num_steps
    )
    return lambda step: highest * schedule(step)

  def optimizer(
    self, highest: float | jax.Array
  ) -> optax.GradientTransformation:
    """Returns the optimiser whose highest learning rate is given."""
    if self.kind == "sgd":
      return optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.sgd(self.rate(highest), momentum=MOMENTUM),
      )
    return optax.chain(
      optax.clip_by_global_norm(1.0),
      optax.adamw(
        self.rate(highest),
        b1=B1,
        b2=B2,
        eps=EPSILON,
        weight_decay=self.weight_decay,
      ),
    )

  def step(
    self,
    params: Any,
    grads: Any,
    moments: "Moments",
    rate: jax.Array,
    stride: int,
  ) -> tuple[Any, "Moments"]:
    """One step at a rate, whose derivative may be a smoother one's.

    Args:
      params: The student's.
      grads: Of its loss, before they are clipped.
      moments: Before this step; zeros of no update at the start.
      rate: Of the step.
      stride: Steps that this one stands for.
    """
    if self.kind == "sgd":
      return sgd_step(params, grads, moments, rate=rate, stride=stride)
    return adamw_step(
      params,
      grads,
      moments,
      rate=rate,
      weight_decay=self.weight_decay,
      stride=stride,
    )


def _warmup_cosine(warmup, num_steps, step):
  """Returns `optax.warmup_cosine_decay_schedule` from 0 to 1 and back to 0."""
  rising = jnp.maximum(1, jnp.floor(warmup * num_steps))
  falling = jnp.maximum(1, num_steps - rising)
  share = jnp.clip((step - rising) / falling, 0.0, 1.0)
  decayed = 0.5 * (1 + jnp.cos(jnp.pi * share))
  return jnp.where(step < rising, step / rising, decayed)


class Moments(NamedTuple):
  """What Adam remembers of the gradients, and of how many."""

  first: Any
  second: Any
  updates: jax.Array


def adamw_step(
  params: Any,
  grads: Any,
  moments: Moments,
  *,
  rate: jax.Array,
  weight_decay: float,
  stride: int = 1,
) -> tuple[Any, Moments]:
  """One step of clipped AdamW, whose derivative is a smoother one's.

  AdamW moves each weight by about the rate, however small its gradient:
  differentiated as it stands, a weight whose gradient is next to nothing says
  the most. A step m / sqrt(v) is therefore differentiated as
  m / sqrt(v + mean v), the mean over the tensor.

  Args:
    params: The student's.
    grads: Of its loss, before they are clipped.
    moments: Before this step; zeros of no update at the start.
    rate: Of the step.
    weight_decay: AdamW's.
    stride: Steps that this one stands for: so many times as large, with
      moments that forget so many times as fast.
  """
  keep_first, keep_second = B1**stride, B2**stride
  clipped = _clipped(grads)
  first = optax.tree.update_moment(clipped, moments.first, keep_first, 1)
  second = optax.tree.update_moment(clipped, moments.second, keep_second, 2)
  updates = moments.updates + 1
  size = stride * rate

  def move(param, m, v):
    return param - size * (_direction(m, v) + weight_decay * param)

  moved = jax.tree.map(
    move,
    params,
    optax.tree.bias_correction(first, keep_first, updates),
    optax.tree.bias_correction(second, keep_second, updates),
  )
  return moved, Moments(first, second, updates)


def sgd_step(
  params: Any, grads: Any, moments: Moments, *, rate: jax.Array, stride: int = 1
) -> tuple[Any, Moments]:
  """One step of clipped SGD with momentum; see `adamw_step` for its arguments.

  The first moment is the velocity; there is no second. A stride goes where so
  many steps of equal gradients go.
  """
  kept = MOMENTUM**stride
  clipped = _clipped(grads)
  # What the gradients add to the velocity, and how far it and they carry.
  gain = (1 - kept) / (1 - MOMENTUM)
  carried = MOMENTUM * gain
  added = (stride - carried) / (1 - MOMENTUM)
  first = jax.tree.map(lambda v, g: kept * v + gain * g, moments.first, clipped)
  moved = jax.tree.map(
    lambda p, v, g: p - rate * (carried * v + added * g),
    params,
    moments.first,
    clipped,
  )
  return moved, Moments(first, moments.second, moments.updates + 1)


def _clipped(grads):
  """Returns gradients no longer than 1 together."""
  shorter = 1.0 / jnp.maximum(1.0, optax.tree.norm(grads))
  return jax.tree.map(lambda g: shorter * g, grads)


def _direction(m, v):
  """Returns Adam's direction; its derivative is a smoother one's."""
  # The floor is above zero: a tensor without any gradient stays.
  floor = jax.lax.stop_gradient(v.mean()) + 1e-14
  smooth = m / jnp.sqrt(v + floor)
  exact = m / (jnp.sqrt(v) + EPSILON)
  return smooth + jax.lax.stop_gradient(exact - smooth)
