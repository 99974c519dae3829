"""AG News by the word that a language model says next, for LoRA over SmolLM2.

gmdistill distill --config=ag_news_words --workdir=runs/ag_news_words

One learned example a class, each taken in all three normalised steps by a fresh
adapter. With `--config.num_steps=80 --config.selection.by=score` on 500 test rows, two
CPU cores, JAX 0.12: 40 minutes of outer loop. Expected: zero-shot 47.8 % and 1.328 nats,
K-centers 69.6 ± 0.3 and 0.886, distilled 88.1 ± 0.4 and 0.446, full 87.6 and 0.391.
`:tiny` runs on a made-up decoder, in minutes.
"""

from gmdistill.runs.config import settings, shipped


def get_config():
  config = shipped.config_for("sst2_words")
  config.task.template = "{title}\n{description}\nTopic:"
  config.task.words = (" world", " sports", " business", " science")
  config.data.update(name="ag_news_subset", max_length=96)
  config.min_tokens = config.selection.min_tokens = 0
  config.rows_per_class = 4
  return config


def tiny(config):
  """The same recipe on the embedded prose and a made-up decoder."""
  config.task.template = ""
  config.task.words = (" yes", " no", " good", " bad")
  return settings.tiny_language(config)
