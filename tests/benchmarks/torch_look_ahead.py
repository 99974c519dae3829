"""The quickstart's run in plain PyTorch: steps on the set, unrolled.

What a public system would write: `create_graph=True` through all of the steps,
a Python loop over steps and students. Set, objective, outer optimiser and
student are the quickstart's.

python torch_look_ahead.py ARRAYS.npz OPTIONS.json

prints one JSON line an evaluation: the outer step, and the accuracy there.
"""

import json
import math
import sys
from typing import Any

import numpy as np
import torch
import torch_loop
from torch.func import functional_call
from torch.nn import functional

Params = dict[str, torch.Tensor]


class LookAhead:
  """A set, its step sizes, and what improves them."""

  def __init__(self, arrays: dict[str, np.ndarray], options: dict[str, Any]):
    self.options = options
    tensors = {name: torch.tensor(x) for name, x in arrays.items()}
    self.table = tensors["table"]
    self.train = [tensors[f"train_{x}"] for x in ("ids", "mask", "labels")]
    self.held_out = [
      tensors[f"selection_{x}"] for x in ("ids", "mask", "labels")
    ]
    size = math.log(math.expm1(options["step_size"]))
    self.set = {
      "embeddings": tensors["embeddings"],
      "labels": tensors["labels"],
      "sizes": torch.full((options["replay_steps"],), size),
    }
    self.average = {name: x.clone() for name, x in self.set.items()}
    for x in self.set.values():
      x.requires_grad_()
    self.optimizer = torch.optim.Adam(self.set.values(), lr=1.0)
    self.rate = torch.optim.lr_scheduler.LambdaLR(self.optimizer, self._rate)
    self.rng = np.random.default_rng(0)

  def _rate(self, step: int) -> float:
    warmup, total = self.options["warmup"], self.options["num_steps"]
    highest = self.options["rate"]
    if step < warmup:
      return highest * step / warmup
    share = min((step - warmup) / (total - warmup), 1.0)
    return highest * (0.05 + 0.95 * (1 + math.cos(math.pi * share)) / 2)

  def student(self) -> torch_loop.Student:
    """Returns a fresh student."""
    return torch_loop.Student(**self.options["student"])

  def replay(self, student: Any, chosen: Params, graph: bool) -> Params:
    """Returns a student's parameters after the set's own steps."""
    params = dict(student.named_parameters())
    mask = torch.ones(chosen["embeddings"].shape[:2], dtype=torch.bool)
    for size in functional.softplus(chosen["sizes"]):
      logits = functional_call(student, params, (chosen["embeddings"], mask))
      # Labels of no distribution: cross_entropy takes those too.
      loss = functional.cross_entropy(logits, chosen["labels"])
      grads = torch.autograd.grad(
        loss, list(params.values()), create_graph=graph
      )
      params = {
        name: x - size * g
        for (name, x), g in zip(params.items(), grads, strict=True)
      }
    return params

  def step(self, number: int) -> None:
    """Takes one outer step, the mean over its students."""
    self.optimizer.zero_grad()
    for _ in range(self.options["num_students"]):
      student = self.student()
      params = self.replay(student, self.set, graph=True)
      ids, mask, labels = (x[self._rows()] for x in self.train)
      logits = functional_call(student, params, (self.table[ids], mask))
      loss = functional.cross_entropy(logits, labels)
      (loss / self.options["num_students"]).backward()
    torch.nn.utils.clip_grad_norm_(self.set.values(), 1.0)
    self.optimizer.step()
    self.rate.step()
    decay = min(0.99, (1 + number) / (10 + number))
    for name, x in self.set.items():
      self.average[name].lerp_(x.detach(), 1 - decay)

  def _rows(self) -> np.ndarray:
    labels = self.train[2].numpy()
    per_class = self.options["rows_per_class"]
    return np.concatenate(
      [
        self.rng.choice(np.flatnonzero(labels == c), per_class, replace=False)
        for c in np.unique(labels)
      ]
    )

  def accuracy(self) -> float:
    """Returns the mean accuracy of fresh students on the held-out rows."""
    ids, mask, labels = self.held_out
    found = []
    for _ in range(self.options["students"]):
      student = self.student()
      params = self.replay(student, self.average, graph=False)
      with torch.no_grad():
        logits = functional_call(student, params, (self.table[ids], mask))
      found.append(float((logits.argmax(-1) == labels).float().mean()))
    return float(np.mean(found))


def main() -> None:
  """Runs to the last step; who started it may stop it before."""
  arrays, path = sys.argv[1:]
  with open(path) as file:
    options = json.load(file)
  torch.manual_seed(0)
  loop = LookAhead(dict(np.load(arrays)), options)
  for number in range(options["num_steps"]):
    loop.step(number)
    if (number + 1) % options["eval_every"] == 0:
      said = {"step": number + 1, "accuracy": loop.accuracy()}
      print(json.dumps(said), flush=True)


if __name__ == "__main__":
  main()
