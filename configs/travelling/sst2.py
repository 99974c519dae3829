"""SST-2, ten examples a class, for several rates of AdamW and SGD, and depths.

gmdistill distill --config=travelling/sst2 --workdir=runs/travelling_sst2
gmdistill evaluate --set=runs/travelling_sst2/set --protocol=grid

The set is learned along the protocol `finetune` at three rates of AdamW and one of
SGD, each with the whole encoder and its first three layers. With three and two layers
instead, 60 outer steps, 28 minutes on a slow CPU core, 2 students of three layers:
distilled 72.8 ± 1.3 %, K-centers 67.0 ± 1.9 %, random 56.0 ± 4.1 %
(`docs/results/travelling.md`). All layers: not measured.
`:tiny` runs the same recipe on the embedded corpus, in minutes on a CPU.
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
