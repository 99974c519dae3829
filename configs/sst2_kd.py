"""SST-2 with a teacher: one example a class, real rows labelled by a teacher.

gmdistill teach --config=configs/sst2_kd.py --workdir=teachers/sst2
gmdistill distill --config=configs/sst2_kd.py --workdir=runs/sst2_kd --config.teachers.dirs=teachers/sst2

The recipe of configs/sst2.py; nine tenths of each real label are the teacher's,
which is the student fine-tuned on all rows. Two CPU cores: four minutes for the
teacher in bfloat16 (`--config.student.compute=bfloat16`, JAX 0.12; in float32 12
minutes of one core), and 13 minutes of outer loop. Expected: not measured; with
more steps and real rows, in README.
`:tiny` runs the same recipe on the embedded corpus, in seconds on a CPU.
"""

import pathlib
import runpy

import ml_collections


def get_config(mode: str = "") -> ml_collections.ConfigDict:
  path = pathlib.Path(__file__).with_name("sst2.py")
  config = runpy.run_path(str(path))["get_config"](mode)
  config.teachers.alpha = 0.9
  return config
