"""Hugging Face directories: what is read is what BERT computes, and back."""

import json
import pathlib
import shutil
import subprocess
import sys
import warnings

import huggingface_hub
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
import tokenizers
from etils import epath

from gmdistill import errors
from gmdistill.data import batches, loading, tokenizing
from gmdistill.sets import spaces
from gmdistill.students import (
  bert_weights,
  encoders,
  families,
  hugging_face,
  problems,
  weight_files,
)
from gmdistill.teachers import trained

TINY = pathlib.Path(__file__).parents[1] / "tiny_bert"
NAMES = ("bad", "fair", "good")


def make_problem(read):
  module = encoders.Transformer(len(NAMES), **read.student)
  return problems.Problem(read.embeddings, read.params, module)


def stored():
  return safetensors.numpy.load_file(TINY / "activations.safetensors")


def make_batch(ids, mask):
  labels = jnp.zeros((len(ids), len(NAMES)))
  return batches.Batch(jnp.asarray(ids), jnp.asarray(mask), labels)


# Compiled once for all the tests that use the same shapes.
apply = jax.jit(lambda problem, params, batch: problem.apply(params, batch))


@jax.jit
def hidden_states(problem, batch):
  return problem.student.apply(
    {"params": problem.initial},
    problem.embed(batch),
    batch.mask,
    method="encode",
  )[0]


def save(folder, read, tokenizer_json=None):
  """Writes a classifier with a drawn head; returns its parameters."""
  problem = make_problem(read)
  params = problem.init(jax.random.key(0))
  params["head"] = jax.tree.map(lambda x: 20 * x + 0.1, params["head"])
  hugging_face.save(
    folder,
    params=params,
    embeddings=read.embeddings,
    student=problem.student,
    label_names=NAMES,
    tokenizer_json=tokenizer_json or (TINY / "tokenizer.json").read_text(),
  )
  return params


@pytest.fixture
def folder(tmp_path):
  """A copy of the fixture, to damage."""
  target = tmp_path / "bert"
  shutil.copytree(TINY, target)
  return target


def edit_config(folder, **fields):
  path = folder / "config.json"
  path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def edit_tensors(folder, change):
  """Rewrites the tensors; `change` maps (name, array) to pairs, or to none."""
  path = folder / "model.safetensors"
  tensors = safetensors.numpy.load_file(path)
  pairs = (pair for item in tensors.items() for pair in change(*item))
  safetensors.numpy.save_file(
    {name: np.ascontiguousarray(x) for name, x in pairs}, path
  )


def assert_same(one, two):
  jax.tree.map(np.testing.assert_array_equal, one.params, two.params)
  np.testing.assert_array_equal(one.embeddings, two.embeddings)


def refusal(function, *args, **kwargs):
  """The message of the InputError that the call must raise: one line."""
  with pytest.raises(errors.InputError) as caught:
    function(*args, **kwargs)
  message = str(caught.value)
  assert message and "\n" not in message
  return message


@pytest.fixture
def transformers():
  """Transformers and torch, whose own warnings at import are not ours."""
  with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    pytest.importorskip("torch")
    return pytest.importorskip("transformers")


# --- reading -----------------------------------------------------------------


def test_hidden_states_are_those_that_bert_gave():
  expected = stored()
  mask = expected["mask"]
  assert not mask.all()
  hidden = hidden_states(
    make_problem(hugging_face.load(str(TINY))),
    make_batch(expected["ids"], mask),
  )
  np.testing.assert_allclose(
    hidden[mask], expected["last_hidden_state"][mask], atol=1e-4
  )


def test_the_feature_of_first_pooling_is_the_pooler_output():
  expected = stored()
  problem = make_problem(hugging_face.load(str(TINY)))
  batch = make_batch(expected["ids"], expected["mask"])
  outputs = apply(problem, problem.init(jax.random.key(0)), batch)
  np.testing.assert_allclose(
    outputs.features, expected["pooler_output"], atol=1e-4
  )


