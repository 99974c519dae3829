"""The fields that a config has, and their values."""

from typing import Any

import ml_collections

from gmdistill import errors
from gmdistill.data import loading


def defaults() -> ml_collections.ConfigDict:
  """Returns the fields that every config starts from, and their values."""
  # Locked: a misspelt field of a config file is an error, not a new field.
  return ml_collections.ConfigDict(
    dict(
      seed=0,
      data=dict(
        name="docstrings",  # a TFDS name, or the embedded corpus
        dir="",  # TFDS data_dir; empty: TFDS's own default
        text_keys=(),  # empty: found from the builder's info
        label_key="",
        reported_split="",
        vocab_size=4096,  # of the tokenizer trained where there is none
        lower_case=True,  # of that tokenizer
        strip_accents=False,
        max_length=64,  # tokens of a real row
        train_length=0,  # the same in the training part; 0: max_length
        rationale_key="",  # a text that says why; empty: rows have no slots
        rationale_length=16,  # its tokens, and slots of every row for them
        group_key="",  # an integer: accuracies are told by it too
      ),
      # Of rationales, where data.rationale_key names some. label_share: of the
      # label in a student's loss, beside its rationale. weights: uniform, or
      # rare, tokens by how few rationales say them. curriculum: the share of
      # training on real rows over which earlier and earlier steps count.
      # learned: the set learns rationales too.
      rationales=dict(
        label_share=0.5, weights="uniform", curriculum=0.0, learned=True
      ),
      student=dict(
        pretrained="",  # a Hugging Face directory or hub id
        space="",  # the space/ folder of a finished run, to share its table
        # transformer, bilstm, textcnn; the last two with pretrained: over its
        # table, for sets that live there.
        kind="transformer",
        num_layers=2,  # with pretrained: its first layers, 0 for all
        pooling="first",  # first: BERT's pooler; mean
        width=128,
        num_heads=4,
        hidden=512,
        max_positions=128,
        # What a backward pass computes again instead of keeping it: none,
        # layers, elementwise; see students.blocks.
        remat="none",
        unroll=1,
        compute="float32",  # or bfloat16, of a transformer's products
      ),
      table=dict(window=4),  # how a table is learned where none is given
      # The set.
      data_per_class=1,
      sequence_length=32,
      labels="unrestricted",  # hard, softmax, unrestricted
      # Of the finished set's labels, from 0 to below 1: what students train on.
      # The objective sees the labels as they are.
      label_smoothing=0.0,
      attention_labels=False,  # of the first token, learned; see encoders
      rank=0,  # of the embeddings, as codes times a shared basis; 0: full
      stored_as="float32",  # float32, bfloat16, int8: the embeddings on disk
      replay_steps=4,  # learned SGD steps T; 0: the set brings none
      examples_per_step=0,  # of a class, in turn; 0: all of them every step
      initial_step_size=0.05,
      initial_head_step_size=0.0,  # 0: the head has no sizes of its own
      # Of the body's T steps, where none is learned: constant, or linear, in
      # equal parts towards zero.
      step_schedule="constant",
      # Steps of learned distance for each tensor, instead of SGD's own.
      normalised_steps=False,
      initialise="random",  # random, herding, k_centers: rows it starts from
      coreset_pool=2000,  # real rows a class that coresets choose from
      # The outer loop.
      # One of OBJECTIVES, a weighted sum "a+0.1*b", or stages "a,b".
      objective="look_ahead",
      stage_fractions=(),  # of num_steps, one a stage; empty: equal
      num_steps=1000,
      num_students=1,  # students an outer step
      # Groups of devices that share the students, 0: as many as there are; and
      # devices that split the real batch of one student.
      mesh=dict(students=0, data=1),
      rows_per_class=16,  # real rows a batch
      real_rows="random",  # or representatives: rows nearest k-means centroids
      joined_rows=0.0,  # share of a real batch that is two rows in one; joined
      refresh=10,  # outer steps until representatives are chosen anew
      min_tokens=0,  # of rows in the outer loop's real batches; not of a bank's
      # Whose labels the outer loop's real rows carry, in the share alpha; see
      # ensembles.Options. dirs: what `gmdistill teach` wrote, or hub ids.
      teachers=dict(
        dirs=(),
        alpha=1.0,
        temperature=1.0,
        temperatures=(),
        join="probabilities",
        weights="equal",
        certainty=False,
        top_k=0,
      ),
      # What a student loses to the teachers of its rows, beside its labels; see
      # criteria. Of weight and temperature, `_end` is what they come to at the
      # end of a training, by `schedule`.
      kd=dict(
        loss="",  # one of criteria.LOSSES; empty: labels alone
        weight=1.0,
        weight_end=1.0,
        temperature=1.0,
        temperature_end=1.0,
        schedule="constant",  # linear, cosine
        join="losses",  # of several: losses, probabilities, logits
        weights="equal",  # confidence, entropy, gate
        features="",  # cosine, mse: to a labelled set's teacher_features
        feature_weight=1.0,
        shallow_weight=0.0,  # of what the last layer teaches those below
        # The student's own teacher while it trains on a set or on real rows:
        # none; moving_average of itself, by decay; peer, a second student.
        teaching="none",
        decay=0.99,
      ),
      start="",  # the set/ folder that a run starts from, instead of real rows
      rule="mixed",  # how gradients are differentiated; see training.mixed_mode
      look_ahead=dict(centred=False, start="fresh", last_steps=0),
      # Along the protocol finetune, with its steps and the first of its rates.
      finetune_ahead=dict(window=2, skip=6, stride=1, until=0, centred=False),
      step_matching=dict(
        distance_kind="tensor_cosine", matched="all", centred=False
      ),
      gradient_matching=dict(
        distance_kind="neuron_cosine",
        matched="all",
        sum_weight=1.0,
        class_chunk=0,  # classes computed side by side, for memory
      ),
      trajectory=dict(
        max_age=100, steps_between=5, train_on="real", learning_rate=1e-4
      ),
      # The expert bank that `gmdistill bank` builds; see objectives.bank.
      bank=dict(
        dir="",  # read by a run: its gradient matching aims at the bank's
        num_trajectories=8,
        ages=(0, 3, 8, 16, 32, 64),
        rows_per_class=96,
        rows="random",
        batch_rows_per_class=16,
        learning_rate=1e-4,
        matched="all",
        precision="bfloat16",
        clip=0.0,  # of one row's gradient; with noise: private gradients
        noise=0.0,
        delta=1e-5,
        seed=0,
        along="",  # a set/ folder: real gradients where its students come
        along_steps=200,
      ),
      # Which of the bank's states a run reads; curriculum: the share of the
      # steps over which older and older ones are let in.
      experts=dict(max_age=10**6, span=1, curriculum=0.0),
      displacement=dict(constant_memory=True, distance_kind="tensor_cosine"),
      outer=dict(
        learning_rate=1e-2,
        range_test=False,  # find the learning rate at the start instead
        label_scale=1.0,  # times the learning rate, for the labels
        step_size_scale=1.0,  # the same for the learned step sizes
        warmup=0.1,
        clip=1.0,  # of the gradient's norm; 0: as it is
        norm_clip=0.0,  # times the norm's moving average; 0: not clipped so
        ema=0.99,
        # Of num_students, so many side by side on a device: larger products
        # for a GPU, more memory.
        students_at_once=1,
      ),
      steps_per_dispatch=10,
      eval_every=100,
      checkpoint_every=100,
      # How sets are measured.
      # Of the selection split: at most so many rows, none shorter. apart: the
      # outer loop's real batches leave out rows with so many consecutive tokens
      # in common with one of them; 0: none. What a set starts from may be any.
      selection=dict(
        protocol="replay", num_students=2, rows=500, min_tokens=0, apart=0
      ),
      protocols=("replay",),
      students_at_once=1,  # evaluated in one vmapped chunk
      # A row without step sizes of its own chooses among all pairs of these.
      replay=dict(
        rates=(0.01, 0.03, 0.1, 0.3), head_scales=(1.0,), num_students=20
      ),
      finetune=dict(num_steps=200, rates=(1e-4,), num_students=10),
      scratch=dict(num_steps=200, rates=(1e-3, 3e-3), num_students=20),
      # Chains of SGLD from students of another protocol, with its rates.
      # strength: how many rows of its class an example's label is worth, as a
      # teacher's prior. step_size and prior_std: of every parameter.
      bayes=dict(
        start="finetune",  # or scratch, replay
        strength=1.0,
        prior_std=0.05,
        step_size=1e-5,
        samples=20,
        burn_in=200,
        thin=20,
        batch_size=64,
        num_students=5,
      ),
      full=dict(
        num_steps=1000,
        batch_size=32,
        weight_decay=0.01,
        warmup=0.1,
        rates=(1e-4,),
        num_students=3,
      ),
    )
  ).lock()


