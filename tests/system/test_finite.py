"""Numbers that spoil all they meet are refused where they are read."""

import pathlib
import shutil

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from conftest import make_synthetic

from gmdistill import errors
from gmdistill.sets import set_files, spaces, synthetic
from gmdistill.students import hugging_face
from gmdistill.system import checkpoints, paths
from gmdistill.teachers import trained

TINY_BERT = pathlib.Path(__file__).parents[1] / "tiny_bert"


def spoil(path, name, number):
  tensors = safetensors.numpy.load_file(path)
  tensors[name].flat[-1] = number
  safetensors.numpy.save_file(tensors, path)


def encoder(folder):
  shutil.copytree(TINY_BERT, folder)
  name = "encoder.layer.1.output.dense.weight"
  return "model.safetensors", name, hugging_face.load


def teacher(folder):
  shutil.copytree(TINY_BERT, folder)
  head = {
    "weight": np.ones((2, 16), np.float32),
    "bias": np.ones(2, np.float32),
  }
  safetensors.numpy.save_file(head, folder / "classifier.safetensors")
  return "classifier.safetensors", "bias", trained.load


def table(folder):
  folder.mkdir()
  tensors = {"embeddings": np.ones((5, 4), ml_dtypes.bfloat16)}
  safetensors.numpy.save_file(tensors, folder / "embeddings.safetensors")
  return "embeddings.safetensors", "embeddings", spaces.read_table


def a_set(folder):
  card = {"embedding_space": "x"}
  set_files.save(folder, synthetic.SyntheticSet(make_synthetic()), card)
  told = (folder / "card.json").read_text()  # of a set before its card had one
  (folder / "card.json").write_text(told.replace('"sha256"', '"digest"'))
  return "set.safetensors", "labels", set_files.load


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("make", [encoder, teacher, table, a_set])
def test_weights_that_are_no_numbers_are_refused_by_name(
  make, number, tmp_path
):
  file, name, read = make(tmp_path / "it")
  where = paths.path(tmp_path / "it")
  read(where if make is table else str(where))
  spoil(tmp_path / "it" / file, name, number)
  with pytest.raises(errors.InputError, match=f"{name} holds 1 numbers that"):
    read(where if make is table else str(where))


def test_a_banks_state_that_is_no_number_is_refused_by_name(tmp_path):
  tree = {"layers": {"kernel": jnp.array([1.0, jnp.nan], jnp.bfloat16)}}
  checkpoints.save_tree(paths.path(tmp_path / "entry"), tree)
  with pytest.raises(errors.InputError, match="layers/kernel holds 1 numbers"):
    checkpoints.load_tree(paths.path(tmp_path / "entry"), tree)


def test_a_set_that_is_not_its_cards_is_refused(tmp_path):
  card = {"embedding_space": "x"}
  set_files.save(tmp_path, synthetic.SyntheticSet(make_synthetic()), card)
  set_files.load(tmp_path)
  spoil(tmp_path / "set.safetensors", "labels", 7.0)
  with pytest.raises(errors.InputError, match="not the one of its card"):
    set_files.load(tmp_path)
