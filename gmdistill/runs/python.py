"""What scripts and notebooks call: one function for each thing to do.

`import gmdistill as gd` finds these by name; see `gmdistill.__init__`.
"""

import os
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from etils import epath

from gmdistill import errors
from gmdistill.data import batches, loading
from gmdistill.evaluation import measuring, readings
from gmdistill.reports import opened as opened_runs
from gmdistill.runs import distill as distillation
from gmdistill.runs import opened, word_students
from gmdistill.runs.commands import shared
from gmdistill.runs.config import assembly, outputs, recipe, settings, shipped
from gmdistill.sets import spaces
from gmdistill.system import devices


def load_data(name: Any, **options: Any) -> batches.Corpus:
  """Loads a text-classification data set as token arrays.

  Args:
    name: A file of rows (.csv, .tsv, .jsonl, .parquet), a folder or glob of
      them; a table of pandas or Arrow, or a list of dicts; a name of
      TensorFlow Datasets such as "glue/sst2"; or `docstrings`, the embedded.
    **options: `tokenizer_file`, the tokenizer.json that reads the text, where
      a new one should not be trained; and the other fields of
      `gmdistill.data.loading.Options`, such as `max_length`.

  Returns:
    The parts `train`, `selection` and `reported`, with `label_names`.

  Raises:
    InputError: unknown data, or an option that cannot be used.
  """
  tokenizer_file = options.pop("tokenizer_file", "")
  if not isinstance(name, str | os.PathLike):
    from gmdistill.data import tables  # its libraries are slow to import

    name = tables.kept(name)
  try:
    chosen = loading.Options(os.fspath(name), **options)
  except TypeError as error:
    known = ", ".join(loading.Options.__dataclass_fields__)
    raise errors.InputError(
      f"load_data takes {known} and tokenizer_file; got {', '.join(options)}."
    ) from error
  return loading.load(chosen, str(tokenizer_file))


def load_problem(config: Any, **fields: Any) -> spaces.Setup:
  """Loads the data and the fresh student that a config names.

  Args:
    config: As `load_config` takes it.
    **fields: Fields to change.

  Returns:
    Its `problem` (architecture, frozen table, pretrained weights if any) and
    `corpus`: what objectives and protocols take.
  """
  chosen = shipped.load_config(config, **fields)
  return assembly.setup(settings.recipe(chosen))


def load_set(folder: epath.PathLike, config: Any = None) -> opened.DistilledSet:
  """Opens a distilled set, or a file of texts.

  Args:
    folder: The `set/` folder of a run, the workdir around it, hf:ORG/NAME, or a
      file of texts, FILE.jsonl.
    config: Of a file of texts: whose student reads them and on which data, as
      `load_config` takes it; left out, that of the run that made them.

  Raises:
    InputError: missing or damaged files.
  """
  chosen = None if config is None else shipped.load_config(config)
  return opened.set_of(folder, chosen)


def distill(
  config: Any,
  workdir: epath.PathLike,
  **fields: Any,
) -> opened_runs.FinishedRun:
  """Distils a data set, evaluates the set and writes the report.

  A run that was stopped goes on; a finished one is opened as it is.

  Args:
    config: As `load_config` takes it.
    workdir: Where the run leaves everything.
    **fields: Fields to change, such as `seed=1`.

  Raises:
    InputError: something to be mended, before anything is written.
    NotFinite: the run diverged; the last good checkpoint is kept.
  """
  chosen = shipped.load_config(config, **fields)
  told = repr(config) if isinstance(config, str) else "config"
  rest = "".join(f", {name}={value!r}" for name, value in fields.items())
  command = f"gmdistill.distill({told}, {str(workdir)!r}{rest})"
  distillation.run(chosen, str(workdir), command)
  return opened_runs.load_run(workdir)


def train(
  examples: opened.DistilledSet | epath.PathLike,
  *,
  protocol: str = "",
  seed: int = 0,
) -> opened.Student:
  """Trains one student on a set.

  Args:
    examples: A set, or its folder or file.
    protocol: `replay`, `finetune` or `scratch`; empty: the first that its run
      reports.
    seed: Decides the student.

  Raises:
    InputError: the set does not fit the student of its run's config.
  """
  given = _opened(examples)
  config = recipe.changed(given.config, seed=seed)
  name = protocol or config.protocols[0]
  if name == "bayes":
    raise errors.InputError(
      "bayes ends in many samples of one student; use replay, finetune or "
      "scratch, or gmdistill.evaluate(set, protocol='bayes')."
    )
  setup = given.setup
  syn, _ = shared.fitting_set(setup, given.folder, config)
  params, _, _ = outputs.table(setup, config).student(
    assembly.protocol(config, name), measuring.stacked(syn)
  )
  if config.task.kind == "label_words":
    return word_students.WordStudent(setup, config, params)
  return opened.Student(
    setup.problem,
    params,
    tokenizer=setup.corpus.tokenizer,
    label_names=setup.corpus.label_names,
    slots=config.data.slots,
    data=setup.corpus,
  )


def evaluate(
  what: opened.DistilledSet | opened.Student | epath.PathLike,
  data: batches.Corpus | None = None,
  *,
  protocol: str = "",
) -> opened.Score:
  """Measures a set by new students, or one student, on the reported split.

  Args:
    what: A set, or its folder or file; or a student.
    data: Of a student: what to read; left out, what it was made for.
    protocol: Of a set: `replay`, `finetune`, `scratch` or `bayes`; empty: the
      first that its run reports.

  Raises:
    InputError: the data, or the protocol, does not fit.
  """
  if isinstance(what, opened.Student):
    return _of_student(what, data, protocol)
  if data is not None:
    raise errors.InputError(
      "a set is measured on the data of its run; give `data` with a student."
    )
  given = _opened(what)
  name = protocol or given.config.protocols[0]
  setup = given.setup
  syn, _ = shared.fitting_set(setup, given.folder, given.config)
  row: Mapping[str, Any] = (
    outputs.table(setup, given.config)
    .measure(
      assembly.protocol(given.config, name), measuring.stacked(syn), name
    )
    .row()
  )
  unit = setup.problem.task.unit
  return opened.Score(row["mean"], row["std"], row["n"], unit)


def _of_student(
  student: opened.Student, data: batches.Corpus | None, protocol: str
) -> opened.Score:
  if protocol:
    raise errors.InputError(
      f"protocol={protocol} is of sets; a student is trained already."
    )
  corpus = student.data if data is None else data
  if corpus is None:
    raise errors.InputError(
      "this student brings no data; give gmdistill.load_data(NAME, "
      "tokenizer_file=...) with the student's tokenizer.json."
    )
  if corpus.tokenizer.fingerprint != student.tokenizer.fingerprint:
    raise errors.InputError(
      "the data were read by another tokenizer than this student's; load them "
      "with tokenizer_file= the student's tokenizer.json."
    )
  if [*corpus.label_names] != [*student.label_names]:
    raise errors.InputError(
      f"the data have the classes {[*corpus.label_names]}, the student "
      f"{[*student.label_names]}."
    )
  buckets = readings.length_buckets(corpus.reported, corpus.num_classes)
  copies = devices.whole().size  # every device reads with one
  stack = jax.tree.map(lambda x: jnp.stack([x] * copies), student.params)
  found = readings.accuracies(student.problem, stack, buckets)
  task = student.problem.task
  return opened.Score(float(task.shown(found[0])), None, 1, task.unit)


def _opened(
  examples: opened.DistilledSet | epath.PathLike,
) -> opened.DistilledSet:
  if isinstance(examples, opened.DistilledSet):
    return examples
  return load_set(examples)