def test_the_stored_activations_depend_on_every_parameter():
  """Otherwise the two tests above would not notice a parameter misread."""
  expected = stored()
  read = hugging_face.load(str(TINY))
  batch = make_batch(expected["ids"], expected["mask"])
  problem = make_problem(read)

  def total(params):
    params = {**params, "head": problem.init(jax.random.key(0))["head"]}
    features = problem.apply(params, batch).features
    return jnp.abs(features - expected["pooler_output"] / 2).sum()

  grads = jax.jit(jax.grad(total))(read.params)
  for path, grad in jax.tree.leaves_with_path(grads):
    name = jax.tree_util.keystr(path, simple=True, separator="/")
    if not name.endswith("key/bias"):  # softmax ignores it
      assert np.abs(grad).max() > 1e-4, name


def test_hidden_states_are_those_of_transformers(transformers):
  import torch

  model = transformers.BertModel.from_pretrained(
    TINY, attn_implementation="eager"
  )
  rng = np.random.default_rng(3)
  ids = rng.integers(5, model.config.vocab_size, (5, 20))
  mask = np.arange(20)[None] < np.array([20, 13, 7, 2, 1])[:, None]
  with torch.no_grad():
    expected = model(torch.tensor(ids), torch.tensor(mask).long())
  hidden = hidden_states(
    make_problem(hugging_face.load(str(TINY))), make_batch(ids, mask)
  )
  np.testing.assert_allclose(
    hidden[mask], expected.last_hidden_state.numpy()[mask], atol=1e-4
  )


@pytest.mark.parametrize("types", [1, 16])
def test_any_number_of_token_types_loads(folder, types):
  expected = assert_first_type(hugging_face.load(str(folder)))
  name = "bert.embeddings.token_type_embeddings.weight"
  tensors = safetensors.numpy.load_file(folder / "model.safetensors")
  name = next(
    key for key in tensors if key.endswith("token_type_embeddings.weight")
  )
  table = np.zeros((types, tensors[name].shape[1]), np.float32)
  table[0] = expected
  safetensors.numpy.save_file(
    {**tensors, name: table}, folder / "model.safetensors"
  )
  edit_config(folder, type_vocab_size=types)
  found = assert_first_type(hugging_face.load(str(folder)))
  np.testing.assert_array_equal(found, expected)


def assert_first_type(read):
  table = np.asarray(read.params["token_type"])
  assert table.shape[0] == 2
  return table[0]


def test_num_layers_takes_the_first_layers():
  whole = hugging_face.load(str(TINY))
  one = hugging_face.load(str(TINY), num_layers=1)
  assert one.student["num_layers"] == 1
  assert whole.student["num_layers"] == 2
  first = jax.tree.map(lambda x: x[:1], whole.params["layers"])
  assert_same(one, whole._replace(params={**whole.params, "layers": first}))
  assert_same(whole, hugging_face.load(str(TINY), num_layers=2))


def test_mean_pooling_needs_no_pooler(folder):
  edit_tensors(folder, lambda name, x: [] if "pooler" in name else [(name, x)])
  problem = make_problem(hugging_face.load(str(folder), pooling="mean"))
  params = problem.init(jax.random.key(0))
  assert "pooler" not in params
  expected = stored()
  weight = expected["mask"][..., None]
  mean = (expected["last_hidden_state"] * weight).sum(1) / weight.sum(1)
  batch = make_batch(expected["ids"], expected["mask"])
  np.testing.assert_allclose(
    apply(problem, params, batch).features, mean, atol=1e-4
  )


@pytest.mark.parametrize("spelling", ["gamma and beta", "bert. before", "both"])
def test_other_spellings_of_the_names_load(folder, spelling):
  def rename(name, x):
    if spelling != "bert. before" and "LayerNorm" in name:
      name = name.replace("weight", "gamma").replace("bias", "beta")
    if spelling != "gamma and beta":
      name = "bert." + name
    return [(name, x)]

  edit_tensors(folder, rename)
  assert_same(hugging_face.load(str(folder)), hugging_face.load(str(TINY)))


