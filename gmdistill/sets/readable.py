"""Sets that are text, and embeddings into text: nearest tokens, likely ones,
nearest real rows.

What each loses of a set is measured by `evaluate --protocol=projections`.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gmdistill import errors, trees
from gmdistill.data import batches, split_rows, templates
from gmdistill.sets import nearest_text, synthetic, text_sets

# (what was kept, tokens [M], their place) -> hidden states [M, D] that say the
# tokens after them, and what is kept; nothing is {}
Reads = Callable[[Any, jax.Array, int], tuple[jax.Array, Any]]


def with_ids(
  syn: synthetic.SyntheticSet, ids_MxL: Any, mask_MxL: Any = None
) -> synthetic.SyntheticSet:
  """Returns a set that has tokens in the place of its embeddings."""
  mask = syn.batch.mask if mask_MxL is None else jnp.asarray(mask_MxL)
  batch = dataclasses.replace(
    syn.batch, inputs=jnp.asarray(ids_MxL, jnp.int32), mask=mask
  )
  return dataclasses.replace(syn, batch=batch, basis=None)


def saying_itself(
  syn: synthetic.SyntheticSet, unembedding_VxD: jax.Array
) -> synthetic.SyntheticSet:
  """Returns a language model's set of tokens, whose places say the next token.

  So it is text, and nothing beside. Where no token comes after, a place says
  what is likeliest by its learned target.

  Args:
    syn: The set, of tokens.
    unembedding_VxD: Whose products with soft targets are their logits.
  """
  ids_MxL, mask_MxL = syn.batch.inputs, syn.batch.mask
  tokens = syn.batch.tokens
  assert tokens is not None
  told_MxL = tokens.targets
  if jnp.issubdtype(told_MxL.dtype, jnp.floating):
    told_MxL = jnp.argmax(told_MxL @ unembedding_VxD.T, axis=-1)
  after_MxL = jnp.roll(ids_MxL, -1, axis=1)
  is_read_MxL = jnp.roll(mask_MxL, -1, axis=1).at[:, -1].set(False)
  targets_MxL = jnp.where(is_read_MxL, after_MxL, told_MxL)
  batch = dataclasses.replace(
    syn.batch,
    tokens=dataclasses.replace(tokens, targets=targets_MxL.astype(jnp.int32)),
  )
  return dataclasses.replace(syn, batch=batch)


def nearest(syn: synthetic.SyntheticSet, table_VxD: jax.Array) -> np.ndarray:
  """Returns the token [M, L] nearest to each embedding, by cosine."""
  ids_MxLx1, _ = nearest_text.nearest_tokens(syn.batch.inputs, table_VxD, k=1)
  return ids_MxLx1[..., 0]


def likely(
  syn: synthetic.SyntheticSet,
  table_VxD: jax.Array,
  reads: Reads,
  *,
  k: int = 10,
  weight: float = 0.1,
  unembedding_VxD: jax.Array | None = None,
) -> np.ndarray:
  """Returns tokens [M, L] near each embedding that a language model expects.

  From left to right: of the k nearest tokens, that of the largest
  cosine + weight * log p(token | those before it among the k).

  Args:
    syn: The set, in the language model's own table.
    table_VxD: That table; only k of its rows are read a place.
    reads: The language model, a token at a time.
    k: Candidates a place.
    weight: Of the language model; 0: the nearest token.
    unembedding_VxD: Whose products with the hidden states are its logits; None:
      the table, as of tied ones.
  """
  whole_VxD = table_VxD if unembedding_VxD is None else unembedding_VxD
  ids_MxLxK, cosines_MxLxK = nearest_text.nearest_tokens(
    syn.batch.inputs, table_VxD, k=k
  )
  chosen_MxL = jnp.asarray(ids_MxLxK[..., 0])
  kept: Any = {}
  for place in range(1, chosen_MxL.shape[1]):
    hidden_MxD, kept = reads(kept, chosen_MxL[:, place - 1], place - 1)
    candidates_MxK = jnp.asarray(ids_MxLxK[:, place])
    logits_MxK = jnp.einsum("md,mkd->mk", hidden_MxD, whole_VxD[candidates_MxK])
    score_MxK = cosines_MxLxK[:, place] + weight * jax.nn.log_softmax(
      logits_MxK
    )
    best_Mx1 = score_MxK.argmax(axis=1)[:, None]
    token_M = jnp.take_along_axis(candidates_MxK, best_Mx1, axis=1)[:, 0]
    chosen_MxL = chosen_MxL.at[:, place].set(token_M)
  return np.asarray(chosen_MxL)


def nearest_rows(
  syn: synthetic.SyntheticSet, examples: batches.Examples, table: Any
) -> np.ndarray:
  """Returns the real row [M] most like each example, place by place.

  Likeness is the mean cosine of embeddings over the row's own places, within
  the example's class: that of its largest label; of a language model's set,
  among all.
  """
  own_MxLxD = _unit(np.asarray(syn.batch.inputs))
  own_MxLxD *= np.asarray(syn.batch.mask)[..., None]
  unit_VxD = _unit(np.asarray(table))
  classes_M = np.zeros(len(own_MxLxD), int)
  if syn.batch.labels is not None:
    classes_M = np.asarray(syn.batch.labels).argmax(axis=1)
  length = min(own_MxLxD.shape[1], examples.mask.shape[1])
  scores_MxN = np.full((len(own_MxLxD), len(examples.labels)), -np.inf)
  for n, (ids_L, mask_L) in enumerate(
    zip(examples.token_ids, examples.mask, strict=True)
  ):
    rows_M = np.flatnonzero(classes_M == examples.labels[n])
    row_LxD = unit_VxD[ids_L[:length]] * mask_L[:length, None]
    cosines = np.einsum("mld,ld->m", own_MxLxD[rows_M, :length], row_LxD)
    scores_MxN[rows_M, n] = cosines / max(mask_L[:length].sum(), 1)
  return scores_MxN.argmax(axis=1)


def _unit(x):
  return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12)


def require_keys(text_set: text_sets.TextSet, keys: Sequence[str]) -> None:
  """Checks that every row has as many texts as the data's.

  Raises:
    InputError: names the first that has not.
  """
  pair = len(keys) > 1
  for number, text in enumerate(text_set.texts, 1):
    if isinstance(text, str) == pair:
      raise errors.InputError(
        f"row {number} of the texts has {'one text' if pair else 'two texts'}, "
        f"and the data's rows have {len(keys)}: {', '.join(keys)}; give texts "
        "of these data."
      )


def in_template(
  text_set: text_sets.TextSet,
  template: templates.Template,
  keys: Sequence[str],
  length: int,
) -> batches.Batch:
  """Returns the texts as a language model is asked for their label words.

  Args:
    text_set: The texts.
    template: What stands around them.
    keys: The names of the one or two texts of a row.
    length: Tokens a row, at most.

  Returns:
    As `text_sets.as_batch` does.

  Raises:
    InputError: rows of another number of texts.
  """
  require_keys(text_set, keys)
  classes_M = text_set.labels.argmax(axis=1).astype(np.int32)
  texts: Any = list(text_set.texts)  # all single, or all pairs
  rows = split_rows.Rows(texts, classes_M, 0, 0, [])
  read, _ = template.rows(rows, keys, length)
  return batches.Batch(
    read.token_ids, read.mask, text_set.targets, weights=text_set.weights
  )


def rows_of_text() -> synthetic.Parameterization:
  """Stores rows of tokens [M, L] as they are: text stays text.

  `init` takes a batch of *ids*. Nothing of it is learned here; see
  `wrappers.with_soft_labels` and `wrappers.with_row_weights`.
  """

  def init(batch: batches.Batch) -> trees.PyTree:
    # Floats, as all parameters are: exact up to a vocabulary of 16 million.
    return {
      "ids": jnp.asarray(batch.inputs, jnp.float32),
      "mask": jnp.asarray(batch.mask, jnp.float32),
      "labels": batch.labels,
    }

  def decode(params: trees.PyTree) -> synthetic.SyntheticSet:
    fixed = jax.lax.stop_gradient(params)
    ids = jnp.round(fixed["ids"]).astype(jnp.int32)
    return synthetic.SyntheticSet(
      batches.Batch(ids, fixed["mask"] > 0.5, fixed["labels"])
    )

  return synthetic.Parameterization(init, decode)
