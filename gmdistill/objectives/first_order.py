"""Objectives of the first order: features' class means, nearness to tokens."""

import jax
import jax.numpy as jnp

from gmdistill.data import batches
from gmdistill.objectives import contract
from gmdistill.sets import synthetic


def distribution_matching() -> contract.Objective:
  """Matches groups' means of fresh students' features (Zhao and Bilen 2023).

      sum_g || mean_syn_g f(x) - mean_real_g f(x) ||^2

  First order: one pass through a student, no gradient of it. Rows that have
  weights count with them in their group's mean.
  """

  def loss(problem, syn: synthetic.SyntheticSet, student, real, key):
    params = problem.init(key)
    groups = problem.groups

    def means(batch: batches.Batch) -> jax.Array:
      features_BxF = problem.apply(params, batch).features
      features_GxNxF = features_BxF.reshape(groups, -1, features_BxF.shape[-1])
      if batch.weights is None:
        return features_GxNxF.mean(axis=1)
      weights_GxNx1 = batch.weights.reshape(groups, -1, 1)
      total_GxF = (weights_GxNx1 * features_GxNxF).sum(axis=1)
      return total_GxF / weights_GxNx1.sum(axis=1)

    first = jax.tree.map(lambda x: x[0], real.batches)
    gap_GxF = means(syn.batch) - means(first)
    return jnp.square(gap_GxF).sum(), (student, {})

  return contract.Objective(contract.no_state, loss, 1)


def token_distance() -> contract.Objective:
  """Keeps embeddings near real tokens: the relative squared distance.

      mean_ml min_v || x_ml - E_v ||^2 / mean_v || E_v ||^2

  Meant as one term of a weighted sum; with the weight 0 it is off.
  """

  def loss(problem, syn: synthetic.SyntheticSet, student, real, key):
    table_VxD = problem.embeddings
    squares_V = jnp.square(table_VxD).sum(axis=1)

    def nearest(rows_LxD):  # one example at a time: [L, V] stays small
      products_LxV = rows_LxD @ table_VxD.T
      ids_L = (squares_V[None] - 2 * products_LxV).argmin(axis=1)
      return jnp.square(rows_LxD - table_VxD[ids_L]).sum(axis=1)

    gaps_MxL = jax.lax.map(nearest, syn.batch.inputs)
    gap = (gaps_MxL * syn.batch.mask).sum() / syn.batch.mask.sum()
    return gap / squares_V.mean(), (student, {})

  return contract.Objective(contract.no_state, loss, 0)
