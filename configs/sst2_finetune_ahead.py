"""SST-2, five learned examples per class, for the protocol finetune: looked ahead.

gmdistill distill --config=configs/sst2_finetune_ahead.py --workdir=runs/sst2_finetune_ahead

A student of this protocol knows a small set by heart after some sixty of its 200
steps. Every outer step takes a fresh student there, four steps at a stride, and
asks the real loss. With the first three layers (`--config.student.num_layers=3
--config.student.unroll=3`) on one of two busy CPU threads: 40 minutes of outer
loop; expected 76.3 ± 0.5 % (five students, 872 validation rows), K-centers
66.1 ± 1.2 %. All layers, 300 steps of four students on a GPU: 82.9 ± 0.9 %, K-centers
64.7 ± 0.7 % (docs/results has the fields, and larger sets).
`:tiny` runs the same recipe on the embedded corpus, in seconds on a CPU.
"""

import pathlib
import runpy

import ml_collections

from gmdistill.runs.config import settings


def get_config(mode: str = "") -> ml_collections.ConfigDict:
  path = pathlib.Path(__file__).with_name("sst2_finetune.py")
  config = runpy.run_path(str(path))["get_config"]()
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
  if mode == "tiny":
    return settings.tiny(config)
  if mode:
    raise ValueError(f"mode {mode!r} is none of '', 'tiny'.")
  return config