def data_options(config: ml_collections.ConfigDict) -> loading.Options:
  """Returns which data a config reads, and how."""
  fields = config.data.to_dict()
  return loading.Options(**{"data_dir": fields.pop("dir"), **fields})


def tiny(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
  """Returns the same recipe, small enough to end in seconds on a CPU.

  It runs anywhere: the embedded corpus, and a student from random
  initialisation where the config names a pretrained one.
  """
  config.data.update(
    name="docstrings", dir="", max_length=16, train_length=0, vocab_size=500
  )
  config.student.update(
    pretrained="", num_layers=1, width=16, num_heads=2, hidden=16
  )
  config.data_per_class = min(config.data_per_class, 2)
  config.examples_per_step = min(config.examples_per_step, 1)
  config.sequence_length = min(config.sequence_length, 8)
  config.replay_steps = min(config.replay_steps, 3)
  config.coreset_pool = 50
  config.num_steps = 4
  config.num_students = min(config.num_students, 2)
  config.rows_per_class = 4
  config.min_tokens = 0
  config.bank.update(
    num_trajectories=2, ages=(0, 2), rows_per_class=8, batch_rows_per_class=4
  )
  ahead = config.finetune_ahead
  ahead.update(
    window=min(ahead.window, 2),
    stride=min(ahead.stride, 2),
    until=min(ahead.until, 4),
  )
  config.steps_per_dispatch = config.eval_every = config.checkpoint_every = 2
  config.selection.update(num_students=2, rows=50, min_tokens=0)
  config.students_at_once = 2
  config.replay.update(num_students=2)
  config.bayes.update(samples=2, burn_in=2, thin=2, num_students=2)
  for protocol in (config.finetune, config.scratch, config.full):
    protocol.update(num_steps=4, num_students=2)
  return config


def require_one_run(config: Any) -> None:
  """Checks that a config is `defaults()` with other values.

  Raises:
    InputError: it holds several runs, or lacks fields.
  """
  kind = ml_collections.ConfigDict
  fields = dict(config.items()) if isinstance(config, kind) else {}
  runs = [
    x for x in fields.values() if isinstance(x, kind) and "protocols" in x
  ]
  if runs:
    raise errors.InputError(
      "this config holds several runs; use gmdistill sweep and the same flags."
    )
  if set(defaults()) - set(fields):
    raise errors.InputError(
      "the config is no run's: its get_config must return "
      "gmdistill.runs.config.settings.defaults() with values changed."
    )
