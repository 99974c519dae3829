"""Makes tests/tiny_decoders: what `transformers` answers for random decoders.

Run once, where torch and transformers are installed; the tests that read the
files need neither. Weights are not stored: each tensor is drawn by its name.

    python tests/make_tiny_decoders.py
"""

import json
import pathlib
import sys
import zlib

import numpy as np

FOLDER = pathlib.Path(__file__).parent / "tiny_decoders"

COMMON = dict(vocab_size=19, bos_token_id=0, eos_token_id=0, pad_token_id=None)
LLAMA = dict(
  **COMMON,
  hidden_size=8,
  intermediate_size=12,
  num_hidden_layers=2,
  num_attention_heads=4,
  num_key_value_heads=2,
  max_position_embeddings=32,
)
# Every way in which the families differ stands in one of them.
CONFIGS = {
  "gpt2": (
    "GPT2",
    dict(**COMMON, n_embd=8, n_layer=2, n_head=2, n_positions=16),
  ),
  "llama": (
    "Llama",
    dict(
      **LLAMA,
      rope_theta=100.0,
      rope_scaling=dict(
        rope_type="llama3",
        factor=4.0,
        low_freq_factor=1.0,
        high_freq_factor=2.0,
        original_max_position_embeddings=12,
      ),
      tie_word_embeddings=False,
    ),
  ),
  "qwen2": (
    "Qwen2",
    dict(
      **LLAMA,
      rope_theta=1000.0,
      rope_scaling=dict(rope_type="linear", factor=2.0),
      tie_word_embeddings=True,
    ),
  ),
  "qwen3": (
    "Qwen3",
    dict(**LLAMA, head_dim=6, rope_theta=1000.0, tie_word_embeddings=True),
  ),
}


def drawn(name: str, shape: list[int]) -> np.ndarray:
  """Returns a tensor that its name decides, gains around one."""
  state = np.random.RandomState(zlib.crc32(name.encode()))
  tensor = 0.3 * state.standard_normal(shape)
  is_gain = len(shape) == 1 and name.endswith("weight")
  return (tensor + is_gain).astype(np.float32)


def ids_and_mask() -> tuple[np.ndarray, np.ndarray]:
  """Returns three rows of ten tokens, two of them shorter."""
  ids = np.random.RandomState(1).randint(0, COMMON["vocab_size"], (3, 10))
  return ids, np.arange(10)[None] < np.array([10, 7, 3])[:, None]


def make(family: str) -> dict:
  import torch
  import transformers

  prefix, fields = CONFIGS[family]
  config = getattr(transformers, f"{prefix}Config")(
    **fields, attn_implementation="eager"
  )
  kind = "LMHeadModel" if family == "gpt2" else "ForCausalLM"
  model = getattr(transformers, prefix + kind)(config).eval()
  shapes = {
    name: list(x.shape)
    for name, x in model.state_dict().items()
    if not (name == "lm_head.weight" and config.tie_word_embeddings)
  }
  tensors = {name: torch.tensor(drawn(name, s)) for name, s in shapes.items()}
  model.load_state_dict(tensors, strict=False)
  model.tie_weights()
  ids, mask = ids_and_mask()
  with torch.no_grad():
    logits = model(
      torch.tensor(ids), attention_mask=torch.tensor(mask).long()
    ).logits.numpy()
  return {
    "config": json.loads(config.to_json_string(use_diff=False)),
    "shapes": shapes,
    # Of the last unmasked token and of the first three, every word.
    "logits": [
      [[round(float(x), 6) for x in row[i]] for i in (0, 1, 2, count - 1)]
      for row, count in zip(logits, mask.sum(1), strict=True)
    ],
  }


def main() -> None:
  FOLDER.mkdir(exist_ok=True)
  for family in sys.argv[1:] or CONFIGS:
    content = make(family)
    keep = {
      *CONFIGS[family][1],
      *("model_type", "architectures", "rope_parameters", "rms_norm_eps"),
      *("layer_norm_epsilon", "activation_function", "hidden_act", "head_dim"),
      *("attention_bias", "mlp_bias", "tie_word_embeddings", "layer_types"),
    }
    content["config"] = {
      name: x for name, x in content["config"].items() if name in keep
    }
    lines = [
      f"{json.dumps(key)}: {json.dumps(value)}"
      for key, value in content.items()
    ]
    path = FOLDER / f"{family}.json"
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    print(path, path.stat().st_size)


if __name__ == "__main__":
  main()
