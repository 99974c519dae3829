"""Tiny language models: a tokenizer, and decoders of every family on disk."""

import json
import pathlib

import make_tiny_decoders
import tokenizers
from etils import epath

from gmdistill.data import plain_tokens
from gmdistill.students import decoder_weights, shards

TINY = pathlib.Path(__file__).parent / "tiny_decoders"

FAMILIES = sorted(decoder_weights.FORMS)

CONTROL = ["<s>", "</s>", "<|turn|>", "<|end|>"]


def byte_level(beginning=False):
  """A byte-level BPE without a padding token, trained on a line."""
  tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
  tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(
    add_prefix_space=False
  )
  tokenizer.decoder = tokenizers.decoders.ByteLevel()
  trainer = tokenizers.trainers.BpeTrainer(
    vocab_size=280,
    special_tokens=CONTROL,
    initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
    show_progress=False,
  )
  tokenizer.train_from_iterator(["the words of the text and the end"], trainer)
  tokenizer.add_tokens(["<think>"])  # added, and no control token
  if beginning:
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
      single="<s> $A", special_tokens=[("<s>", 0)]
    )
  return tokenizer


def plain(beginning=False):
  return plain_tokens.PlainTokenizer(
    byte_level(beginning), {"bos_token": "<s>", "eos_token": "</s>"}
  )


def stored(family):
  return json.loads((TINY / f"{family}.json").read_text())


def tensors_of(family):
  return {
    name: make_tiny_decoders.drawn(name, shape)
    for name, shape in stored(family)["shapes"].items()
  }


def write_directory(folder, family, tensors=None, **fields):
  """Writes the directory of a tiny decoder."""
  folder = epath.Path(folder) / family
  shards.write(folder, tensors or tensors_of(family))
  config = stored(family)["config"] | fields
  (folder / "config.json").write_text(json.dumps(config))
  return folder


def write_model(folder, family="llama", rows=288, seed=""):
  """Writes a decoder that reads the tokens of `byte_level`."""
  like = stored(family)
  tensors = {
    name: make_tiny_decoders.drawn(
      name + seed, [rows if x == 19 else x for x in shape]
    )
    for name, shape in like["shapes"].items()
  }
  folder = write_directory(folder, family, tensors, vocab_size=rows)
  byte_level().save(str(folder / plain_tokens.FILE))
  special = {"bos_token": "<s>", "eos_token": "</s>"}
  (folder / plain_tokens.CONFIG).write_text(json.dumps(special))
  return folder
