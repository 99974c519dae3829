"""A set of a language model in plain PyTorch: what a public loop would write.

A Llama with low-rank adapters as functions of tensors, eager attention, whole
logits, `create_graph=True`. The arithmetic is that of our student; the frozen
weights lie in the precision of the products, adapters and set in float32.
"""

import math
from typing import Any

import torch
from torch.nn import functional

TARGETS = ("query", "key", "value", "output", "gate", "up", "down")


class Model:
  """A frozen Llama and what an adapter changes of it."""

  def __init__(self, shape: dict[str, Any], rank: int, dtype: torch.dtype):
    self.shape, self.dtype = shape, dtype
    width, hidden = shape["width"], shape["hidden"]
    self.head = width // shape["num_heads"]
    keys = shape["num_key_value_heads"] * self.head
    sizes = dict(
      query=(width, width),
      key=(width, keys),
      value=(width, keys),
      output=(width, width),
      gate=(width, hidden),
      up=(width, hidden),
      down=(hidden, width),
    )
    self.sizes, self.rank = sizes, rank
    drawn = lambda *size: (0.02 * torch.randn(size)).to(dtype)  # noqa: E731
    self.layers = [
      {name: drawn(*size) for name, size in sizes.items()}
      for _ in range(shape["num_layers"])
    ]
    self.table = drawn(shape["vocabulary"], width)

  def adapter(self) -> list[torch.Tensor]:
    """Returns a new adapter's tensors, A and B of every matrix."""
    return [
      x
      for _ in self.layers
      for rows, columns in self.sizes.values()
      for x in (
        (2 * torch.rand(rows, self.rank) - 1) / math.sqrt(rows),
        torch.zeros(self.rank, columns),
      )
    ]

  def loss(
    self,
    adapter: list[torch.Tensor],
    inputs: torch.Tensor,
    targets: torch.Tensor,
  ) -> torch.Tensor:
    """Returns the cross-entropy of targets [B, L] after inputs [B, L, D]."""
    x, pairs = inputs.to(self.dtype), iter(adapter)
    length = x.shape[1]
    angles = torch.arange(length)[:, None] * 10000.0 ** -(
      torch.arange(0, self.head, 2) / self.head
    )
    turns = angles.cos().to(self.dtype), angles.sin().to(self.dtype)
    seen = torch.ones(length, length, dtype=torch.bool).tril()
    for layer in self.layers:
      weights = {
        name: (layer[name], next(pairs), next(pairs)) for name in TARGETS
      }
      x = x + self.attention(norm(x), weights, turns, seen)
      y = norm(x)
      gate = functional.silu(self.product(y, *weights["gate"]))
      up = gate * self.product(y, *weights["up"])
      x = x + self.product(up, *weights["down"])
    logits = (norm(x) @ self.table.T).float()
    return functional.cross_entropy(logits.flatten(0, 1), targets.flatten())

  def product(
    self,
    x: torch.Tensor,
    weight: torch.Tensor,
    down: torch.Tensor,
    up: torch.Tensor,
  ) -> torch.Tensor:
    """Returns x W + 2 (x A) B."""
    return x @ weight + 2 * (x @ down.to(x.dtype)) @ up.to(x.dtype)

  def attention(self, x, weights, turns, seen) -> torch.Tensor:
    """Returns what grouped-query attention gives [B, L, D]."""
    b, length, _ = x.shape

    def heads(name):
      y = self.product(x, *weights[name])
      return y.view(b, length, -1, self.head).transpose(1, 2)

    query, key, value = (heads(name) for name in ("query", "key", "value"))
    query, key = rotated(query, *turns), rotated(key, *turns)
    copies = query.shape[1] // key.shape[1]
    key, value = (y.repeat_interleave(copies, 1) for y in (key, value))
    scores = query @ key.transpose(-1, -2) / math.sqrt(self.head)
    weight = scores.float().masked_fill(~seen, -1e9).softmax(-1).to(x.dtype)
    mixed = (weight @ value).transpose(1, 2).reshape(b, length, -1)
    return self.product(mixed, *weights["output"])


def norm(x: torch.Tensor) -> torch.Tensor:
  """Returns x over the root of its mean square, with gains of one."""
  wide = x.float()
  return (wide * (wide.square().mean(-1, True) + 1e-5).rsqrt()).to(x.dtype)


def rotated(
  x: torch.Tensor, cosines: torch.Tensor, sines: torch.Tensor
) -> torch.Tensor:
  """Returns heads [B, H, L, K] turned by their positions."""
  first, second = x.chunk(2, -1)
  return torch.cat(
    (first * cosines - second * sines, second * cosines + first * sines), -1
  )


def look_ahead(
  model: Model,
  inputs: torch.Tensor,
  targets: torch.Tensor,
  real: torch.Tensor,
  num_steps: int,
) -> float:
  """Takes the gradient of the real loss after steps on the set; returns it."""
  adapter = [x.requires_grad_() for x in model.adapter()]
  for _ in range(num_steps):
    loss = model.loss(adapter, inputs, targets)
    grads = torch.autograd.grad(loss, adapter, create_graph=True)
    adapter = [x - 0.1 * g for x, g in zip(adapter, grads, strict=True)]
  loss = model.loss(adapter, model.table[real[:, :-1]], real[:, 1:])
  torch.autograd.grad(loss, inputs)
  return loss.item()


def matching(
  model: Model,
  inputs: torch.Tensor,
  targets: torch.Tensor,
  real: torch.Tensor,
) -> float:
  """Takes the gradient of one minus the gradients' cosine; returns that."""
  adapter = [x.requires_grad_() for x in model.adapter()]
  loss = model.loss(adapter, model.table[real[:, :-1]], real[:, 1:])
  wanted = torch.autograd.grad(loss, adapter)
  loss = model.loss(adapter, inputs, targets)
  grads = torch.autograd.grad(loss, adapter, create_graph=True)
  pairs = [(a, b) for a, b in zip(grads, wanted, strict=True) if b.norm() > 0]
  gap = sum(1 - (a * b).sum() / (a.norm() * b.norm()) for a, b in pairs) / len(
    pairs
  )
  torch.autograd.grad(gap, inputs)
  return gap.item()
