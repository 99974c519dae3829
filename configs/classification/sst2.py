"""SST-2: a few learned examples per class, by several recipes.

gmdistill distill --config=sst2 --workdir=runs/sst2
gmdistill distill --config=sst2:finetune_ahead --workdir=runs/sst2_finetune_ahead
gmdistill distill --config=sst2:steps --workdir=runs/sst2_steps

`finetune` wants a bank first and `kd` a teacher: their lines stand with them below.
Each recipe says what it is, what it costs and what it came to. With `:tiny`
after any of them it runs on the embedded corpus, in minutes on a CPU.
"""

from gmdistill.runs.config import settings


def replay():
  """One example a class, replayed in three SGD steps.

  Two CPU cores: 13 minutes of outer loop, then the evaluation. Expected, protocol
  replay, 20 heads on the 872 validation rows: distilled 83.1 ± 0.3 %, K-centers
  55.9 ± 3.2 %, full 89.3 %.
  """
  config = _of_the_encoder()
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
  return config


def finetune():
  """Five examples a class, for the protocol finetune: gradient matching alone.

  gmdistill bank --config=sst2:finetune --workdir=banks/sst2_finetune
  gmdistill distill --config=sst2:finetune --workdir=runs/sst2_finetune --config.bank.dir=banks/sst2_finetune

  Students' gradients on the set aim at those of the bank, and students then train
  on it for 200 steps of AdamW. With the first three layers
  (`--config.student.num_layers=3 --config.student.unroll=3`, to both) on a busy CPU
  core: 20 minutes for the bank, 11 minutes of outer loop; distilled 64.4, 71.7 and
  69.2 % (seeds 0, 1, 2; 5 students each, 872 validation rows), K-centers 66.1 ±
  1.2 %. All layers: not measured.
  Without `--config.bank.dir` the real gradients are computed in every step.
  """
  config = _of_the_encoder()
  config.bank.update(num_trajectories=20, ages=(12, 30, 60), rows_per_class=128)
  config.data_per_class = 5
  config.sequence_length = 24
  config.replay_steps = 0
  config.labels = "hard"
  config.label_smoothing = 0.3
  config.objective = "gradient_matching"
  config.gradient_matching.update(distance_kind="tensor_cosine", class_chunk=2)
  config.rule = "linearize"
  config.outer.learning_rate = 2e-2
  config.num_steps = 300
  config.min_tokens = 16
  config.selection.update(
    protocol="finetune", num_students=3, rows=400, min_tokens=20
  )
  config.protocols = ("finetune",)
  config.finetune.num_students = 5
  config.full.num_students = 1
  return config


def finetune_ahead():
  """Five examples a class, for the protocol finetune: looked ahead.

  A student of this protocol knows a small set by heart after some sixty of its 200
  steps. Every outer step takes a fresh student there, four steps at a stride, and
  asks the real loss. With the first three layers (`--config.student.num_layers=3
  --config.student.unroll=3`) on one of two busy CPU threads: 40 minutes of outer
  loop; expected 76.3 ± 0.5 % (five students, 872 validation rows), K-centers
  66.1 ± 1.2 %. All layers, 300 steps of four students on a GPU: 82.9 ± 0.9 %,
  K-centers 64.7 ± 0.7 %.
  """
  config = finetune()
  config.objective = "finetune_ahead"
  config.finetune_ahead.update(
    window=16, skip=0, stride=4, until=64, centred=True
  )
  config.label_smoothing = 0.0
  config.rule = "mixed"
  config.outer.learning_rate = 1e-2
  config.num_steps = 150
  config.steps_per_dispatch = 1
  config.eval_every = config.checkpoint_every = 30
  config.rows_per_class = 32
  config.selection.num_students = 4
  return config


def kd():
  """One example a class, real rows labelled by a teacher, half of them joined.

  gmdistill teach --config=sst2:kd --workdir=teachers/sst2 --config.student.compute=bfloat16
  gmdistill distill --config=sst2:kd --workdir=runs/sst2_kd --config.teachers.dirs=teachers/sst2 --config.student.compute=bfloat16

  `replay` in six steps; nine tenths of each real label are the teacher's, which is
  the student fine-tuned on all rows, and half of each real batch is two short rows
  in one, which it labels too. Two CPU cores, JAX 0.12: 4 to 13 minutes for the
  teacher (of 89.9 % of the 872 validation rows), 40 minutes of outer loop, then the
  evaluation. Expected, protocol replay, ten heads: distilled 84.4 ± 0.6 %,
  K-centers 56.5 ± 2.8 %. With three layers (`--config.student.num_layers=3
  --config.student.unroll=3`): 27 minutes, distilled 84.3 ± 0.6 and 84.2 ± 0.5 %
  (two seeds), K-centers 63.0 ± 2.3 %. `:tiny` joins no rows and needs no teacher.
  """
  config = replay()
  config.teachers.alpha = 0.9
  config.joined_rows = 0.5
  config.replay_steps = 6
  config.rows_per_class = 32
  config.num_steps = 1400
  config.eval_every = config.checkpoint_every = 140
  config.selection.update(num_students=3, rows=2000, apart=8)
  config.replay.num_students = 10
  return config


def steps():
  """Five examples a class: gradient matching alone, for the protocol replay.

  Each of the set's ten SGD steps takes one example a class, whose gradient is
  matched with the real one at the student that the steps before have left. Nothing
  is differentiated through a step, no real loss is asked, and the sizes of the
  steps stay as they start. On a GPU (`--config.student.unroll=1`, and
  `--config.outer.students_at_once=2`), two minutes: distilled 79.7 ± 0.6 %,
  K-centers 66.0 ± 1.8 % (10 heads, 872 validation rows). With the first three
  layers on one busy CPU core (`--config.student.num_layers=3
  --config.student.unroll=3 --config.initial_step_size=0.3
  --config.rows_per_class=16 --config.num_students=1 --config.num_steps=100
  --config.eval_every=20 --config.checkpoint_every=100
  --config.selection.num_students=2 --config.selection.rows=400
  --config.replay.num_students=5`), nine minutes of outer loop: 77.9 ± 0.7 %,
  K-centers 70.0 ± 1.6 % (5 heads).
  """
  config = replay()
  config.objective = "step_matching"
  config.step_matching.centred = True
  config.step_schedule = "linear"
  config.initial_step_size = 0.4
  config.data_per_class = 5
  config.replay_steps = 10
  config.examples_per_step = 1
  config.rows_per_class = 64
  config.num_students = 2
  config.outer.learning_rate = 1e-2
  config.num_steps = 300
  config.eval_every = config.checkpoint_every = 30
  config.selection.update(num_students=5, rows=2000, apart=8)
  config.replay.num_students = 10
  return config


def _of_the_encoder():
  config = settings.defaults()
  config.data.name = "glue/sst2"
  config.data.max_length = 64
  config.data.train_length = 32
  config.student.pretrained = "sentence-transformers/all-MiniLM-L6-v2"
  config.student.num_layers = 0
  config.student.pooling = "mean"
  config.student.unroll = 6
  return config


MODES = {
  "": replay,
  "finetune": finetune,
  "finetune_ahead": finetune_ahead,
  "kd": kd,
  "steps": steps,
}
