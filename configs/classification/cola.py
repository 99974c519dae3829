"""CoLA, one learned example per class, replayed in three SGD steps.

gmdistill distill --config=cola --workdir=runs/cola

Hardware: any; two CPU cores are enough. Time and numbers: not measured.
`:tiny` runs the same recipe on the embedded corpus, in seconds on a CPU.
"""

from gmdistill.runs.config import settings


def get_config():
  config = settings.defaults()
  config.data.name = "glue/cola"
  config.data.max_length = 48
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
  config.num_steps = 1000
  config.selection.num_students = 4
  config.protocols = ("replay",)
  config.replay.update(rates=(0.03, 0.3), head_scales=(0.3, 3.0))
  config.full.update(num_steps=1000, num_students=1)
  return config
