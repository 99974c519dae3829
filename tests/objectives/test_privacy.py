"""Private gradients: what is clipped, what is added, what it guarantees."""

import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny_config
from conftest import make_real, make_small_problem
from scipy import stats

from gmdistill import errors
from gmdistill.data import samplers
from gmdistill.objectives import bank, bank_building, distances, privacy
from gmdistill.runs.config import assembly, settings
from gmdistill.students import roles
from gmdistill.system import checkpoints


def private(clip, noise=0.0, seed=0):
  problem = make_small_problem()
  rows = jax.tree.map(lambda x: x[0], make_real(1))
  both = jax.value_and_grad(problem.loss)
  params = problem.init(jax.random.key(0))
  measure = jax.jit(
    lambda key: privacy.gradient(
      both, params, rows, clip=clip, noise=noise, key=key
    )
  )
  return measure(jax.random.key(seed)), both, params, rows


def test_a_wide_clip_leaves_the_mean_gradient():
  (value, grads), both, params, rows = private(clip=1e6)
  expected = jax.jit(both)(params, rows)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
    (value, grads),
    expected,
  )


def test_each_row_is_clipped_by_itself():
  (_, grads), both, params, rows = private(clip=0.3)
  total, longer = jax.tree.map(jnp.zeros_like, params), 0
  gradient = jax.jit(both)
  for i in range(len(rows.labels)):
    _, own = gradient(params, jax.tree.map(lambda x, i=i: x[i : i + 1], rows))
    norm = float(optax.tree.norm(own))
    longer += norm > 0.3
    total = jax.tree.map(
      lambda t, g, n=norm: t + g * min(1.0, 0.3 / n), total, own
    )
  assert longer > 0
  jax.tree.map(
    lambda g, t: np.testing.assert_allclose(
      g, t / len(rows.labels), rtol=1e-4, atol=1e-7
    ),
    grads,
    total,
  )


def test_the_noise_is_as_strong_as_told_and_drawn_by_the_key():
  (_, plain), *_ = private(clip=0.3)
  (_, noisy), *_, rows = private(clip=0.3, noise=2.0)
  gap = np.concatenate(
    [
      np.ravel(a - b)
      for a, b in zip(*map(jax.tree.leaves, (noisy, plain)), strict=True)
    ]
  )
  told = 2.0 * 0.3 / len(rows.labels)
  assert gap.std() == pytest.approx(told, rel=0.05)
  assert abs(gap.mean()) < 4 * told / len(gap) ** 0.5
  (_, other), *_ = private(clip=0.3, noise=2.0, seed=1)
  assert not np.allclose(other["head"]["kernel"], noisy["head"]["kernel"])


@pytest.mark.parametrize("noise", [0.8, 2.0])
def test_epsilon_is_that_of_the_gaussian_mechanism(noise):
  found = privacy.epsilon(noise, 1, 1e-5)
  # Exactly (Balle and Wang 2018, theorem 8).
  delta = stats.norm.cdf(0.5 / noise - found * noise) - np.exp(
    found
  ) * stats.norm.cdf(-0.5 / noise - found * noise)
  assert delta == pytest.approx(1e-5, rel=0.01)
  # k uses at once are one with noise smaller by the root of k.
  many = privacy.epsilon(noise * 2, 4, 1e-5)
  assert many == pytest.approx(found, rel=1e-3)


@pytest.fixture(scope="module")
def pretrained():
  """A setup whose table and first weights come from elsewhere."""
  setup = assembly.setup(settings.recipe(tiny_config.get_config()))
  initial = setup.problem.init(jax.random.key(5))
  del initial["head"]
  problem = setup.problem.replace(initial=initial)
  return setup._replace(problem=problem)


OPTIONS = bank.Options(
  num_trajectories=2,
  ages=(0, 2),
  rows_per_class=4,
  batch_rows_per_class=2,
  precision="float32",
  clip=0.5,
  noise=1.5,
)


def test_a_private_bank_says_what_it_guarantees(tmp_path, pretrained):
  bank_building.build(tmp_path, pretrained, OPTIONS)
  said = json.loads((tmp_path / "bank.json").read_text())["privacy"]
  assert said["uses"] == 2  # in training, and in what is kept
  assert said["epsilon"] == pytest.approx(privacy.epsilon(1.5, 2, 1e-5))
  opened = bank.Bank(tmp_path, pretrained)
  entry = opened.expert(1, 1, ("params", "targets", "losses"))
  assert entry.losses is None
  noise = np.ravel(entry.targets["head"]["kernel"])
  assert noise.std() == pytest.approx(1.5 * 0.5 / 4, rel=0.5)


