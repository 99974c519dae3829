"""A student of a set's card and file alone: NumPy, and nothing of ours.

Gradients come from a tape of six operations, each with its transpose.
"""

import json
import math
import pathlib

import numpy as np
import safetensors.numpy

erf = np.vectorize(math.erf)


class Node:
  """A value on the tape, and how its gradient goes to what it is made of."""

  def __init__(self, value, *parents):
    self.value, self.parents, self.grad = value, parents, 0.0


def product(spec, a, b):
  left, out = spec.split("->")
  x, y = left.split(",")
  return Node(
    np.einsum(spec, a.value, b.value),
    (a, lambda g: np.einsum(f"{out},{y}->{x}", g, b.value)),
    (b, lambda g: np.einsum(f"{out},{x}->{y}", g, a.value)),
  )


def add(a, b):
  def to_b(g):
    return g.sum(axis=tuple(range(g.ndim - b.value.ndim)))

  return Node(a.value + b.value, (a, lambda g: g), (b, to_b))


def scaled(a, weight):
  return product("...d,d->...d".replace("...", "bl"), a, weight)


def each(a, value, slope):
  return Node(value, (a, lambda g: g * slope))


def softmax(a):
  e = np.exp(a.value - a.value.max(-1, keepdims=True))
  p = e / e.sum(-1, keepdims=True)
  return Node(p, (a, lambda g: p * (g - (g * p).sum(-1, keepdims=True))))


def normed(a, epsilon):
  gap = a.value - a.value.mean(-1, keepdims=True)
  std = np.sqrt((gap**2).mean(-1, keepdims=True) + epsilon)
  y = gap / std

  def back(g):
    mean = g.mean(-1, keepdims=True)
    return (g - mean - y * (g * y).mean(-1, keepdims=True)) / std

  return Node(y, (a, back))


def backward(node, grad):
  order, seen = [], set()

  def visit(x):
    if id(x) not in seen:
      seen.add(id(x))
      for parent, _ in x.parents:
        visit(parent)
      order.append(x)

  visit(node)
  node.grad = grad
  for x in reversed(order):
    for parent, back in x.parents:
      parent.grad = parent.grad + back(x.grad)


def logits(w, config, pooling, inputs, mask):
  """Returns the logits of BERT's encoder and a dense head."""

  def dense(x, name):
    return add(
      product("bld,ed->ble", x, w[f"{name}.weight"]), w[f"{name}.bias"]
    )

  def norm(x, name):
    x = normed(x, config["layer_norm_eps"])
    return add(scaled(x, w[f"{name}.weight"]), w[f"{name}.bias"])

  def heads(x, name):
    y = dense(x, name)
    apart = (*y.value.shape[:2], config["num_attention_heads"], -1)
    return Node(y.value.reshape(apart), (y, lambda g: g.reshape(y.value.shape)))

  length = inputs.shape[1]
  rows = np.eye(length, config["max_position_embeddings"])
  first = np.eye(2)[np.zeros(length, int)]
  position, kind = (
    product("lp,pd->ld", Node(at), w[f"embeddings.{name}_embeddings.weight"])
    for at, name in ((rows, "position"), (first, "token_type"))
  )
  x = norm(add(add(Node(inputs), position), kind), "embeddings.LayerNorm")
  for i in range(config["num_hidden_layers"]):
    at = f"encoder.layer.{i}"
    q, k, v = (
      heads(x, f"{at}.attention.self.{name}")
      for name in ("query", "key", "value")
    )
    scores = product("bqhk,bshk->bhqs", q, k)
    hidden = np.where(mask[:, None, None], 0.0, -1e9)
    scale = q.value.shape[-1] ** -0.5
    scores = each(scores, scores.value * scale + hidden, scale)
    mixed = product("bhqs,bshk->bqhk", softmax(scores), v)
    shape, whole = mixed.value.shape, x.value.shape
    mixed = Node(
      mixed.value.reshape(whole), (mixed, lambda g, s=shape: g.reshape(s))
    )
    out = dense(mixed, f"{at}.attention.output.dense")
    x = norm(add(out, x), f"{at}.attention.output.LayerNorm")
    h = dense(x, f"{at}.intermediate.dense")
    cdf = 0.5 + 0.5 * erf(h.value / 2**0.5)
    density = np.exp(-0.5 * h.value**2) / (2 * np.pi) ** 0.5
    h = each(h, h.value * cdf, cdf + h.value * density)
    out = dense(h, f"{at}.output.dense")
    x = norm(add(out, x), f"{at}.output.LayerNorm")
  weight = mask / mask.sum(1, keepdims=True)
  if pooling == "first":
    weight = np.eye(1, length).repeat(len(mask), 0)
  pooled = product("bld,bl->bd", x, Node(weight))
  if pooling == "first":
    y = product("bd,ed->be", pooled, w["pooler.dense.weight"])
    y = add(y, w["pooler.dense.bias"])
    t = np.tanh(y.value)
    pooled = each(y, t, 1 - t**2)
  return add(product("bd,cd->bc", pooled, w["head.weight"]), w["head.bias"])


def replay(set_folder, model_folder, head):
  """Returns `predict(inputs, mask)` of a student trained by the set's steps."""
  card = json.loads((pathlib.Path(set_folder) / "card.json").read_text())
  data = safetensors.numpy.load_file(f"{set_folder}/set.safetensors")
  config = json.loads((pathlib.Path(model_folder) / "config.json").read_text())
  w = safetensors.numpy.load_file(f"{model_folder}/model.safetensors")
  w = {k.removeprefix("bert."): x.astype(np.float64) for k, x in w.items()}
  w |= {f"head.{name}": x.astype(np.float64) for name, x in head.items()}
  steps, pooling = card["reader"]["steps"], card["pooling"]
  for t, rate in enumerate(data["learning_rates"]):
    rows = data["order"][t] if "order" in data else slice(None)
    labels = data["labels"][rows]
    on_tape = {name: Node(x) for name, x in w.items()}
    embeddings = data["embeddings"][rows].astype(np.float64)
    out = logits(on_tape, config, pooling, embeddings, data["mask"][rows])
    p = softmax(out).value
    backward(out, (p * labels.sum(1, keepdims=True) - labels) / len(labels))
    grads = {name: x.grad for name, x in on_tape.items()}
    of_head = data.get("head_learning_rates", data["learning_rates"])[t]
    for name in w:
      if name.startswith("head."):
        w[name] = w[name] - of_head * grads[name]
      elif "tensor_shares" in data:
        if name in steps["moved"]:
          share = data["tensor_shares"][t, steps["moved"].index(name)]
          norm = np.linalg.norm(grads[name]) or 1.0
          w[name] = w[name] - rate * share * grads[name] / norm
      elif name not in steps["frozen"]:
        w[name] = w[name] - rate * grads[name]
  return lambda inputs, mask: (
    logits(
      {name: Node(x) for name, x in w.items()}, config, pooling, inputs, mask
    ).value
  )
