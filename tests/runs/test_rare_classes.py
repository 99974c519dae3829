"""Sets of many classes with a row each are learned at one example a class."""

import numpy as np
import tiny_config
import tiny_sets

from gmdistill.data import batches
from gmdistill.runs import jobs
from gmdistill.runs.config import row_fields

CLASSES = 8


def config_of(folder, common):
  """A config of a set with `common` rows of the first class, one of others."""
  rows = {
    "train": tiny_sets.rows_of(common * [0] + list(range(1, CLASSES))),
    "test": tiny_sets.rows_of(range(CLASSES), 600),
  }
  (folder / "tfds").mkdir()
  tiny_sets.build(folder / "tfds", rows, tiny_sets.names(CLASSES))
  config = tiny_config.get_config("polish")
  config.data.update(name="tiny", dir=str(folder / "tfds"), vocab_size=128)
  config.data_per_class = 1
  config.num_steps = config.eval_every = config.checkpoint_every = 2
  config.protocols = ("replay",)
  config.replay.update(rates=(0.1,), head_scales=(1.0,), num_students=2)
  return config


def test_a_long_tailed_set_has_real_rows_of_every_class(tmp_path, capsys):
  config = config_of(tmp_path, common=60)
  job = jobs.prepare(config)
  corpus = job.setup.corpus
  batches.require_rows(corpus.train, 1, corpus.label_names)
  real = job.draws[0](0, 1).batches
  seen = np.asarray(real.labels).reshape(-1, CLASSES)
  assert (seen.sum(axis=0) == config.rows_per_class * config.num_students).all()
  row_fields.say_remarks(corpus, config)
  assert "choices are made on 3 rows" in capsys.readouterr().err


def test_a_one_shot_set_is_chosen_on_its_training_rows(tmp_path, capsys):
  config = config_of(tmp_path, common=1)
  job = jobs.prepare(config)
  assert 0 <= job.select(job.params) <= 1
  row_fields.say_remarks(job.setup.corpus, config)
  assert "no class has a training row to spare" in capsys.readouterr().err
