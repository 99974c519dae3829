"""SST-2, ten examples a class, for several rates of AdamW and SGD, and depths.

gmdistill distill --config=travelling/sst2 --workdir=runs/travelling_sst2
gmdistill evaluate --set=runs/travelling_sst2/set --protocol=grid

The set is learned along the protocol `finetune` at three rates of AdamW and one of
SGD, each with the whole encoder and its first three layers. Not measured yet.
`:tiny` runs the same recipe on the embedded corpus, in seconds on a CPU.
"""

from gmdistill.runs.config import settings, shipped


def get_config():
  config = shipped.config_for("sst2:finetune_ahead")
  config.data_per_class = 10
  config.labels = "unrestricted"
  config.objective = "travelling"
  config.travelling.update(
    students=("own", "transformer:3"), sgd_rates=(0.1,), opening=0.3
  )
  config.grid.update(
    students=(
      "own",
      "transformer:3",
      "transformer:2",
      "textcnn",
      "bilstm",
    ),
  )
  return config


def tiny(config):
  config = settings.tiny(config)
  config.travelling.students = ("own", "textcnn")
  return config
