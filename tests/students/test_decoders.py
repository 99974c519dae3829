"""Decoders: what is read is what `transformers` computes, and back.

`tiny_decoders` holds what the library answered for random weights of every
family, which `make_tiny_decoders.drawn` draws again by their names.
"""

import jax
import jax.numpy as jnp
import make_tiny_decoders
import numpy as np
import pytest
import safetensors.numpy
from etils import epath
from tiny_lms import FAMILIES, stored, tensors_of, write_directory

from gmdistill import errors
from gmdistill.students import (
  decoder_layers,
  decoder_weights,
  decoders,
  hugging_face,
  problems,
  shards,
)

ROTARY = decoder_layers.Rotary()

# Compiled once for all the tests that use the same module.
hidden_states = jax.jit(
  lambda module, params, x, mask: module.apply(
    {"params": params}, x, mask, method="encode"
  ),
  static_argnums=0,
)


def drawn_params(module):
  like = decoder_weights.shapes(module)
  rng = np.random.default_rng(0)
  return jax.tree.map(
    lambda x: 0.3 * rng.standard_normal(x.shape, np.float32), like
  )


def logits_of(read, ids, mask):
  hidden = hidden_states(
    read.module, read.params, read.embeddings[np.asarray(ids)], mask
  )
  table = read.params.get("unembedding", read.embeddings)
  return np.asarray(hidden @ table.T)


@pytest.fixture(scope="module", params=FAMILIES)
def read(request, tmp_path_factory):
  """A tiny decoder of each family."""
  folder = tmp_path_factory.mktemp("decoders")
  return decoder_weights.load(write_directory(folder, request.param))


def test_logits_equal_those_of_transformers(read):
  ids, mask = make_tiny_decoders.ids_and_mask()
  expected = np.array(stored(read.family)["logits"])
  logits = logits_of(read, ids, mask)
  for row, wanted, count in zip(logits, expected, mask.sum(1), strict=True):
    gap = np.abs(row[[0, 1, 2, count - 1]] - wanted).max()
    assert gap <= 1e-5 * np.abs(expected).max()


def test_masked_tokens_change_nothing(read):
  ids, mask = make_tiny_decoders.ids_and_mask()
  other = np.where(mask, ids, (ids + 5) % 19)
  np.testing.assert_array_equal(
    logits_of(read, ids, mask)[mask], logits_of(read, other, mask)[mask]
  )


def test_later_tokens_change_no_earlier_logits(read):
  ids, mask = make_tiny_decoders.ids_and_mask()
  mask = np.ones_like(mask)
  later = ids.copy()
  later[:, 6:] = (later[:, 6:] + 7) % 19
  before, after = (logits_of(read, x, mask) for x in (ids, later))
  np.testing.assert_array_equal(before[:, :6], after[:, :6])
  assert np.abs(before[:, 6:] - after[:, 6:]).max() > 0.01


def test_padding_on_either_side_changes_nothing(read):
  ids, mask = make_tiny_decoders.ids_and_mask()
  ids, seven = ids[1:2, :7], np.ones((1, 10), bool)
  right = np.pad(ids, ((0, 0), (0, 3)))
  left = np.pad(ids, ((0, 0), (3, 0)))
  seven[:, 7:] = False
  expected = logits_of(read, right, seven)[:, :7]
  actual = logits_of(read, left, seven[:, ::-1])[:, 3:]
  np.testing.assert_allclose(actual, expected, atol=2e-5)
  alone = logits_of(read, ids, np.ones((1, 7), bool))
  np.testing.assert_allclose(alone, expected, atol=2e-5)


def test_what_is_saved_is_what_was_read_bit_for_bit(read, tmp_path):
  folder = epath.Path(tmp_path)
  decoder_weights.save(folder, read, shard_bytes=2000)
  assert not (folder / shards.WHOLE).exists()
  written = shards.Tensors(folder)
  expected = tensors_of(read.family)
  assert set(written) == set(expected)
  for name, tensor in expected.items():
    np.testing.assert_array_equal(written[name], tensor)
  again = decoder_weights.load(folder)
  assert again.module == read.module
  jax.tree.map(np.testing.assert_array_equal, again.params, read.params)


