# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Knowledge distillation and dataset distillation
#
# A teacher says what the real data mean; a synthetic set carries that to
# students. Here are the four corners of the two ideas, on the embedded corpus:
# students train on a coreset or on a distilled set, whose labels are the true
# ones or a teacher's. Teacher and students start from random initialisation, so
# the notebook needs no download. It is small, so that it ends within minutes on
# a CPU: read the ways, and take numbers from your own runs.

# %%
# %matplotlib inline
import json
import os
import pathlib
import tempfile

import matplotlib.pyplot as plt
import numpy as np

import gmdistill as gd
from gmdistill import main

steps = int(os.environ.get("GMDISTILL_STEPS", "150"))
students = int(os.environ.get("GMDISTILL_STUDENTS", "5"))
work = pathlib.Path(tempfile.mkdtemp())
mode = os.environ.get("GMDISTILL_MODE", "")  # ":tiny": smaller still
config = f"--config=quickstart:kd{mode}"
small = [
  f"--config.num_steps={steps}",
  f"--config.replay.num_students={students}",
  f"--config.full.num_steps={4 * steps}",
  "--config.full.num_students=1",
]


def gmdistill(verb: str, *rest: str) -> None:
  command = ["gmdistill", verb, config, *map(str, rest), *small]
  assert main.main(command) == 0


# %% [markdown]
# ## The teacher
#
# Twice as deep as the students, trained on all real rows. What it writes is a
# Hugging Face directory, and any `BertForSequenceClassification` of the same
# classes would do in its place.

# %%
teacher = work / "teacher"
gmdistill("teach", f"--workdir={teacher}", "--config.student.num_layers=2")

# %% [markdown]
# ## Dataset distillation without and with it
#
# With a teacher, the real rows of the outer loop carry its labels, in the share
# `teachers.alpha` times how certain it is of the row. The same run measures the
# coresets with their true labels.

# %%
gmdistill("distill", f"--workdir={work / 'hard'}")
gmdistill(
  "distill", f"--workdir={work / 'soft'}", f"--config.teachers.dirs={teacher}"
)

# %% [markdown]
# ## A coreset that the teacher labels
#
# `relabel` asks teachers about a finished set, a baseline's rows, or texts of
# your own, and keeps their logits beside the labels: students can then lose to
# them in any of the ways of `kd.loss`.

# %%
gmdistill(
  "relabel",
  "--row=k_centers",
  f"--teacher={teacher}",
  f"--workdir={work / 'k_centers'}",
)
gmdistill(
  "evaluate",
  f"--set={work / 'k_centers' / 'set'}",
  "--protocol=replay",
  f"--workdir={work / 'k_centers'}",
)

# %% [markdown]
# ## Four corners


# %%
def distilled(name: str) -> dict[str, tuple[float, float]]:
  rows = gd.load_run(work / name).table()
  return {row["row"]: (row["mean"], row["std"]) for row in rows}


relabelled = json.loads((work / "k_centers" / "evaluation.json").read_text())
relabelled = relabelled["replay"]
corners = {
  "K-centers": distilled("hard")["K-centers"],
  "K-centers, teacher": (relabelled["mean"], relabelled["std"]),
  "distilled": distilled("hard")["distilled"],
  "distilled, teacher": distilled("soft")["distilled"],
}
for name, (mean, std) in corners.items():
  print(f"{name:20} {100 * mean:5.1f} ± {100 * std:.1f} %")

# %%
figure, axes = plt.subplots(figsize=(5, 2.6))
means, stds = np.array(list(corners.values())).T
axes.barh(list(corners), 100 * means, xerr=100 * stds, color="#4c78a8")
axes.invert_yaxis()
axes.set_xlabel("accuracy, %")
figure.tight_layout()

# %% [markdown]
# ## What the teacher added to the labels
#
# A label's entropy says how unsure it is, in nats: a one-hot label has none.

# %%
for name in ("hard", "soft"):
  examples = gd.load_set(work / name)
  print(f"{name}: {examples}")
  print(np.round(next(examples.batches())["labels"][:3], 2))
