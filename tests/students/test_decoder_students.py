"""Laws of decoders as students of next tokens, and of their adapters."""

import dataclasses

import jax
import jax.numpy as jnp
import make_tiny_decoders
import numpy as np
import pytest
import test_decoders
from conftest import as_float64

from gmdistill.data import batches
from gmdistill.students import adapters, decoder_weights, problems, roles, tasks

VOCABULARY = 19

ADAPTED = {
  "none": lambda read: adapters.everything(read.module, read.params),
  "lora": lambda read: adapters.lora(read.module, read.params, rank=2),
  "last": lambda read: adapters.last_layers(read.module, read.params, 1),
  "head": lambda read: adapters.head(read.module, read.params, read.embeddings),
}

# Each family as it is and with an adapter; the rest where families differ.
STUDENTS = [
  (family, kind)
  for family in test_decoders.FAMILIES
  for kind in ADAPTED
  if kind in ("none", "lora") or family in ("gpt2", "qwen2")
]

loss = jax.jit(lambda problem, params, batch: problem.loss(params, batch))


@pytest.fixture(scope="module", params=STUDENTS, ids="-".join)
def student(request, tmp_path_factory):
  """A problem, and a student away from its start."""
  family, kind = request.param
  folder = tmp_path_factory.mktemp("decoders")
  read = decoder_weights.load(test_decoders.write_directory(folder, family))
  problem = problems.Problem(
    read.embeddings, None, read.module, asks=tasks.next_tokens()
  )
  problem = adapters.over(problem, ADAPTED[kind](read))
  rng = np.random.default_rng(0)
  params = jax.tree.map(
    lambda x: x + 0.1 * rng.standard_normal(x.shape, np.float32),
    problem.init(jax.random.key(0)),
  )
  return problem, params


def rows():
  """Two rows whose every place says the next token, the second one shorter."""
  ids, mask = make_tiny_decoders.ids_and_mask()
  ids, mask = ids[:2].astype(np.int32), mask[:2]
  targets = np.roll(ids, -1, axis=1)
  weights = (mask & np.roll(mask, -1, axis=1)).astype(np.float32)
  weights[:, -1] = 0
  return batches.Batch(ids, mask, tokens=batches.Tokens(targets, weights))


def test_ids_and_their_embeddings_are_one_text(student):
  problem, params = student
  embedded = dataclasses.replace(rows(), inputs=problem.embed(rows()))
  assert embedded.inputs.ndim == 3
  of_ids, of_embeddings = (loss(problem, params, x) for x in (rows(), embedded))
  np.testing.assert_array_equal(of_ids, of_embeddings)


def test_what_is_masked_or_padding_changes_no_loss(student):
  problem, params = student
  batch = rows()
  expected = loss(problem, params, batch)
  other = lambda x: (x + 5) % VOCABULARY  # noqa: E731
  changed = dataclasses.replace(
    batch,
    inputs=np.where(batch.mask, batch.inputs, other(batch.inputs)),
    tokens=batches.Tokens(
      np.where(
        batch.tokens.weights > 0,
        batch.tokens.targets,
        other(batch.tokens.targets),
      ),
      batch.tokens.weights,
    ),
  )
  np.testing.assert_array_equal(loss(problem, params, changed), expected)
  longer = jax.tree.map(lambda x: np.pad(x, ((0, 0), (3, 0))), batch)
  np.testing.assert_allclose(loss(problem, params, longer), expected, atol=1e-5)


def test_roles_say_which_gradients_are_zero(student, x64):
  problem, params = as_float64(student)
  grads = jax.jit(jax.grad(problem.loss))(params, as_float64(rows()))
  for path, grad in jax.tree_util.tree_leaves_with_path(grads):
    largest = float(jnp.abs(grad).max())
    is_null = problem.roles.of(path) == "null"
    assert (largest < 1e-13) == is_null, roles.name_of(path)
    assert is_null or largest > 1e-9
  selected = {x.name for x in problem.roles.select(params, "all")}
  assert selected == {
    roles.name_of(path)
    for path, _ in jax.tree_util.tree_leaves_with_path(params)
    if problem.roles.of(path) not in ("table", "null")
  }
