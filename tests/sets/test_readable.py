"""Embeddings into text, by what is near and by what is likely."""

import conftest
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import make_examples, make_problem, make_synthetic

from gmdistill.data import batches
from gmdistill.runs.commands import projecting
from gmdistill.sets import readable, synthetic


def near(ids, table):
  """A set near these tokens."""
  noise = 0.05 * jax.random.normal(jax.random.key(4), (*ids.shape, 8))
  batch = make_synthetic().replace(inputs=table[ids] + noise)
  return synthetic.SyntheticSet(batch)


def test_tokens_are_read_back():
  table = make_problem().embeddings
  ids = np.arange(24).reshape(4, 6) % 20
  syn = near(ids, table)
  np.testing.assert_array_equal(readable.nearest(syn, table), ids)
  again = readable.with_ids(syn, ids)
  assert again.batch.inputs.dtype == jnp.int32
  np.testing.assert_array_equal(again.batch.labels, syn.batch.labels)


@pytest.mark.parametrize("soft", [False, True])
def test_a_text_says_its_own_next_token_and_at_its_end_what_was_learned(soft):
  table = 3 * jnp.eye(8)
  ids, mask = jnp.arange(6).reshape(2, 3), jnp.array([[1, 1, 1], [1, 1, 0]])
  told = jnp.full((2, 3), 7)
  tokens = batches.Tokens(table[told] if soft else told, jnp.ones((2, 3)))
  batch = batches.Batch(ids, mask.astype(bool), tokens=tokens)
  said = readable.saying_itself(synthetic.SyntheticSet(batch), table)
  assert said.batch.tokens.targets.tolist() == [[1, 2, 7], [4, 7, 7]]
  assert said.batch.tokens.targets.dtype == jnp.int32
  np.testing.assert_array_equal(said.batch.tokens.weights, tokens.weights)


def test_a_language_model_decides_among_near_tokens():
  table = make_problem().embeddings
  table = table.at[7].set(table[3] + 0.01)  # as near as 3
  ids = np.full((4, 6), 3)
  syn = near(ids, table)

  def reads(kept, ids, place):
    return 50 * jnp.broadcast_to(table[7] - table[3], (4, 8)), kept

  plain = readable.likely(syn, table, reads, k=2, weight=0.0)
  np.testing.assert_array_equal(plain, readable.nearest(syn, table))
  said = readable.likely(syn, table, reads, k=2, weight=10.0)
  assert (said[:, 1:] == 7).all()


def test_a_language_model_says_tokens_by_its_unembedding():
  table = make_problem().embeddings
  table = table.at[7].set(table[3] + 0.01)
  syn = near(np.full((4, 6), 3), table)
  whole = jnp.zeros_like(table).at[7].set(1.0)

  def reads(kept, ids, place):
    return jnp.ones((4, 8)), kept

  said = readable.likely(
    syn, table, reads, k=2, weight=10.0, unembedding_VxD=whole
  )
  assert (said[:, 1:] == 7).all()


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_a_decoder_with_a_memory_chooses_as_one_that_reads_all_anew(kind):
  problem = conftest.make_problem(
    kind, 0, num_layers=2, num_heads=2, hidden=16, max_positions=6
  )
  params = problem.init(jax.random.key(0))
  table = problem.embeddings
  syn = near(np.arange(24).reshape(4, 6) % 20, table)
  seen: list = []

  def anew(kept, ids, place):
    kept = [*kept, ids]  # {} is nothing
    x, mask = table[jnp.stack(kept, 1)], jnp.ones((4, len(kept)), bool)
    variables = {"params": params}
    hidden = problem.student.apply(variables, x, mask, method="encode")
    return hidden[:, place], kept

  memory = projecting.reads_tokens(problem, 6)

  def told(kept, ids, place):
    hidden, kept = memory(kept, ids, place)
    seen.append(hidden)
    return hidden, kept

  ours = readable.likely(syn, table, told, k=4, weight=0.5)
  theirs = readable.likely(syn, table, anew, k=4, weight=0.5)
  np.testing.assert_array_equal(ours, theirs)
  assert (ours != readable.nearest(syn, table)).any()
  assert len(seen) == 5 and np.abs(seen[0] - seen[1]).max() > 1e-3


def test_the_nearest_row_is_the_one_that_it_is_made_of():
  problem, examples = make_problem(), make_examples(rows=20)
  rows = np.array([4, 6, 5, 9])  # two of each class, in class order
  batch = batches.as_batch(batches.take(examples, rows), 2)
  syn = synthetic.SyntheticSet(
    batches.Batch(problem.embed(batch), batch.mask, batch.labels)
  )
  found = readable.nearest_rows(syn, examples, problem.embeddings)
  np.testing.assert_array_equal(
    examples.token_ids[found], examples.token_ids[rows]
  )