@pytest.mark.parametrize("prefix", ["model.", "module.bert.", "0.auto_model."])
def test_whatever_a_wrapper_puts_before_the_names_is_taken_off(folder, prefix):
  edit_tensors(folder, lambda name, x: [(prefix + name, x)])
  assert_same(hugging_face.load(str(folder)), hugging_face.load(str(TINY)))


def test_a_wrapped_classifiers_head_has_its_own_name(folder):
  head = [("module.classifier.weight", np.ones((3, 16), np.float32))]
  edit_tensors(
    folder,
    lambda name, x: (
      [(f"module.bert.{name}", x)] + head * (name == bert_weights.ANCHOR)
    ),
  )
  names = set(weight_files.read(folder, bert_weights.ANCHOR))
  assert {bert_weights.ANCHOR, "classifier.weight"} <= names


def test_two_encoders_in_one_file_are_refused_by_name(folder):
  edit_tensors(folder, lambda name, x: [(f"a.{name}", x), (f"b.{name}", x)])
  message = refusal(hugging_face.load, str(folder))
  assert "2 encoders (a., b.)" in message


def shard(folder):
  """Splits the fixture's tensors over two files and an index."""
  path = folder / "model.safetensors"
  tensors = safetensors.numpy.load_file(path)
  path.unlink()
  where = {
    name: f"model-{1 + number % 2:05}-of-00002.safetensors"
    for number, name in enumerate(sorted(tensors))
  }
  for file in set(where.values()):
    part = {name: x for name, x in tensors.items() if where[name] == file}
    safetensors.numpy.save_file(part, folder / file)
  index = folder / weight_files.INDEX
  index.write_text(json.dumps({"metadata": {}, "weight_map": where}))
  return index, sorted(set(where.values()))


def test_weights_in_several_files_are_read_by_their_index(folder):
  _, files = shard(folder)
  assert_same(hugging_face.load(str(folder)), hugging_face.load(str(TINY)))
  before = trained.identity(epath.Path(folder))
  edited = safetensors.numpy.load_file(folder / files[1])
  safetensors.numpy.save_file(
    {name: x + 1 for name, x in edited.items()}, folder / files[1]
  )
  assert trained.identity(epath.Path(folder)) != before


def test_an_index_without_its_files_or_damaged_is_refused(folder):
  index, files = shard(folder)
  (folder / files[0]).unlink()
  message = refusal(hugging_face.load, str(folder))
  assert f"names {files[0]}, which is not there" in message
  for content in ("{}", "[" * 100_000, '{"weight_map": {"a": 1}}', "null"):
    index.write_text(content)
    assert str(index) in refusal(hugging_face.load, str(folder))


def test_weights_of_pytorch_alone_say_how_to_convert_them(folder):
  (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
  message = refusal(hugging_face.load, str(folder))
  assert "where PyTorch is installed, run: python -c" in message
  torch = pytest.importorskip("torch")
  tensors = safetensors.numpy.load_file(TINY / "model.safetensors")
  torch.save(
    {name: torch.tensor(x) for name, x in tensors.items()},
    folder / "pytorch_model.bin",
  )
  command = message.split("run: ", 1)[1].replace(
    "python ", sys.executable + " "
  )
  subprocess.run(command, shell=True, check=True)
  assert_same(hugging_face.load(str(folder)), hugging_face.load(str(TINY)))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_any_precision_is_read_as_float32(folder, dtype):
  edit_tensors(folder, lambda name, x: [(name, x.astype(jnp.dtype(dtype)))])
  read = hugging_face.load(str(folder))
  expected = hugging_face.load(str(TINY))
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-2, atol=1e-4),
    (read.params, read.embeddings),
    (expected.params, expected.embeddings),
  )
  assert {x.dtype for x in jax.tree.leaves(read.params)} == {np.dtype("f4")}


def test_tensors_that_a_student_does_not_use_are_left_alone(folder):
  def add(name, x):
    return [(name, x), (f"cls.{name}", x), (f"{name}.ids", np.arange(3))]

  edit_tensors(folder, add)
  assert_same(hugging_face.load(str(folder)), hugging_face.load(str(TINY)))


# --- writing -----------------------------------------------------------------


