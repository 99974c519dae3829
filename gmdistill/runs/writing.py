"""Rows that a language model writes: what `gmdistill write` leaves."""

import dataclasses
import shlex
import time
from typing import Any, NamedTuple

import numpy as np

from gmdistill import errors
from gmdistill.data import row_lines
from gmdistill.data import texts as row_texts
from gmdistill.runs import work, workdirs, writer_rewards, written_filters
from gmdistill.runs.config import assembly, checks, outputs
from gmdistill.runs.config import recipe as recipes
from gmdistill.sets import spaces, text_sets
from gmdistill.students import adapters, generation, peft_files
from gmdistill.system import cache, console, folders, logs, paths, units, waits
from gmdistill.teachers import writers

FILE = "written.jsonl"
SHOWN = 5  # texts, for whoever looks

# Fields of a writer that say what is kept of its texts, not what they are.
_NOT_OF_TEXTS = (
  "model",
  "num_candidates",
  "length_quantile",
  "confidence",
  "reward_steps",  # which the identity of a taught writer tells
)


class _Asked(NamedTuple):
  """What a writer is asked for."""

  writer: writers.Writer
  setup: spaces.Setup
  config: recipes.Recipe
  texts: Any  # of every training row
  shots: list[np.ndarray]  # of each class, the rows that prompts may show

  @property
  def identity(self) -> list[Any]:
    """All that decides what is written."""
    decisive = {
      name: value
      for name, value in dataclasses.asdict(self.config.writer).items()
      if name not in _NOT_OF_TEXTS
    }
    return [self.writer.id, self.setup.corpus.fingerprint, decisive]

  @property
  def names(self) -> tuple[str, ...]:
    """The classes."""
    return self.setup.corpus.label_names

  def number(self, label: int, place: int) -> int:
    """Returns the number of a class's candidate: more of them change none."""
    return label * 10**6 + place

  def prompt(self, label: int, place: int, seed: int = 17) -> list[int]:
    """Returns the tokens that a class's candidate goes on from; with another
    `seed`, after other rows."""
    options = self.config.writer
    number = self.number(label, place)
    rng = np.random.default_rng([options.seed, seed, number])
    rows = rng.choice(self.shots[label], options.shots, replace=False)
    return writers.prompt_ids(
      self.writer,
      options,
      self.names[label],
      [self.texts[int(row)] for row in rows],
    )


class _Made(NamedTuple):
  """What was written, and what of it stays."""

  writer: writers.Writer
  rewards: list[float]  # of what taught it
  written: list[writers.Written]
  candidates: written_filters.Candidates
  kept: written_filters.Kept
  seconds: float


def run(
  config: recipes.Recipe, workdir: str, command: str = ""
) -> dict[str, Any]:
  """Has a language model write rows of every class, and keeps the good ones.

  Leaves `written.jsonl`, a text set with a card beside it; `dropped.jsonl`, the
  others and why; `write.json`, how many of each there are; and of a writer that
  was taught, its `adapter/`, as PEFT reads it. What is written stands in the
  cache folder, a batch at a time: a stopped call goes on there, and other
  filters read the same texts.

  Args:
    config: Names the data, the student that doubts, and the writer.
    workdir: Where it goes.
    command: How to start the same again.

  Raises:
    InputError: something the user can mend, or filters that leave a class no
      text; before anything is written.
  """
  checks.require_writing(config)
  writer = writers.load(config.writer.model)
  setup = assembly.setup(config)
  texts = row_texts.by_part(config.data, setup.corpus)["train"]
  asked = _Asked(writer, setup, config, texts, _shots(setup, config))
  told = {
    "writer": writer.id,
    "data": setup.corpus.fingerprint,
    "space": setup.space_id,
    "weights": setup.problem.weights_id if setup.problem.is_pretrained else "",
  }
  is_done = (workdirs.check(workdir, config) / "write.json").is_file()
  made = None if is_done else _made(asked)
  with work.begun("write", workdir, config, told) as (folder, done):
    if done is None:
      assert made is not None
      done = {**_left(asked, made, folder, command), "asked": told}
      folders.write_json(folder / "write.json", done)
    console.show(_said(done, folder))
  return done


def _shots(setup, config):
  """Returns the rows of each class that prompts may show: none is cut.

  Raises:
    InputError: a class has too few.
  """
  train, wanted = setup.corpus.train, config.writer.shots
  whole_N = train.mask.sum(axis=1) < train.mask.shape[1]
  found = []
  for label, name in enumerate(setup.corpus.label_names):
    rows = np.flatnonzero((train.labels == label) & whole_N)
    if len(rows) < wanted:
      rows = np.flatnonzero(train.labels == label)
    if len(rows) < wanted:
      raise errors.InputError(
        f"writer.shots={wanted} is more than the {len(rows)} training rows of "
        f"the class {name!r}; use at most {len(rows)}."
      )
    found.append(rows)
  return found


