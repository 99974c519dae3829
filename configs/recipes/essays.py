"""ScientsBank: pupils' answers, graded against a reference answer.

gmdistill distill --config=essays --workdir=runs/essays --config.data.name=scientsbank
gmdistill distill --config=essays:minilm --workdir=runs/essays_minilm --config.data.name=scientsbank

`scientsbank` is a folder of JSON lines, train.jsonl and three reported parts,
test_unseen_answers.jsonl, test_unseen_questions.jsonl and
test_unseen_domains.jsonl, with the fields `reference`, `answer` and `label`. The
grades are ordered, and their quadratic weighted kappa stands beside the accuracy,
of each part too. `:tiny` simulates some rows.
"""

from gmdistill.data import tables
from gmdistill.runs.config import settings

GRADES = ("contradictory", "incorrect", "correct")


def scratch():
  """A small encoder from random weights, which learns next to nothing of it.

  One busy CPU core: ten minutes. Expected, protocol replay, 10 students:
  distilled 45.8 ± 1.9, K-centers 45.5 ± 3.5, full 49.9 ± 0.2; every kappa near 0.
  """
  config = settings.defaults()
  config.data.name = "scientsbank"
  config.data.text_keys = ("reference", "answer")
  config.data.label_key = "label"
  config.data.classes = GRADES
  config.data.group_key = "file"
  config.data.max_length = 64
  config.data.train_length = 48
  config.metrics = ("quadratic_kappa",)
  config.student.width = 64
  config.student.num_layers = 1
  config.student.hidden = 128
  config.student.pooling = "mean"
  config.data_per_class = 10
  config.sequence_length = 24
  config.replay_steps = 6
  config.initial_step_size = 0.1
  config.objective = "look_ahead"
  config.num_steps = 300
  config.num_students = 2
  config.rows_per_class = 16
  config.eval_every = 50
  config.checkpoint_every = 50
  config.protocols = ("replay",)
  config.selection.num_students = 5
  config.students_at_once = 5
  config.replay.update(rates=(0.03, 0.1, 0.3, 1.0), num_students=10)
  config.full.update(
    num_steps=800, weight_decay=0.1, rates=(3e-3,), num_students=3
  )
  return config


def kd():
  """With a teacher's soft scores: nine tenths of each real label are its.

  gmdistill teach --config=essays:kd --workdir=teachers/essays --config.data.name=scientsbank --config.student.num_layers=2
  gmdistill distill --config=essays:kd --workdir=runs/essays_kd --config.data.name=scientsbank --config.teachers.dirs=teachers/essays
  """
  config = scratch()
  config.teachers.alpha = 0.9
  return config


def minilm():
  """The first three layers of MiniLM.

  A busy CPU core, bfloat16: ten minutes of outer loop, then the evaluation. Expected,
  protocol replay, 10 heads: quadratic weighted kappa 0.19 ± 0.01, K-centers 0.06 ± 0.05,
  full 0.32; accuracy 45.6 ± 2.2, K-centers 44.2 ± 3.0, full 62.2.
  """
  config = scratch()
  config.student.update(
    pretrained="sentence-transformers/all-MiniLM-L6-v2", num_layers=3, unroll=3
  )
  config.data_per_class = 5
  config.examples_per_step = 1
  config.replay_steps = 5
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
  config.full.update(num_steps=600, rates=(1e-4,), num_students=1)
  return config


def tiny(config):
  """The same recipe on simulated rows of two reported parts."""
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
    for grade in GRADES
  ]
  config = settings.tiny(config)
  config.data.update(name=tables.kept(rows), group_key="part")
  return config


MODES = {"": scratch, "kd": kd, "minilm": minilm}
