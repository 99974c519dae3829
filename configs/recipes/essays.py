"""ScientsBank: pupils' answers graded against a reference answer."""

from gmdistill.data import tables
from gmdistill.runs.config import settings


def get_config():
  config = settings.defaults()
  config.data.name = "scientsbank"
  config.data.text_keys = ("reference", "answer")
  config.data.label_key = "label"
  config.data.classes = ("contradictory", "incorrect", "correct")
  config.data.group_key = "file"
  config.data.max_length = 64
  config.data.train_length = 48
  config.metrics = ("quadratic_kappa",)
  config.student.pretrained = "sentence-transformers/all-MiniLM-L6-v2"
  config.student.num_layers = 3
  config.student.unroll = 3
  config.student.pooling = "mean"
  config.data_per_class = 5
  config.sequence_length = 32
  config.replay_steps = 5
  config.examples_per_step = 1
  config.normalised_steps = True
  config.initial_step_size = 0.3
  config.initial_head_step_size = 0.1
  config.objective = "look_ahead"
  config.look_ahead.centred = True
  config.outer.update(learning_rate=2e-2, step_size_scale=5.0)
  config.num_steps = 150
  config.rows_per_class = 8
  config.eval_every = 30
  config.checkpoint_every = 30
  config.selection.update(num_students=3)
  config.protocols = ("replay",)
  config.replay.update(
    rates=(0.03, 0.3), head_scales=(0.3, 3.0), num_students=5
  )
  config.full.update(
    num_steps=300, batch_size=32, rates=(1e-4,), num_students=1
  )
  return config


def tiny(config):
  """The same recipe on simulated rows of three grades and two reported parts."""
  words = {"contradictory": "never cold", "incorrect": "some warm"}
  words["correct"] = "always hot"
  rows = [
    {
      "reference": "Water boils when it is hot.",
      "answer": f"{words[grade]} {number}",
      "label": grade,
      "part": ("questions", "domains")[number % 2],
      "split": "test" if number < 4 else "train",
    }
    for number in range(16)
    for grade in words
  ]
  config = settings.tiny(config)
  config.data.update(name=tables.kept(rows), group_key="part")
  return config
