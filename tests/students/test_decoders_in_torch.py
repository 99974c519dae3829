"""Decoders beside `transformers` itself, where it is installed."""

import jax
import numpy as np
import pytest
import test_decoders

from gmdistill.students import decoder_weights

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.mark.parametrize("shard_bytes", [10**9, 2000])
@pytest.mark.parametrize("family", test_decoders.FAMILIES)
def test_a_saved_decoder_gives_the_same_logits_there(
  family, shard_bytes, tmp_path
):
  read = decoder_weights.load(test_decoders.write_directory(tmp_path, family))
  params = jax.tree.map(lambda x: 1.1 * x, read.params)
  decoder_weights.save(
    tmp_path / "saved", read._replace(params=params), shard_bytes=shard_bytes
  )
  model = transformers.AutoModelForCausalLM.from_pretrained(
    tmp_path / "saved", dtype=torch.float32
  ).eval()
  rng = np.random.default_rng(0)
  ids = rng.integers(0, 19, (4, 14))
  mask = np.arange(14)[None] < np.array([14, 9, 3, 1])[:, None]
  with torch.no_grad():
    expected = model(
      torch.tensor(ids), attention_mask=torch.tensor(mask).long()
    ).logits.numpy()
  actual = test_decoders.logits_of(read._replace(params=params), ids, mask)
  gap = np.abs(actual - expected)[mask].max()
  assert gap <= 1e-5 * np.abs(expected[mask]).max()
