"""The embedded corpus, from random initialisation: what `make quickstart` runs.

gmdistill distill --config=quickstart --workdir=runs/quickstart

Two CPU cores: about 3 minutes. Expected, protocol replay, 20 students:
distilled 80.0 ± 2.3 %, K-centers 61.9 ± 4.9 %, full 85.5 ± 0.8 %.
`:tiny` takes a minute or two, most of it to compile.
"""

from gmdistill.runs.config import settings


def quickstart():
  config = settings.defaults()
  config.data.name = "docstrings"
  config.data.max_length = 64
  config.data.train_length = 48
  config.student.width = 64
  config.student.num_layers = 1
  config.student.hidden = 128
  config.student.pooling = "mean"
  config.data_per_class = 10
  config.sequence_length = 16
  config.replay_steps = 6
  config.initial_step_size = 0.1
  config.objective = "look_ahead"
  config.num_steps = 450
  config.num_students = 2
  config.rows_per_class = 16
  config.eval_every = 50
  config.checkpoint_every = 50
  config.protocols = ("replay",)
  config.selection.num_students = 5
  config.students_at_once = 5
  config.replay.update(rates=(0.03, 0.1, 0.3, 1.0), num_students=20)
  config.full.update(
    num_steps=1200, weight_decay=0.1, rates=(3e-3,), num_students=3
  )
  return config


def kd():
  """With a teacher: a deeper student labels the embedded corpus.

  gmdistill teach --config=quickstart:kd --workdir=teachers/deep --config.student.num_layers=2
  gmdistill distill --config=quickstart:kd --workdir=runs/quickstart_kd --config.teachers.dirs=teachers/deep
  gmdistill relabel --config=quickstart:kd --row=k_centers --teacher=teachers/deep --workdir=sets/k_centers
  gmdistill evaluate --config=quickstart:kd --set=sets/k_centers/set --protocol=scratch --config.kd.loss=forward_kl

  Two CPU cores: a minute for the teacher, three for the rest. Expected of `distill`
  80.9 ± 2.5 % of the test rows (20 students).
  """
  config = quickstart()
  config.teachers.update(alpha=0.9, certainty=True)
  config.kd.update(temperature=2.0)
  return config


MODES = {"": quickstart, "kd": kd}
