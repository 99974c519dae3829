"""SST-2 as rows that people can read: ten or more of them, chosen and weighted.

gmdistill distill --config=readable/sst2 --workdir=runs/readable_sst2
gmdistill evaluate --set=runs/readable_sst2/set/set.jsonl --config=sst2:finetune

From the rows of K-centers, a hundred exchanges for other rows are tried along the
protocol `finetune`, and those kept that lower the real loss; then labels and weights of
the rows are learned. What it leaves is `set/set.jsonl`. Two busy CPU cores, bfloat16: 10
minutes to choose, 10 to learn. Measured, 3 students on the 872 validation rows: 61.1 ±
3.7 %, random rows 54.8 ± 5.8 %. With three layers and more real rows, from herding:
66.3 ± 1.9 %, random 53.9, K-centers 66.1, herding 68.2 (`docs/results/rows.md`).
`:written` is the same with a language model that writes rows beside the real ones:

gmdistill write --config=readable/sst2:written --workdir=sets/written_sst2
gmdistill distill --config=readable/sst2:written --workdir=runs/written_sst2 --config.choice.written=sets/written_sst2/written.jsonl

What it writes, `docs/results/rows.md` shows. `:tiny` after either runs the same recipe
on the embedded corpus, in minutes on a CPU; it writes by a made-up decoder, whose words
mean nothing.
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
  config.initialise = "k_centers"
  config.choice.update(pool=50, exchanges=100)
  config.data_per_class = 5
  config.sequence_length = 32
  config.min_tokens = 16
  config.replay_steps = 0
  config.labels = "softmax"
  config.objective = "finetune_ahead"
  config.finetune_ahead.update(
    window=8, skip=0, stride=8, until=64, centred=True
  )
  config.num_students = 2
  config.num_steps = 20
  config.outer.update(learning_rate=2e-2)
  config.steps_per_dispatch = 1
  config.eval_every = config.checkpoint_every = 10
  config.rows_per_class = 48
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