@pytest.mark.parametrize("num_layers", [1, 2])
def test_what_is_saved_is_read_back_bit_for_bit(tmp_path, num_layers):
  read = hugging_face.load(str(TINY), num_layers)
  save(tmp_path / "saved", read)
  again = hugging_face.load(str(tmp_path / "saved"))
  assert again.student == read.student
  assert_same(again, read)


def test_the_saved_tokenizer_is_the_one_given(tmp_path):
  save(tmp_path, hugging_face.load(str(TINY)))
  text = "The actor was never boring, and the story ended well!"
  files = [str(f / "tokenizer.json") for f in (TINY, tmp_path)]
  one, two = (tokenizers.Tokenizer.from_file(f).encode(text) for f in files)
  assert one.tokens == two.tokens and "##ed" in one.tokens


def test_other_special_tokens_are_named_too(tmp_path):
  words = {"<unk>": 0, "<pad>": 1, "word": 2}
  tokenizer = tokenizers.Tokenizer(
    tokenizers.models.WordLevel(words, unk_token="<unk>")
  )
  tokenizer.add_special_tokens(["<unk>", "<pad>"])
  read = hugging_face.load(str(TINY))
  save(tmp_path, read, tokenizer.to_str())
  said = json.loads((tmp_path / "tokenizer_config.json").read_text())
  assert (said["pad_token"], said["unk_token"]) == ("<pad>", "<unk>")
  assert "cls_token" not in said
  assert hugging_face.read_config(tmp_path)["pad_token_id"] == 1


def test_a_saved_student_answers_the_same_in_transformers(
  transformers, tmp_path
):
  import torch

  read = hugging_face.load(str(TINY))
  params = save(tmp_path, read)
  model = transformers.BertForSequenceClassification.from_pretrained(tmp_path)
  assert model.config.id2label == dict(enumerate(NAMES))
  expected = stored()
  ids, mask = expected["ids"], expected["mask"]
  with torch.no_grad():
    theirs = model(torch.tensor(ids), torch.tensor(mask).long()).logits
  ours = apply(make_problem(read), params, make_batch(ids, mask)).logits
  assert np.std(ours) > 0.1
  np.testing.assert_allclose(ours, theirs.numpy(), atol=1e-4)


@pytest.mark.parametrize("pair", [False, True])
def test_a_saved_student_and_its_tokenizer_answer_texts(
  transformers, tmp_path, pair
):
  import torch

  read = hugging_face.load(str(TINY))
  params = save(tmp_path, read)
  texts = ["a good film, well acted", "dull!", "never " * 40]
  if pair:
    texts = [(text, f"the {text}") for text in texts]
  tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
  model = transformers.BertForSequenceClassification.from_pretrained(tmp_path)
  batch = tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
  with torch.no_grad():
    theirs = model(**batch).logits
  ours = tokenizing.Tokenizer.from_file(TINY / "tokenizer.json")
  ids, mask = ours.encode(texts, read.student["max_positions"])
  logits = apply(make_problem(read), params, make_batch(ids, mask)).logits
  np.testing.assert_allclose(logits, theirs.numpy(), atol=1e-4)


@pytest.mark.parametrize("kind", ["bilstm", "textcnn"])
def test_another_architecture_is_not_saved(tmp_path, kind):
  message = refusal(
    hugging_face.save,
    tmp_path / "saved",
    params={},
    embeddings=jnp.zeros((4, 8)),
    student=families.FAMILIES[kind].module(2, width=8),
    label_names=NAMES,
    tokenizer_json="{}",
  )
  assert families.FAMILIES[kind].module.__name__ in message
  assert "student.kind=transformer" in message
  assert not (tmp_path / "saved").exists()


