"""A directory's README.md says how a student of ours is read."""

import importlib.util
import json
import pathlib
import re

import jax
import numpy as np
import pytest
import tiny_lms
from conftest import make_synthetic

from gmdistill.data import batches, tokenizing
from gmdistill.evaluation import protocols
from gmdistill.runs.commands import shared
from gmdistill.sets import synthetic
from gmdistill.students import (
  encoders,
  hugging_face,
  model_cards,
  problems,
)
from gmdistill.teachers import trained

TINY_BERT = pathlib.Path(__file__).parents[1] / "tiny_bert"
TEXTS = ["a good film", "dull", "the story of a plot, not bad"]


def write(folder, read, student, params):
  hugging_face.save(
    folder,
    params=params,
    embeddings=read.embeddings,
    student=student,
    label_names=("no", "yes"),
    tokenizer_json=pathlib.Path(read.tokenizer_file).read_text(),
  )


def save(folder, pooling):
  read = hugging_face.load(str(TINY_BERT), pooling=pooling)
  student = encoders.Transformer(2, **read.student)
  problem = problems.Problem(read.embeddings, read.params, student)
  params = problem.init(jax.random.key(5))
  write(folder, read, student, params)
  tokenizer = tokenizing.Tokenizer.from_file(read.tokenizer_file)
  ids, mask = tokenizer.encode(TEXTS, 16)
  return problem.apply(params, batches.Batch(ids, mask)).logits


def test_a_mean_pooled_student_brings_its_reader(tmp_path):
  logits = save(tmp_path, "mean")
  told = (tmp_path / "README.md").read_text()
  assert "Not for `pipeline" in told and "Classes: no, yes" in told
  (code,) = re.findall(r"```python\n(.*?)```", told, re.DOTALL)
  assert len(code.splitlines()) <= 7
  compile(code, "README.md", "exec")
  if not all(importlib.util.find_spec(x) for x in ("torch", "transformers")):
    pytest.skip("needs torch and transformers")
  names = {"folder": str(tmp_path), "texts": TEXTS}
  exec(code, names)  # noqa: S102
  ours = names["logits"].detach().numpy()
  np.testing.assert_allclose(ours, logits, atol=1e-4)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_decoder_that_tells_classes_brings_its_reader(family, tmp_path):
  read = hugging_face.load(str(tiny_lms.write_model(tmp_path, family)))
  student = read.family.build(2, 0, read.student)
  problem = problems.Problem(read.embeddings, read.params, student)
  params = problem.init(jax.random.key(5))
  params["head"] = jax.tree.map(lambda x: 20 * x + 0.1, params["head"])
  folder = tmp_path / "student"
  write(folder, read, student, params)
  told = (folder / "README.md").read_text()
  assert "Not for `pipeline" in told and "mean" not in told
  assert "Bert" not in told
  (code,) = re.findall(r"```python\n(.*?)```", told, re.DOTALL)
  assert len(code.splitlines()) <= 7
  ids, mask = (
    np.array([[5, 80, 33], [9, 4, 0]]),
    np.array([[1, 1, 1], [1, 1, 0]]),
  )
  logits = problem.logits(params, batches.Batch(ids, mask.astype(bool)))
  again = trained.load(str(folder))
  np.testing.assert_array_equal(
    again.problem.logits(again.params, batches.Batch(ids, mask.astype(bool))),
    logits,
  )
  if not all(importlib.util.find_spec(x) for x in ("torch", "transformers")):
    pytest.skip("needs torch and transformers")
  import torch
  import transformers

  auto = transformers.AutoModelForSequenceClassification
  with pytest.raises(RuntimeError, match="mismatch"):
    auto.from_pretrained(folder)
  rows = {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)}
  tokenizer = lambda *_, **__: rows  # noqa: E731
  reader = code.replace(
    "transformers.AutoTokenizer.from_pretrained(folder)", "tokenizer"
  )
  names = {"folder": str(folder), "texts": TEXTS, "tokenizer": tokenizer}
  exec(reader, names)  # noqa: S102
  ours = names["logits"].detach().numpy()
  np.testing.assert_allclose(ours, logits, atol=1e-4)


def test_transformers_refuses_to_draw_a_head_for_a_mean_pooled_student(
  tmp_path,
):
  save(tmp_path / "mean", "mean")
  save(tmp_path / "first", "first")
  configs = {
    pooling: json.loads((tmp_path / pooling / "config.json").read_text())
    for pooling in ("mean", "first")
  }
  assert configs["mean"]["classifier_dropout"] > 1
  assert "classifier_dropout" not in configs["first"]
  assert trained.load(str(tmp_path / "mean")).label_names == ("no", "yes")
  if not all(importlib.util.find_spec(x) for x in ("torch", "transformers")):
    pytest.skip("needs torch and transformers")
  import transformers

  auto = transformers.AutoModelForSequenceClassification
  with pytest.raises(ValueError, match="dropout probability"):
    auto.from_pretrained(tmp_path / "mean")
  assert auto.from_pretrained(tmp_path / "first").config.num_labels == 2


def test_a_language_model_that_says_classes_by_words_has_no_head_to_draw():
  told = model_cards.text({"architectures": ["GPT2LMHeadModel"]}, (), ("a",))
  assert "Not for `pipeline" in told and "by a word" in told
  plain = model_cards.text({"architectures": ["GPT2LMHeadModel"]}, (), ())
  assert "pipeline" not in plain and "It says tokens" in plain


def test_a_pooled_student_is_one_of_the_pipelines(tmp_path):
  save(tmp_path, "first")
  assert "pipeline(" in (tmp_path / "README.md").read_text()


def test_a_set_under_other_steps_than_its_own_is_told(capsys):
  syn = synthetic.SyntheticSet(make_synthetic(), np.ones(3))
  shared.say_other_steps(syn, protocols.replaying(num_steps=3), "replay")
  assert not capsys.readouterr().err
  shared.say_other_steps(syn, protocols.fine_tuning(), "finetune")
  assert "learned for 3 steps of its own" in capsys.readouterr().err
