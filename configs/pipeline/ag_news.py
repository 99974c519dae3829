"""AG News, from raw rows to a student: all stages in one command.

gmdistill pipeline --config=pipeline/ag_news --workdir=runs/ag_news_pipeline --ablate

`:tiny` runs the same pipeline on the embedded corpus, in a minute on a CPU.
"""

from gmdistill.runs.config import pipelines, shipped


def get_config():
  run = shipped.config_for("ag_news")
  run.student.num_layers = 3
  run.teachers.alpha = 0.1  # as pipeline/quickstart, which says why
  return pipelines.pipeline(
    run, dedup_method="minhash", select_method="less", rows_per_class=1000
  )


tiny = pipelines.tiny
