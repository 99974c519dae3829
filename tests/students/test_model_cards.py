"""A directory's README.md says how a student of ours is read."""

import importlib.util
import json
import pathlib
import re

import jax
import numpy as np
import pytest
from conftest import make_synthetic

from gmdistill.data import batches, tokenizing
from gmdistill.evaluation import protocols
from gmdistill.runs.commands import shared
from gmdistill.sets import synthetic
from gmdistill.students import encoders, hugging_face, problems
from gmdistill.teachers import trained

TINY_BERT = pathlib.Path(__file__).parents[1] / "tiny_bert"
TEXTS = ["a good film", "dull", "the story of a plot, not bad"]


def save(folder, pooling):
  read = hugging_face.load(str(TINY_BERT), pooling=pooling)
  student = encoders.Transformer(2, **read.student)
  problem = problems.Problem(read.embeddings, read.params, student)
  params = problem.init(jax.random.key(5))
  hugging_face.save(
    folder,
    params=params,
    embeddings=read.embeddings,
    student=student,
    label_names=("no", "yes"),
    tokenizer_json=pathlib.Path(read.tokenizer_file).read_text(),
  )
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


def test_a_pooled_student_is_one_of_the_pipelines(tmp_path):
  save(tmp_path, "first")
  assert "pipeline(" in (tmp_path / "README.md").read_text()


def test_a_set_under_other_steps_than_its_own_is_told(capsys):
  syn = synthetic.SyntheticSet(make_synthetic(), np.ones(3))
  shared.say_other_steps(syn, protocols.replaying(num_steps=3), "replay")
  assert not capsys.readouterr().err
  shared.say_other_steps(syn, protocols.fine_tuning(), "finetune")
  assert "learned for 3 steps of its own" in capsys.readouterr().err