def test_rematerialised_layers_give_the_same_gradients():
  fields = dict(width=8, num_layers=2, num_heads=2, hidden=12, vocabulary=19)
  fields |= dict(
    rotary=decoder_layers.Rotary(), gated=True, num_key_value_heads=1
  )
  x = jax.random.normal(jax.random.key(0), (2, 5, 8))
  mask = jnp.ones((2, 5), bool)
  grads = []
  for remat in ("none", "layers", "elementwise"):
    module = decoders.Decoder(**fields, remat=remat)
    params = drawn_params(module)

    @jax.jit
    def gradient(params, module=module):
      return jax.grad(
        lambda p: jnp.square(
          module.apply({"params": p}, x, mask).logits[:, 0]
        ).sum()
      )(params)

    grads.append(gradient(params))
  for other in grads[1:]:
    jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), grads[0], other
    )


def test_half_the_bits_are_close_and_nothing_becomes_wide_again():
  fields = dict(width=8, num_layers=2, num_heads=2, hidden=12, vocabulary=19)
  fields |= dict(rotary=ROTARY, norm="rms", gated=True)
  x = jax.random.normal(jax.random.key(0), (2, 5, 8))
  mask = jnp.ones((2, 5), bool)
  wide, half = (
    decoders.Decoder(**fields, compute=compute)
    for compute in ("float32", "bfloat16")
  )
  params = drawn_params(wide)
  expected = hidden_states(wide, params, x, mask)
  actual = hidden_states(half, params, x, mask)
  assert actual.dtype == jnp.bfloat16
  np.testing.assert_allclose(actual, expected, atol=0.1)
  program = jax.make_jaxpr(
    lambda x: half.apply({"params": params}, x, mask).logits
  )(x)
  products = [
    line for line in str(program).splitlines() if "dot_general" in line
  ]
  assert products and all(":bf16[" in line for line in products)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_weights_of_half_precision_are_read_as_they_are(dtype, tmp_path):
  half = {k: x.astype(jnp.dtype(dtype)) for k, x in tensors_of("qwen2").items()}
  read = decoder_weights.load(write_directory(tmp_path, "qwen2", half))
  name = "model.layers.1.mlp.up_proj.weight"
  up = read.params["layers"]["up"]["kernel"]
  assert up.dtype == jnp.float32
  np.testing.assert_array_equal(up[1].T, half[name].astype(np.float32))


@pytest.mark.parametrize("family", ["gpt2", "qwen3"])
def test_a_bare_decoder_is_read_without_its_prefix(family, tmp_path):
  bare = {
    name.removeprefix("transformer.").removeprefix("model."): x
    for name, x in tensors_of(family).items()
  }
  assert not set(bare) & set(tensors_of(family))
  whole = decoder_weights.load(write_directory(tmp_path / "a", family))
  folder = write_directory(tmp_path / "b", family, bare)
  read = decoder_weights.load(folder)
  jax.tree.map(np.testing.assert_array_equal, read.params, whole.params)
  (folder / "tokenizer.json").write_text("{}")
  table, _ = hugging_face.read_table(str(folder))
  np.testing.assert_array_equal(table, read.embeddings)


REFUSED = [
  ("llama", dict(model_type="mamba"), "known decoders are gpt2, llama"),
  ("llama", dict(model_type=["llama"]), "known decoders are gpt2, llama"),
  ("llama", dict(rope_parameters=dict(rope_type="yarn")), "of kind yarn"),
  ("llama", dict(hidden_act="relu6"), "hidden_act='relu6'; known are"),
  ("llama", dict(num_attention_heads=3), "does not divide"),
  ("llama", dict(intermediate_size=0), "must be a positive integer"),
  ("llama", dict(intermediate_size=11), "asks for"),
  ("llama", dict(num_hidden_layers=3), "has no tensor model.layers.2"),
  ("gpt2", dict(scale_attn_by_inverse_layer_idx=True), "scaled alike"),
  ("qwen2", dict(use_sliding_window=True), "sliding window"),
  ("qwen3", dict(quantization_config={"bits": 4}), "full precision"),
]


