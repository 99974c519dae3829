"""Knowledge distillation joined to dataset distillation, or not.

gmdistill teach --config=sst2:kd --workdir=teachers/sst2
gmdistill sweep --config=corners --workdir=runs/corners --config.only='sst2-*' "--config.each.teachers.dirs=('teachers/sst2',)"
gmdistill teach --config=ag_news --workdir=teachers/ag_news
gmdistill sweep --config=corners --workdir=runs/corners --config.only='ag_news-*' "--config.each.teachers.dirs=('teachers/ag_news',)"

The teacher is the whole encoder, fine-tuned; the student its first three layers
(`sst2-three-1-hard-0`) or the whole encoder itself (`sst2-whole-...`). `hard` runs
read the true labels, `taught` ones nine tenths of the teacher's, at 1, 5 and 20
examples a class and three seeds each; 400 outer steps. Every run measures the
coresets with true labels, and `gmdistill relabel --row=...` makes those of a
teacher. `--config.each.student.pretrained=DIR` and `--config.each.data.dir=DIR`
name local copies. One CPU core: 12 minutes for SST-2's teacher, then seven a run
of three layers at one example a class. Expected there, 872 validation rows,
three seeds: hard 80.2 %, taught 81.0 %; five 81.3 % and 82.7 %; twenty 82.1 %
and 83.1 %. AG News, 7,600 test rows: 87.9 % and 88.1 %; five 88.3 % and 88.8 %;
twenty 88.1 % and 89.2 %. The whole encoder: 82.3 % and 82.7 %; 82.7 % and 83.1
%; 82.9 % and 83.7 %; AG News 87.9 % and 89.0 %; 88.3 % and 88.8 %; 88.7 % and
89.4 %.
`:tiny` sweeps a run of each on the embedded corpus, without a teacher.
"""

import itertools

from gmdistill.runs.config import shipped, studies

BUDGETS = (1, 5, 20)
SEEDS = (0, 1, 2)
LAYERS = {"three": 3, "whole": 0}
LABELS = {"hard": 0.0, "taught": 0.9}  # the teachers' share


TINY = ("sst2-three-1-hard-0", "sst2-three-1-taught-0")


def get_config():
  runs = {}
  for data in ("sst2", "ag_news"):
    for (student, layers), budget, seed, (labels, alpha) in itertools.product(
      LAYERS.items(), BUDGETS, SEEDS, LABELS.items()
    ):
      config = shipped.config_for(data)
      config.data_per_class = budget
      config.seed = seed
      config.teachers.alpha = alpha
      if budget > 1:  # five steps, each on a fifth of the set
        config.replay_steps = 5
        config.examples_per_step = budget // 5
      config.student.num_layers = layers
      config.student.unroll = layers or 6
      config.num_steps = 400
      config.eval_every = config.checkpoint_every = 100
      config.selection.update(num_students=2, rows=400)
      config.replay.num_students = 10
      config.full.num_steps = 800
      runs[f"{data}-{student}-{budget}-{labels}-{seed}"] = config
  return studies.study(
    runs,
    data=dict(dir=""),
    student=dict(pretrained="sentence-transformers/all-MiniLM-L6-v2"),
    teachers=dict(dirs=("teachers/sst2",)),
  )
