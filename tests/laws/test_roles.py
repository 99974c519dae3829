"""Laws of the roles of a student's tensors, for every kind of student."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import (
  LENGTH,
  VOCABULARY,
  WIDTH,
  as_float64,
  make_problem,
  make_synthetic,
)

from gmdistill.data import batches
from gmdistill.students import (
  decoder_layers,
  decoders,
  encoders,
  families,
  outputs,
  problems,
  roles,
  tasks,
)

SLOTS = 2


def rotated(x_BxLxD):
  """The pairs of each token turned by its position (Su et al. 2024)."""
  length, width = x_BxLxD.shape[1:]
  angle = jnp.arange(length)[:, None] * 0.5 ** jnp.arange(width // 2)[None]
  cos, sin = jnp.cos(angle)[None], jnp.sin(angle)[None]
  a, b = jnp.split(x_BxLxD, 2, axis=-1)
  return jnp.concatenate([a * cos - b * sin, a * sin + b * cos], axis=-1)


class Attentive(nn.Module):
  """One head of attention, whose positions are none, or rotate."""

  num_classes: int
  rotary: bool
  max_positions: int = LENGTH

  @property
  def roles(self):
    """Without rotation, softmax ignores what a key's bias adds."""
    return roles.Roles(null=() if self.rotary else ("key/bias",))

  @nn.compact
  def __call__(self, x_BxLxD, mask_BxL):
    query, key, value = (
      nn.Dense(x_BxLxD.shape[-1], name=name)(x_BxLxD)
      for name in ("query", "key", "value")
    )
    if self.rotary:
      query, key = rotated(query), rotated(key)
    weights_BxLxL = jax.nn.softmax(jnp.einsum("bqd,bkd->bqk", query, key))
    features_BxD = (weights_BxLxL @ value).mean(axis=1)
    return outputs.Outputs(
      nn.Dense(self.num_classes, name=roles.HEAD)(features_BxD), features_BxD
    )


def of_module(module):
  table = jax.random.normal(jax.random.key(11), (VOCABULARY, WIDTH))
  return problems.Problem(table, None, module)


def with_slots():
  sizes = dict(width=WIDTH, num_layers=2, num_heads=2, hidden=16)
  module = encoders.RationaleTransformer(
    2, max_positions=LENGTH, rationale_slots=SLOTS, **sizes
  )
  asks = tasks.classes(2, label_share=0.5)
  return dataclasses.replace(of_module(module), asks=asks)


STUDENTS = {
  **{kind: lambda kind=kind: make_problem(kind) for kind in families.FAMILIES},
  "transformer-mean": lambda: make_problem(pooling="mean"),
  "rationales": with_slots,
  "absolute": lambda: of_module(Attentive(2, rotary=False)),
  "rotary": lambda: of_module(Attentive(2, rotary=True)),
}


def batch_of(problem):
  """Rows whose every position is read, with all that students lose to."""
  said = jnp.arange(4 * SLOTS).reshape(4, SLOTS)
  tokens = batches.Tokens(said, jnp.full(said.shape, 1 / SLOTS))
  batch = dataclasses.replace(make_synthetic(), tokens=tokens)
  return as_float64(batch)


@pytest.mark.parametrize("student", STUDENTS)
def test_a_tensor_is_null_exactly_where_its_gradient_is_zero(student, x64):
  problem = as_float64(STUDENTS[student]())
  params = jax.tree.map(
    # Away from a fresh student's even attention, where slopes are tiny.
    lambda x: x + 0.3 * jax.random.normal(jax.random.key(x.size), x.shape),
    as_float64(problem.init(jax.random.key(0))),
  )
  grads = jax.jit(jax.grad(problem.loss))(params, batch_of(problem))
  for path, grad in jax.tree_util.tree_leaves_with_path(grads):
    is_zero = float(jnp.abs(grad).max()) < 1e-13
    is_null = problem.roles.of(path) == "null"
    assert is_zero == is_null, roles.name_of(path)
    assert is_zero or float(jnp.abs(grad).max()) > 1e-9


@pytest.mark.parametrize("student", STUDENTS)
def test_every_part_that_roles_name_is_there_and_every_tensor_has_one(student):
  problem = STUDENTS[student]()
  shapes = jax.eval_shape(problem.init, jax.random.key(0))
  paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(shapes)]
  names = {roles.name_of(path) for path in paths}
  own = problem.roles
  optional = set(own.above)  # a pooler, where pooling has one
  assert {*own.fresh, *own.tables, *own.stacks} <= set(shapes) | optional
  assert set(own.null) <= names
  assert {own.of(path) for path in paths} <= set(roles.KINDS)
  # What is matched and what normalised steps move is all but tables and null.
  selected = {x.name for x in own.select(shapes, "all")}
  assert selected == {
    roles.name_of(path)
    for path in paths
    if own.of(path) not in ("table", "null")
  }
  assert len(own.movable(shapes)) == sum(
    own.num_movable(path, x)
    for path, x in jax.tree_util.tree_leaves_with_path(shapes)
  )
  assert np.square(own.even_shares(shapes)).sum() == pytest.approx(1.0)


@pytest.mark.parametrize("student", STUDENTS)
def test_fresh_tensors_alone_are_drawn_over_pretrained_ones(student):
  bare = STUDENTS[student]()
  drawn = bare.init(jax.random.key(0))
  body = {k: x for k, x in drawn.items() if k not in bare.roles.fresh}
  problem = dataclasses.replace(bare, initial=body)
  later = problem.init(jax.random.key(1))
  for path, x in jax.tree_util.tree_leaves_with_path(later):
    before = drawn
    for part in path:
      before = before[part.key]
    same = bool((x == before).all())
    fresh = problem.roles.of(path) == "fresh"
    # Biases and norms start where they start, whatever the key.
    assert same or fresh
    assert not (same and fresh and path[-1].key == "kernel")


def test_layers_are_named_from_below():
  names = roles.ENCODER_WITH_SLOTS.from_below(
    ["head", "layer 10", "pooler", "rationale_head", "layer 2", "norm"]
  )
  assert names == [
    "norm",
    "layer 2",
    "layer 10",
    "pooler",
    "head",
    "rationale_head",
  ]


@pytest.mark.parametrize("rotary", [None, decoder_layers.Rotary()])
@pytest.mark.parametrize("head_norms", [False, True])
def test_a_decoder_s_key_bias_is_null_where_nothing_turns_it(
  rotary, head_norms, x64
):
  sizes = dict(width=WIDTH, num_layers=2, num_heads=2, hidden=16, vocabulary=9)
  module = decoders.Decoder(
    **sizes, lower=1, rotary=rotary, head_norms=head_norms
  )
  x_BxLxD = jax.random.normal(jax.random.key(1), (4, LENGTH, WIDTH))
  mask_BxL = jnp.ones((4, LENGTH), bool)
  params = jax.jit(module.init)(jax.random.key(0), x_BxLxD, mask_BxL)["params"]
  params = jax.tree.map(
    lambda x: x + 0.3 * jax.random.normal(jax.random.key(x.size), x.shape),
    as_float64(params),
  )

  @jax.jit
  @jax.grad
  def gradient(params):
    hidden = module.apply({"params": params}, x_BxLxD, mask_BxL).logits
    return jnp.square(hidden - x_BxLxD).sum()

  for path, grad in jax.tree_util.tree_leaves_with_path(gradient(params)):
    is_zero = float(jnp.abs(grad).max()) < 1e-12
    assert is_zero == (module.roles.of(path) == "null"), roles.name_of(path)
