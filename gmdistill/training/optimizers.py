"""The optimisers that students train with."""

import jax
import optax


def fine_tuning_optimizer(
  rate: float | jax.Array,
  *,
  num_steps: int = 200,
  weight_decay: float = 0.01,
  warmup: float = 0.5,
) -> optax.GradientTransformation:
  """Returns the optimiser of `fine_tuning`, whose highest rate is `rate`."""
  schedule = optax.warmup_cosine_decay_schedule(
    0.0, 1.0, max(1, int(warmup * num_steps)), num_steps
  )
  return optax.chain(
    optax.clip_by_global_norm(1.0),
    optax.adamw(lambda t: rate * schedule(t), weight_decay=weight_decay),
  )
