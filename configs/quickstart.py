"""The embedded corpus, from random initialisation: what `make quickstart` runs.

gmdistill distill --config=configs/quickstart.py --workdir=runs/quickstart
"""

import ml_collections

from gmdistill import recipe


def get_config(mode: str = "") -> ml_collections.ConfigDict:
  config = recipe.defaults()
  config.data.name = "docstrings"
  config.data.max_length = 32
  config.student.width = 64
  config.student.num_layers = 1
  config.student.hidden = 128
  config.student.pooling = "mean"
  config.data_per_class = 10
  config.sequence_length = 16
  config.replay_steps = 10
  config.initial_step_size = 0.1
  config.num_steps = 300
  config.num_students = 4
  config.rows_per_class = 16
  config.eval_every = 50
  config.checkpoint_every = 50
  config.protocols = ("scratch", "replay")
  config.selection.protocol = "scratch"
  config.selection.num_students = 4
  config.students_at_once = 4
  if mode == "tiny":
    config.num_steps = 4
  return config
