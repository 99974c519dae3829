"""What each part of the method is worth, on SST-2 with three layers.

gmdistill sweep --config=ablations --workdir=runs/ablations --config.only='replay-*'
gmdistill bank --config=sst2:finetune --workdir=banks/three --config.student.num_layers=3 --config.student.unroll=3
gmdistill sweep --config=ablations --workdir=runs/ablations --config.only='finetune-*' --config.each.bank.dir=banks/three
gmdistill sweep --config=ablations --workdir=runs/ablations --config.only='steps-*'
gmdistill sweep --config=ablations --workdir=runs/ablations --config.only='real-*'

The encoder's first three layers, 300 outer steps (`steps-` runs: 100): far from the
best accuracy, and the same for every line of a kind. The `replay-` runs are of
sst2, one example a class; the `finetune-` runs of
sst2:finetune, five a class, gradient matching alone against a bank, whose
rows have any length; the `real-` runs the same without a bank, on rows of at least
`min_tokens`; the `steps-` runs of sst2:steps in small.
`--config.each.student.pretrained=DIR` and `--config.each.data.dir=DIR` name
local copies. Two CPU cores: about two hours for the first two sweeps; of the third,
about seven minutes of one core a run. docs/results has what was measured.
`:tiny` sweeps the first change of each kind on the embedded corpus, in minutes.
"""

from gmdistill.runs.config import shipped, studies


def _compared(objective: str) -> dict[str, dict[str, str]]:
  """Which gradients an objective matches, and by which distance."""
  matched, kind = f"{objective}.matched", f"{objective}.distance_kind"
  return {
    "head": {matched: "head"},
    "last_layer": {matched: "last_1"},
    "neuron": {kind: "neuron_cosine"},
    "flat": {kind: "flat_cosine"},
    "l2": {kind: "l2"},
  }


LOOK_AHEAD = {
  "base": {},
  "plain_loss": {"look_ahead.centred": False},
  "plain_steps": {"normalised_steps": False},
  "hard_labels": {"labels": "hard"},
  "softmax_labels": {"labels": "softmax"},
  "attention_labels": {"attention_labels": True},
  "one_step": {"replay_steps": 1},
  "six_steps": {"replay_steps": 6},
  "no_ema": {"outer.ema": 0.0},
  "representatives": {"real_rows": "representatives"},
}
MATCHING = {
  "base": {},
  **_compared("gradient_matching"),
  "no_sum": {"gradient_matching.sum_weight": 0.0},
  "more_sum": {"gradient_matching.sum_weight": 4.0},
  "young": {"experts.max_age": 12},
  "no_smoothing": {"label_smoothing": 0.0},
}
STEP_MATCHING = {
  "base": {},
  **_compared("step_matching"),
  "plain_loss": {"step_matching.centred": False},
  "equal_steps": {"step_schedule": "constant"},
  "five_steps": {"replay_steps": 5},
  "fifteen_steps": {"replay_steps": 15},
  "hard_labels": {"labels": "hard"},
  "attention_labels": {"attention_labels": True},
  "no_ema": {"outer.ema": 0.0},
  "representatives": {"real_rows": "representatives"},
  "look_ahead": {"objective": "look_ahead", "look_ahead.centred": True},
}
# Of every run of a kind, its base too.
OF_KIND = {
  "steps": {
    "initial_step_size": 0.3,
    "rows_per_class": 16,
    "num_students": 1,
    "num_steps": 100,
    "eval_every": 20,
    "selection.num_students": 2,
    "selection.rows": 400,
    "replay.num_students": 5,
  },
  "finetune": {"eval_every": 150, "checkpoint_every": 150},
}
WITHOUT_BANK = {
  "base": {},
  "on_the_set": {"trajectory.train_on": "synthetic"},
  "ahead": {"objective": "finetune_ahead"},
}
KINDS = {
  "replay": ("sst2", LOOK_AHEAD),
  "finetune": ("sst2:finetune", MATCHING),
  "real": ("sst2:finetune", WITHOUT_BANK),
  "steps": ("sst2:steps", STEP_MATCHING),
}


TINY = [f"{kind}-{list(variants)[1]}" for kind, (_, variants) in KINDS.items()]


def get_config():
  runs = {}
  for kind, (name, variants) in KINDS.items():
    for variant, changes in variants.items():
      config = shipped.config_for(name)
      config.student.num_layers = config.student.unroll = 3
      config.num_steps = 300
      config.eval_every = config.checkpoint_every = 100
      config.replay.num_students = 10
      config.update_from_flattened_dict(OF_KIND.get(kind, {}))
      config.update_from_flattened_dict(changes)
      runs[f"{kind}-{variant}"] = config
  return studies.study(
    runs,
    data=dict(dir=""),
    student=dict(pretrained="sentence-transformers/all-MiniLM-L6-v2"),
    bank=dict(dir=""),
    seed=0,
  )
