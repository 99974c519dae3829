"""A family of students is an entry in a table, and nothing else."""

import json

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_config

from gmdistill import errors
from gmdistill.runs import distill
from gmdistill.sets import set_files
from gmdistill.students import encoders, families, outputs, roles, small


class MeanReader(nn.Module):
  """Reads the mean of a text's embeddings through one hidden layer."""

  num_classes: int
  width: int = 16
  max_positions: int = 16

  roles = roles.Roles(above=("hidden",))

  @nn.compact
  def __call__(self, x_BxLxD, mask_BxL):
    weights_BxLx1 = mask_BxL[..., None] / mask_BxL.sum(1)[:, None, None]
    mean_BxD = (x_BxLxD * weights_BxLx1).sum(axis=1)
    features_BxF = jnp.tanh(nn.Dense(self.width, name="hidden")(mean_BxD))
    return outputs.Outputs(
      nn.Dense(self.num_classes, name=roles.HEAD)(features_BxF), features_BxF
    )


def check_width(fields):
  if fields.get("width", 16) % 2:
    raise errors.InputError("student.width must be even for a mean reader.")


@pytest.fixture
def with_a_toy(monkeypatch):
  toy = families.Family(MeanReader, check=check_width)
  monkeypatch.setitem(families.FAMILIES, "mean_reader", toy)


def toy_config(**fields):
  config = tiny_config.get_config()
  config.student.kind = "mean_reader"
  config.objective = "gradient_matching"
  config.num_steps = 2
  config.protocols = ("scratch",)
  for name, value in fields.items():
    config.student[name] = value
  return config


def test_a_registered_family_is_distilled_and_measured(with_a_toy, tmp_path):
  state = distill.run(toy_config(), str(tmp_path), "the command")
  assert int(state.step) == 2
  syn, _ = set_files.load(tmp_path / "set")
  assert np.isfinite(syn.batch.inputs).all()
  summary = json.loads((tmp_path / "summary.json").read_text())
  assert 0 <= summary["protocols"]["scratch"]["distilled"]["mean"] <= 1
  # Its own layers are told from below.
  assert list(summary["gradient_cosine"]["per_layer"]) == ["hidden", "head"]


@pytest.mark.parametrize(
  "fields, message",
  [
    ({"width": 15}, "student.width must be even for a mean reader"),
    ({"max_positions": 4}, "but the student has 4 positions"),
    ({"kind": "mean_writer"}, "is none of transformer, bilstm, textcnn"),
  ],
)
def test_what_a_family_cannot_take_is_refused(
  with_a_toy, tmp_path, fields, message
):
  with pytest.raises(errors.InputError, match=message):
    distill.run(toy_config(**fields), str(tmp_path / "run"), "the command")
  assert not (tmp_path / "run").exists()


def test_a_family_without_a_hugging_face_form_is_not_saved(with_a_toy):
  for module in (MeanReader(2), small.TextCNN(2)):
    with pytest.raises(errors.InputError, match=type(module).__name__):
      families.form_of(module)
  slotted = encoders.RationaleTransformer(2)
  for module in (encoders.Transformer(2), slotted):
    assert families.form_of(module).model_type == "bert"


def test_rationales_need_a_family_with_slots(with_a_toy, tmp_path):
  config = toy_config()
  config.data.rationale_key = "why"
  with pytest.raises(errors.InputError, match="has no slots for rationales"):
    distill.run(config, str(tmp_path / "run"), "the command")
