"""The embedded corpus, from raw rows to a student: all stages in one command.

gmdistill pipeline --config=pipeline/quickstart --workdir=runs/pipeline --ablate

`:tiny` ends in a minute on a CPU.
"""

from gmdistill.runs.config import pipelines, shipped


def get_config():
  run = shipped.config_for("quickstart")
  # The set's learned labels are worth more than a teacher's of a few hundred rows.
  run.teachers.alpha = 0.1
  return pipelines.pipeline(
    run, select_method="less", rows_per_class=200, teacher_layers=2
  )


tiny = pipelines.tiny