def test_a_mean_pooled_student_is_saved_as_encoder_and_classifier(tmp_path):
  read = hugging_face.load(str(TINY), pooling="mean")
  problem = make_problem(read)
  params = problem.init(jax.random.key(0))
  hugging_face.save(
    tmp_path,
    params=params,
    embeddings=read.embeddings,
    student=problem.student,
    label_names=["a", "b"],
    tokenizer_json=(TINY / "tokenizer.json").read_text(),
  )
  again = hugging_face.load(str(tmp_path), pooling="mean")
  for name, value in again.params.items():
    jax.tree.map(np.testing.assert_array_equal, value, params[name])
  head = safetensors.numpy.load_file(tmp_path / "classifier.safetensors")
  np.testing.assert_array_equal(head["weight"], params["head"]["kernel"].T)
  config = json.loads((tmp_path / "config.json").read_text())
  assert config["architectures"] == ["BertModel"]


# --- refusing ----------------------------------------------------------------


@pytest.mark.parametrize("name", hugging_face.FILES)
def test_a_missing_file_is_named(folder, name):
  (folder / name).unlink()
  message = refusal(hugging_face.load, str(folder))
  assert f"{folder} has no {name}" in message
  assert all(needed in message for needed in hugging_face.FILES)


@pytest.mark.parametrize("content", ["cut", "noise", "empty"])
def test_damaged_tensors_are_refused(folder, content):
  path = folder / "model.safetensors"
  whole = path.read_bytes()
  damaged = {
    "cut": whole[: len(whole) // 2],
    "noise": whole[::-1],
    "empty": b"",
  }
  path.write_bytes(damaged[content])
  message = refusal(hugging_face.load, str(folder))
  assert str(path) in message and "copy or download it again" in message


@pytest.mark.parametrize(
  "text", ["", "{", "[1, 2]", "null", "{}", "\xff", 100_000 * "["]
)
def test_what_is_no_config_is_refused(folder, text):
  (folder / "config.json").write_bytes(text.encode("latin-1"))
  message = refusal(hugging_face.load, str(folder))
  assert str(folder / "config.json") in message
  assert "save_pretrained" in message


@pytest.mark.parametrize(
  "fields, named",
  [
    ({"model_type": "roberta"}, ["roberta", "model_type bert"]),
    ({"model_type": None}, ["None", "model_type bert"]),
    ({"hidden_act": "mish"}, ["hidden_act=mish", "gelu, gelu_new"]),
    ({"hidden_act": ["gelu"]}, ["hidden_act", "gelu, gelu_new"]),
    (
      {"position_embedding_type": "relative_key"},
      ["position_embedding_type=relative_key", "absolute"],
    ),
    ({"hidden_size": None}, ["hidden_size=None", "positive integer"]),
    ({"hidden_size": "16"}, ["hidden_size='16'", "positive integer"]),
    ({"num_hidden_layers": 0}, ["num_hidden_layers=0", "positive integer"]),
    ({"num_attention_heads": 3}, ["hidden_size=16", "3 attention heads"]),
    ({"layer_norm_eps": "1e-12"}, ["layer_norm_eps='1e-12'", "above 0"]),
    ({"is_decoder": True}, ["decoder", "encoder"]),
  ],
)
def test_a_config_of_another_model_is_refused(folder, fields, named):
  edit_config(folder, **fields)
  message = refusal(hugging_face.load, str(folder))
  assert str(folder) in message
  for part in named:
    assert part in message


@pytest.mark.parametrize(
  "field, value, tensor",
  [
    ("hidden_size", 32, "embedding_norm/bias"),
    ("intermediate_size", 64, "layers/intermediate"),
    ("max_position_embeddings", 64, "position"),
  ],
)
def test_a_config_that_its_tensors_do_not_fit_is_refused(
  folder, field, value, tensor
):
  edit_config(folder, **{field: value})
  message = refusal(hugging_face.load, str(folder))
  assert str(folder / "model.safetensors") in message
  assert tensor in message and str(value) in message


def test_layers_of_different_shapes_are_refused(folder):
  def cut(name, x):
    return [(name, x[:3] if "layer.1.intermediate" in name else x)]

  edit_tensors(folder, cut)
  message = refusal(hugging_face.load, str(folder))
  assert str(folder / "model.safetensors") in message


@pytest.mark.parametrize("num_layers", [3, -1])
def test_layers_that_there_are_not_are_refused(num_layers):
  message = refusal(hugging_face.load, str(TINY), num_layers)
  assert f"student.num_layers={num_layers}" in message
  assert f"{TINY} has 2 layers" in message and "use 1 to 2" in message


def test_another_pooling_is_refused():
  message = refusal(hugging_face.load, str(TINY), pooling="max")
  assert "student.pooling=max" in message and "first, mean" in message


@pytest.mark.parametrize(
  "tensor",
  [
    "embeddings.word_embeddings.weight",
    "embeddings.position_embeddings.weight",
    "embeddings.LayerNorm.bias",
    "encoder.layer.1.attention.self.key.weight",
    "encoder.layer.0.output.LayerNorm.weight",
  ],
)
def test_a_missing_tensor_is_named(folder, tensor):
  edit_tensors(folder, lambda name, x: [(name, x)] if name != tensor else [])
  message = refusal(hugging_face.load, str(folder))
  assert str(folder / "model.safetensors") in message
  assert tensor in message


def test_a_missing_pooler_is_answered_with_mean_pooling(folder):
  edit_tensors(folder, lambda name, x: [] if "pooler" in name else [(name, x)])
  message = refusal(hugging_face.load, str(folder))
  assert "pooler.dense.weight" in message
  assert "use student.pooling=mean" in message


def test_a_folder_that_does_not_exist_is_refused(tmp_path):
  message = refusal(hugging_face.load, str(tmp_path / "nowhere"))
  assert str(tmp_path / "nowhere") in message
  assert all(needed in message for needed in hugging_face.FILES)


def test_a_hub_id_without_a_network_is_one_line(monkeypatch):
  def fail(*args, **kwargs):
    raise ConnectionError("no route to host\nand more\n")

  monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
  message = refusal(hugging_face.load, "someone/tiny-bert")
  assert "someone/tiny-bert" in message and "ConnectionError" in message
  assert "path of a Hugging Face directory" in message


def test_a_hub_id_is_fetched_and_read(monkeypatch):
  asked = []

  def fetch(source, allow_patterns):
    asked.append((source, allow_patterns))
    return str(TINY)

  monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
  read = hugging_face.load("someone/tiny-bert")
  assert_same(read, hugging_face.load(str(TINY)))
  ((source, wanted),) = asked
  assert source == "someone/tiny-bert"
  # A teacher's too: its head may lie beside, and how it was told pairs.
  beside = {"classifier.safetensors", "tokenizer_config.json"}
  assert {*hugging_face.FILES, *beside} <= set(wanted)


@pytest.mark.parametrize(
  "fields", [{"max_length": 33}, {"max_length": 16, "train_length": 40}]
)
def test_rows_longer_than_the_positions_are_refused(monkeypatch, fields):
  def load(*args, **kwargs):
    raise AssertionError("the data are read before the lengths are checked")

  monkeypatch.setattr(loading, "load", load)
  message = refusal(
    spaces.build, {"pretrained": str(TINY)}, {}, loading.Options(**fields)
  )
  assert str(max(fields.values())) in message and "32 positions" in message


def test_rows_as_long_as_the_positions_are_not(monkeypatch):
  class Read(Exception):
    pass

  def load(options, tokenizer_file):
    raise Read(tokenizer_file)

  monkeypatch.setattr(loading, "load", load)
  with pytest.raises(Read, match="tokenizer.json"):
    spaces.build({"pretrained": str(TINY)}, {}, loading.Options(max_length=32))


def test_other_students_live_in_a_pretrained_encoders_space():
  options = loading.Options(max_length=32)
  fields = {"pretrained": str(TINY), "pooling": "mean"}
  encoder = spaces.build(fields, {}, options)
  other = spaces.build(fields | {"kind": "bilstm", "width": 8}, {}, options)
  assert other.space_id == encoder.space_id
  assert other.problem.initial is None
  assert other.student_name == "bilstm of width 8"
  rows = batches.as_batch(batches.take(other.corpus.train, [0, 1]), 4)
  params = other.problem.init(jax.random.key(0))
  assert other.problem.apply(params, rows).logits.shape == (2, 4)