@pytest.mark.parametrize("family,fields,message", REFUSED)
def test_another_architecture_is_refused_by_name(
  family, fields, message, tmp_path
):
  folder = write_directory(tmp_path, family, **fields)
  with pytest.raises(errors.InputError, match=message) as error:
    decoder_weights.load(folder)
  assert "\n" not in str(error.value)


def test_a_pretrained_student_is_of_full_precision(tmp_path):
  fields = dict(quantization_config={"quant_method": "fp8"})
  folder = write_directory(tmp_path, "qwen3", **fields)
  with pytest.raises(errors.InputError, match="full precision alone"):
    hugging_face.read_config(folder)


def test_missing_and_damaged_shards_are_named(tmp_path):
  folder = write_directory(tmp_path, "qwen2")
  with pytest.raises(errors.InputError, match="has neither"):
    shards.Tensors(epath.Path(tmp_path))
  (folder / shards.WHOLE).write_bytes(b"short")
  with pytest.raises(errors.InputError, match="is damaged"):
    decoder_weights.load(folder)
  shards.write(folder, tensors_of("qwen2"), shard_bytes=1000)
  gone = sorted(folder.glob("model-*"))[1]
  gone.unlink()
  with pytest.raises(errors.InputError, match=f"names {gone.name}, which is"):
    decoder_weights.load(folder)
  (folder / shards.INDEX).write_text("[]")
  with pytest.raises(errors.InputError, match="json is damaged"):
    decoder_weights.load(folder)


def test_a_smaller_model_leaves_no_shard_of_the_earlier_one(tmp_path):
  folder = epath.Path(tmp_path)
  arrays = {str(i): np.arange(4.0) for i in range(4)}
  shards.write(folder, arrays, shard_bytes=32)
  assert len(list(folder.iterdir())) == 5
  shards.write(folder, arrays)
  assert [x.name for x in folder.iterdir()] == [shards.WHOLE]
  loaded = safetensors.numpy.load_file(folder / shards.WHOLE)
  np.testing.assert_array_equal(loaded["3"], arrays["3"])


def test_a_student_that_tells_classes_comes_back_from_its_directory(tmp_path):
  folder = write_directory(tmp_path, "llama")  # whose unembedding is untied
  (folder / "tokenizer.json").write_text("{}")
  read = hugging_face.load(str(folder), num_layers=1)
  module = read.family.build(2, 0, read.student)
  problem = problems.Problem(read.embeddings, read.params, module)
  params = problem.init(jax.random.key(0))
  assert sorted(params) == ["final_norm", "head", "layers"]
  config, tensors, beside = read.family.form.write(
    params, read.embeddings, module
  )
  assert config["architectures"] == ["LlamaModel"]
  assert sorted(beside) == ["classifier.safetensors"]
  (tmp_path / "again").mkdir()
  again = write_directory(tmp_path / "again", "llama", tensors, **config)
  (again / "tokenizer.json").write_text("{}")
  back = hugging_face.load(str(again))
  np.testing.assert_array_equal(back.embeddings, read.embeddings)
  for name in ("final_norm", "layers"):
    jax.tree.map(np.testing.assert_array_equal, back.params[name], params[name])
  table, _ = hugging_face.read_table(str(folder))
  np.testing.assert_array_equal(table, read.embeddings)
  with pytest.raises(errors.InputError, match="has 2 layers; use 1 to 2"):
    hugging_face.load(str(folder), num_layers=3)
