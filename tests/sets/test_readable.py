"""Embeddings into text, by what is near and by what is likely."""

import jax
import jax.numpy as jnp
import numpy as np
from conftest import make_examples, make_problem, make_synthetic

from gmdistill.data import batches
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


def test_a_language_model_decides_among_near_tokens():
  table = make_problem().embeddings
  table = table.at[7].set(table[3] + 0.01)  # as near as 3
  ids = np.full((4, 6), 3)
  syn = near(ids, table)

  def before(ids, place):
    return 50 * jnp.broadcast_to(table[7] - table[3], (4, 8))

  plain = readable.likely(syn, table, before, k=2, weight=0.0)
  np.testing.assert_array_equal(plain, readable.nearest(syn, table))
  said = readable.likely(syn, table, before, k=2, weight=10.0)
  assert (said[:, 1:] == 7).all()


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
