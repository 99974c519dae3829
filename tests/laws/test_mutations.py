"""What another hand has touched is refused in a line, or read for what it is.

A thousand mutations of every file that a command reads: bytes that flip, ends
that are cut, fields that go, change places or are of another type.
"""

import contextlib
import copy
import json
import pathlib
import random
import shutil
import time
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from conftest import make_problem, make_synthetic

from gmdistill import errors
from gmdistill.objectives import bank
from gmdistill.runs.commands import shared
from gmdistill.runs.config import settings
from gmdistill.sets import set_files, spaces, synthetic
from gmdistill.students import hugging_face
from gmdistill.system import checkpoints, paths
from gmdistill.teachers import relabelling

COUNT = 1000
LONGEST = 20.0  # seconds of one reading, on a busy machine: no hang

TINY_BERT = pathlib.Path(__file__).parents[1] / "tiny_bert"
HOSTILE = (
  None, True, -1, 0, 10**30, 1e308, float("nan"), float("inf"), "", "x" * 9999,
  "\ud800", [], {}, [[[]]], {"a": {"b": None}}, "../../etc", [None] * 3,
)  # fmt: skip


def mutated_bytes(rng, content):
  """Returns the bytes with a few of them changed, cut or put elsewhere."""
  content = bytearray(content)
  place = rng.randrange(len(content))
  kind = rng.randrange(6)
  if kind < 2:
    for _ in range(rng.choice((1, 1, 4))):
      content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
  elif kind == 2:
    del content[place:]
  elif kind == 3:
    del content[place : place + rng.randrange(1, 64)]
  elif kind == 4:
    content[place:place] = rng.randbytes(rng.randrange(1, 64))
  else:
    content[place : place + 64] = bytes(min(64, len(content) - place))
  return bytes(content)


def mutated_json(rng, content):
  """Returns the JSON with a field gone, renamed, exchanged or of a new kind."""
  content = copy.deepcopy(content)
  place = content
  while True:
    keys = list(place) if isinstance(place, dict) else range(len(place))
    key = rng.choice(keys)
    inner = place[key]
    if not (isinstance(inner, dict | list) and inner and rng.random() < 0.7):
      break
    place = inner
  kind = rng.randrange(4)
  if kind == 0:
    del place[key]
  elif kind == 1 and isinstance(place, dict):
    place[f"{key}x"] = place.pop(key)
  elif kind == 2:
    other = rng.choice(keys)
    place[key], place[other] = place[other], place[key]
  else:
    place[key] = rng.choice(HOSTILE)
  return json.dumps(content).encode()


def mutated_tensors(rng, content):
  """Returns a file of tensors of other names, kinds, shapes or numbers."""
  tensors = safetensors.numpy.load(content)
  name, other = rng.sample(sorted(tensors), 2)
  kind = rng.randrange(6)
  if kind == 0:
    del tensors[name]
  elif kind == 1:
    tensors[f"{name}x"] = tensors.pop(name)
  elif kind == 2:
    tensors[name], tensors[other] = tensors[other], tensors[name]
  elif kind == 3:
    tensors[name] = tensors[name].astype(rng.choice((np.int8, np.float16)))
  elif kind == 4:
    tensors[name] = tensors[name][: rng.randrange(len(tensors[name]))]
  else:
    spoilt = tensors[name].astype(np.float32)
    spoilt.flat[0] = rng.choice((np.nan, np.inf))
    tensors[name] = spoilt
  return safetensors.numpy.save(tensors)


def tried(seed, files, mutations, read, right):
  """Reads a thousand mutated files; counts those that were taken.

  Args:
    seed: Of the mutations.
    files: The files, of which one at a time is changed.
    mutations: What may be done to one's content.
    read: Reads them all; raises InputError, or returns what it is.
    right: Whether that is right.
  """
  rng = random.Random(seed)
  whole = {path: path.read_bytes() for path in files if path.stat().st_size}
  files = sorted(whole)
  assert right(read())
  taken = 0
  for number in range(COUNT):
    path = rng.choice(files)
    path.write_bytes(rng.choice(mutations)(rng, whole[path]))
    begun = time.monotonic()
    try:
      found = read()
    except errors.InputError as error:
      assert len(str(error)) < 3000, number  # a line, not a file
    else:
      taken += 1
      assert right(found), number
    assert time.monotonic() - begun < LONGEST, number
    path.write_bytes(whole[path])
  assert taken < COUNT  # what it does is done to what is read
  return taken


def same(a, b):
  same_tree = jax.tree.structure(a) == jax.tree.structure(b)
  pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=False)
  return same_tree and all(np.array_equal(x, y) for x, y in pairs)


def json_of(rng, content):
  return mutated_json(rng, json.loads(content))


@pytest.fixture(scope="module")
def a_set(tmp_path_factory):
  folder = tmp_path_factory.mktemp("mutated") / "set"
  syn = synthetic.SyntheticSet(
    make_synthetic(),
    learning_rates=np.array([0.1, 0.2], np.float32),
    order=np.array([[0, 2], [1, 3]]),
  )
  card = {"embedding_space": "x", "label_names": ["a", "b"], "results": {}}
  set_files.save(folder, syn, card)
  return folder


