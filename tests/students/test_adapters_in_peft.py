"""Adapters beside the PEFT library, where it is installed."""

import jax
import numpy as np
import pytest
import test_adapters
import test_decoders

from gmdistill.students import adapters, decoder_weights, peft_files

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")

pytestmark = pytest.mark.filterwarnings("ignore")


def logits_there(model, ids, mask):
  with torch.no_grad():
    return model(
      torch.tensor(ids), attention_mask=torch.tensor(mask).long()
    ).logits.numpy()[mask]


def rows():
  ids = np.random.default_rng(0).integers(0, 19, (4, 14))
  return ids, np.arange(14)[None] < np.array([14, 9, 3, 1])[:, None]


def close(actual, expected):
  return np.abs(actual - expected).max() <= 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize("targets", [adapters.TARGETS, ("query", "value")])
@pytest.mark.parametrize("family", test_decoders.FAMILIES)
def test_ours_gives_the_same_logits_there(family, targets, tmp_path):
  folder = test_decoders.write_directory(tmp_path, family)
  read = decoder_weights.load(folder)
  adapted = adapters.lora(read.module, read.params, rank=2, targets=targets)
  params = test_adapters.drawn(adapted)
  peft_files.save(
    tmp_path / "adapter",
    adapted.student,
    params,
    family=family,
    base=str(folder),
    base_id=adapters.identity(read.params),
  )
  model = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
  ids, mask = rows()
  before = logits_there(model, ids, mask)
  model = peft.PeftModel.from_pretrained(model, tmp_path / "adapter").eval()
  merged = adapted.student.merged(read.params, params)
  actual = test_decoders.logits_of(read._replace(params=merged), ids, mask)
  expected = logits_there(model, ids, mask)
  assert close(actual[mask], expected) and not close(before, expected)


@pytest.mark.parametrize("rslora", [False, True])
@pytest.mark.parametrize("family", test_decoders.FAMILIES)
def test_one_of_theirs_gives_the_same_logits_here(family, rslora, tmp_path):
  folder = test_decoders.write_directory(tmp_path, family)
  model = transformers.AutoModelForCausalLM.from_pretrained(folder)
  targets = ["q_proj", "v_proj", "gate_proj"]
  config = peft.LoraConfig(
    r=3,
    lora_alpha=5,
    target_modules=["c_attn", "c_fc"] if family == "gpt2" else targets,
    use_rslora=rslora,
    layers_to_transform=[1] if rslora else None,
    rank_pattern={"1.attn.c_attn" if family == "gpt2" else "1.*v_proj": 2},
    alpha_pattern={"1.mlp.c_fc" if family == "gpt2" else "gate_proj": 7},
    init_lora_weights=False,
    task_type="CAUSAL_LM",
  )
  torch.manual_seed(0)
  model = peft.get_peft_model(model, config).eval()
  model.save_pretrained(tmp_path / "adapter")
  read = decoder_weights.load(folder)
  student, params = peft_files.load(
    tmp_path / "adapter", read.module, family=family, base_id="any"
  )
  ids, mask = rows()
  hidden = jax.jit(
    lambda frozen, params, x: (
      student.apply({"frozen": frozen, "params": params}, x, mask).logits
    )
  )(read.params, params, read.embeddings[ids])
  table = read.params.get("unembedding", read.embeddings)
  assert close(
    np.asarray(hidden @ table.T)[mask], logits_there(model, ids, mask)
  )
