"""What a refusal tells a user to do is done here, and then nothing is refused.

Each case: fields of a config that are wrong; the advice, as a pattern; and what
the advice changes. A {0} is what the pattern's first group took from the line.
"""

import ast
import dataclasses
import re

import numpy as np
import pytest
import tensorflow_datasets as tfds
import tiny_config
import tiny_sets

from gmdistill import errors
from gmdistill.objectives import bank
from gmdistill.runs import jobs

FIRST = r"is none of ([\w.]+)"  # a list of what is known

WHY = {
  "data.rationale_key": "why",
  "data.rationale_length": 4,
  "data.max_length": 8,
  "protocols": ("scratch",),
  "selection.protocol": "scratch",
}

BILSTM = {"student.kind": "bilstm"}

CASES = [
  # The student.
  ({"student.width": 10, "student.num_heads": 4}, r"use a width of (\d+)",
   {"student.width": "{0}"}),
  ({"student.num_layers": 0}, r"use (\d+) or more",
   {"student.num_layers": "{0}"}),
  ({"student.pooling": "max"}, FIRST, {"student.pooling": "{0}"}),
  ({"student.remat": "x"}, FIRST, {"student.remat": "{0}"}),
  ({"student.compute": "x"}, FIRST, {"student.compute": "{0}"}),
  ({"student.kind": "x"}, FIRST, {"student.kind": "{0}"}),
  ({"student.width": 400}, r"use at most (\d+)", {"student.width": "{0}"}),
  ({"student.width": 160}, r"or a larger (data.vocab_size)", {"{0}": 600}),
  ({**BILSTM, "kd.shallow_weight": 0.5}, r"use (student.kind)=(\w+)",
   {"{0}": "{1}"}),
  ({**BILSTM, "attention_labels": True}, r"use (student.kind)=(\w+)",
   {"{0}": "{1}"}),
  ({**BILSTM, "attention_labels": True}, r"or (attention_labels)=(\w+)",
   {"{0}": "{1}"}),
  # The data.
  ({"data.max_length": 17}, r"use at most (\d+)", {"data.max_length": "{0}"}),
  ({"data.train_length": 17}, r"use at most (\d+)",
   {"data.train_length": "{0}"}),
  ({"data.max_length": 3}, r"from (\d+) to", {"data.max_length": "{0}"}),
  ({"data.vocab_size": 3}, r"from (\d+) to",
   {"data.vocab_size": "{0}", "student.width": 16}),
  ({"data.train_length": 3}, r"number, (\d), or", {"data.train_length": "{0}"}),
  ({"data.train_length": 3}, r"or from (\d+) to",
   {"data.train_length": "{0}"}),
  ({"data.name": "tinny"}, r"did you mean (\w+)", {"data.name": "{0}"}),
  ({"data.name": "qqqqqq"}, r"prepared there: (\w+)", {"data.name": "{0}"}),
  ({"data.text_keys": ("txet",)}, r"features label .*, (\w+) \(Text\)",
   {"data.text_keys": ("{0}",)}),
  ({"data.text_keys": ("text",), "data.label_key": "text"},
   r"must not read what it is to say", {"data.label_key": "label"}),
  ({"data.reported_split": "dev"}, r"beside 'train': (\w+)",
   {"data.reported_split": "{0}"}),
  ({"data_per_class": 10**6}, r"use at most (\d+)", {"data_per_class": "{0}"}),
  ({"min_tokens": 10**3}, r"use a smaller one", {"min_tokens": 4}),
  ({"selection.min_tokens": 10**3}, r"use a smaller one",
   {"selection.min_tokens": 4}),
  ({"selection.apart": 1}, r"use more tokens", {"selection.apart": 8}),
  ({"selection.apart": 1}, r"or (\d) to keep all", {"selection.apart": "{0}"}),
  # Rationales.
  ({**WHY, "data.rationale_length": 1}, r"from (\d+) to",
   {"data.rationale_length": "{0}"}),
  ({**WHY, "data.max_length": 14}, r"use at most (\d+)",
   {"data.max_length": "{0}"}),
  ({**WHY, "data.rationale_length": 20}, r"use a smaller (data.\w+_length)",
   {"{0}": 4}),
  ({**WHY, "sequence_length": 4}, r"has no room for .*; use (\d+) or more",
   {"sequence_length": "{0}"}),
  ({**WHY, "data.rationale_key": "number"}, r", (why) \(Text\)",
   {"data.rationale_key": "{0}"}),
  ({**WHY, "data.text_keys": ("text", "why")}, r"must not read",
   {"data.text_keys": ("text",)}),
  # The set.
  ({"sequence_length": 99}, r"use 1 to (\d+)", {"sequence_length": "{0}"}),
  ({"rank": 999}, r"must be 1 to (\d+)", {"rank": "{0}"}),
  ({"rank": 999}, r"or (\d) for full", {"rank": "{0}"}),
  ({"stored_as": "x"}, FIRST, {"stored_as": "{0}"}),
  ({"initialise": "x"}, FIRST, {"initialise": "{0}"}),
  ({"labels": "x"}, r"none of (\w+)", {"labels": "{0}"}),
  ({"step_schedule": "x"}, r"none of (\w+)", {"step_schedule": "{0}"}),
  ({"examples_per_step": 3}, r"must be 1 to data_per_class=(\d+)",
   {"examples_per_step": "{0}"}),
  ({"data_per_class": 4, "examples_per_step": 1}, r"take at least (\d+) a step",
   {"examples_per_step": "{0}"}),
  ({"data_per_class": 4, "examples_per_step": 1}, r"or more steps",
   {"replay_steps": 4}),
  ({"objective": "gradient_matching", "examples_per_step": 1},
   r"use (\d), or one of (\w+)", {"examples_per_step": "{0}"}),
  ({"objective": "gradient_matching", "examples_per_step": 1},
   r"use (\d), or one of (\w+)", {"objective": "{1}"}),
  # The outer loop.
  ({"objective": "x"}, r"(look_ahead)", {"objective": "{0}"}),
  ({"objective": "token_distance"}, r"such as (\S+)\.$", {"objective": "{0}"}),
  ({"objective": "x*look_ahead"}, r"write a\+(0\.1)\*b",
   {"objective": "gradient_matching+{0}*look_ahead"}),
  ({"replay_steps": 0}, r"use replay_steps=(\d)", {"replay_steps": "{0}"}),
  ({"objective": "step_matching,look_ahead", "stage_fractions": (0.5,)},
   r"must be 2 numbers that sum to 1", {"stage_fractions": (0.5, 0.5)}),
  ({"objective": "step_matching,look_ahead", "stage_fractions": (1.0, 0.0)},
   r"give each stage at least one", {"stage_fractions": (0.9, 0.1)}),
  ({"rule": "x"}, FIRST, {"rule": "{0}"}),
  ({"real_rows": "x"}, FIRST, {"real_rows": "{0}"}),
  ({"joined_rows": 0.01}, r"use (0\.0), or more than ([\d.]+)",
   {"joined_rows": "{0}"}),
  ({"num_students": 0}, r"from (\d) to", {"num_students": "{0}"}),
  ({"seed": 2**32}, r"to 2\*\*32 - 1", {"seed": 2**32 - 1}),
  ({"outer.warmup": 1.0}, r"from (0) to below 1", {"outer.warmup": "{0}"}),
  ({"outer.clip": -1.0}, r"from (0) to", {"outer.clip": "{0}"}),
  ({"label_smoothing": 1.0}, r"from (0) to below 1", {"label_smoothing": 0.1}),
  ({"mesh.data": 3}, r"must divide the (\d+) devices", {"mesh.data": "{0}"}),
  ({"mesh.students": 2}, r"use mesh.students=(\d)", {"mesh.students": "{0}"}),
  ({"mesh.students": 2}, r", or (\d)\.", {"mesh.students": "{0}"}),
  # Protocols.
  ({"protocols": ("x",)}, FIRST, {"protocols": ("{0}",)}),
  ({"protocols": ()}, r"use one or more of (\w+)", {"protocols": ("{0}",)}),
  ({"protocols": ("bayes",), "bayes.start": "x"}, FIRST,
   {"bayes.start": "{0}"}),
  ({"replay.rates": ()}, r"one or more numbers",
   {"replay.rates": (0.1,)}),
  ({"protocols": ("finetune",), "kd.teaching": "peer"}, r"use one of (\w+)",
   {"kd.loss": "{0}"}),
  ({"protocols": ("finetune",), "kd.teaching": "x", "kd.loss": "forward_kl"},
   FIRST, {"kd.teaching": "{0}", "kd.loss": ""}),
  ({"kd.loss": "x"}, FIRST, {"kd.loss": "{0}"}),
  ({"kd.loss": "reverse_kl", "kd.join": "x"}, FIRST, {"kd.join": "{0}"}),
  ({"kd.loss": "reverse_kl", "kd.weight": 2.0}, r"from (0) to 1",
   {"kd.weight": "{0}"}),
]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """A set of four classes of twenty rows, with a reason and a number each."""
  folder = tmp_path_factory.mktemp("data") / "tfds"
  folder.mkdir()
  rows = {
    split: [
      {**row, "why": f"it says {row['text']}", "number": i}
      for i, row in enumerate(tiny_sets.rows_of(4 * list(range(4)) * 5, start))
    ]
    for split, start in (("train", 0), ("test", 200))
  }
  more = {"why": tfds.features.Text(), "number": tfds.features.Scalar(np.int32)}
  tiny_sets.build(folder, rows, tiny_sets.names(4), more)
  return str(folder)


