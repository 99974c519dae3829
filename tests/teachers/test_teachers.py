"""Teachers, and what they say of the real data."""

import json
import pathlib
import shutil

import jax
import numpy as np
import pytest
import tiny_config
import tokenizers

from gmdistill import errors, main
from gmdistill.data import batches
from gmdistill.objectives import bank
from gmdistill.runs import jobs
from gmdistill.runs.config import assembly, settings, teacher_fields
from gmdistill.students import problems
from gmdistill.system import cache
from gmdistill.teachers import ensembles, trained

HERE = pathlib.Path(__file__).parents[1]
CONFIG = f"--config={HERE}/tiny_config.py"


def taught(folder, *fields):
  command = ["gmdistill", "teach", CONFIG, f"--workdir={folder}", *fields]
  assert main.main(command) == 0
  return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  return taught(tmp_path_factory.mktemp("teachers") / "first")


def with_teacher(folder, **fields):
  config = tiny_config.get_config("polish")
  config.teachers.dirs = (str(folder),)
  config.teachers.update(fields)
  return config


def labels_drawn(config):
  real = jobs.prepare(config).draws[0](0, 1)
  return np.asarray(real.batches.labels).reshape(-1, 4)


@pytest.mark.parametrize("pooling", ["first", "mean"])
def test_a_teacher_says_in_order_what_its_network_does(
  folder, tmp_path, pooling
):
  if pooling == "mean":
    folder = taught(tmp_path / "mean", "--config.student.pooling=mean")
  teacher = trained.load(str(folder))
  config = tiny_config.get_config()
  corpus = assembly.setup(settings.recipe(config)).corpus
  said = trained.logits(teacher, corpus, settings.recipe(config).data)
  assert said.shape == (len(corpus.train.labels), 4)
  rows = np.array([0, 7, 311])
  batch = batches.as_batch(batches.take(corpus.train, rows), 4)
  direct = teacher.problem.apply(teacher.params, jax.device_put(batch)).logits
  np.testing.assert_allclose(said[rows], direct, atol=1e-5)
  again = trained.logits(teacher, corpus, settings.recipe(config).data)
  np.testing.assert_array_equal(said, again)  # from the cache


def test_the_outer_loop_sees_the_teachers_labels(folder):
  soft = labels_drawn(with_teacher(folder))
  np.testing.assert_allclose(soft.sum(axis=1), 1.0, atol=1e-5)
  assert ((soft > 0.01) & (soft < 0.99)).all()
  hard = labels_drawn(tiny_config.get_config("polish"))
  mixed = labels_drawn(with_teacher(folder, alpha=0.25))
  np.testing.assert_allclose(mixed, 0.25 * soft + 0.75 * hard, atol=1e-6)


def test_alpha_zero_is_no_teacher_bit_for_bit(folder):
  none = labels_drawn(tiny_config.get_config("polish"))
  zero = labels_drawn(with_teacher(folder, alpha=0.0))
  np.testing.assert_array_equal(zero, none)


def test_two_equal_teachers_are_one(folder):
  one = with_teacher(folder)
  two = with_teacher(folder)
  two.teachers.dirs = (str(folder), str(folder))
  np.testing.assert_allclose(labels_drawn(two), labels_drawn(one), atol=1e-6)


def test_labels_are_the_teachers_softened_and_mixed_with_the_truth():
  logits = np.log([[[0.5, 0.3, 0.15, 0.05]]])
  truth = np.eye(4)[[3]]

  def labels(**fields):
    return ensembles.soft_labels(logits, truth, ensembles.Options(**fields))

  whole = labels()
  np.testing.assert_allclose(whole, [[0.5, 0.3, 0.15, 0.05]], atol=1e-6)
  half = labels(alpha=0.5)
  np.testing.assert_allclose(half, [[0.25, 0.15, 0.075, 0.525]], atol=1e-6)
  hot = labels(temperature=1e6)
  np.testing.assert_allclose(hot, 0.25, atol=1e-5)


def test_a_teacher_is_opened_once_and_labels_once_a_run(folder, monkeypatch):
  calls = []
  for name in ("load", "logits"):
    known = getattr(trained, name)

    def counted(*given, name=name, known=known):
      calls.append(name)
      return known(*given)

    monkeypatch.setattr(trained, name, counted)
  config = with_teacher(folder)
  config.objective = "look_ahead,look_ahead"  # two stages that draw rows
  job = jobs.prepare(config)
  jobs.sources(job)
  assert len(job.draws) == 2 and calls == ["load", "logits"]


@pytest.mark.parametrize(
  "fields, said",
  [
    ({"alpha": 2.0}, "alpha=2.0 must be a number, from 0 to 1"),
    ({"join": "losses"}, "join=losses is none of probabilities"),
    ({"temperatures": (1.0, 2.0)}, "one for each of 1 teachers"),
    ({"weights": "votes"}, "weights=votes is none of equal"),
  ],
)
def test_choices_that_mean_nothing_are_refused(folder, fields, said):
  with pytest.raises(errors.InputError, match=f"teachers.*{said}"):
    jobs.prepare(with_teacher(folder, **fields))


