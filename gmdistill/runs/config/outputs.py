"""What a recipe says of what a run leaves: its table, its card, its set."""

import dataclasses
from typing import Any

from etils import epath

from gmdistill.data import templates
from gmdistill.data import texts as row_texts
from gmdistill.evaluation import baselines
from gmdistill.runs.config import recipe as recipes
from gmdistill.runs.config import row_fields, schedule, teacher_fields
from gmdistill.sets import cards, set_files, spaces, synthetic, text_sets
from gmdistill.system import json_files, paths


def table(
  setup: spaces.Setup, config: recipes.Recipe, calibrated: bool = False
) -> baselines.Table:
  """Returns the table of results that a recipe's sets stand in.

  `calibrated` rows say `evaluation.calibration` too, and are cached apart.
  """
  chosen = config.selection
  identity: list[Any] = [
    teacher_fields.rationale_facts(config),
    [chosen.rows, chosen.min_tokens],
  ]
  if config.task.kind != "classes":
    identity.append(dataclasses.asdict(config.task))
  if setup.problem.criterion is not None:
    identity.append(dataclasses.asdict(config.kd))
  if config.metrics:
    identity.append(list(config.metrics))
  if config.data.reported_rows:
    identity.append({"reported_rows": config.data.reported_rows})
  options = baselines.Options(
    data_per_class=config.per_group,
    coreset_pool=config.coreset_pool,
    seed=config.seed,
    students_at_once=config.students_at_once,
    group_key=config.data.group_key,
    loss=config.kd.loss,
    calibrated=calibrated and config.has_classes,
    metrics=config.metrics,
    length=0 if config.has_classes else config.sequence_length,
    answers=config.exact_match,
  )
  rows = row_fields.selection_rows(setup.corpus, config)
  return baselines.Table(setup, rows, options, identity)


def first_card(
  setup: spaces.Setup,
  config: recipes.Recipe,
  command: str,
  rows: str = cards.DISTILLED,
) -> dict[str, Any]:
  """Returns what a set's card says before anything is measured."""
  card = cards.first_card(
    setup,
    task=config.data.name,
    size={config.size_field: config.per_group},
    sequence_length=config.sequence_length,
    command=command,
    rows=rows,
  )
  card["reader"]["max_length"] = config.data.max_length
  if encoder := config.student.pretrained:
    local = paths.path(encoder).is_dir()
    card["encoder"] = paths.path(encoder).name if local else encoder
  else:
    card["space"] = "../space"  # table and tokenizer, beside the set's folder
  if config.task.kind == "label_words":
    keys = setup.corpus.text_keys
    card["reader"]["head"]["template"] = templates.spelled(
      config.task.template, keys
    )
  if rows == cards.DISTILLED:
    card["limits"] = limits(config)
  return card


def limits(config: recipes.Recipe) -> str:
  """Returns for which students and steps a recipe's set is learned."""
  names, ways, rest = schedule.names(config.objective), [], ""
  if any(schedule.OBJECTIVES[name].steps for name in names):
    ways.append(f"its own {config.replay_steps} steps, the protocol replay")
    rest = "; an optimiser such as Adam may get far less out of it"
  if "finetune_ahead" in names:
    ways.append(
      f"the protocol finetune, {config.finetune.num_steps} steps of AdamW at "
      f"{config.finetune.rates[0]:g}"
    )
    rest = "; other steps may get less out of it"
  if "travelling" in names:
    counts = config.travelling.steps or (config.finetune.num_steps,)
    steps = " or ".join(map(str, counts))
    ways.append(f"{steps} steps of several optimisers, rates and students")
    rest = "; gmdistill evaluate --protocol=grid says under which it holds"
  ways = ways or [
    "no steps in particular, by matching what real rows say of students"
  ]
  reads = "the students that read its embedding space"
  if config.readable:
    reads = "any student, of any tokenizer: it is text"
  return (
    f"The set is for {reads}. It was learned for {', and for '.join(ways)}"
    f"{rest}."
  )


def write_set(
  folder: epath.Path,
  syn: synthetic.SyntheticSet,
  card: dict[str, Any],
  setup: spaces.Setup,
  config: recipes.Recipe,
) -> None:
  """Writes `set/`, and the `space/` that it lives in where none is known."""
  set_files.save(folder / "set", syn, card, config.stored_as)
  if not config.student.pretrained:
    spaces.write(
      folder / "space", setup.problem.embeddings, setup.corpus.tokenizer
    )


def card_of_texts(
  setup: spaces.Setup, config: recipes.Recipe, provenance: dict[str, Any]
) -> dict[str, Any]:
  """Returns the card of a file of texts that no set stands beside."""
  corpus = setup.corpus
  return {
    "rows": text_sets.TEXTS,
    "task": config.data.name,
    "label_names": list(corpus.label_names),
    "text_keys": list(corpus.text_keys),
    "label_key": corpus.label_key,
    "provenance": provenance,
    "results": {},
  }


def texts_of_card(folder: epath.Path) -> dict[str, Any]:
  """Returns what the card of a set says of its `set.jsonl`."""
  card = json_files.read(folder / "set" / "card.json", "write the set again.")
  return dict(card["texts"])


def write_texts(
  folder: epath.Path,
  text_set: text_sets.TextSet,
  setup: spaces.Setup,
  config: recipes.Recipe,
) -> None:
  """Writes `set/set.jsonl` beside a set that is written, and into its card."""
  real = row_texts.by_part(config.data, setup.corpus)["train"]
  rows = text_sets.lines(text_set, setup.corpus.label_names, list(real))
  card = json_files.read(folder / "set" / "card.json", "write the set again.")
  text_sets.save(folder / "set", rows, card)
