"""Distances between gradients, and which tensors they look at."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import make_problem

from gmdistill.objectives import distances
from gmdistill.students import roles

ROLES = roles.ENCODER


@pytest.mark.parametrize("kind", distances.KINDS)
def test_zero_gradients_give_finite_distances_and_finite_derivatives(kind):
  grads = {"head": {"kernel": jnp.ones((3, 2)), "bias": jnp.zeros((2,))}}
  zeros = jax.tree.map(jnp.zeros_like, grads)
  measure = functools.partial(
    distances.between, roles=ROLES, kind=kind, matched="all"
  )
  for a, b in ((zeros, grads), (grads, zeros), (zeros, zeros)):
    value, slope = jax.value_and_grad(measure)(a, b)
    assert np.isfinite(value)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(slope))
  assert float(measure(zeros, zeros)) == 0.0


def test_the_neuron_cosine_ignores_each_neurons_scale():
  kernel = jax.random.normal(jax.random.key(0), (4, 3))
  scaled = kernel * jnp.array([[1.0, 5.0, 0.1]])
  measure = functools.partial(distances.between, roles=ROLES, matched="all")
  a, b = {"head": {"kernel": kernel}}, {"head": {"kernel": scaled}}
  assert float(measure(a, b, kind="neuron_cosine")) == pytest.approx(
    0, abs=1e-6
  )
  assert float(measure(a, b, kind="tensor_cosine")) > 0.01


def test_the_neuron_cosine_is_the_sum_over_columns_of_a_dense_kernel():
  a, b = (jax.random.normal(jax.random.key(i), (4, 3)) for i in (0, 1))
  expected = np.mean(
    [
      1
      - a[:, j] @ b[:, j] / jnp.linalg.norm(a[:, j]) / jnp.linalg.norm(b[:, j])
      for j in range(3)
    ]
  )
  found = distances.between(
    {"head": {"kernel": a}},
    {"head": {"kernel": b}},
    ROLES,
    kind="neuron_cosine",
    matched="all",
  )
  np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_tables_and_key_biases_are_left_out_by_name():
  params = make_problem().init(jax.random.key(0))
  names = [tensor.name for tensor in ROLES.select(params, "all")]
  every = [
    "/".join(part.key for part in path)
    for path, _ in jax.tree_util.tree_leaves_with_path(params)
  ]
  assert set(every) - set(names) == {
    "position",
    "token_type",
    "layers/attention/key/bias",
  }


def test_last_k_takes_the_last_layers_and_the_head():
  params = make_problem(num_layers=3).init(jax.random.key(0))
  chosen = {t.name: t for t in ROLES.select(params, "last_2")}
  kernel = params["layers"]["intermediate"]["kernel"]
  np.testing.assert_array_equal(
    chosen["layers/intermediate/kernel"].array, kernel[1:]
  )
  assert "head/kernel" in chosen and "embedding_norm/scale" not in chosen
  head = [t.name for t in ROLES.select(params, "head")]
  assert head == ["head/bias", "head/kernel"]


@pytest.mark.parametrize("matched", ["first_2", "last_0", "last_x", ""])
def test_an_unknown_matched_set_is_refused(matched):
  with pytest.raises(ValueError, match="head, last_K, all"):
    ROLES.select({"head": {}}, matched)


def test_last_k_is_refused_where_there_are_no_layers():
  params = make_problem("textcnn").init(jax.random.key(0))
  with pytest.raises(ValueError, match="no layers"):
    ROLES.select(params, "last_1")


@pytest.mark.parametrize("matched", ["head", "last_1", "all"])
def test_kept_tensors_are_read_like_a_whole_gradient(matched):
  grads = make_problem().init(jax.random.key(0))
  kept = ROLES.keep(grads, matched)
  pairs = zip(
    ROLES.select(grads, matched),
    ROLES.select(kept, matched),
    strict=True,
  )
  for whole, part in pairs:
    assert whole.name == part.name and whole.stacked == part.stacked
    np.testing.assert_array_equal(whole.array, part.array)


def test_what_contains_what():
  for outer, inner in (
    ("all", "all"),
    ("all", "last_3"),
    ("last_3", "last_2"),
    ("last_3", "head"),
    ("head", "head"),
  ):
    assert roles.contains(outer, inner)
    assert outer == inner or not roles.contains(inner, outer)


def test_layers_are_compared_one_by_one():
  params = make_problem(num_layers=2).init(jax.random.key(0))
  turned = dict(params)
  # The second layer points the other way, the head nowhere.
  turned["layers"] = jax.tree.map(
    lambda x: x.at[1].multiply(-2.0), turned["layers"]
  )
  turned["head"] = jax.tree.map(jnp.zeros_like, turned["head"])
  found = distances.layer_cosines(params, turned, ROLES)
  assert float(found["layer 1"]) == pytest.approx(1.0, abs=1e-5)
  assert float(found["layer 2"]) == pytest.approx(-1.0, abs=1e-5)
  assert float(found["head"]) == 0.0