def config_with(fields, folder):
  config = tiny_config.get_config("polish")
  config.data.update(name="tiny", dir=folder, text_keys=("text",))
  config.data.vocab_size = 100
  for field, value in fields.items():
    config.update_from_flattened_dict({field: value})
  return config


def ready(config):
  """Does what a run does before it writes anything."""
  jobs.prepare(config)


def filled(value, groups):
  """Puts what a line said into a field's name or its value."""
  if isinstance(value, tuple):
    return tuple(filled(x, groups) for x in value)
  if not isinstance(value, str):
    return value
  text = value.format(*groups)
  try:
    return ast.literal_eval(text)
  except (SyntaxError, ValueError):
    return text


@pytest.mark.parametrize("wrong, advice, mend", CASES)
def test_what_a_refusal_says_to_do_helps(folder, wrong, advice, mend):
  with pytest.raises(errors.InputError) as caught:
    ready(config_with(wrong, folder))
  message = str(caught.value)
  assert "\n" not in message
  found = re.search(advice, message)
  assert found, message
  mended = {
    filled(field, found.groups()): filled(value, found.groups())
    for field, value in mend.items()
  }
  ready(config_with({**wrong, **mended}, folder))


BANKS = [
  ({"ages": (3, 0)}, r"such as (\(.*\))\.$", {"ages": "{0}"}),
  ({"num_trajectories": 0}, r"from (\d) to", {"num_trajectories": "{0}"}),
  ({"rows": "x"}, FIRST, {"rows": "{0}"}),
  ({"precision": "x"}, FIRST, {"precision": "{0}"}),
  ({"noise": 1.0}, r"such as ([\d.]+)\.$", {"clip": "{0}"}),
  ({"noise": 1.0, "clip": 1.0, "rows": "k_centers"},
   r"use bank.rows=(\w+)", {"rows": "{0}"}),
  ({"along": "set", "along_steps": 1}, r"at least (\d)",
   {"along_steps": "{0}", "ages": (0, 1)}),
  ({"along": "set", "along_steps": 9, "ages": (0, 10)}, r"along_steps=(\d)",
   {"ages": (0, 9)}),
]  # fmt: skip


@pytest.mark.parametrize("wrong, advice, mend", BANKS)
def test_what_a_bank_is_refused_for_is_mended_as_it_says(wrong, advice, mend):
  with pytest.raises(errors.InputError) as caught:
    bank.Options(**wrong)
  found = re.search(advice, str(caught.value))
  assert found, str(caught.value)
  values = {k: filled(value, found.groups()) for k, value in mend.items()}
  assert dataclasses.asdict(bank.Options(**{**wrong, **values}))