def test_clipping_alone_keeps_the_gradient_near(tmp_path, pretrained):
  clipped = dataclasses.replace(OPTIONS, noise=0.0, clip=1e6, ages=(0,))
  plain = dataclasses.replace(clipped, clip=0.0)
  found = []
  for name, options in (("clipped", clipped), ("plain", plain)):
    bank_building.build(tmp_path / name, pretrained, options)
    opened = bank.Bank(tmp_path / name, pretrained)
    found.append(opened.expert(0, 0, ("targets",)).targets)
  assert float(distances.cosine(*found, roles.ENCODER, "all")) > 0.999
  assert "privacy" not in json.loads(
    (tmp_path / "clipped" / "bank.json").read_text()
  )


def test_more_rows_than_an_epoch_cost_more(pretrained):
  scarcest = np.bincount(pretrained.corpus.train.labels).min()
  many = dataclasses.replace(OPTIONS, rows_per_class=int(scarcest))
  # Four sums of as many rows as the smallest class has; in a larger class they
  # straddle epochs, and a row may be in one of them twice.
  assert bank_building.guarantee(pretrained, many)["uses"] == 1 + 8
  fresh = dataclasses.replace(OPTIONS, ages=(0,))
  assert bank_building.guarantee(pretrained, fresh)["uses"] == 1


def test_uses_bound_what_shuffled_epochs_do():
  assert privacy.uses(0, 4, 100) == 0
  assert privacy.uses(25, 4, 100) == 1  # one epoch, each row once
  assert privacy.uses(26, 4, 100) == 4  # a second has begun
  draw = samplers.shuffled_epochs(np.arange(10), (0,))
  batches = [np.bincount(draw(7 * i, 7), minlength=10) for i in range(6)]
  cost = np.square(batches).sum(axis=0)  # of one row: sensitivity squared
  assert cost.max() <= privacy.uses(6, 7, 10)


def test_the_noise_is_nobodys_to_take_out(tmp_path, pretrained, monkeypatch):
  save, folders = checkpoints.save_tree, [tmp_path / "a", tmp_path / "b"]

  def cut(path, tree):
    save(path, tree)
    raise KeyboardInterrupt

  monkeypatch.setattr(checkpoints, "save_tree", cut)
  with pytest.raises(KeyboardInterrupt):
    bank_building.build(folders[0], pretrained, OPTIONS)
  key = folders[0] / "noise_key"
  assert key.stat().st_mode & 0o077 == 0
  monkeypatch.setattr(checkpoints, "save_tree", save)
  for folder in folders:
    bank_building.build(folder, pretrained, OPTIONS)
  assert not key.exists()
  shutil.copytree(folders[1], tmp_path / "c")
  shutil.rmtree(tmp_path / "c" / "entries" / "000-00002")
  with pytest.raises(errors.InputError, match="spend privacy anew"):
    bank_building.build(tmp_path / "c", pretrained, OPTIONS)
  one, two = (
    bank.Bank(folder, pretrained).expert(0, 0, ("targets",)).targets
    for folder in folders
  )
  assert not np.allclose(one["head"]["kernel"], two["head"]["kernel"])
  said = json.loads((folders[0] / "bank.json").read_text())
  assert pretrained.corpus.fingerprint not in json.dumps(said)


def test_what_noise_does_not_hide_is_refused(tmp_path, pretrained):
  setup = assembly.setup(settings.recipe(tiny_config.get_config()))
  with pytest.raises(errors.InputError, match="student.pretrained"):
    bank_building.build(tmp_path / "bank", setup, OPTIONS)
  assert not (tmp_path / "bank").exists()
  large = dataclasses.replace(OPTIONS, batch_rows_per_class=10**4)
  with pytest.raises(errors.InputError, match="batch_rows_per_class=10000"):
    bank_building.guarantee(pretrained, large)
  for fields, word in (
    (dict(clip=0.0), "bank.clip"),
    (dict(rows="k_centers"), "bank.rows=random"),
    (dict(noise=-1.0), "bank.noise=-1.0"),
  ):
    with pytest.raises(errors.InputError, match=word):
      dataclasses.replace(OPTIONS, **fields)
