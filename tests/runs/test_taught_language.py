"""Language models with teachers, and answers beside nats: config to set."""

import jax
import numpy as np
import pytest
import tiny_language

from gmdistill import errors
from gmdistill.data import batches
from gmdistill.runs.config import assembly, settings, teacher_fields
from gmdistill.students import adapters, peft_files, problems


def get_config(folder, kind="answers"):
  config = tiny_language.get_config(folder, kind)
  config.data.max_length = 60
  config.sequence_length = 60
  config.num_steps = config.eval_every = config.checkpoint_every = 2
  config.selection.update(num_students=1, rows=4)
  config.replay.update(rates=(0.3,), num_students=1)
  config.full.update(num_steps=2, batch_size=4)
  config.gradient_cosine.num_students = 0
  return config


def write_adapter(folder, config):
  """A teacher: an adapter of the student's base that is not zero."""
  setup = assembly.setup(settings.recipe(config))
  problem = setup.problem
  params = problem.init(jax.random.key(5))
  peft_files.save(
    folder,
    problem.student,
    jax.tree.map(lambda x: x + 0.1, params),
    family="llama",
    base=config.student.pretrained,
    base_id=adapters.identity(problem.frozen),
  )
  return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory):
  """A folder, and the config of a run with a teacher and answers."""
  folder = tmp_path_factory.mktemp("taught")
  config = get_config(folder)
  teacher = write_adapter(folder / "teacher", config)
  config.teachers.dirs = (str(teacher),)
  config.teachers.top_tokens = 5
  config.kd.update(loss="forward_kl", weight=0.5, weight_end=0.5)
  config.exact_match.update(num_rows=6, num_tokens=4)
  return folder, config


def test_rows_carry_what_their_teacher_says_and_lose_to_it(made):
  recipe = settings.recipe(made[1])
  setup = teacher_fields.with_teachers(assembly.setup(recipe), recipe)
  rows = setup.rows
  assert rows.tokens.teacher_ids.shape == (*rows.token_ids.shape, 1, 5)
  problem = setup.problem
  params = problem.init(jax.random.key(0))
  batch = batches.as_batch(batches.take(rows, [0, 1]), 0)
  bare = batches.as_batch(batches.take(setup.corpus.train, [0, 1]), 0)
  loss = jax.jit(lambda batch: problem.loss(params, batch))
  kl = 2 * loss(batch) - loss(bare)  # the weight is one half
  logs = [
    jax.nn.log_softmax(
      who.apply(own, bare).logits.queries @ problems.unembedding(problem).T
    )
    for who, own in (
      (problem, params),
      (setup.teachers.opened[0].problem, setup.teachers.opened[0].params),
    )
  ]
  whole = (np.exp(logs[1]) * (logs[1] - logs[0])).sum(-1)
  weights = bare.tokens.weights
  mean = ((whole * weights).sum(1) / weights.sum(1)).mean()
  # Of few outcomes, less than of all.
  assert 0.05 * mean < kl < mean


REFUSED = {
  "nothing lost": (dict(kd=dict(loss="")), "has no say: students of task.kind"),
  "a gate": (dict(kd=dict(weights="gate")), "kd.weights=gate looks at classes"),
  "joined": (
    dict(teachers=dict(dirs=("a", "b")), kd=dict(join="logits")),
    "kd.join=logits is of teachers that tell the same outcomes",
  ),
  "no features": (dict(kd=dict(features="mse")), "kd.features=mse is of rows"),
  "no room": (
    dict(exact_match=dict(num_tokens=500)),
    "an answer of 500 are more than the student's 512 positions",
  ),
}


@pytest.mark.parametrize("fields, said", REFUSED.values(), ids=REFUSED)
def test_what_teachers_and_answers_cannot_do_is_one_line(made, fields, said):
  config = made[1].copy_and_resolve_references()
  config.update(fields)
  with pytest.raises(errors.InputError, match=said) as refused:
    recipe = settings.recipe(config)
    teacher_fields.with_teachers(assembly.setup(recipe), recipe)
  assert "\n" not in str(refused.value)


def test_texts_and_classes_have_no_answers(tmp_path):
  for kind, said in (
    ("text", "these rows are texts without a prompt"),
    ("classes", "asks a language model, and task.kind=label_words has classes"),
  ):
    config = tiny_language.get_config(tmp_path / kind, kind)
    config.exact_match.num_rows = 2
    with pytest.raises(errors.InputError, match=said):
      assembly.setup(settings.recipe(config))


def test_label_words_are_taught_by_a_language_model(tmp_path):
  config = tiny_language.get_config(tmp_path, "classes")
  teacher = write_adapter(tmp_path / "teacher", config)
  config.teachers.update(dirs=(str(teacher),), alpha=1.0)
  recipe = settings.recipe(config)
  setup = teacher_fields.with_teachers(assembly.setup(recipe), recipe)
  (opened,) = setup.teachers.opened
  batch = batches.as_batch(setup.corpus.train, 2)
  logits = jax.jit(opened.problem.apply)(opened.params, batch).logits
  expected = jax.nn.softmax(np.asarray(logits))
  np.testing.assert_allclose(setup.rows.soft, expected, atol=1e-4)
  bare = jax.jit(setup.problem.apply)(
    setup.problem.init(jax.random.key(0)), batch
  )
  assert np.abs(np.asarray(bare.logits - logits)).max() > 1e-2
