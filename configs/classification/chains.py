"""Rationales: chains of operations, whose every step a student is told.

gmdistill evaluate --row=full --config=chains
gmdistill evaluate --row=full --config=chains \
  --config.rationales.label_share=1.0
gmdistill teach --config=chains --workdir=teachers/chains
gmdistill distill --config=chains --workdir=runs/chains

One CPU core, shared: a minute a student. Expected, five students on all real
rows: 21.0 ± 1.1 % with rationales, 14.1 ± 0.6 % with labels alone; after
`--config.full.num_steps=6000`, one student, 50.5 % and 17.0 %; by length in the
docs. What `distill` reaches here is not measured. `:tiny` ends in a minute
or two.
"""

from gmdistill.runs.config import settings


def get_config():
  config = settings.defaults()
  config.data.update(
    name="chains",
    text_keys=("text",),
    vocab_size=200,
    max_length=10,
    rationale_key="rationale",
    rationale_length=7,
    group_key="length",
  )
  config.student.update(
    num_layers=3, width=64, hidden=128, max_positions=20, unroll=3
  )
  config.data_per_class = 10
  config.sequence_length = 17
  config.replay_steps = 10
  config.objective = "look_ahead"
  config.num_steps = 200
  config.rows_per_class = 16
  config.eval_every = config.checkpoint_every = 50
  config.selection.update(num_students=5)
  config.students_at_once = 5
  config.replay.update(rates=(0.03, 0.1, 0.3), num_students=10)
  config.full.update(num_steps=2000, rates=(1e-3,), num_students=5)
  return config


def tiny(config):
  """The same rows, of which the embedded corpus has none: it is small itself."""
  text = config.data.to_dict()
  settings.tiny(config)
  config.data.update(text)
  config.sequence_length = text["rationale_length"] + 4
  return config
