"""CoLA, one learned example per class, replayed in three SGD steps.

gmdistill distill --config=cola --workdir=runs/cola

Hardware: any; two CPU cores are enough. Time and numbers: not measured.
`:tiny` runs the same recipe on the embedded corpus, in minutes on a CPU.
"""

from gmdistill.runs.config import shipped


def get_config():
  config = shipped.config_for("ag_news")
  config.data.update(name="glue/cola", max_length=48, train_length=32)
  config.sequence_length = 24
  config.num_steps = 1000
  config.rows_per_class = 16
  config.selection.num_students = 4
  return config
