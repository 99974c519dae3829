"""The command that audits a set: what it gives away, and how varied it is."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from etils import epath

from gmdistill.data import texts as row_texts
from gmdistill.evaluation import audits
from gmdistill.runs import start_rows
from gmdistill.runs.commands import shared
from gmdistill.runs.config import assembly, checks
from gmdistill.runs.config import recipe as recipes
from gmdistill.selection import coresets
from gmdistill.sets import cards, set_files, spaces, text_sets
from gmdistill.system import console, folders, json_files, logs


def audit(flags: Any, rest: list[str], command: str) -> None:
  """Prints the audit of a set; writes it into its card and --workdir."""
  del command
  shared.nothing_else(rest)
  config, source = shared.config_and_set(flags)
  checks.require_classes(config, "audit")
  target = folders.writable(flags.workdir) if flags.workdir else None
  setup = assembly.setup(config)
  found = of_set(setup, config, source)
  if flags.json:
    console.data(found)
  else:
    console.show(as_text(found))
  card = (source.parent if shared.is_text_set(source) else source) / "card.json"
  if card.is_file():
    told = json_files.read(card, "restore it from a copy.")
    folders.write_json(card, {**told, "audit": found})
    logs.say(f"the audit is in {card}")
  if target is not None:
    target.mkdir(parents=True, exist_ok=True)
    folders.write_json(target / "audit.json", found)


def of_set(
  setup: spaces.Setup, config: recipes.Recipe, source: epath.Path
) -> dict[str, Any]:
  """Returns the audit of a set's folder, or of a file of texts."""
  texts = row_texts.by_part(config.data, setup.corpus)
  real = audits.Parts(texts["train"], texts["reported"])
  if shared.is_text_set(source):
    subject = _of_texts(setup, config, source)
  else:
    subject = _of_embeddings(setup, config, source)
  return audits.audit(setup, subject, real, seed=config.seed)


def _of_texts(setup, config, path):
  syn, _ = shared.fitting_set(setup, path, config)
  text_set = text_sets.read(path, setup.corpus.label_names)
  count = len(setup.corpus.train.labels)
  members = [x for x in text_set.sources if type(x) is int and 0 <= x < count]
  return audits.Subject(
    text_set.texts,
    syn.batch,
    text_set.targets,
    np.array(members, np.int64),
  )


def _of_embeddings(setup, config, folder):
  syn, card = set_files.load(folder, setup.space_id)
  set_files.require_classes(syn, card, folder, setup.corpus.label_names)
  labels = np.asarray(syn.batch.class_labels)
  rows = card.get("source_rows", ())
  members = np.array([row for row in rows if type(row) is int], np.int64)
  named = config.initialise in coresets.ALL and not config.start
  if card.get("rows") == cards.DISTILLED and named and not len(members):
    members = start_rows.by_name(setup, config)
  tokenizer = setup.corpus.tokenizer
  texts = audits.as_texts(syn.batch, setup.problem.embeddings, tokenizer)
  return audits.Subject(texts, syn.batch, labels, members)


def as_text(found: Mapping[str, Any]) -> str:
  """Returns an audit as a table for people."""
  copies, leakage = found["copies"], found["leakage"]
  run, member = copies["longest_run"], found["membership"]
  distance = found["distance"]
  lines = [
    ("", "set", "held-out rows"),
    ("copies of training rows", f"{copies['rows']} of {found['rows']}", ""),
    (
      "parts of training rows",
      f"{copies['parts']['rows']} of {found['rows']}",
      "",
    ),
    (
      "longest run of tokens in common",
      f"{run['mean']:.1f} (most {run['most']})",
      f"{run['held_out_mean']:.1f}",
    ),
    *[
      (
        f"{name} words in a row in common",
        f"{copies[f'{name}_words']['set']:.1%}",
        f"{copies[f'{name}_words']['held_out']:.1%}",
      )
      for name in ("five", "eight")
    ],
    (
      "distance to the nearest training row",
      f"{distance['set']:.4f}",
      f"{distance['held_out']:.4f}",
    ),
    ("copies of reported rows", f"{leakage['rows']}", ""),
    ("", "AUC", ""),
    (
      "its start rows against others",
      _number(member["start_against_other_rows"]),
      "",
    ),
    (
      "training rows against held-out rows",
      _number(member["training_against_held_out"]),
      "",
    ),
    *_of_contents(found),
  ]
  widths = [max(len(line[i]) for line in lines) for i in range(3)]
  table = [
    "  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True))
    for line in lines
  ]
  return "\n".join(x.rstrip() for x in [*table, "", *verdicts(found)])


def _of_contents(found):
  """Returns the lines of how varied a set is, and of its labels."""
  own, real = (found["diversity"][x] for x in ("set", "training_rows"))
  return [
    ("", "set", "training rows"),
    *[(name, f"{x:.3f}", f"{real[name]:.3f}") for name, x in own.items()],
    *_mauve(found["mauve"]),
    ("", "rows", "share of the labels"),
    *[
      (name, str(x["rows"]), f"{x['share']:.1%}")
      for name, x in found["labels"].items()
    ],
  ]


def _mauve(told):
  if told is None:
    return []
  label = f"mauve, against {told['rows']} training rows"
  return [(label, f"{told['set']:.3f}", f"{told['training_rows']:.3f}")]


def _number(x):
  return "not known" if x is None else f"{x:.3f}"


def verdicts(found: Mapping[str, Any]) -> list[str]:
  """Returns what an audit comes to, in a sentence each."""
  said = []
  copies, member = found["copies"], found["membership"]
  if copies["rows"]:
    said.append(
      f"{copies['rows']} of {found['rows']} rows are copies of training rows: "
      "whoever has the set has these rows."
    )
  if parts := copies["parts"]["rows"]:
    said.append(
      f"{parts} of {found['rows']} rows are parts of training rows, word for "
      "word: whoever has the set has these parts."
    )
  inside = member["start_against_other_rows"]
  if inside is not None and inside > audits.TOLD_APART:
    said.append(
      f"An attacker tells its start rows from others (AUC {inside:.2f}): the "
      "set gives away which rows it started from."
    )
  trained = member["training_against_held_out"]
  if trained is not None and trained > audits.TOLD_APART:
    said.append(
      f"Training rows are told from held-out ones (AUC {trained:.2f}): the set "
      "gives them away, or the two splits differ, as in length."
    )
  if found["leakage"]["rows"]:
    said.append(
      f"{found['leakage']['rows']} rows are copies of reported rows: what is "
      "measured on these is no test."
    )
  if not said:
    said.append("No row is a copy, and none of the attacks here succeeds.")
  return said
