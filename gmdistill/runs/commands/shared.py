"""What several commands do: read a set and its config, save a student."""

import contextlib
import shlex
from collections.abc import Sequence
from typing import Any

from etils import epath

from gmdistill import errors
from gmdistill.data import (
  batches,
  chat,
  plain_tokens,
  templates,
  tokenizing,
)
from gmdistill.evaluation import protocols
from gmdistill.runs.config import recipe as recipes
from gmdistill.runs.config import settings
from gmdistill.sets import (
  hub,
  readable,
  set_files,
  spaces,
  synthetic,
  text_sets,
)
from gmdistill.students import (
  adapters,
  decoder_weights,
  families,
  hugging_face,
  peft_files,
  problems,
)
from gmdistill.system import folders, json_files, logs, paths, units
from gmdistill.teachers import trained


def student_folder(workdir: str, whose: str) -> epath.Path:
  """Returns a folder for a `set`, `student` or `teacher` that is no run's.

  Raises:
    InputError: something is there already whose `config.json` would be lost.
  """
  folder = folders.writable(workdir)
  others = {"a run": "environment.json"}
  if whose == "set":
    others["a student"] = "model.safetensors"
  else:
    others["a set"] = "set"
  for held, name in others.items():
    if (folder / name).exists():
      raise errors.InputError(
        f"workdir {folder} holds {held}, whose config.json the {whose}'s would "
        "replace; give another --workdir."
      )
  return folder


def save_student(
  folder: epath.Path,
  problem: problems.Problem,
  params: Any,
  *,
  tokenizer: tokenizing.Tokenizer,
  label_names: Sequence[str],
  base: str = "",
) -> epath.Path:
  """Writes a student as a Hugging Face directory; returns it.

  A change of a decoder becomes the decoder that it makes.
  """
  student, whole = problem.student, params
  if problem.frozen is not None:
    whole = student.merged(problem.frozen, params)
    student = student.module.clone(lower=0)
  saved = hugging_face.save(
    folder,
    params=whole,
    embeddings=problem.embeddings,
    student=student,
    label_names=label_names,
    tokenizer_json=tokenizer.to_json(),
  )
  if isinstance(tokenizer, plain_tokens.PlainTokenizer):
    # What its tokens do, as the library reads it.
    (saved / plain_tokens.CONFIG).write_text(tokenizer.config)
    told = tokenizer.generation_config
    (saved / "generation_config.json").write_text(told)
    if base:
      _keep_template(saved, base)
  return saved


def _keep_template(saved: epath.Path, base: str) -> None:
  """Writes the base's chat template, if it was shown conversations."""
  with contextlib.suppress(errors.InputError):  # else it has none
    template = chat.ChatTemplate.of_folder(hugging_face.find(base))
    (saved / chat.FILE).write_text(template.source)


def save_of_run(
  folder: epath.Path,
  setup: spaces.Setup,
  params: Any,
  config: recipes.Recipe,
) -> epath.Path:
  """Writes a student of a run; see `save_student`.

  LoRA stands alone too, as a PEFT adapter in the folder `adapter`; but not over
  a base that lies nowhere: one that `student.peft` has changed, or that has the
  first of its layers alone.
  """
  problem, base = setup.problem, config.student.pretrained
  saved = save_student(
    folder,
    problem,
    params,
    tokenizer=setup.corpus.tokenizer,
    label_names=setup.corpus.label_names,
    base=base,
  )
  alone, student = saved / "adapter", problem.student
  if isinstance(student, adapters.LowRank) and _is_whole(config, student):
    peft_files.save(
      alone,
      student,
      params,
      family=families.form_of(student.module).model_type,
      base=base,
      base_id=adapters.identity(problem.frozen),
    )
  else:
    for name in (peft_files.CONFIG, peft_files.WEIGHTS):
      (alone / name).unlink(missing_ok=True)  # of an earlier student there
  return saved


def _is_whole(config: recipes.Recipe, student: adapters.LowRank) -> bool:
  """Whether a base is what its directory holds."""
  if config.student.peft:
    return False
  folder = hugging_face.find(config.student.pretrained)
  fields: Any = hugging_face.read_config(folder)
  held = decoder_weights.FORMS[fields["model_type"]].read(fields)
  return bool(student.num_layers == held["num_layers"])


def check_exportable(setup: spaces.Setup) -> None:
  """Refuses a student that has no Hugging Face form.

  Raises:
    InputError: it has none.
  """
  student = setup.problem.student
  hugging_face.check_exportable(getattr(student, "module", student))


def told(setup: spaces.Setup, score: float) -> str:
  """Returns how good a student is, in words."""
  unit = setup.problem.task.unit
  said = units.shown(score, unit)
  return f"accuracy {said}" if unit == "accuracy" else said


def fitting_set(
  setup: spaces.Setup, folder: epath.Path, config: recipes.Recipe
) -> tuple[synthetic.SyntheticSet, dict[str, Any]]:
  """Reads a set and its card; refuses what the student cannot train on.

  Of a file of texts, as the student's own tokenizer reads them.
  """
  if is_text_set(folder):
    return _of_texts(setup, folder, config)
  syn, card = set_files.load(folder, setup.space_id)
  _say_stale(card, folder, config)
  set_files.require_classes(syn, card, folder, setup.corpus.label_names)
  _say_unlearned(syn, config)
  return set_files.for_student(setup.problem, syn), card


