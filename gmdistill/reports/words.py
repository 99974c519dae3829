"""What a page says in sentences: what one sees, what words mean, what next."""

import shlex
from collections.abc import Sequence
from typing import Any

from gmdistill.reports import finished, tables

_ROWS = {
  "random": "as many real rows a class, drawn at random",
  "herding": "real rows whose mean is nearest to their class's mean",
  "K-centers": "the real rows nearest to the centroids of their class",
  "topics": "real rows that stand for their class by their subject headings",
  "distilled": "the learned examples of this set",
  "full": "all training rows",
}

# Of rows that have no classes.
_ROWS_OF_LANGUAGE = {
  "zero-shot": "nothing: what a student says before any training",
  "random": "as many real rows of as many places, drawn at random",
  "random of that length": "the same, of rows that fill their places",
  "K-centers": "the real rows nearest to the centroids of all",
  "distilled": "the learned sequences of this set",
}

_PROTOCOLS = {
  "replay": "a fresh student takes the set's own steps, in their order",
  "finetune": "a student trains on from its pretrained weights, if it has any",
  "scratch": "a student trains from random weights",
  "bayes": "a student is a chain of samples of its posterior on the set",
}

_METRICS = {
  "nats": "what a student loses of the true class; the less the better",
  "macro_f1": "the mean of the classes' F1, so that a rare class counts as a "
  "common one; 1 is best",
  "quadratic_kappa": "agreement of ordered classes beyond chance, where a miss "
  "costs the square of its distance; 0 is chance, 1 is best",
  "exact_strict": "the share of reported rows to which one student generates "
  "the row's own answer, form and all; 1 is best",
  "exact_flexible": "the same where the answer stands anywhere in what it says",
}

_ALWAYS = {
  "student": "a model that is trained on rows, to see what they are worth; ± "
  "is the standard deviation over n of them, s.e. that of their mean",
  "recovery": "the share of the accuracy on all training rows",
  "selection split": "training rows held back to choose the step and the "
  "learning rates by; the reported split is looked at once, at the end",
}

# Kinds of students that train cannot write as a Hugging Face directory.
UNSAVED = ("bilstm", "textcnn")

CAPTIONS = {
  "Accuracy by step": "The curve is the selection split; dashed lines are the "
  "reported split, for scale. Step 0, where "
  "it was measured, is the real rows that the set starts from.",
  "Loss": "What the outer loop lowers, each step on other rows.",
  "Gradient cosine by step": "1: the set moves a student as the real rows do.",
  "Features of real and synthetic examples": "The two directions in which a "
  "student's features of real rows vary most. A star need not lie among the "
  "dots of its colour: an example may say more than any row.",
}

CAPTIONS["Nats by step"] = CAPTIONS["Accuracy by step"]


def data_name(run: finished.Run) -> str:
  """Returns what the data are called: a file or folder without its path."""
  name = str(run.summary.get("dataset"))
  return name.rstrip("/").rsplit("/", 1)[-1] if name.startswith("/") else name


def opening(run: finished.Run, rows: Sequence[tables.Row]) -> list[str]:
  """Returns a few sentences that say what the run came to, and for which use;
  none, unmeasured."""
  protocol = finished.main_protocol(run)
  by_row = {
    row["row"]: row
    for row in rows
    if row["protocol"] == protocol and row["mean"] is not None
  }
  distilled, full = by_row.pop("distilled", None), by_row.pop("full", None)
  if distilled is not None and distilled["unit"] != "accuracy":
    return _opening_of_language(run, distilled, full, by_row)
  names = run.card.get("label_names") or []
  if distilled is None or not names:
    return []
  per_class = run.summary.get("data_per_class")
  plural = "" if per_class == 1 else "s"
  what = f"{per_class} learned example{plural} for each"
  if run.config.get("readable"):  # the rows stay as they are
    what = f"{per_class} chosen text{plural} for each"
  if "num_texts" in run.summary:
    what = finished.size(run)
  said = (
    f"{what} of the {len(names)} classes "
    f"of {data_name(run)} train a student that is right on "
    f"{tables.percent(distilled['mean'], 1)} % of rows it has never seen"
  )
  if full is not None:
    said += f"; training on all rows gives {tables.percent(full['mean'], 1)} %"
  if not by_row:
    return [f"{said}."]
  best = max(by_row.values(), key=lambda row: row["mean"])
  return [
    f"{said}.",
    f"As many real rows, chosen by {best['row']}, give "
    f"{tables.percent(best['mean'], 1)} %.",
    *_limits(run),
  ]


