"""SST-2, one learned example per class, replayed in three SGD steps.

gmdistill distill --config=configs/sst2.py --workdir=runs/sst2

Two CPU cores: 13 minutes of outer loop, then the evaluation. Expected, protocol
replay, 20 heads on the 872 validation rows: distilled 83.1 ± 0.3 %, K-centers
55.9 ± 3.2 %, full 89.3 %.
`:tiny` runs the same recipe on the embedded corpus, in seconds on a CPU.
"""

import ml_collections

from gmdistill.runs.config import settings


def get_config(mode: str = "") -> ml_collections.ConfigDict:
  config = settings.defaults()
  config.data.name = "glue/sst2"
  config.data.max_length = 64
  config.data.train_length = 32
  config.student.pretrained = "sentence-transformers/all-MiniLM-L6-v2"
  config.student.num_layers = 0
  config.student.pooling = "mean"
  config.student.unroll = 6
  config.data_per_class = 1
  config.sequence_length = 24
  config.replay_steps = 3
  config.normalised_steps = True
  config.initial_step_size = 0.3
  config.initial_head_step_size = 0.1
  config.objective = "look_ahead"
  config.look_ahead.centred = True
  config.outer.update(learning_rate=2e-2, step_size_scale=5.0)
  config.num_steps = 1150
  config.rows_per_class = 16
  config.min_tokens = 16
  config.selection.min_tokens = 20
  config.selection.num_students = 4
  config.eval_every = 115
  config.checkpoint_every = 115
  config.protocols = ("replay",)
  config.replay.update(rates=(0.03, 0.3), head_scales=(0.3, 3.0))
  config.full.num_students = 1
  if mode == "tiny":
    return settings.tiny(config)
  if mode:
    raise ValueError(f"mode {mode!r} is none of '', 'tiny'.")
  return config
