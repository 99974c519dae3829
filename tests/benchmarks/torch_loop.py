"""The loop of public PyTorch systems: what gmdistill is measured against.

Eager attention, `create_graph=True`, a Python loop over classes, the real
gradient computed anew in every step. The arithmetic is that of our student.
"""

import math

import torch
from torch import nn
from torch.nn import functional


class Layer(nn.Module):
  """A post-norm BERT layer."""

  def __init__(self, width: int, heads: int, hidden: int):
    super().__init__()
    self.heads = heads
    self.query, self.key, self.value, self.output = (
      nn.Linear(width, width) for _ in range(4)
    )
    self.norm, self.last_norm = (nn.LayerNorm(width, 1e-12) for _ in range(2))
    self.up, self.down = nn.Linear(width, hidden), nn.Linear(hidden, width)

  def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Returns the layer's output [B, L, D]."""
    b, length, width = x.shape
    split = lambda y: y.view(b, length, self.heads, -1).transpose(1, 2)  # noqa: E731
    q, k, v = split(self.query(x)), split(self.key(x)), split(self.value(x))
    scores = q @ k.transpose(-1, -2) / math.sqrt(width // self.heads)
    scores = scores.masked_fill(~mask[:, None, None, :], -1e9)
    mixed = (scores.softmax(-1) @ v).transpose(1, 2).reshape(x.shape)
    x = self.norm(x + self.output(mixed))
    return self.last_norm(x + self.down(functional.gelu(self.up(x))))


class Student(nn.Module):
  """A BERT-style encoder over embeddings, mean-pooled, with a linear head."""

  def __init__(
    self,
    width: int,
    layers: int,
    heads: int,
    hidden: int,
    positions: int,
    classes: int = 2,
  ):
    super().__init__()
    self.position = nn.Parameter(0.02 * torch.randn(positions, width))
    self.norm = nn.LayerNorm(width, 1e-12)
    self.layers = nn.ModuleList(
      Layer(width, heads, hidden) for _ in range(layers)
    )
    self.head = nn.Linear(width, classes)
    for module in self.modules():
      if isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)

  def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Returns logits [B, C]."""
    x = self.norm(x + self.position[: x.shape[1]])
    for layer in self.layers:
      x = layer(x, mask)
    weight = mask[..., None].to(x.dtype)
    return self.head((x * weight).sum(1) / weight.sum(1))


def matched(student: Student) -> list[nn.Parameter]:
  """Returns what gradient matching compares: no table, no key bias."""
  return [
    parameter
    for name, parameter in student.named_parameters()
    if name != "position" and not name.endswith("key.bias")
  ]


def cosine_gap(
  ours: list[torch.Tensor], theirs: list[torch.Tensor]
) -> torch.Tensor:
  """Returns 1 - cos for each tensor, the mean."""
  gaps = [
    1 - (a * b).sum() / (a.norm() * b.norm() + 1e-12)
    for a, b in zip(ours, theirs, strict=True)
  ]
  return torch.stack(gaps).mean()


class Matching:
  """Gradient matching, class by class plus the sum over classes."""

  def __init__(self, student: Student, table: torch.Tensor, per_class: int):
    self.student, self.table, self.per_class = student, table, per_class
    rows = torch.randint(len(table), (2 * per_class, 32), device=table.device)
    self.embeddings = table[rows].clone().requires_grad_()
    self.optimizer = torch.optim.Adam([self.embeddings], lr=1e-2)

  def step(
    self, ids: torch.Tensor, mask: torch.Tensor, labels: torch.Tensor
  ) -> float:
    """Takes one outer step on a class-balanced batch in class order."""
    parameters = matched(self.student)
    half, m = len(ids) // 2, self.per_class
    whole = mask.new_ones(m, self.embeddings.shape[1])
    value, ours_sum, theirs_sum = 0.0, None, None
    for c in range(2):
      rows = slice(c * half, (c + 1) * half)
      real = functional.cross_entropy(
        self.student(self.table[ids[rows]], mask[rows]), labels[rows]
      )
      theirs = torch.autograd.grad(real, parameters)
      synthetic = functional.cross_entropy(
        self.student(self.embeddings[c * m : (c + 1) * m], whole),
        labels.new_full((m,), c),
      )
      ours = torch.autograd.grad(synthetic, parameters, create_graph=True)
      value = value + cosine_gap(ours, theirs) / 2
      if c:
        ours_sum = [a + b for a, b in zip(ours_sum, ours, strict=True)]
        theirs_sum = [a + b for a, b in zip(theirs_sum, theirs, strict=True)]
      else:
        ours_sum, theirs_sum = ours, theirs
    value = value + cosine_gap(ours_sum, theirs_sum)
    self.optimizer.zero_grad()
    value.backward()
    self.optimizer.step()
    return float(value.detach())


def train_and_count(
  make: "object",
  embeddings: torch.Tensor,
  labels: torch.Tensor,
  reported: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
  num_steps: int,
) -> float:
  """Returns the accuracy of one student, fine-tuned on a set by AdamW."""
  student = make()
  optimizer = torch.optim.AdamW(student.parameters(), lr=1e-4)
  inputs, held_out_mask, right = reported
  mask = held_out_mask.new_ones(embeddings.shape[:2])
  for _ in range(num_steps):
    optimizer.zero_grad()
    functional.cross_entropy(student(embeddings, mask), labels).backward()
    nn.utils.clip_grad_norm_(student.parameters(), 1.0)
    optimizer.step()
  with torch.no_grad():
    found = torch.cat(
      [
        student(x, m).argmax(-1)
        for x, m in zip(inputs.split(64), held_out_mask.split(64), strict=True)
      ]
    )
  return float((found == right).float().mean())
