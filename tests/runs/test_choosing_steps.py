"""Which outer step is kept is decided on the selection split."""

import json

import numpy as np
import tiny_config

from gmdistill.reports import figures, finished
from gmdistill.runs import distill


def test_the_step_kept_may_be_the_one_that_loses_least(tmp_path):
  config = tiny_config.get_config()
  config.student.kind = "textcnn"  # which is traced soonest
  config.objective = "look_ahead"
  config.protocols = ("replay",)
  config.selection.by = "loss"
  config.eval_every = 2
  config.replay.num_students = config.full.num_students = 1
  config.gradient_cosine.num_students = 0
  distill.run(config, str(tmp_path), "the command")
  run = finished.load_run(tmp_path)
  steps, lost = finished.series(run, "selection/nats")
  chosen = json.loads((tmp_path / "summary.json").read_text())["selection"]
  assert np.float32(chosen["nats"]) == np.float32(min(lost))
  assert steps[lost.argmin()] == chosen["step"]
  # Its curve is in nats; the table's rows, in per cent, are not drawn into it.
  (axes,) = figures.selection_figure(run).axes
  assert "nats" in axes.get_ylabel()
  assert [x.get_label() for x in axes.lines][2:] == []
  assert finished.unit_of(run, "replay") == "accuracy"
