"""The quickstart's language model: a set for several adapters, AdamW and SGD.

gmdistill teach --config=quickstart_lm:base --workdir=runs/quickstart_lm_base
gmdistill distill --config=travelling/quickstart_lm --workdir=runs/travelling_lm
gmdistill evaluate --set=runs/travelling_lm/set --protocol=grid

Two sequences of eight embeddings, learned along 20 steps of AdamW at two rates and of
SGD, by LoRA of ranks 8 and 2, and of rank 8 on the queries' and values' matrices
alone. Two busy CPU cores: three minutes. Expected by AdamW at 1e-2, 5 students: zero-shot
6.13 nats, K-centers 2.98 ± 0.10, distilled 2.46 ± 0.15, full 1.29; of sixteen ways of
the grid the set is below K-centers' nats in thirteen. `:tiny` runs on a made-up decoder,
in minutes.
"""

from gmdistill.runs.config import settings, shipped

STUDENTS = ("own", "lora:2", "lora:8:query+value")


def get_config():
  config = shipped.config_for("quickstart_lm")
  config.replay_steps = 0
  config.objective = "travelling"
  config.travelling.update(
    students=STUDENTS, rates=(1e-2, 3e-3), sgd_rates=(0.1,), opening=0.3
  )
  config.finetune.update(
    num_steps=20, batch_size=2, weight_decay=0.0, rates=(1e-2,), num_students=5
  )
  config.finetune_ahead.update(window=10, skip=0, stride=2, until=20)
  config.outer.update(learning_rate=5e-3)
  config.num_steps = 300
  config.selection.protocol = "finetune"
  config.protocols = ("finetune",)
  config.grid.update(
    students=(*STUDENTS, "lora:32"), rates=(1e-2, 3e-3, 1e-3), steps=(20,)
  )
  return config


def tiny(config):
  """Over a made-up decoder."""
  config = settings.tiny_language(config)
  config.travelling.students = ("own", "lora:1")
  return config
