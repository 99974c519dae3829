"""The results table: SST-2 and AG News at 1, 5, 10 and 20 examples a class.

gmdistill sweep --config=configs/results.py --workdir=runs/results

Three distillation seeds each, protocol replay; 24 runs, resumable. Hardware: a
GPU for all of them; on two CPU cores a run takes up to an hour, and
`--config.only=sst2-5-0` does one. `--config.each.student.pretrained=DIR` and
`--config.each.data.dir=DIR` name local copies. Expected: what configs/sst2.py
says for `sst2-1-0`; `sst2-5-0` 85.0 ± 0.3 % (10 heads); the others are not
measured.
`:tiny` sweeps two runs of the embedded corpus, in seconds.
"""

import pathlib
import runpy

import ml_collections

BUDGETS = (1, 5, 10, 20)
SEEDS = (0, 1, 2)


def get_config(mode: str = "") -> ml_collections.ConfigDict:
  if mode not in ("", "tiny"):
    raise ValueError(f"mode {mode!r} is none of '', 'tiny'.")
  runs = ml_collections.ConfigDict()
  if not mode:
    runs.only = ""
    runs.each = dict(
      data=dict(dir=""),
      student=dict(pretrained="sentence-transformers/all-MiniLM-L6-v2"),
    )
  for name in ("sst2", "ag_news"):
    path = pathlib.Path(__file__).with_name(f"{name}.py")
    single = runpy.run_path(str(path))["get_config"]
    for budget in BUDGETS if not mode else BUDGETS[:1]:
      for seed in SEEDS if not mode else SEEDS[:1]:
        config = single(mode)
        config.data_per_class = budget
        config.seed = seed
        if budget > 1:  # five steps, each on a fifth of the set
          config.replay_steps = 5
          config.examples_per_step = budget // 5
          config.num_steps = 4000
          config.eval_every = config.checkpoint_every = 200
        runs[f"{name}-{budget}-{seed}"] = config
  return runs
