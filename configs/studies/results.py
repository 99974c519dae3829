"""The results table: SST-2 and AG News at 1, 5, 10 and 20 examples a class.

gmdistill sweep --config=results --workdir=runs/results

Three distillation seeds each, protocol replay; 24 runs, resumable, for a GPU: with
five of them side by side on an H200 (docs/guides/speed.md says how), the 700 outer steps of one
example a class took four minutes. On two CPU cores a run takes an hour or two by
its products, and wants `--config.each.student.unroll=6`. `--config.only=sst2-5-0` does one
run; `--config.each.student.pretrained=DIR` and `--config.each.data.dir=DIR` name
local copies. Expected: `sst2-1-0` 84.3 % and `sst2-1-1` 84.5 % of 872 validation
rows, `ag_news-1-0` 89.6 % of 7,600 test rows (20 heads each), `sst2-5-0` 85.0 % (10
heads, where the config has 20); the others are not measured.
`:tiny` sweeps two runs of the embedded corpus, in minutes.
"""

from gmdistill.runs.config import shipped, studies

BUDGETS = (1, 5, 10, 20)
SEEDS = (0, 1, 2)


TINY = ("sst2-1-0", "ag_news-1-0")


def get_config():
  runs = {}
  for name in ("sst2", "ag_news"):
    for budget in BUDGETS:
      for seed in SEEDS:
        config = shipped.config_for(name)
        config.data_per_class = budget
        config.seed = seed
        if budget == 1:
          config.num_students = 4
          config.num_steps = 700
          config.eval_every = config.checkpoint_every = 70
          config.replay_steps = 6
          config.selection.update(num_students=5, rows=2000)
          config.students_at_once = 5
          if name == "sst2":
            config.selection.apart = 8  # its rows are phrases of sentences
        else:  # five steps, each on a fifth of the set
          config.replay_steps = 5
          config.examples_per_step = budget // 5
          config.num_steps = 4000
          config.eval_every = config.checkpoint_every = 200
        runs[f"{name}-{budget}-{seed}"] = config
  return studies.study(
    runs,
    data=dict(dir=""),
    student=dict(pretrained="sentence-transformers/all-MiniLM-L6-v2", unroll=1),
  )
