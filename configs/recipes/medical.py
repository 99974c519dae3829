"""PubMedQA: does an abstract say yes, no or maybe to its question, and why?

gmdistill distill --config=medical --workdir=runs/medical --config.data.name=pubmedqa
gmdistill distill --config=medical:minilm --workdir=runs/medical_minilm --config.data.name=pubmedqa

`pubmedqa` is a folder of JSON lines, train.jsonl and test.jsonl, with the fields
`question`, `context`, `long_answer`, `label` and `meshes`. The long answer is what
a student learns to say beside the label; the set starts from rows that stand for
their class by their MeSH headings, and such rows are one of the baselines. Most
rows are `yes` and few are `maybe`, so macro-F1 stands beside the accuracy.
`:tiny` simulates some rows.
"""

from gmdistill.data import tables
from gmdistill.runs.config import settings


def scratch():
  """A small encoder from random weights, which learns nothing of so few rows."""
  config = settings.defaults()
  config.data.name = "pubmedqa"
  config.data.text_keys = ("question", "context")
  config.data.label_key = "label"
  config.data.rationale_key = "long_answer"
  config.data.rationale_length = 16
  config.data.topics_key = "meshes"
  config.data.max_length = 96
  config.metrics = ("macro_f1",)
  config.rationales.label_share = 0.7
  config.student.width = 64
  config.student.num_layers = 1
  config.student.hidden = 128
  config.student.pooling = "mean"
  config.data_per_class = 5
  config.sequence_length = 48
  config.initialise = "topics"
  config.replay_steps = 6
  config.initial_step_size = 0.1
  config.objective = "look_ahead"
  config.num_steps = 200
  config.num_students = 2
  config.rows_per_class = 16
  config.eval_every = 50
  config.checkpoint_every = 50
  config.protocols = ("replay",)
  config.selection.num_students = 5
  config.students_at_once = 5
  config.replay.update(rates=(0.03, 0.1, 0.3, 1.0), num_students=10)
  config.full.update(
    num_steps=300, weight_decay=0.1, rates=(1e-3,), num_students=3
  )
  return config


def minilm():
  """The first three layers of MiniLM; not measured to its end."""
  config = scratch()
  config.student.update(
    pretrained="sentence-transformers/all-MiniLM-L6-v2", num_layers=3, unroll=3
  )
  config.normalised_steps = True
  config.initial_step_size = 0.3
  config.initial_head_step_size = 0.1
  config.look_ahead.centred = True
  config.outer.update(learning_rate=2e-2, step_size_scale=5.0)
  config.num_students = 1
  config.students_at_once = 1
  config.rows_per_class = 8
  config.selection.num_students = 3
  config.replay.update(rates=(0.03, 0.3), head_scales=(0.3, 3.0))
  config.full.update(num_steps=200, rates=(1e-4,), num_students=1)
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


MODES = {"": scratch, "minilm": minilm}