def _made(asked: _Asked) -> _Made:
  """Writes candidates and filters them."""
  start, found = time.monotonic(), []
  if asked.config.writer.reward_steps:
    asked, found = _taught(asked)
  written = _candidates(asked)
  seconds = time.monotonic() - start
  pair = len(asked.setup.corpus.text_keys) > 1
  each = asked.config.writer.num_candidates
  candidates = written_filters.Candidates(
    [writers.as_text(x.line, pair=pair) for x in written],
    np.repeat(np.arange(len(asked.names)), each),
  )
  kept = written_filters.kept(
    candidates, asked.setup, asked.config, list(asked.texts)
  )
  return _Made(asked.writer, found, written, candidates, kept, seconds)


def _taught(asked):
  """Returns what is asked of the writer with an adapter, and its rewards."""
  done = writer_rewards.taught(
    asked.writer,
    asked.setup,
    asked.config,
    lambda label, place: asked.prompt(label, place, seed=19),
    asked.identity,
  )
  return asked._replace(writer=done.writer), done.rewards


def _candidates(asked: _Asked) -> list[writers.Written]:
  """Returns all that is written, class by class; goes on with what is kept."""
  options = asked.config.writer
  each, rows = options.num_candidates, generation.ROWS
  parts = [
    (label, first, min(rows, each - first))
    for label in range(len(asked.names))
    for first in range(0, each, rows)
  ]
  total = each * len(asked.names)
  logs.say(f"{asked.writer.name} writes {each} texts of each class")
  stops = writers.stops(asked.writer.tokenizer)
  identity = asked.identity
  written: list[writers.Written] = []
  for part in waits.over(parts, "writing", total, "texts", rows):
    entry = cache.entry("written", [*identity, part])
    known = cache.read_facts(entry)
    if known is None:
      label, first, count = part
      places = range(first, first + count)
      lines = writers.write(
        asked.writer,
        options,
        [asked.prompt(label, place) for place in places],
        asked.number(label, first),
        stops,
      )
      known = {"lines": [list(line) for line in lines]}
      cache.write_facts(entry, known)
    written += [writers.Written(*line) for line in known["lines"]]
  return written


def _left(asked: _Asked, made: _Made, folder, command) -> dict[str, Any]:
  """Writes the texts; returns what `write.json` says."""
  config, names, kept = asked.config, asked.names, made.kept
  text_set = written_filters.as_text_set(made.candidates, kept.rows, len(names))
  rows = text_sets.lines(text_set, names, list(asked.texts))
  if config.writer.confidence:
    for row, probability in zip(rows, kept.probabilities, strict=True):
      row["probability"] = round(float(probability), 4)
  provenance = folders.environment(command)
  dropped = [
    row_lines.line(
      {"line": made.written[i].line, "label": names[label]},
      {"reason": kept.reasons[i]},
    )
    for i, label in enumerate(made.candidates.labels)
    if kept.reasons[i]
  ]
  paths.write_files(folder, {"dropped.jsonl": row_lines.encoded(dropped)})
  if made.rewards:
    peft_files.save(
      folder / "adapter",
      made.writer.problem.student,
      made.writer.params,
      family=made.writer.family,
      base=config.writer.model,
      base_id=adapters.identity(asked.writer.params),
    )
  card = outputs.card_of_texts(asked.setup, config, provenance)
  card["writer"] = {"name": made.writer.name, "id": made.writer.id}
  text_sets.save(folder, rows, card, FILE)
  places = np.unique(np.linspace(0, len(rows) - 1, SHOWN).astype(int))
  return {
    "schema": 1,
    "dataset": config.data.name,
    "writer": asked.writer.name,
    "candidates": len(made.written),
    "cut": sum(not x.has_end for x in made.written),
    "kept": kept.counts(made.candidates, "", names),
    "dropped": {
      reason: kept.counts(made.candidates, reason, names)
      for reason in written_filters.REASONS
    },
    "rewards": made.rewards,
    "seconds": made.seconds,
    "examples": [rows[place] for place in places],
    "provenance": provenance,
  }


def _said(done, folder):
  """Returns what was kept and dropped, in lines for people."""
  kept, total = sum(done["kept"].values()), done["candidates"]
  lines = [
    f"{done['writer']}: {kept} of {total} texts kept; written in "
    f"{units.seconds(done['seconds'])}, {done['cut']} of them without an end, "
    "cut at writer.max_tokens"
  ]
  of_classes = ", ".join(f"{n} {name}" for name, n in done["kept"].items())
  lines.append(f"  kept: {of_classes}")
  if told := done["rewards"]:
    lines.append(
      f"  reward of the first batch {told[0]:.4f}, of the last "
      f"{told[-1]:.4f}; the adapter is in {folder / 'adapter'}"
    )
  lines += [
    f"  dropped, {reason}: {sum(counts.values())}"
    for reason, counts in done["dropped"].items()
  ]
  for row in done["examples"]:
    text = row.get("text") or writers.BETWEEN.join(row["texts"])
    # What a model writes may hold what a terminal would obey.
    shown = "".join(x if x.isprintable() else " " for x in text[:100])
    lines.append(f"  {row['label']}: {shown}")
  place = shlex.quote(str(folder / FILE))
  lines.append(
    f"next: gmdistill evaluate --set={place} --config=..., or distill with "
    f"--config.choice.written={place}"
  )
  return "\n".join(lines)
