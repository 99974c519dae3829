"""Adapters: a student is what is trained; the base is an argument."""

import json

import jax
import jax.numpy as jnp
import make_tiny_decoders
import numpy as np
import pytest
import safetensors.numpy
import test_decoders

from gmdistill import errors
from gmdistill.objectives import distances
from gmdistill.students import adapters, decoder_weights, peft_files
from gmdistill.training import mixed_mode


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
  folder = tmp_path_factory.mktemp("llama")
  return decoder_weights.load(test_decoders.write_directory(folder, "llama"))


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory):
  folder = tmp_path_factory.mktemp("gpt2")
  return decoder_weights.load(test_decoders.write_directory(folder, "gpt2"))


def inputs_of(read):
  ids, mask = make_tiny_decoders.ids_and_mask()
  return read.embeddings[ids], jnp.asarray(mask)


apply = jax.jit(
  lambda student, frozen, params, x, mask: (
    student.apply({"frozen": frozen, "params": params}, x, mask).logits
  ),
  static_argnums=0,
)


def drawn(adapted, key=0):
  """An adapter whose B is not zero any more."""
  params = adapted.student.init(jax.random.key(key))["params"]
  rng = np.random.default_rng(key)
  return jax.tree.map(
    lambda x: x + 0.1 * rng.standard_normal(x.shape, np.float32), params
  )


def loss(params, x, student, frozen, mask):
  said = student.apply({"frozen": frozen, "params": params}, x, mask)
  hidden = said.logits
  target = jnp.cos(jnp.arange(hidden.size)).reshape(hidden.shape)
  return (hidden * target * mask[..., None]).sum()


def test_a_new_low_rank_student_says_what_its_base_says(llama):
  adapted = adapters.lora(llama.module, llama.params, rank=2)
  x, mask = inputs_of(llama)
  params = adapted.student.init(jax.random.key(0))["params"]
  np.testing.assert_array_equal(
    apply(adapted.student, adapted.frozen, params, x, mask),
    test_decoders.hidden_states(llama.module, llama.params, x, mask),
  )
  other = adapted.student.init(jax.random.key(1))["params"]
  first, second = (p["layers"]["gate"]["A"] for p in (params, other))
  assert first.shape == (2, 8, 2) and np.abs(first - second).max() > 0.1
  assert np.abs(first).max() <= 8**-0.5
  # Seven pairs in two layers.
  assert adapters.num_parameters(params) == 2 * 2 * (
    16 + 12 + 12 + 16 + 20 + 20 + 20
  )


def test_while_b_is_zero_the_gradient_of_a_is_and_b_alone_is_matched(llama):
  adapted = adapters.lora(
    llama.module, llama.params, rank=2, targets=("query", "value", "down")
  )
  x, mask = inputs_of(llama)
  params = adapted.student.init(jax.random.key(0))["params"]
  rest = (adapted.student, adapted.frozen, mask)
  of_loss = lambda params, x: loss(params, x, *rest)  # noqa: E731
  gradient = jax.jit(lambda params, x: mixed_mode.grad(of_loss)(params, x))
  real, near = gradient(params, x), gradient(params, x + 0.1)
  pairs = adapters.pairs(real["layers"])
  assert sorted(pairs) == ["attention/query", "attention/value", "down"]
  for pair in pairs.values():
    assert not pair["A"].any() and pair["B"].any()

  def without_a(grads):
    return {
      "layers": {k: v["B"] for k, v in adapters.pairs(grads["layers"]).items()}
    }

  own = adapted.student.roles
  for kind in ("flat_cosine", "l2"):
    whole = distances.between(near, real, own, kind=kind, matched="all")
    alone = distances.between(
      without_a(near), without_a(real), own, kind=kind, matched="all"
    )
    np.testing.assert_allclose(whole, alone, rtol=1e-5)

  # Through no distance does a zero become NaN, and B is pulled.
  @jax.jit
  def pull(near):
    return jax.grad(
      lambda near: sum(
        distances.between(near, real, own, kind=kind, matched="all")
        for kind in distances.KINDS
      )
    )(near)

  for pair in adapters.pairs(pull(near)["layers"]).values():
    assert jnp.isfinite(pair["A"]).all()
    assert jnp.isfinite(pair["B"]).all() and pair["B"].any()
  # One step on, both have a gradient.
  moved = jax.tree.map(lambda p, g: p - 0.1 * g, params, real)
  for pair in adapters.pairs(gradient(moved, x)["layers"]).values():
    assert pair["A"].any() and pair["B"].any()


