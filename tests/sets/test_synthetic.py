"""The set: how it is stored, saved and refused."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from conftest import make_synthetic

from gmdistill import errors
from gmdistill.data import batches
from gmdistill.sets import nearest_text, set_files, spaces, synthetic, wrappers

CARD = {"task": "toy", "label_names": ["a", "b"], "embedding_space": "abc"}


def learned(kind="unrestricted", steps=3):
  stored = wrappers.with_learning_rates(
    wrappers.with_soft_labels(synthetic.direct(), kind), steps, 0.05
  )
  return stored, stored.init(make_synthetic())


@pytest.mark.parametrize("kind", ["hard", "softmax", "unrestricted"])
def test_decoding_the_first_parameters_gives_the_batch_back(kind):
  batch = make_synthetic()
  stored, params = learned(kind)
  decoded = stored.decode(params)
  np.testing.assert_array_equal(decoded.batch.inputs, batch.inputs)
  np.testing.assert_allclose(decoded.learning_rates, 0.05, rtol=1e-5)
  atol = 0.051 if kind == "softmax" else 0.0
  np.testing.assert_allclose(decoded.batch.labels, batch.labels, atol=atol)
  assert bool(decoded.batch.mask.all())


@pytest.mark.parametrize("kind", ["hard", "softmax", "unrestricted"])
@pytest.mark.parametrize("base", [synthetic.direct(), synthetic.factorized(5)])
def test_a_set_that_is_there_is_encoded_to_what_decodes_to_it(kind, base):
  even = jnp.full((4, 2, 2, 6), 1 / 6)
  stored = wrappers.with_smoothed_labels(
    wrappers.with_learning_rates(
      wrappers.with_attention_labels(
        wrappers.with_soft_labels(base, kind), lambda batch: even
      ),
      3,
      0.05,
      0.5,
      np.array([0.6, 0.8]),
    ),
    0.3,
  )
  drawn = lambda x: x + 0.2 * jax.random.normal(jax.random.key(x.size), x.shape)  # noqa: E731
  params = jax.tree.map(drawn, stored.init(make_synthetic()))
  syn = stored.decode(params)
  again = stored.decode(stored.encode(syn))
  # Many bases span the same embeddings.
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4),
    dataclasses.replace(syn, basis=None),
    dataclasses.replace(again, basis=None),
  )


def test_rationales_are_encoded_and_a_set_without_them_is_no_start():
  stored = wrappers.with_rationales(synthetic.direct())
  told = dataclasses.replace(
    make_synthetic(),
    tokens=batches.Tokens(
      jax.random.normal(jax.random.key(5), (4, 3, 8)), jnp.full((4, 3), 1 / 3)
    ),
  )
  syn = stored.decode(stored.init(told))
  again = stored.decode(stored.encode(syn))
  jax.tree.map(np.testing.assert_array_equal, syn, again)
  with pytest.raises(ValueError, match="has no rationales"):
    stored.encode(synthetic.SyntheticSet(make_synthetic()))


def test_steps_that_a_set_does_not_bring_start_afresh():
  stored, _ = learned(steps=3)
  other, params = learned(steps=5)
  again = stored.decode(stored.encode(other.decode(params)))
  np.testing.assert_allclose(again.learning_rates, [0.05] * 3, rtol=1e-5)


def test_softmax_labels_stay_distributions_and_steps_stay_positive():
  stored, params = learned("softmax")
  far = jax.tree.map(lambda x: x - 30.0 * jnp.sign(x) - 5.0, params)
  decoded = stored.decode(far)
  np.testing.assert_allclose(decoded.batch.labels.sum(-1), 1.0, rtol=1e-6)
  assert bool((decoded.learning_rates > 0).all())


def test_frozen_rows_keep_all_that_is_told_of_them():
  stored = wrappers.with_rationales(
    wrappers.with_attention_labels(
      wrappers.with_soft_labels(synthetic.direct(), "softmax"),
      lambda batch: jnp.full((4, 2, 2, 6), 1 / 6),
    )
  )
  frozen = wrappers.with_frozen_rows(stored, np.array([True, False] * 2))
  told = batches.Tokens(jnp.ones((4, 3, 8)), jnp.ones((4, 3)))
  params = frozen.init(dataclasses.replace(make_synthetic(), tokens=told))

  def total(params):
    batch = frozen.decode(params).batch
    parts = (batch.inputs, batch.labels, batch.attention, batch.tokens.targets)
    return sum((x * jnp.sin(jnp.arange(x.size).reshape(x.shape))).sum()
               for x in parts)  # fmt: skip

  slopes = jax.grad(total)(params)
  learned = slopes["base"]["base"]
  for slope in (
    learned["base"]["embeddings"],
    learned["labels"],
    slopes["base"]["attention"],
    slopes["rationale"],
  ):
    moves = np.abs(slope).max(axis=tuple(range(1, slope.ndim)))
    np.testing.assert_array_equal(moves > 0, [False, True] * 2)


def test_hard_labels_get_no_gradient():
  stored, params = learned("hard")
  grads = jax.grad(lambda p: stored.decode(p).batch.labels.sum())(params)
  assert not np.any(grads["base"]["labels"])


def test_the_sizes_of_all_steps_are_saved_beside_the_others(tmp_path):
  shares = np.array([0.6, 0.8])
  stored = wrappers.with_learning_rates(
    synthetic.direct(), 3, 0.05, 0.5, shares
  )
  decoded = stored.decode(stored.init(make_synthetic()))
  set_files.save(tmp_path, decoded, CARD)
  tensors = safetensors.numpy.load_file(tmp_path / "set.safetensors")
  np.testing.assert_allclose(tensors["head_learning_rates"], 0.5, rtol=1e-5)
  np.testing.assert_allclose(tensors["learning_rates"], 0.05, rtol=1e-5)
  np.testing.assert_allclose(tensors["tensor_shares"], [shares] * 3, rtol=1e-5)
  again, _ = set_files.load(tmp_path)
  jax.tree.map(np.testing.assert_array_equal, decoded, again)


def test_a_step_takes_the_next_examples_of_each_class():
  order = wrappers.cyclic_order(2, 5, 2, 4)
  stored = wrappers.with_learning_rates(synthetic.direct(), 4, 0.1, order=order)
  decoded = stored.decode(stored.init(make_synthetic(per_class=5)))
  expected = [[0, 1, 5, 6], [2, 3, 7, 8], [4, 0, 9, 5], [1, 2, 6, 7]]
  np.testing.assert_array_equal(decoded.steps.order, expected)


def test_attention_labels_are_distributions_and_are_saved(tmp_path):
  start = jnp.broadcast_to(jax.nn.softmax(jnp.arange(6.0)), (4, 2, 2, 6))
  stored = wrappers.with_attention_labels(
    synthetic.direct(), lambda batch: start
  )
  params = stored.init(make_synthetic())
  decoded = stored.decode(params)
  np.testing.assert_allclose(decoded.batch.attention, start, rtol=1e-5)
  moved = params["attention"].at[..., 2].add(3.0)
  decoded = stored.decode({**params, "attention": moved})
  np.testing.assert_allclose(decoded.batch.attention.sum(-1), 1.0, rtol=1e-6)
  set_files.save(tmp_path, decoded, CARD)
  again, card = set_files.load(tmp_path)
  jax.tree.map(np.testing.assert_array_equal, decoded, again)
  assert card["bytes"] == set_files.num_bytes(decoded)
  inputs = decoded.batch.inputs
  assert card["bytes"] == inputs.nbytes + start.nbytes + 4 * 2 * 4


def test_no_replayed_steps_means_no_learning_rates():
  stored, params = learned(steps=0)
  assert stored.decode(params).learning_rates is None


def test_an_unknown_label_kind_is_refused():
  with pytest.raises(ValueError, match="hard, softmax, unrestricted"):
    wrappers.with_soft_labels(synthetic.direct(), "smooth")


def test_a_saved_set_loads_with_safetensors_alone(tmp_path):
  stored, params = learned()
  decoded = stored.decode(params)
  set_files.save(tmp_path / "set", decoded, CARD)
  tensors = safetensors.numpy.load_file(tmp_path / "set" / "set.safetensors")
  assert set(tensors) == {"embeddings", "mask", "labels", "learning_rates"}
  np.testing.assert_array_equal(tensors["embeddings"], decoded.batch.inputs)
  assert tensors["mask"].dtype == bool
  card = json.loads((tmp_path / "set" / "card.json").read_text())
  kept = [tensors[k].nbytes for k in ("embeddings", "labels", "learning_rates")]
  assert card["bytes"] == sum(kept)
  assert card["format"] == set_files.FORMAT


def test_a_set_comes_back_bit_for_bit(tmp_path):
  stored, params = learned()
  order = jnp.array([[0, 1], [2, 3], [0, 3]])
  before = stored.decode(params).replace(order=order)
  set_files.save(tmp_path, before, CARD)
  after, card = set_files.load(tmp_path, "abc")
  jax.tree.map(np.testing.assert_array_equal, before, after)
  assert card["task"] == "toy"


def test_a_set_of_another_space_is_refused_with_both_ids(tmp_path):
  stored, params = learned()
  set_files.save(tmp_path, stored.decode(params), CARD)
  with pytest.raises(errors.InputError, match="abc.*\\bxyz\\b"):
    set_files.load(tmp_path, "xyz")


@pytest.mark.parametrize(
  "name, content",
  [
    ("set.safetensors", None),
    ("set.safetensors", b"not a tensor file"),
    ("set.safetensors", "half"),
    ("card.json", None),
    ("card.json", b"{"),
    ("card.json", b"{}"),
  ],
)
def test_a_damaged_set_is_one_line(tmp_path, name, content):
  stored, params = learned()
  set_files.save(tmp_path, stored.decode(params), CARD)
  path = tmp_path / name
  if content is None:
    path.unlink()
  else:
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2] if content == "half" else content)
  with pytest.raises(errors.InputError) as refusal:
    set_files.load(tmp_path)
  assert "\n" not in str(refusal.value)
  assert name in str(refusal.value)


def test_the_space_id_depends_on_table_and_tokenizer():
  table = np.ones((3, 2), np.float32)
  ids = {
    spaces.id_of(table, "a"),
    spaces.id_of(table, "b"),
    spaces.id_of(table * 2, "a"),
  }
  assert len(ids) == 3
  assert spaces.id_of(jnp.asarray(table), "a") in ids


@pytest.mark.parametrize(
  "precision, each, gap", [("bfloat16", 2, 2**-8), ("int8", 1, 1 / 254)]
)
def test_a_set_in_fewer_bytes_stays_near(tmp_path, precision, each, gap):
  stored, params = learned()
  decoded = stored.decode(params)
  set_files.save(tmp_path, decoded, CARD, precision)
  after, card = set_files.load(tmp_path)
  before = np.asarray(decoded.batch.inputs)
  found = np.asarray(after.batch.inputs)
  assert found.dtype == np.float32
  # Half a step of a position's grid; of a number's own, for halves.
  size = np.abs(before)
  scale = size.max(axis=-1, keepdims=True) if precision == "int8" else size
  assert (np.abs(found - before) <= 1.01 * gap * scale + 1e-7).all()
  np.testing.assert_array_equal(
    found, set_files.as_stored(decoded, precision).batch.inputs
  )
  tensors = safetensors.numpy.load_file(tmp_path / "set.safetensors")
  assert tensors["embeddings"].nbytes == each * before.size
  scales = before.size // before.shape[-1] * 4 if precision == "int8" else 0
  full = set_files.num_bytes(decoded)
  assert card["bytes"] == full - (4 - each) * before.size + scales


def test_a_zero_position_survives_integers():
  batch = make_synthetic()
  syn = synthetic.SyntheticSet(
    batch.replace(inputs=batch.inputs.at[0, 0].set(0.0))
  )
  again = set_files.as_stored(syn, "int8").batch.inputs
  assert np.isfinite(again).all() and not again[0, 0].any()


def test_a_low_rank_set_starts_from_the_best_approximation():
  batch = make_synthetic()
  rows = np.asarray(batch.inputs).reshape(-1, batch.inputs.shape[-1])
  for rank in (2, rows.shape[1]):
    stored = synthetic.factorized(rank)
    found = stored.decode(stored.init(batch))
    scale = np.linalg.svd(rows, compute_uv=False)
    gap = np.asarray(found.batch.inputs).reshape(rows.shape) - rows
    best = np.sqrt(np.square(scale[rank:]).sum())
    np.testing.assert_allclose(np.linalg.norm(gap), best, atol=1e-4)
    assert found.basis.shape == (rank, rows.shape[1])


def test_a_low_rank_set_is_stored_as_its_factors(tmp_path):
  stored = synthetic.factorized(2)
  batch = make_synthetic()
  decoded = stored.decode(stored.init(batch))
  set_files.save(tmp_path, decoded, CARD)
  after, card = set_files.load(tmp_path)
  np.testing.assert_allclose(
    after.batch.inputs, decoded.batch.inputs, atol=1e-5
  )
  tensors = safetensors.numpy.load_file(tmp_path / "set.safetensors")
  m, length, width = batch.inputs.shape
  assert tensors["embeddings"].shape == (m, length, 2)
  assert card["bytes"] == 4 * (m * length * 2 + 2 * width + m * 2)


@pytest.mark.parametrize("rank", [0, 9])
def test_a_rank_that_does_not_fit_is_refused(rank):
  with pytest.raises(ValueError, match="must be 1 to 8"):
    synthetic.factorized(rank).init(make_synthetic())


def test_a_padded_table_has_no_tokens_beyond_the_tokenizers():
  batch = make_synthetic()
  width = batch.inputs.shape[-1]
  tokens = ["a", "b", "c"]
  padding = batch.inputs.reshape(-1, width)  # nearer than any token
  table = jnp.concatenate([jnp.ones((3, width)), padding])
  described = nearest_text.examples(batch, table, tokens, np.zeros(4, int))
  said = {near["token"] for x in described for at in x["tokens"] for near in at}
  assert said == set(tokens)
