"""SST-2 as rows that people can read: ten or more of them, chosen and weighted.

gmdistill distill --config=readable/sst2 --workdir=runs/readable_sst2
gmdistill evaluate --set=runs/readable_sst2/set/set.jsonl --config=sst2:finetune

Candidates' weights and soft labels are learned along the protocol `finetune`, the
lightest are left out in three rounds, and the labels and weights of those that stay
are learned on. What it leaves is `set/set.jsonl`. Not measured yet.
`:written` is the same with a language model that writes rows beside the real ones:

gmdistill write --config=readable/sst2:written --workdir=sets/written_sst2
gmdistill distill --config=readable/sst2:written --workdir=runs/written_sst2 --config.choice.written=sets/written_sst2/written.jsonl

Not measured yet. `:tiny` after either runs the same recipe on the embedded corpus, in
seconds on a CPU; it writes by a made-up decoder, whose words mean nothing.
"""

from gmdistill.runs.config import settings


def get_config():
  config = settings.defaults()
  config.data.name = "glue/sst2"
  config.data.max_length = 64
  config.data.train_length = 32
  config.student.pretrained = "sentence-transformers/all-MiniLM-L6-v2"
  config.student.num_layers = 0
  config.student.pooling = "mean"
  config.student.unroll = 6
  config.readable = True
  config.initialise = "learned_weights"
  config.choice.update(pool=50, rounds=3, num_steps=30)
  config.data_per_class = 5
  config.sequence_length = 32
  config.min_tokens = 16
  config.replay_steps = 0
  config.labels = "softmax"
  config.objective = "finetune_ahead"
  config.finetune_ahead.update(
    window=16, skip=0, stride=4, until=64, centred=True
  )
  config.num_steps = 60
  config.outer.update(learning_rate=2e-2)
  config.steps_per_dispatch = 1
  config.eval_every = config.checkpoint_every = 20
  config.rows_per_class = 32
  config.selection.update(
    protocol="finetune", num_students=4, rows=400, min_tokens=20
  )
  config.protocols = ("finetune",)
  config.finetune.num_students = 5
  config.full.num_students = 1
  return config


def written():
  """The same, of rows that SmolLM2 has written too."""
  config = get_config()
  config.writer.update(
    model="HuggingFaceTB/SmolLM2-135M",
    num_candidates=200,
    shots=8,
    template="A {label} phrase of a movie review: {text}",
    max_tokens=48,
    confidence=0.7,
  )
  # The students that doubt are pretrained.
  config.subset.update(num_steps=200, learning_rate=1e-4)
  return config


MODES = {"": get_config, "written": written}