@pytest.mark.parametrize(
  "fields, said",
  [
    ({"loss": "kl"}, "config.kd: loss=kl is none of forward_kl"),
    ({"loss": "taid", "weight": 2.0}, "kd.weight=2.0 must be a number, from 0"),
    ({"loss": "taid", "schedule": "steep"}, "kind=steep is none of constant"),
    ({"features": "l1"}, "kind=l1 is none of cosine, mse"),
    ({"features": "mse"}, "kd.features=mse is learned with a student"),
    ({"loss": "bild", "weights": "gate"}, "kd.weights=gate is learned with"),
  ],
)
def test_losses_that_mean_nothing_are_refused(folder, fields, said):
  config = with_teacher(folder)
  config.kd.update(fields)
  with pytest.raises(errors.InputError, match=said):
    jobs.prepare(config)


def test_a_changing_teacher_needs_a_loss():
  config = tiny_config.get_config()
  config.kd.teaching = "peer"
  with pytest.raises(errors.InputError, match="does not say what they lose"):
    assembly.protocol(settings.recipe(config), "scratch")
  config.kd.update(loss="forward_kl", teaching="parent")
  with pytest.raises(errors.InputError, match="none, moving_average, peer"):
    assembly.protocol(settings.recipe(config), "scratch")


def test_a_directory_without_a_head_is_no_teacher():
  with pytest.raises(errors.InputError, match="has no classification head"):
    trained.load(str(HERE / "tiny_bert"))


@pytest.mark.parametrize(
  "fields", [{"id2label": None}, {"id2label": []}, {"rationale_slots": "x"}]
)
def test_a_damaged_teacher_is_one_line(folder, tmp_path, fields):
  own = shutil.copytree(folder, tmp_path / "own")
  config = json.loads((own / "config.json").read_text())
  (own / "config.json").write_text(json.dumps(config | fields))
  with pytest.raises(errors.InputError, match="fit no teacher 16 wide"):
    trained.load(str(own))


def test_a_tokenizer_of_more_tokens_than_the_table_is_no_teachers(
  folder, tmp_path
):
  own = shutil.copytree(folder, tmp_path / "own")
  more = tokenizers.Tokenizer.from_file(str(own / "tokenizer.json"))
  more.add_tokens(["<more>"])
  more.save(str(own / "tokenizer.json"))
  with pytest.raises(errors.InputError, match="they are not of one model"):
    trained.load(str(own))


def test_a_teacher_of_other_classes_is_refused_by_name(folder):
  teacher = trained.load(str(folder))
  other = teacher._replace(label_names=("good", "bad"))
  with pytest.raises(
    errors.InputError, match=r"first has 2 classes .*'good'.*the data 4: "
  ):
    trained.require_labels(other, teacher.label_names)
  unnamed = tuple(f"LABEL_{i}" for i in range(4))
  trained.require_labels(
    teacher._replace(label_names=unnamed), teacher.label_names
  )


def test_kept_labels_that_are_torn_or_of_other_rows_are_made_anew(
  folder, monkeypatch, tmp_path
):
  monkeypatch.setenv("GMDISTILL_CACHE", str(tmp_path))
  config = tiny_config.get_config()
  corpus = assembly.setup(settings.recipe(config)).corpus
  teacher, options = trained.load(str(folder)), settings.recipe(config).data
  logits = trained.logits(teacher, corpus, options)
  (path,) = (tmp_path / "teachers").iterdir()
  cache.write_arrays(path, {"logits": logits[1:]})
  np.testing.assert_array_equal(
    trained.logits(teacher, corpus, options), logits
  )
  path.write_bytes(path.read_bytes()[:-100])
  monkeypatch.setattr(trained, "_label", lambda *_: -logits)
  np.testing.assert_array_equal(
    trained.logits(teacher, corpus, options), -logits
  )
  monkeypatch.setattr(trained, "_label", None)
  np.testing.assert_array_equal(
    trained.logits(teacher, corpus, options), -logits
  )


def test_teachers_of_one_shape_are_one_program_that_holds_no_weights(folder):
  setup = assembly.setup(settings.recipe(tiny_config.get_config()))
  rows = batches.take(setup.corpus.train, range(70))
  teacher = trained.load(str(folder))
  double = lambda tree: jax.tree.map(lambda x: 2 * x, tree)  # noqa: E731
  other = teacher._replace(
    problem=double(teacher.problem), params=double(teacher.params)
  )
  said = trained._label(teacher, rows)
  known = problems.Problem.logits._cache_size()
  assert np.abs(trained._label(other, rows) - said).max() > 0.01
  assert problems.Problem.logits._cache_size() == known


