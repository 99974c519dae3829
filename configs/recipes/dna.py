"""Simulated DNA that holds one of four known motifs, in words of three letters.

gmdistill distill --config=dna --workdir=runs/dna
gmdistill distill --config=dna:encoder --workdir=runs/dna_encoder

The rows are the embedded corpus `motifs`, which is simulated: a motif is written
into random letters, some of its own changed. docs/recipes has what was measured,
and how the motifs are found again in what the set learned. `:tiny` ends in
seconds.
"""

from gmdistill.runs.config import settings

K = 3  # letters a token


def textcnn():
  """A TextCNN. Two CPU cores: two minutes.

  Expected, 20 students: distilled 73 %, K-centers 32 %, full 86 %.
  """
  config = settings.defaults()
  config.data.name = "motifs"
  config.data.kmer = K
  config.data.max_length = 32
  config.student.kind = "textcnn"
  config.student.width = 32
  config.data_per_class = 5
  config.sequence_length = 32
  config.replay_steps = 10
  config.initial_step_size = 0.3
  config.objective = "look_ahead"
  config.num_steps = 400
  config.num_students = 2
  config.rows_per_class = 32
  config.eval_every = 50
  config.checkpoint_every = 200
  config.protocols = ("replay",)
  config.selection.num_students = 5
  config.students_at_once = 5
  config.replay.update(rates=(0.1, 0.3, 1.0, 3.0), num_students=20)
  config.full.update(num_steps=1500, rates=(3e-3,), num_students=3)
  return config


def encoder():
  """A transformer of two layers. Two CPU cores: about six minutes."""
  config = textcnn()
  config.student.update(
    kind="transformer", num_layers=2, num_heads=4, hidden=64, pooling="mean"
  )
  config.student.max_positions = 32
  return config


def tiny(config):
  kmer, kind = config.data.kmer, config.data.name
  config = settings.tiny(config)
  config.data.update(name=kind, kmer=kmer)
  return config


MODES = {"": textcnn, "encoder": encoder}
