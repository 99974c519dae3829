"""AG News as rows that people can read, chosen and weighted.

gmdistill distill --config=readable/ag_news --workdir=runs/readable_ag_news
gmdistill evaluate --set=runs/readable_ag_news/set/set.jsonl --config=ag_news --protocol=finetune

The recipe of `readable/sst2`, on pairs of title and description. What it leaves is
`set/set.jsonl`. A short run of three layers came to 76.0 %, random rows 76.5, K-centers
83.2 % (`docs/results/rows.md`), which `gmdistill select` gives.
`:written` is the same with a language model that writes rows beside the real ones, as
`readable/sst2:written` is: `gmdistill write` first, then `choice.written`.
`:tiny` runs the same recipe on the embedded corpus, in minutes on a CPU.
"""

from gmdistill.runs.config import shipped


def get_config():
  return _of_ag_news(shipped.config_for("readable/sst2"))


def written():
  """The same, of rows that SmolLM2 has written too."""
  config = _of_ag_news(shipped.config_for("readable/sst2:written"))
  config.writer.update(
    template="{label} news, title | story: {text}", shots=4, max_tokens=96
  )
  return config


def _of_ag_news(config):
  config.data.name = "ag_news_subset"
  config.data.train_length = 48
  config.sequence_length = 48
  config.min_tokens = 0
  config.selection.min_tokens = 0
  return config


MODES = {"": get_config, "written": written}