@pytest.mark.parametrize("name", ["set.safetensors", "card.json"])
def test_a_set(a_set, name):
  whole, _ = set_files.load(a_set)
  mutations = [mutated_bytes] if name[0] == "s" else [mutated_bytes, json_of]

  def read():
    syn, card = set_files.load(a_set, "x")
    set_files.require_classes(syn, card, a_set, ("a", "b"))
    return syn

  tried(1, [a_set / name], mutations, read, lambda syn: same(syn, whole))


def test_the_tensors_of_a_set_whose_card_has_no_digest(a_set, tmp_path):
  shutil.copytree(a_set, tmp_path / "set")
  card = json.loads((a_set / "card.json").read_text())
  del card["sha256"]  # as of sets before there was one
  (tmp_path / "set" / "card.json").write_text(json.dumps(card))

  def right(syn):
    leaves = jax.tree.leaves(syn)
    return all(np.isfinite(x).all() for x in leaves) and len(syn.batch) == 4

  tried(
    2,
    [tmp_path / "set" / "set.safetensors"],
    [mutated_tensors],
    lambda: set_files.load(tmp_path / "set")[0],
    right,
  )


def test_the_config_of_a_run(tmp_path):
  path = tmp_path / "config.json"
  default = settings.recipe(settings.defaults())
  path.write_text(json.dumps(default.to_dict()))
  tried(
    3,
    [path],
    [mutated_bytes, json_of],
    lambda: shared._config_beside(tmp_path / "set"),
    lambda recipe: recipe.num_steps > 0 and recipe.outer.ema <= 1,
  )


def test_the_config_of_a_model(tmp_path):
  shutil.copytree(TINY_BERT, tmp_path / "model")
  whole = hugging_face.read_config(paths.path(TINY_BERT))

  def right(config):
    sizes = ("hidden_size", "num_hidden_layers", "num_attention_heads")
    return all(type(config[x]) is int and config[x] > 0 for x in sizes)

  assert right(whole)
  tried(
    4,
    [tmp_path / "model" / "config.json"],
    [mutated_bytes, json_of],
    lambda: hugging_face.read_config(paths.path(tmp_path / "model")),
    right,
  )


def test_lines_of_json(tmp_path):
  path = tmp_path / "rows.jsonl"
  rows = [{"text": "a film", "label": 1}, {"text": ["q", "a"], "label": "no"}]
  path.write_text("".join(json.dumps(row) + "\n" for row in rows))
  encoded = []

  class Tokenizer:
    def encode(self, texts, length):
      encoded.append(texts)
      ids = np.zeros((len(texts), length), np.int32)
      return ids, np.ones_like(ids, bool)

  setup = types.SimpleNamespace(
    corpus=types.SimpleNamespace(
      label_names=("no", "yes"), tokenizer=Tokenizer()
    ),
    problem=types.SimpleNamespace(embed=lambda batch: batch.inputs),
  )
  options = types.SimpleNamespace(max_length=2, slots=0)

  def one_line(rng, content):
    lines = content.splitlines()
    place = rng.randrange(len(lines))
    lines[place] = mutated_json(rng, json.loads(lines[place]))
    return b"\n".join(lines)

  def right(rows):
    parts = [x for text in encoded[-1] for x in np.ravel(text)]
    labels = np.asarray(rows.syn.batch.labels)
    return all(isinstance(x, str) for x in parts) and bool(
      (labels.sum(axis=1) == 1).all()
    )

  tried(
    5,
    [path],
    [mutated_bytes, one_line],
    lambda: relabelling.of_texts(setup, paths.path(path), options),
    right,
  )


def test_a_checkpoint(tmp_path):
  state = {"params": jnp.arange(6.0), "step": jnp.int32(4)}
  with contextlib.closing(
    checkpoints.Checkpoints(paths.path(tmp_path))
  ) as keep:
    keep.save(4, state)

    def read():
      return keep.load(4, state)

    files = [x for x in (tmp_path / "4").rglob("*") if x.is_file()]
    tried(6, files, [mutated_bytes], read, lambda x: same(x, state))


def test_a_bank(tmp_path):
  problem = make_problem()
  corpus = types.SimpleNamespace(fingerprint="f", label_names=("a", "b"))
  setup = spaces.Setup(problem, corpus, "space", "student")
  options = bank.Options(num_trajectories=1, ages=(0, 3))
  shapes = bank.entry_shapes(setup, options)
  entry = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)
  for name in options.names:
    where = bank.entry_path(paths.path(tmp_path) / "entries", *name)
    checkpoints.save_tree(where, entry)
  about = bank.identity(setup) | {"options": vars(options)}
  (tmp_path / "bank.json").write_text(json.dumps(about))

  once = tmp_path / "bank.json"
  mutations = [mutated_bytes, json_of]
  tried(7, [once], mutations, lambda: bank.Bank(tmp_path, setup), bool)

  opened = bank.Bank(tmp_path, setup)
  want = entry._replace(losses=None)

  def read():
    opened._load.cache_clear()
    return opened.expert(0, 0, ("params", "targets"))

  files = [
    x for x in (tmp_path / "entries/000-00000").rglob("*") if x.is_file()
  ]
  tried(8, files, [mutated_bytes], read, lambda x: same(x, want))
