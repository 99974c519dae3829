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
# # Reading a finished run
#
# A run leaves everything in its workdir: the config, the metrics, the results
# table, the distilled set. `load_run` reads it back without JAX, so
# this notebook needs no accelerator. It opens `runs/quickstart`, or the
# workdir that the environment variable `GMDISTILL_RUN` names; where there is no
# finished run, `load_run` says which command makes one.

# %%
# %matplotlib inline
import os

import numpy as np

import gmdistill as gd

workdir = os.environ.get("GMDISTILL_RUN", "runs/quickstart")
run = gd.load_run(workdir)
print(run.environment.get("command"))
run.missing  # What the workdir does not hold.

# %% [markdown]
# `run.config` is every field, as it ran. Experiments change these first:

# %%
fields = "data_per_class", "sequence_length", "objective", "num_steps", "seed"
{name: run.config[name] for name in fields}

# %% [markdown]
# ## Results
#
# Accuracy in % on the reported split, which the run touched once, at its end.
# *recovery* is the share of the accuracy that training on the full data gives.
# A table is a list of dicts, one a row: the place to start your own analysis.

# %%
rows = run.table()
rows

# %%
measured = {
  (row["protocol"], row["row"]): row["mean"]
  for row in rows
  if row["mean"] is not None
}
for protocol, name in measured:
  if name == "distilled" and (protocol, "K-centers") in measured:
    gain = measured[protocol, name] - measured[protocol, "K-centers"]
    print(f"{protocol}: {100 * gain:+.1f} points over K-centers")

# %% [markdown]
# ## Figures
#
# `run.figures()` makes all that the workdir's files allow, by title. Each is a
# plain `matplotlib.figure.Figure`, so it can be changed before it is saved.

# %%
for title, figure in run.figures().items():
  figure.suptitle(title, fontsize=10)
  display(figure)  # noqa: F821

# %% [markdown]
# Every logged number is an array: `series` gives a metric's steps and values.

# %%
for key in run.metrics:
  if key.startswith("outer/"):
    steps, values = run.series(key)
    print(f"{key:22} {len(steps):4} values, the last {values[-1]:.4g}")

# %% [markdown]
# ## What was learned
#
# The labels are unrestricted numbers, one a class. A token is the nearest row
# of the embedding table to what was learned at its position; a low cosine says
# that the position holds something that no token means.

# %%
for example in run.analysis.get("examples", [])[:4]:
  print("labels ", np.round(example["labels"], 2))
  nearest = [near[0] for near in example["tokens"] if near]
  print("tokens ", " ".join(token["token"] for token in nearest))
  print("cosines", " ".join(f"{token['cosine']:.2f}" for token in nearest))
  print()

# %%
{name: tensor.shape for name, tensor in run.tensors.items()}

# %% [markdown]
# ## What it cost

# %%
for name, value in run.costs().items():
  print(f"{name:28} {value}")

# %% [markdown]
# The same, as one page for the browser, of one run or of several:
# `gmdistill report --workdir=...`, or

# %%
run.report()
