"""A run of a language model that ends in seconds; tests override its fields."""

import json
import pathlib

import ml_collections
import numpy as np
import tiny_config

from gmdistill.students import made_up

WORDS = "good bad world sports business science positive negative".split()


def text(seed: int, count: int = 12) -> str:
  """Words, each of which says half of what comes next."""
  rng = np.random.default_rng(seed)
  place, found = int(rng.integers(len(WORDS))), []
  for _ in range(count):
    found.append(WORDS[place])
    place = (place + 1 + int(rng.integers(2))) % len(WORDS)
  return " ".join(found)


def write_rows(folder, kind="text", rows=40) -> pathlib.Path:
  """Writes training, validation and test rows of a kind, as JSON lines."""
  folder = pathlib.Path(folder)
  folder.mkdir(parents=True, exist_ok=True)
  counts = {"train": rows, "validation": 8, "test": 12}
  for split, count in counts.items():
    lines = []
    for i in range(count):
      seed = 1000 * len(split) + i
      asked, said = (
        text(seed),
        f"{'yes' if i % 2 else 'no'} {text(seed + 1, 2)}",
      )
      row = {
        "text": {"text": asked},
        "answers": {"prompt": asked, "completion": said, "task": f"t{i % 2}"},
        "messages": {
          "messages": [
            {"role": "user", "content": asked},
            {"role": "assistant", "content": said},
          ]
        },
        "classes": {"sentence": asked, "label": "yes" if i % 2 else "no"},
      }[kind]
      lines.append(json.dumps(row))
    (folder / f"{split}.jsonl").write_text("\n".join(lines) + "\n")
  return folder


def get_config(folder, kind="text") -> ml_collections.ConfigDict:
  """LoRA over a tiny Llama, on rows of a kind; both are written to `folder`."""
  config = tiny_config.get_config("polish")
  folder = pathlib.Path(folder)
  config.data.name = str(write_rows(folder / "rows", kind))
  config.data.max_length = 24
  config.student.pretrained = str(made_up.write(folder / "llama"))
  config.student.num_layers = 0
  config.student.adapter = "lora"
  config.student.rank = 2
  config.task.kind = "next_token"
  config.num_sequences = 2
  config.sequence_length = 16
  if kind == "classes":
    config.task.kind = "label_words"
    config.task.template = "{text}\nanswer:"
    config.task.words = (" yes", " no")
  config.normalised_steps = True
  config.initial_step_size = 0.5
  config.initial_head_step_size = 0.0
  config.outer.learning_rate = 1e-2
  config.num_steps = 8
  config.num_students = 1
  config.rows_per_class = 4
  config.protocols = ("replay",)
  config.replay = dict(rates=(0.3, 1.0), head_scales=(1.0,), num_students=2)
  config.full.update(num_steps=30, rates=(1e-2,), num_students=1)
  config.gradient_cosine.num_students = 1
  return config