def is_text_set(source: epath.PathLike) -> bool:
  """Whether a `--set` is a file of texts."""
  return str(source).endswith(".jsonl")


def _of_texts(setup, path, config):
  names = setup.corpus.label_names
  card = text_sets.read_card(path, names)
  text_set, length = text_sets.read(path, names), config.data.max_length
  tokenizer: Any = setup.corpus.tokenizer
  if config.task.kind == "label_words":
    template = templates.Template(tokenizer, config.task.template)
    keys = setup.corpus.text_keys
    batch = readable.in_template(text_set, template, keys, length)
  else:
    slots = config.data.slots
    batch = text_sets.as_batch(text_set, tokenizer, length, slots)
  syn = synthetic.SyntheticSet(batch)
  _say_unlearned(syn, config)
  return syn, card


def _say_unlearned(syn, config):
  """Says so where students are to lose something to teachers, and a set brings
  nothing of them."""
  wanted = {
    "teachers/logits": ("teacher_logits", config.kd.loss),
    "teachers/features": ("teacher_features", config.kd.features),
  }
  if not config.has_classes:
    wanted = {"tokens/teacher_logs": ("teacher_logs", config.kd.loss)}
  for path, (name, loss) in wanted.items():
    if loss and path not in batches.named(syn.batch):
      logs.say(
        f"the set brings no {name}, so students lose no {loss} to them; "
        "gmdistill relabel gives it some"
      )


def say_other_steps(
  syn: synthetic.SyntheticSet, protocol: protocols.Protocol, name: str
) -> None:
  """Says so where a set was learned for steps that a protocol does not take."""
  if syn.learning_rates is not None and not protocol.replays:
    logs.say(
      f"the set was learned for {len(syn.learning_rates)} steps of its own, "
      f"the protocol replay; {name} trains on it in other ways, and its "
      "students may be worse than a set's that is learned for it"
    )


def _say_stale(card, folder, config):
  """Says so where the set's teachers are other ones by now."""
  before: dict[str, set[str]] = {}
  for one in card.get("teachers", []):
    before.setdefault(one["name"], set()).add(one["id"])
  sources = {*config.teachers.dirs}
  with contextlib.suppress(errors.InputError):  # a set may stand alone
    sources |= {*_config_beside(folder).teachers.dirs}
  for source in sorted(sources):
    path = paths.absolute(source)
    known = before.get(path.name) if path.is_dir() else None
    if known and trained.identity(path) not in known:
      logs.say(
        f"the set in {folder} is stale: its teacher {path.name} has changed; "
        f"gmdistill update --set={shlex.quote(str(folder))} "
        f"--teacher={shlex.quote(source)} --workdir=DIR "
        "distils on from it"
      )


def _config_beside(folder):
  """Returns the config of the run that a set is of."""
  path = paths.absolute(folder).parent / "config.json"
  if not path.is_file():
    raise errors.InputError(
      f"there is no {path}; give the --config that the set was made with."
    )
  mend = "give the --config that the set was made with."
  values = json_files.read(path, mend)
  try:
    return settings.earlier(values, str(path))
  except settings.Removed:
    raise
  except ValueError as error:
    raise errors.InputError(
      f"{path} is damaged, or no run's config ({error}); give the --config "
      "that the set was made with."
    ) from error


def config_and_set(
  flags: Any, needs_set: bool = True
) -> tuple[recipes.Recipe, epath.Path]:
  """Returns the config and the set's folder; a set knows its run's config."""
  if needs_set and not flags.set:
    raise errors.InputError("this verb needs --set=DIR, a run's set/ folder.")
  source = hub.text_file(flags.set) if flags.set else None
  texts = source is not None
  folder = hub.set_folder(flags.set) if source is None else source
  if texts and not folder.is_file():
    raise errors.InputError(f"there is no file {folder}.")
  if needs_set and not texts:
    set_files.load(folder)  # a damaged set is refused before anything is read
  if flags.config is not None:
    config = settings.recipe(flags.config)
  elif not flags.set:
    raise errors.InputError(
      "this verb needs --config=NAME, or the --set=DIR of a run, "
      "whose config is taken."
    )
  else:
    config = _config_beside(folder.parent if texts else folder)
  if texts and flags.config is not None:
    return config, folder  # read by any tokenizer
  space = paths.absolute(folder.parent if texts else folder).parent / "space"
  # The run's own config may name the space that it was made from.
  unnamed = flags.config is None or not config.student.space
  own = needs_set or flags.config is None
  if own and unnamed and not config.student.pretrained and space.is_dir():
    config = recipes.changed(config, student__space=str(space))
  return config, folder


def config_flags(command: str, *groups: str) -> str:
  """Returns the flags of a command line that name its config, and those that
  change fields of these groups of it, for a command that goes on from it."""
  names = ("--config=", *(f"--config.{group}." for group in groups))
  kept = [word for word in shlex.split(command) if word.startswith(names)]
  return shlex.join(kept)


def nothing_else(rest: list[str]) -> None:
  """Refuses what is left of a command line.

  Raises:
    InputError: something is.
  """
  if rest:
    raise errors.InputError(
      f"unexpected argument {rest[0]!r}; options look like --name=value."
    )
