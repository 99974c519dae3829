"""A set's card and file are enough to train its student elsewhere."""

import importlib.util
import json
import pathlib
import subprocess
import sys
import types

import conftest
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import replay_in_numpy

from gmdistill.data import batches
from gmdistill.sets import cards, set_files, spaces, synthetic
from gmdistill.students import encoders, hugging_face, problems
from gmdistill.training import replays

TESTS = pathlib.Path(__file__).parents[1]
MODEL = TESTS / "tiny_bert"
CORPUS = types.SimpleNamespace(
  label_names=("no", "yes"), text_keys=("text",), label_key="label"
)


def make_set(folder, pooling, normalised):
  """Writes a set of tiny_bert; returns its problem and the set as read."""
  read = hugging_face.load(str(MODEL), pooling=pooling)
  student = encoders.Transformer(2, **read.student)
  problem = problems.Problem(read.embeddings, read.params, student)
  keys = jax.random.split(jax.random.key(3), 3)
  batch = batches.Batch(
    jax.random.normal(keys[0], (4, 6, 16)),
    jnp.arange(6)[None] < jnp.array([[6], [4], [6], [2]]),
    jax.random.normal(keys[1], (4, 2)),  # no distributions
  )
  steps = 3
  shares = None
  if normalised:
    count = len(problem.roles.movable(jax.eval_shape(problem.init, keys[2])))
    shares = jax.random.uniform(keys[2], (steps, count)) / count**0.5
  syn = synthetic.SyntheticSet(
    batch,
    learning_rates=jnp.array([0.3, 0.2, 0.1]),
    head_learning_rates=jnp.array([0.5, 0.4, 0.3]),
    order=jnp.array([[0, 2], [1, 3], [0, 3]]),
    tensor_shares=shares,
  )
  setup = spaces.Setup(problem, CORPUS, "a space", "a student")
  card = cards.first_card(
    setup, task="t", size={"data_per_class": 2}, sequence_length=6, command="c"
  )
  set_files.save(folder, syn, card)
  return problem, set_files.load(folder)[0]


@pytest.mark.parametrize("pooling", ["first", "mean"])
@pytest.mark.parametrize("normalised", [False, True])
def test_card_and_file_alone_give_the_same_student(
  pooling, normalised, tmp_path
):
  problem, syn = make_set(tmp_path, pooling, normalised)
  params = problem.init(jax.random.key(0))
  head = {
    "weight": np.asarray(params["head"]["kernel"]).T,
    "bias": np.asarray(params["head"]["bias"]),
  }
  trained = jax.jit(replays.replay)(problem, params, syn.batch, syn.steps)
  real = np.asarray(jax.random.normal(jax.random.key(9), (5, 7, 16)))
  mask = np.arange(7)[None] < np.array([7, 5, 3, 1, 7])[:, None]
  ours = problem.apply(trained, batches.Batch(real, mask)).logits
  theirs = replay_in_numpy.replay(tmp_path, MODEL, head)(real, mask)
  np.testing.assert_allclose(theirs, ours, atol=1e-4)
  moved = json.loads((tmp_path / "card.json").read_text())["reader"]["steps"]
  assert len(moved["moved"]) == len(problem.roles.movable(params))


@pytest.mark.parametrize(
  "kind, pooling", [("transformer", "first"), ("textcnn", "max")]
)
def test_a_card_tells_an_encoder_s_reading_of_encoders_alone(kind, pooling):
  problem = conftest.make_problem(kind)
  setup = spaces.Setup(problem, CORPUS, "a space", "a student")
  card = cards.first_card(
    setup, task="t", size={"data_per_class": 2}, sequence_length=6, command="c"
  )
  assert card["pooling"] == pooling
  said, is_encoder = card["reader"], kind == "transformer"
  assert ("LayerNorm" in said["inputs"]) == is_encoder
  assert ("last state" in said["features"]) == is_encoder


def test_the_example_reads_a_set_in_torch(tmp_path):
  if not all(importlib.util.find_spec(x) for x in ("torch", "transformers")):
    pytest.skip("needs torch and transformers")
  make_set(tmp_path / "set", "first", True)
  rows = [{"text": "good film", "label": 1}, {"text": "dull", "label": "no"}]
  lines = "".join(json.dumps(row) + "\n" for row in rows)
  (tmp_path / "rows.jsonl").write_text(lines)
  done = subprocess.run(
    [
      sys.executable,
      str(TESTS.parent / "examples" / "replay_in_torch.py"),
      f"--set={tmp_path / 'set'}",
      f"--model={MODEL}",
      f"--data={tmp_path / 'rows.jsonl'}",
    ],
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr
  assert "accuracy" in done.stdout and "of 2 rows" in done.stdout
