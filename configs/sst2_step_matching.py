"""SST-2, five learned examples per class: gradient matching alone, for `replay`.

gmdistill distill --config=configs/sst2_step_matching.py --workdir=runs/sst2_step_matching

Each of the set's ten SGD steps takes one example a class, whose gradient is
matched with the real one at the student that the steps before have left. Nothing
is differentiated through a step, no real loss is asked, and the sizes of the
steps stay as they start. On a GPU (`--config.student.unroll=1`, and
`--config.outer.students_at_once=2`), two minutes: distilled 79.7 ± 0.6 %,
K-centers 66.0 ± 1.8 % (10 heads, 872 validation rows). With the first three layers
on one busy CPU core (`--config.student.num_layers=3 --config.student.unroll=3
--config.initial_step_size=0.3 --config.rows_per_class=16 --config.num_students=1
--config.num_steps=100 --config.eval_every=20 --config.checkpoint_every=100
--config.selection.num_students=2 --config.selection.rows=400
--config.replay.num_students=5`), nine minutes of outer loop: 77.9 ± 0.7 %,
K-centers 70.0 ± 1.6 % (5 heads).
`:tiny` runs the same recipe on the embedded corpus, in seconds on a CPU.
"""

import pathlib
import runpy

import ml_collections

from gmdistill.runs.config import settings


def get_config(mode: str = "") -> ml_collections.ConfigDict:
  path = pathlib.Path(__file__).with_name("sst2.py")
  config = runpy.run_path(str(path))["get_config"]()
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
  if mode == "tiny":
    return settings.tiny(config)
  if mode:
    raise ValueError(f"mode {mode!r} is none of '', 'tiny'.")
  return config