def test_a_merged_adapter_is_the_changed_decoder(llama):
  adapted = adapters.lora(llama.module, llama.params, rank=3, alpha=5.0)
  x, mask = inputs_of(llama)
  params = drawn(adapted)
  merged = adapted.student.merged(adapted.frozen, params)
  expected = apply(adapted.student, adapted.frozen, params, x, mask)
  actual = test_decoders.hidden_states(llama.module, merged, x, mask)
  np.testing.assert_allclose(actual, expected, atol=1e-5)
  before = test_decoders.hidden_states(llama.module, llama.params, x, mask)
  assert np.abs(expected - before).max() > 0.1


@pytest.mark.parametrize("kind", ["last", "head", "everything"])
def test_a_part_starts_as_its_base_and_merges_into_it(kind, llama, gpt2):
  read = gpt2 if kind == "head" else llama  # a tied one is untied
  adapted = {
    "last": lambda: adapters.last_layers(read.module, read.params, 1),
    "head": lambda: adapters.head(read.module, read.params, read.embeddings),
    "everything": lambda: adapters.everything(read.module, read.params),
  }[kind]()
  student, frozen, initial = adapted
  x, mask = inputs_of(read)
  np.testing.assert_allclose(
    apply(student, frozen, initial, x, mask),
    test_decoders.hidden_states(read.module, read.params, x, mask),
    atol=1e-6,
  )
  merged = student.merged(frozen, initial)
  for name, x in read.params.items():
    jax.tree.map(np.testing.assert_array_equal, merged[name], x)
  if kind == "last":
    assert initial["layers"]["up"]["kernel"].shape[0] == 1
    assert sorted(initial) == ["final_norm", "layers"]
  if kind == "head":
    assert sorted(initial) == ["unembedding"] and not student.module.tied


@pytest.mark.parametrize("family", test_decoders.FAMILIES)
def test_an_adapter_comes_back_from_its_directory(family, tmp_path):
  folder = test_decoders.write_directory(tmp_path, family)
  read = decoder_weights.load(folder)
  adapted = adapters.lora(read.module, read.params, rank=2)
  params = drawn(adapted)
  where = dict(family=family, base_id=adapters.identity(read.params))
  peft_files.save(
    tmp_path / "adapter", adapted.student, params, base=str(folder), **where
  )
  student, again = peft_files.load(tmp_path / "adapter", read.module, **where)
  assert student.scale == adapted.student.scale
  if family != "gpt2":  # whose queries, keys and values are one matrix there
    assert sorted(student.targets) == sorted(adapters.TARGETS)
    jax.tree.map(np.testing.assert_array_equal, again, params)
  expected = adapted.student.merged(read.params, params)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6),
    student.merged(read.params, again),
    expected,
  )


def test_a_layer_may_have_a_scale_and_a_rank_of_its_own(llama, tmp_path):
  adapted = adapters.lora(llama.module, llama.params, rank=2, targets=("up",))
  params = drawn(adapted)
  where = dict(family="llama", base_id="a" * 64)
  save = lambda: peft_files.save(  # noqa: E731
    tmp_path, adapted.student, params, base="llama", **where
  )
  save()
  config = json.loads((tmp_path / peft_files.CONFIG).read_text())
  config["alpha_pattern"] = {"layers.1.mlp.(up|gate)_proj": 12}
  (tmp_path / peft_files.CONFIG).write_text(json.dumps(config))
  path = tmp_path / peft_files.WEIGHTS
  tensors = safetensors.numpy.load_file(path)
  name = "base_model.model.model.layers.1.mlp.up_proj.lora_{}.weight"
  tensors[name.format("A")] = tensors[name.format("A")][:1]
  tensors[name.format("B")] = tensors[name.format("B")][:, :1].copy()
  safetensors.numpy.save_file(tensors, path)
  student, read = peft_files.load(tmp_path, llama.module, **where)
  pair, expected = read["layers"]["up"], params["layers"]["up"]
  np.testing.assert_array_equal(pair["A"][0], expected["A"][0])
  np.testing.assert_array_equal(pair["B"][0], expected["B"][0])
  # Rank 1 of alpha 12, where the others' scale is 2.
  np.testing.assert_array_equal(pair["A"][1][:, :1], expected["A"][1][:, :1])
  np.testing.assert_allclose(pair["B"][1][:1], 6 * expected["B"][1][:1])
  assert student.scale == 2 and not pair["B"][1][1:].any()
  del tensors[name.format("A")]
  safetensors.numpy.save_file(tensors, path)
  with pytest.raises(errors.InputError, match="one matrix of a pair alone"):
    peft_files.load(tmp_path, llama.module, **where)


