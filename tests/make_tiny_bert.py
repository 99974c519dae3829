"""Makes tests/tiny_bert, a random BERT and what it answers.

Run once, where torch and transformers are installed; the tests that read the
folder need neither:

    python tests/make_tiny_bert.py
"""

import pathlib

import safetensors.torch
import tokenizers
import torch
import transformers
from tokenizers import models, normalizers, pre_tokenizers, processors

FOLDER = pathlib.Path(__file__).parent / "tiny_bert"
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = """
the a of and to is it this that was film plot actor scene story end good great
fine bad poor dull warm cold long short never always very not but with for in
on by one two ##s ##ed ##ing ##ly ##er ##est . , ! ? ' - un re
""".split()


def make_tokenizer() -> tokenizers.Tokenizer:
  vocabulary = {token: i for i, token in enumerate(SPECIAL + WORDS)}
  tokenizer = tokenizers.Tokenizer(
    models.WordPiece(vocabulary, unk_token="[UNK]")
  )
  tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
  tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
  tokenizer.add_special_tokens(SPECIAL)
  tokenizer.post_processor = processors.BertProcessing(
    ("[SEP]", vocabulary["[SEP]"]), ("[CLS]", vocabulary["[CLS]"])
  )
  return tokenizer


def make_model(vocab_size: int) -> transformers.BertModel:
  torch.manual_seed(0)
  config = transformers.BertConfig(
    vocab_size=vocab_size,
    hidden_size=16,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=32,
    max_position_embeddings=32,
    attn_implementation="eager",
  )
  model = transformers.BertModel(config).eval()
  # A fresh BERT is nearly linear: biases of zero, gains of one, weights so
  # small that a wrong activation or a lost bias would hardly show.
  with torch.no_grad():
    for name, parameter in model.named_parameters():
      gain = name.endswith("LayerNorm.weight")
      parameter.normal_(float(gain), 0.3)
  return model


def main() -> None:
  tokenizer = make_tokenizer()
  model = make_model(tokenizer.get_vocab_size())
  model.save_pretrained(FOLDER)
  tokenizer.save(str(FOLDER / "tokenizer.json"))
  generator = torch.Generator().manual_seed(1)
  ids = torch.randint(
    len(SPECIAL), tokenizer.get_vocab_size(), (4, 12), generator=generator
  )
  mask = torch.arange(12)[None] < torch.tensor([12, 9, 5, 1])[:, None]
  ids = torch.where(mask, ids, 0)
  with torch.no_grad():
    out = model(ids, mask.long())
  safetensors.torch.save_file(
    {
      "ids": ids.int(),
      "mask": mask,
      "last_hidden_state": out.last_hidden_state.contiguous(),
      "pooler_output": out.pooler_output.contiguous(),
    },
    FOLDER / "activations.safetensors",
  )


if __name__ == "__main__":
  main()
