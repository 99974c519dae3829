"""AG News as rows that people can read, chosen and weighted.

gmdistill distill --config=readable/ag_news --workdir=runs/readable_ag_news
gmdistill evaluate --set=runs/readable_ag_news/set/set.jsonl --config=ag_news --protocol=finetune

The recipe of `readable/sst2`, on pairs of title and description. What it leaves is
`set/set.jsonl`. Not measured yet.
`:tiny` runs the same recipe on the embedded corpus, in seconds on a CPU.
"""

from gmdistill.runs.config import shipped


def get_config():
  config = shipped.config_for("readable/sst2")
  config.data.name = "ag_news_subset"
  config.data.train_length = 48
  config.sequence_length = 48
  config.min_tokens = 0
  config.selection.min_tokens = 0
  return config
