"""The quickstart's data, for students that train by AdamW from random weights.

gmdistill distill --config=travelling/quickstart --workdir=runs/travelling
gmdistill evaluate --set=runs/travelling/set --protocol=grid

The set is learned along 100 steps of AdamW at three rates, 1e-3, 3e-3 and 9e-3, one of
them drawn every outer step. Two CPU cores: 15 minutes. Expected at 3e-3, 10 students:
distilled 70.0 ± 3.6 %, herding 50.1 ± 2.8 %, K-centers 48.0 ± 2.6 %, full 85.9 %.
`travelling/quickstart:own` holds the set's own six steps as well, and AdamW no worse: at
3e-3 71.2 ± 9.0 %, by its own steps 76.8 ± 1.7 % (K-centers 48.0 and 61.9 %).
`:tiny` ends in minutes.
"""

from gmdistill.runs.config import shipped


def scratch():
  config = shipped.config_for("quickstart")
  config.replay_steps = 0
  config.objective = "travelling"
  config.finetune.update(num_steps=100, rates=(3e-3,), num_students=10)
  config.scratch.update(num_steps=100, rates=(3e-3,), num_students=10)
  # A step that stands for four leads elsewhere than four: half as many do not.
  config.finetune_ahead.update(
    window=50, skip=0, stride=2, until=100, centred=True
  )
  config.travelling.opening = 0.3
  config.initialise = "k_centers"
  config.outer.update(learning_rate=3e-3, label_scale=3.0)
  config.num_steps = 600
  config.steps_per_dispatch = 10
  config.selection.protocol = "scratch"
  config.protocols = ("scratch",)
  config.grid.update(steps=(100,))
  return config


def own():
  """The same, and the set's own steps: a sum of both objectives."""
  config = scratch()
  config.replay_steps = 6
  config.objective = "travelling+look_ahead"
  config.protocols = ("scratch", "replay")
  return config


MODES = {"": scratch, "own": own}
