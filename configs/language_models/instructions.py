"""Prompts and answers in a few learned sequences, for LoRA over SmolLM2.

gmdistill distill --config=instructions --workdir=runs/instructions --config.data.name=FOLDER

FOLDER has train.jsonl, validation.jsonl and test.jsonl, of rows {"prompt": ...,
"completion": ..., "task": ...}; the model's chat template makes turns of them,
and the answer alone counts. `:tiny` runs on a made-up decoder, in seconds.
"""

from gmdistill.runs.config import settings


def get_config():
  config = settings.defaults()
  config.task.kind = "next_token"
  config.task.chat = True
  config.data.name = "instructions"
  config.data.max_length = 512
  config.student.pretrained = "HuggingFaceTB/SmolLM2-135M-Instruct"
  config.student.num_layers = 0
  config.student.adapter = "lora"
  config.student.rank = 8
  config.student.compute = "bfloat16"
  config.student.remat = "layers"
  config.num_sequences = 8
  config.sequence_length = 64
  config.replay_steps = 2
  config.normalised_steps = True
  config.initial_step_size = 1.5
  config.objective = "look_ahead"
  config.outer.update(learning_rate=1e-2, step_size_scale=5.0, ema=0.9)
  config.num_steps = 80
  config.rows_per_class = 8
  config.steps_per_dispatch = 5
  config.eval_every = 20
  config.checkpoint_every = 20
  config.selection.update(num_students=1, rows=64)
  config.protocols = ("replay",)
  config.replay.update(rates=(0.7, 1.5, 2.5), num_students=3)
  config.full.update(
    num_steps=128,
    batch_size=8,
    weight_decay=0.0,
    warmup=0.1,
    rates=(5e-4, 1e-3),
    num_students=1,
  )
  config.gradient_cosine.num_students = 0
  return config


def tiny(config):
  """The same recipe on chains with their rationales, and a made-up decoder."""
  config.data.text_keys = ("text", "rationale")
  config = settings.tiny_language(config, name="chains")
  config.data.max_length = 160  # its tokens are letters, nearly
  config.sequence_length = 96
  return config
