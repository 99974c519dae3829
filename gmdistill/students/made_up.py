"""A decoder of random weights that knows a few words: it ends in seconds.

What the tiny modes of configs for language models run on, without a network.
"""

import json

import jax
import jax.numpy as jnp
from etils import epath

from gmdistill.data import plain_tokens, vocabularies
from gmdistill.students import decoder_weights, decoders
from gmdistill.system import paths

# Of words a few times each, so that they are tokens.
_TEXT = " yes no good bad positive negative world sports business science" * 3

_TEMPLATE = (
  "{% for m in messages %}{{ m.role ~ ': ' ~ m.content ~ eos_token ~ '\\n' }}"
  "{% endfor %}{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)


def write(folder: epath.PathLike, *, width: int = 16) -> epath.Path:
  """Writes a Llama of two layers, with a tokenizer and a chat template.

  Args:
    folder: Made if absent; one that is there is kept.
    width: Of its embeddings.
  """
  folder = paths.absolute(folder)
  if (folder / "config.json").is_file():
    return folder
  tokenizer = vocabularies.train_byte_pairs([_TEXT], 400)
  module = decoders.Llama(
    width=width,
    num_heads=2,
    hidden=2 * width,
    max_positions=512,
    vocabulary=tokenizer.vocab_size,
  )
  inputs = (jnp.zeros((1, 2, width)), jnp.ones((1, 2), bool))
  params = module.init(jax.random.key(0), *inputs)["params"]
  shape = (tokenizer.vocab_size, width)
  table = 0.3 * jax.random.normal(jax.random.key(1), shape)
  named = {**tokenizer.special, "chat_template": _TEMPLATE}
  folder.mkdir(parents=True, exist_ok=True)
  (folder / plain_tokens.FILE).write_text(tokenizer.to_json())
  (folder / plain_tokens.CONFIG).write_text(json.dumps(named, indent=2))
  # The config comes last: with it the folder is a model.
  decoder_weights.save(
    folder, decoder_weights.Decoder("llama", module, params, table)
  )
  return folder