def test_a_fused_matrix_that_is_no_three_alike_is_refused(gpt2, tmp_path):
  adapted = adapters.lora(gpt2.module, gpt2.params, rank=2, targets=("query",))
  where = dict(family="gpt2", base_id="a" * 64)
  peft_files.save(
    tmp_path, adapted.student, drawn(adapted), base="gpt2", **where
  )
  path = tmp_path / peft_files.WEIGHTS
  tensors = safetensors.numpy.load_file(path)
  name = "base_model.model.transformer.h.0.attn.c_attn.lora_B.weight"
  tensors[name] = tensors[name][:-1].copy()
  safetensors.numpy.save_file(tensors, path)
  with pytest.raises(errors.InputError, match="lora_B of shape .*another base"):
    peft_files.load(tmp_path, gpt2.module, **where)


def test_an_adapter_of_another_base_is_refused(llama, gpt2, tmp_path):
  adapted = adapters.lora(llama.module, llama.params, rank=2)
  peft_files.save(
    tmp_path,
    adapted.student,
    drawn(adapted),
    family="llama",
    base="llama",
    base_id="a" * 64,
  )
  load = lambda read, base_id="a" * 64: peft_files.load(  # noqa: E731
    tmp_path, read.module, family=read.family, base_id=base_id
  )
  with pytest.raises(errors.InputError, match="of another base"):
    load(llama, "b" * 64)
  with pytest.raises(errors.InputError, match="of another base"):
    load(gpt2)
  for fields in (dict(width=16), dict(num_layers=1)):
    other = llama._replace(module=llama.module.clone(**fields))
    with pytest.raises(errors.InputError, match="of another base"):
      load(other)
  config = json.loads((tmp_path / peft_files.CONFIG).read_text())
  for fields, message in (
    (dict(peft_type="IA3"), "type IA3"),
    (dict(use_dora=True), "use_dora=True"),
    (dict(r=0), "r=0"),
    (dict(alora_invocation_tokens=[3]), "alora_invocation_tokens"),
    (dict(init_lora_weights="pissa_niter_4"), "the base is changed too"),
  ):
    (tmp_path / peft_files.CONFIG).write_text(json.dumps(config | fields))
    with pytest.raises(errors.InputError, match=message):
      load(llama)
  (tmp_path / peft_files.CONFIG).write_text(json.dumps(config))
  tensors = {"base_model.model.lm_head.lora_A.weight": np.ones((2, 8))}
  safetensors.numpy.save_file(tensors, tmp_path / peft_files.WEIGHTS)
  with pytest.raises(errors.InputError, match="more than its layers"):
    load(llama)
  (tmp_path / peft_files.WEIGHTS).unlink()
  with pytest.raises(errors.InputError, match="has no adapter_model"):
    load(llama)


def test_ranks_layers_and_targets_that_are_none_are_refused(llama):
  module, params = llama.module, llama.params
  for rank in (0, 9):
    with pytest.raises(ValueError, match="is 8 wide; use 1 to 8"):
      adapters.lora(module, params, rank=rank)
  with pytest.raises(ValueError, match="targets=q_proj is none of query"):
    adapters.lora(module, params, targets=("q_proj",))
  for count in (0, 3):
    with pytest.raises(ValueError, match="use 1 to 2"):
      adapters.last_layers(module, params, count)
