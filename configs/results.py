"""The results table: SST-2 and AG News at 1, 5, 10 and 20 examples a class.

gmdistill sweep --config=configs/results.py --workdir=runs/results

Three distillation seeds each, protocol replay; 24 runs, resumable. Hardware: a
GPU. On two CPU cores only single runs are in reach: 17 minutes of outer loop
at one example a class, more at more. Expected: what configs/sst2.py says for
`sst2-1`; the others are not measured. `:tiny` sweeps two runs of the embedded
corpus, in seconds.
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
  for name in ("sst2", "ag_news"):
    path = pathlib.Path(__file__).with_name(f"{name}.py")
    single = runpy.run_path(str(path))["get_config"]
    for budget in BUDGETS if not mode else BUDGETS[:1]:
      for seed in SEEDS if not mode else SEEDS[:1]:
        config = single(mode)
        config.data_per_class = budget
        config.seed = seed
        runs[f"{name}-{budget}-{seed}"] = config
  return runs
