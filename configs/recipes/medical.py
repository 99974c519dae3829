"""PubMedQA: does the abstract say yes, no or maybe, and why?

gmdistill distill --config=medical --workdir=runs/medical --config.data.name=pubmedqa
"""

from gmdistill.data import tables
from gmdistill.runs.config import settings


def get_config():
  config = settings.defaults()
  config.data.name = "pubmedqa"
  config.data.text_keys = ("question", "context")
  config.data.label_key = "label"
  config.data.rationale_key = "long_answer"
  config.data.rationale_length = 12
  config.data.topics_key = "meshes"
  config.data.max_length = 64
  config.metrics = ("macro_f1",)
  config.rationales.label_share = 0.7
  config.student.pretrained = "sentence-transformers/all-MiniLM-L6-v2"
  config.student.num_layers = 2
  config.student.unroll = 2
  config.student.pooling = "mean"
  config.data_per_class = 3
  config.sequence_length = 36
  config.initialise = "topics"
  config.replay_steps = 3
  config.normalised_steps = True
  config.initial_step_size = 0.3
  config.initial_head_step_size = 0.1
  config.objective = "look_ahead"
  config.look_ahead.centred = True
  config.outer.update(learning_rate=2e-2, step_size_scale=5.0)
  config.num_steps = 100
  config.rows_per_class = 8
  config.eval_every = 20
  config.checkpoint_every = 50
  config.selection.update(num_students=3)
  config.protocols = ("replay",)
  config.replay.update(
    rates=(0.03, 0.3), head_scales=(0.3, 3.0), num_students=5
  )
  config.full.update(
    num_steps=120, batch_size=32, rates=(1e-4,), num_students=2
  )
  return config


def tiny(config):
  """The same recipe on simulated rows."""
  ends = {"yes": "It helps.", "no": "It does not.", "maybe": "Nobody can tell."}
  rows = [
    {
      "question": f"Does drug {number} help?",
      "context": f"{number} patients took it. {end}",
      "long_answer": end,
      "label": label,
      "meshes": ["Humans", f"Drug {number % 3}", label],
      "split": "test" if number < 4 else "train",
    }
    for number in range(16)
    for label, end in ends.items()
  ]
  config = settings.tiny(config)
  config.data.update(name=tables.kept(rows), rationale_length=4)
  return config