def test_a_bank_is_of_its_teachers_labels(folder, tmp_path):
  command = [
    "gmdistill",
    "bank",
    CONFIG,
    "--config.bank.num_trajectories=1",
    "--config.bank.ages=(0,)",
    "--config.bank.rows_per_class=4",
    "--config.bank.batch_rows_per_class=4",
    "--config.bank.precision=float32",
  ]
  dirs = f"--config.teachers.dirs={folder}"
  kd = ["--config.kd.loss=reverse_kl", "--config.kd.temperature=2.0"]
  made = {
    name: [*command, f"--workdir={tmp_path / name}", *fields]
    for name, fields in {"true": [], "soft": [dirs], "kd": [dirs, *kd]}.items()
  }
  targets = {}
  for name, words in made.items():
    assert main.main(words) == 0
    config = tiny_config.get_config()
    config.bank.dir = str(tmp_path / name)
    if name != "true":
      config.teachers.dirs = (str(folder),)
    if name == "kd":
      config.kd.update(loss="reverse_kl", temperature=2.0)
    recipe = settings.recipe(config)
    setup = teacher_fields.with_teachers(assembly.setup(recipe), recipe)
    entry = bank.Bank(tmp_path / name, setup)
    sample = entry.sampler(("targets",), seed=0, max_age=9, span=1)
    targets[name] = np.concatenate(
      [np.ravel(x) for x in jax.tree.leaves(sample(0).targets)]
    )
  for one, other in [("true", "soft"), ("soft", "kd"), ("true", "kd")]:
    assert np.abs(targets[one] - targets[other]).max() > 1e-6
  config = tiny_config.get_config()
  config.objective = "gradient_matching"
  config.bank.dir = str(tmp_path / "soft")
  with pytest.raises(errors.InputError, match="labels is .* there, true here"):
    jobs.prepare(config)
  config.teachers.dirs = (str(folder),)
  jobs.prepare(config)
  config.selection.apart = 3
  with pytest.raises(errors.InputError, match="apart=3 is about the rows"):
    jobs.prepare(config)
  noisy = ["--config.bank.clip=1.0", "--config.bank.noise=1.0", dirs]
  assert main.main([*command, f"--workdir={tmp_path / 'no'}", *noisy]) == 2


def test_a_row_that_its_teacher_is_unsure_of_keeps_its_own_label():
  logits = np.array([[[0.0, 0.0, 0.0], [9.0, -9.0, -9.0], [1.0, 0.5, 0.0]]])
  truth = np.eye(3)[[2, 2, 2]]
  found = ensembles.soft_labels(
    logits, truth, ensembles.Options(certainty=True)
  )
  np.testing.assert_allclose(found[0], truth[0], atol=1e-6)  # uniform: nothing
  np.testing.assert_allclose(found[1], [1, 0, 0], atol=1e-5)  # certain: all
  np.testing.assert_allclose(found.sum(axis=1), 1.0, atol=1e-6)


def test_nobody_is_confident_in_a_label_that_a_row_does_not_have():
  logits_KxNxC = np.array([[[3.0, 0.0]] * 2, [[0.0, 3.0]] * 2])
  truth_NxC = np.array([[0.5, 0.5], [1.0, 0.0]], np.float32)
  options = ensembles.Options(weights="confidence")
  said_NxC = ensembles.soft_labels(logits_KxNxC, truth_NxC, options)
  np.testing.assert_allclose(said_NxC[0], 0.5, atol=1e-6)
  assert said_NxC[1, 0] > 0.8


def test_numbers_that_are_none_are_no_labels(folder):
  teacher = trained.load(str(folder))
  with pytest.raises(
    errors.InputError, match="first says numbers that are not"
  ):
    trained.require_finite(teacher, np.array([0.0, np.nan]))


def test_a_teacher_of_pairs_by_token_types_is_refused(folder, tmp_path):
  theirs = tmp_path / "theirs"
  shutil.copytree(folder, theirs)
  (theirs / "tokenizer_config.json").write_text("{}")
  config = tiny_config.get_config()
  names = assembly.setup(settings.recipe(config)).corpus.label_names
  read = settings.recipe(config).data
  trained.require_reads(trained.load(str(folder)), names, read, True)
  teacher = trained.load(str(theirs))
  trained.require_reads(teacher, names, read, False)
  with pytest.raises(errors.InputError, match="apart by token types"):
    trained.require_reads(teacher, names, read, True)


def test_every_teacher_may_have_its_own_temperature():
  logits = np.array([[[2.0, 0.0]], [[2.0, 0.0]]])
  truth = np.eye(2)[[0]]
  found = ensembles.soft_labels(
    logits, truth, ensembles.Options(temperatures=(1.0, 1e6))
  )
  one = np.exp(2.0) / (1 + np.exp(2.0))
  np.testing.assert_allclose(found[0, 0], 0.5 * one + 0.25, atol=1e-5)
  with pytest.raises(ValueError, match="one for each of 2 teachers"):
    ensembles.soft_labels(
      logits, truth, ensembles.Options(temperatures=(1.0, 2.0, 3.0))
    )
