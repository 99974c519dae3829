"""What no other config asks for, one field at a time, beside the quickstart.

gmdistill sweep --config=features --workdir=runs/features --config.only='set-*'
gmdistill bank --config=quickstart --workdir=banks/quickstart --config.bank.precision=float32
gmdistill sweep --config=features --workdir=runs/features --config.only='bank-*' --config.each.bank.dir=banks/quickstart

The embedded corpus, 150 outer steps a run; two CPU cores: about two minutes a run.
`set-` runs change how the set is stored, learned or fed; `bank-` runs read the
expert bank. Distilled, reported rows, 20 students (JAX 0.12; K-centers 61.9, full
85.5): base 78.6 ± 2.4 %, bfloat16 78.6 (83 kB instead of 165), int8 78.6 (44 kB),
low_rank 77.4 (23 kB), near_tokens 77.6, slow_labels 76.4, representatives 75.9,
distributions 72.5, together 53.9, last_steps 46.8. Those of a bank: not measured.
`:tiny` runs one that has most of them at once, and those of other objectives, in
seconds each; without `--config.each.bank.dir` give `--config.only='set-*'`.
"""

from gmdistill.runs.config import shipped, studies

OF_THE_SET = {
  "base": {},
  "slow_labels": {"outer.label_scale": 0.1},
  "low_rank": {"rank": 8},
  "bfloat16": {"stored_as": "bfloat16"},
  "int8": {"stored_as": "int8"},
  "representatives": {"real_rows": "representatives", "refresh": 5},
  "last_steps": {"look_ahead.last_steps": 2},
  "near_tokens": {"objective": "look_ahead+0.1*token_distance"},
  "distributions": {"objective": "distribution_matching"},
}
TOGETHER = {
  name: value
  for changes in OF_THE_SET.values()
  for name, value in changes.items()
} | {"objective": "look_ahead+0.1*token_distance"}
OF_A_BANK = {
  "start": {"look_ahead.start": "bank", "experts.curriculum": 0.5},
  "trajectory": {"objective": "trajectory_matching", "experts.span": 1},
  "task_vector": {
    "objective": "task_vector_matching",
    "displacement.constant_memory": False,
    "displacement.distance_kind": "l2",
  },
}
TINY = (
  "set-together",
  "set-distributions",
  "bank-start",
  "bank-trajectory",
  "bank-task_vector",
)


def get_config():
  kinds = {"set": {**OF_THE_SET, "together": TOGETHER}, "bank": OF_A_BANK}
  runs = {}
  for kind, variants in kinds.items():
    for variant, changes in variants.items():
      config = shipped.config_for("quickstart")
      config.num_steps = 150
      config.update_from_flattened_dict(changes)
      runs[f"{kind}-{variant}"] = config
  return studies.study(runs, bank=dict(dir=""))
