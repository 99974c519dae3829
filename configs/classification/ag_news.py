"""AG News, one learned example per class, replayed in three SGD steps.

gmdistill distill --config=ag_news --workdir=runs/ag_news

One busy CPU core: 47 minutes of outer loop. Expected, protocol replay, 5 heads (the
command trains 20) on the 7,600 test rows, 21k train rows: distilled 89.0 ± 0.1 %,
full 92.3 %.
`:tiny` runs the same recipe on the embedded corpus, in minutes on a CPU.
"""

from gmdistill.runs.config import settings


def get_config():
  config = settings.defaults()
  config.data.name = "ag_news_subset"
  config.data.max_length = 64
  config.data.train_length = 48
  config.student.pretrained = "sentence-transformers/all-MiniLM-L6-v2"
  config.student.num_layers = 0
  config.student.pooling = "mean"
  config.student.unroll = 6
  config.data_per_class = 1
  config.sequence_length = 32
  config.replay_steps = 3
  config.normalised_steps = True
  config.initial_step_size = 0.3
  config.initial_head_step_size = 0.1
  config.objective = "look_ahead"
  config.look_ahead.centred = True
  config.outer.update(learning_rate=2e-2, step_size_scale=5.0)
  config.num_steps = 600
  config.rows_per_class = 8
  config.protocols = ("replay",)
  config.replay.update(rates=(0.03, 0.3), head_scales=(0.3, 3.0))
  config.full.num_students = 1
  return config
