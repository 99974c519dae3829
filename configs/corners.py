"""Knowledge distillation joined to dataset distillation, or not: SST-2.

gmdistill teach --config=configs/sst2_kd.py --workdir=teachers/sst2
gmdistill sweep --config=configs/corners.py --workdir=runs/corners --config.only='sst2-1-*' "--config.each.teachers.dirs=('teachers/sst2',)"

The encoder's first three layers, 400 outer steps; the teacher is the whole
encoder, fine-tuned. `hard` runs read the true labels, `taught` ones nine tenths
of the teacher's, at 1, 5 and 20 examples a class and three seeds each; every
run measures the coresets with true labels, and `gmdistill relabel --row=...`
makes those of a teacher. `--config.each.student.pretrained=DIR` and
`--config.each.data.dir=DIR` name local copies. One CPU core: 12 minutes for the
teacher, then seven a run at one example a class. Expected there, 872 validation
rows, three seeds: hard 80.2 %, taught 81.0 %.
`:tiny` sweeps a run of each on the embedded corpus, without a teacher.
"""

import pathlib
import runpy

import ml_collections

BUDGETS = (1, 5, 20)
SEEDS = (0, 1, 2)


def get_config(mode: str = "") -> ml_collections.ConfigDict:
  path = pathlib.Path(__file__).with_name("sst2.py")
  single = runpy.run_path(str(path))["get_config"]
  runs = ml_collections.ConfigDict()
  if not mode:
    runs.only = ""
    runs.each = dict(
      data=dict(dir=""),
      student=dict(pretrained="sentence-transformers/all-MiniLM-L6-v2"),
      teachers=dict(dirs=("teachers/sst2",)),
    )
  for budget in BUDGETS if not mode else BUDGETS[:1]:
    for seed in SEEDS if not mode else SEEDS[:1]:
      for name, alpha in (("hard", 0.0), ("taught", 0.9)):
        config = single(mode)
        config.data_per_class = budget
        config.seed = seed
        config.teachers.alpha = alpha
        if budget > 1:  # five steps, each on a fifth of the set
          config.replay_steps = 5
          config.examples_per_step = budget // 5
        if not mode:
          config.student.num_layers = config.student.unroll = 3
          config.num_steps = 400
          config.eval_every = config.checkpoint_every = 100
          config.selection.update(num_students=2, rows=400)
          config.replay.num_students = 10
          config.full.num_steps = 800
        runs[f"sst2-{budget}-{name}-{seed}"] = config
  return runs