def _opening_of_language(run, distilled, full, by_row):
  """Returns the same of a language model, whose nats are to be few."""
  unit, zero = distilled["unit"], by_row.pop("zero-shot", None)
  said = (
    f"{finished.size(run)} of learned embeddings bring a student to "
    f"{tables.plus_minus({**distilled, 'std': None})} {unit} a token of "
    f"{run.summary.get('dataset')} that it has never seen"
  )
  others = {"before any training": zero, "trained on all rows": full}
  told = [
    f"{tables.plus_minus({**row, 'std': None})} {what}"
    for what, row in others.items()
    if row is not None
  ]
  lines = [f"{said}{': it has ' * bool(told)}{' and '.join(told)}."]
  if by_row:
    best = min(by_row.values(), key=lambda row: row["mean"])
    lines.append(
      f"As many real rows, {best['row']}, bring it to "
      f"{tables.plus_minus({**best, 'std': None})}."
    )
  return [*lines, *_limits(run)]


def _limits(run: finished.Run) -> list[str]:
  """Returns what a set is for, and under which ways of training it holds."""
  said = [run.card.get("limits"), run.grid.get("sentence")]
  return [str(x) for x in said if x]


def definitions(rows: Sequence[tables.Row]) -> dict[str, str]:
  """Returns what the words of a results table mean."""
  used = [row["row"] for row in rows]
  known = dict(_ROWS)
  if any(row["unit"] != "accuracy" for row in rows):
    known |= _ROWS_OF_LANGUAGE
  known["zero-shot"] = _ROWS_OF_LANGUAGE["zero-shot"]
  told = {name: text for name, text in known.items() if name in used}
  protocols = [row["protocol"] for row in rows]
  told |= {name: x for name, x in _PROTOCOLS.items() if name in protocols}
  metrics = {name for row in rows for name in row["metrics"]}
  told |= {
    tables.METRICS[name]: x for name, x in _METRICS.items() if name in metrics
  }
  always = dict(_ALWAYS)
  if "zero-shot" in used:
    always["recovery"] = (
      "the share of what all training rows gain over zero-shot"
    )
  return told | always


def use(run: finished.Run) -> dict[str, Any]:
  """Returns commands and code that use a run's set, and what to mind."""
  folder = str(run.workdir)
  if "num_texts" in run.summary:
    return _use_of_texts(folder)
  said = "targets" if "targets" in run.tensors else "labels"
  mind = ""
  if "learning_rates" in run.tensors:
    steps = len(run.tensors["learning_rates"])
    mind = (
      f"The set was learned for its own {steps} steps, the protocol replay. "
      "Students of another optimiser may get less out of it; how much less, "
      "the last command measures."
    )
  quoted = shlex.quote(f"{folder}/set")
  commands = [
    f"gmdistill train --set={quoted} --workdir=student",
    f"gmdistill evaluate --set={quoted} --protocol=scratch",
  ]
  if (run.config.get("student") or {}).get("kind") in UNSAVED:
    del commands[0]
  return {
    "commands": commands,
    "python": "\n".join(
      [
        "import gmdistill as gd",
        "",
        f'examples = gd.load_set("{folder}/set")',
        "for batch in examples.batches():  # one a step: NumPy arrays",
        f'  batch["inputs_embeds"], batch["attention_mask"], batch["{said}"]',
      ]
    ),
    "mind": mind,
  }


def _use_of_texts(file: str) -> dict[str, Any]:
  """Returns the same of a file of texts, which any student reads."""
  return {
    "commands": [
      f"gmdistill {verb} --set={shlex.quote(file)} --config=NAME "
      f"--protocol=finetune{rest}"
      for verb, rest in (("train", " --workdir=student"), ("evaluate", ""))
    ],
    "python": f'pandas.read_json("{file}", lines=True)',
    "mind": "",
  }


def parts(rows: Sequence[tables.Row]) -> dict[str, Any] | None:
  """Returns the table of each part of the reported split; None: it has none."""
  header, body = tables.group_cells(rows)
  if not body:
    return None
  named = header.index("row")
  lines = [
    ("distilled" if line[named] == "distilled" else "", line) for line in body
  ]
  return {"header": header, "lines": lines, "named_by": named}
