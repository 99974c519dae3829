"""Prompts and answers in a few learned sequences, for LoRA over SmolLM2.

gmdistill distill --config=instructions --workdir=runs/instructions --config.data.name=FOLDER

FOLDER has train.jsonl, validation.jsonl and test.jsonl, of rows {"prompt": ...,
"completion": ..., "task": ...}; the model's chat template makes turns of them,
and the answer alone counts. `:tiny` runs on a made-up decoder, in minutes.
"""

from gmdistill.runs.config import settings, shipped


def get_config():
  config = shipped.config_for("shakespeare")
  config.task.chat = True
  config.data.update(name="instructions", max_length=512)
  config.num_sequences = 8
  config.sequence_length = 64
  config.num_steps = 80
  config.rows_per_class = 8
  config.selection.rows = 64
  config.full.rates = (5e-4, 1e-3)
  return config


def tiny(config):
  """The same recipe on chains with their rationales, and a made-up decoder."""
  config.data.text_keys = ("text", "rationale")
  config = settings.tiny_language(config, name="chains")
  config.data.max_length = 160  # its tokens are letters, nearly
  config.sequence_length = 96
  return config
