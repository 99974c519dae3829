"""What each part of the method is worth, on SST-2 with three layers.

gmdistill sweep --config=configs/ablations.py --workdir=runs/ablations

One example a class, the encoder's first three layers, 300 outer steps: far from
the best accuracy, and the same for every line. `replay-base` is the recipe of
configs/sst2.py; the `finetune-` runs match gradients alone, without a bank, but
for `finetune-ahead`.
`--config.each.student.pretrained=DIR` and `--config.each.data.dir=DIR` name
local copies. Two CPU cores: about an hour. Expected: not measured.
`:tiny` sweeps the first two of each kind on the embedded corpus, in seconds.
"""

import pathlib
import runpy

import ml_collections

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
  "head": {"gradient_matching.matched": "head"},
  "last_layer": {"gradient_matching.matched": "last_1"},
  "neuron": {"gradient_matching.distance_kind": "neuron_cosine"},
  "flat": {"gradient_matching.distance_kind": "flat_cosine"},
  "l2": {"gradient_matching.distance_kind": "l2"},
  "no_sum": {"gradient_matching.sum_weight": 0.0},
  "on_the_set": {"trajectory.train_on": "synthetic"},
  "ahead": {"objective": "finetune_ahead"},
}


def get_config(mode: str = "") -> ml_collections.ConfigDict:
  path = pathlib.Path(__file__).with_name("sst2.py")
  single = runpy.run_path(str(path))["get_config"]
  runs = ml_collections.ConfigDict()
  if not mode:
    runs.only = ""
    runs.each = dict(
      data=dict(dir=""),
      student=dict(pretrained="sentence-transformers/all-MiniLM-L6-v2"),
      seed=0,
    )
  for kind, variants in (("replay", LOOK_AHEAD), ("finetune", MATCHING)):
    for name, changes in list(variants.items())[: 2 if mode else None]:
      config = single(mode)
      if not mode:
        config.student.num_layers = config.student.unroll = 3
        config.num_steps = 300
        config.eval_every = config.checkpoint_every = 100
        config.replay.num_students = 10
      if kind == "finetune":
        config.objective = "gradient_matching"
        config.gradient_matching.distance_kind = "tensor_cosine"
        config.labels = "hard"
        config.protocols = ("finetune",)
        config.selection.protocol = "finetune"
      config.update_from_flattened_dict(changes)
      runs[f"{kind}-{name}"] = config
  return runs
