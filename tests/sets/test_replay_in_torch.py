"""The example reads sets of decoders in plain PyTorch, as of encoders."""

import importlib.util
import pathlib
import re
import runpy
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
import tiny_language

from gmdistill.data import batches
from gmdistill.runs.config import assembly, outputs, settings
from gmdistill.sets import set_files, synthetic
from gmdistill.training import replays

EXAMPLE = pathlib.Path(__file__).parents[2] / "examples" / "replay_in_torch.py"

pytestmark = pytest.mark.skipif(
  not all(importlib.util.find_spec(x) for x in ("torch", "transformers")),
  reason="needs torch and transformers",
)


def make_set(folder, kind, **student):
  """Writes a set of a tiny decoder, and the rows that students are read on;
  returns the setup, the set as read, and the flags of the example."""
  config = tiny_language.get_config(folder, kind)
  config.student.update(student)
  # Rows are longer: texts go into several, answers and classes lose an end.
  config.data.max_length = 8 if kind == "text" else 16
  config.sequence_length = config.data.max_length
  recipe = settings.recipe(config)
  setup = assembly.setup(recipe)
  problem = setup.problem
  rows = batches.as_batch(
    batches.take(setup.corpus.train, [0, 1]), setup.corpus.num_classes
  )
  inputs = 0.1 + np.asarray(problem.embed(rows))
  count = len(
    problem.roles.movable(jax.eval_shape(problem.init, jax.random.key(0)))
  )
  syn = synthetic.SyntheticSet(
    batches.Batch(
      jnp.asarray(inputs), rows.mask, rows.labels, tokens=rows.tokens
    ),
    learning_rates=jnp.array([3.0, 2.0]),
    tensor_shares=jnp.ones((2, count)) / count**0.5,
  )
  set_files.save(
    folder / "set", syn, outputs.first_card(setup, recipe, "a command")
  )
  flags = {
    "set": folder / "set",
    "model": folder / "llama",
    "data": folder / "rows" / "test.jsonl",
  }
  return setup, set_files.load(folder / "set")[0], flags


def measured(flags):
  """Returns the number that the example ends with."""
  done = subprocess.run(
    [
      sys.executable,
      str(EXAMPLE),
      *(f"--{name}={value}" for name, value in flags.items()),
    ],
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr
  return float(re.search(r"\d+\.\d+", done.stdout)[0]), done.stdout


def ours(setup, syn):
  """Returns a trained student's score on the same rows."""
  problem = setup.problem
  params = problem.init(jax.random.key(0))
  trained = jax.jit(replays.replay)(problem, params, syn.batch, syn.steps)
  rows = batches.as_batch(setup.corpus.reported, setup.corpus.num_classes)
  scores = problem.score(problem.apply(trained, rows).logits, rows)
  counts = problem.task.counts(rows)
  return float((scores * counts).sum() / counts.sum())


@pytest.mark.parametrize(
  "kind, adapter",
  [("text", "last_layers"), ("answers", "last_layers"), ("text", "head")],
)
def test_a_part_of_a_decoder_trains_there_as_here(kind, adapter, tmp_path):
  parts = dict(adapter=adapter, trained_layers=1)
  setup, syn, flags = make_set(tmp_path, kind, **parts)
  # No second space is put where an answer begins with one.
  lines = flags["data"].read_text()
  flags["data"].write_text(lines.replace('"completion": "', '"completion": " '))
  nats, said = measured(flags)
  assert "nats a token" in said
  assert nats == pytest.approx(-ours(setup, syn), abs=2e-4)


def test_adapters_train_there_as_here(tmp_path, monkeypatch, capsys):
  import torch

  setup, syn, flags = make_set(tmp_path, "text")
  drawn = setup.problem.init(jax.random.key(0))
  # What the example draws for A is what was drawn here.
  downs = iter(
    torch.tensor(np.asarray(x).T)
    for path, leaf in jax.tree_util.tree_leaves_with_path(drawn)
    if path[-1].key == "A"
    for x in leaf
  )
  monkeypatch.setattr(
    torch, "rand", lambda rank, into: (next(downs) * into**0.5 + 1) / 2
  )
  argv = [str(EXAMPLE), *(f"--{name}={x}" for name, x in flags.items())]
  monkeypatch.setattr(sys, "argv", argv)
  runpy.run_path(str(EXAMPLE), run_name="__main__")
  nats = float(re.search(r"\d+\.\d+", capsys.readouterr().out)[0])
  assert nats == pytest.approx(-ours(setup, syn), abs=2e-4)
  assert next(downs, None) is None
  # What students would lose besides is not left out in silence.
  path = flags["set"] / "set.safetensors"
  tensors = safetensors.numpy.load_file(path)
  tensors["teacher_ids"] = np.zeros((2, 16, 1, 3), np.int32)
  safetensors.numpy.save_file(tensors, path)
  with pytest.raises(SystemExit, match="lose to teacher_ids"):
    runpy.run_path(str(EXAMPLE), run_name="__main__")


def test_label_words_are_read_by_the_card_s_template(tmp_path):
  parts = dict(adapter="last_layers", trained_layers=1)
  setup, syn, flags = make_set(tmp_path, "classes", **parts)
  accuracy, said = measured(flags)
  assert "accuracy" in said and "of 12 rows" in said
  assert accuracy == pytest.approx(100 * ours(setup, syn), abs=0.1)
