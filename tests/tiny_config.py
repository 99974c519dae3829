"""A config that ends in seconds; tests override its fields."""

import ml_collections

from gmdistill.runs.config import settings


def get_config(mode: str = "") -> ml_collections.ConfigDict:
  config = settings.defaults()
  config.data.name = "docstrings"
  config.data.max_length = 12
  config.data.vocab_size = 300
  config.student.width = 16
  config.student.num_layers = 1
  config.student.num_heads = 2
  config.student.hidden = 16
  config.student.max_positions = 16
  config.data_per_class = 2
  config.sequence_length = 6
  config.replay_steps = 2
  config.initial_head_step_size = 0.1
  config.coreset_pool = 20
  config.objective = "gradient_matching,look_ahead"
  config.num_steps = 12
  config.num_students = 2
  config.rows_per_class = 4
  config.trajectory.max_age = 3
  config.trajectory.steps_between = 1
  config.steps_per_dispatch = 2
  config.eval_every = 4
  config.checkpoint_every = 2
  config.selection.rows = 20
  config.protocols = ("scratch", "replay")
  config.students_at_once = 2
  config.replay = dict(rates=(0.1, 0.3), head_scales=(1.0, 3.0), num_students=3)
  config.scratch = dict(num_steps=3, rates=(1e-3, 3e-3), num_students=3)
  config.full = dict(
    num_steps=4, batch_size=8, rates=(1e-3,), num_students=2, warmup=0.1
  )
  if mode == "polish":
    config.objective = "look_ahead"
  elif mode:
    raise ValueError(f"mode {mode!r} is none of '', 'polish'.")
  return config
