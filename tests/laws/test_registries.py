"""Laws of the other registries: each runs over all members that there are.

Members of a dict or a tuple are found there. Makers have no such list; what
returns a parameterization, a protocol or a sampler is found by its annotation,
and one without an example here fails.
"""

import inspect
import typing

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import make_examples, make_problem, make_synthetic

from gmdistill.data import batches, joined, samplers
from gmdistill.evaluation import protocols
from gmdistill.objectives import distances
from gmdistill.selection import coresets
from gmdistill.sets import synthetic, wrappers
from gmdistill.students import roles
from gmdistill.training import replays


def makers(kind, *modules):
  """The public functions of modules that return a kind."""
  return {
    name
    for module in modules
    for name, function in inspect.getmembers(module, inspect.isfunction)
    if function.__module__ == module.__name__ and name[0] != "_"
    if typing.get_type_hints(function).get("return") == kind
  }


# -- parameterizations -------------------------------------------------------

EVEN = jnp.full((4, 2, 2, 6), 1 / 6)  # of heads' attention
PARAMETERIZATIONS = {
  "direct": synthetic.direct,
  "factorized": lambda: synthetic.factorized(5),
  **{
    f"with_soft_labels-{kind}": lambda kind=kind: wrappers.with_soft_labels(
      synthetic.direct(), kind
    )
    for kind in wrappers.LABELS
  },
  "with_smoothed_labels": lambda: wrappers.with_smoothed_labels(
    synthetic.direct(), 0.3
  ),
  "with_frozen_rows": lambda: wrappers.with_frozen_rows(
    synthetic.direct(), np.array([True, False, True, False])
  ),
  "with_row_weights": lambda: wrappers.with_row_weights(
    wrappers.with_soft_labels(synthetic.direct(), "softmax")
  ),
  "with_learning_rates": lambda: wrappers.with_learning_rates(
    synthetic.direct(), 3, 0.05, 0.5, np.array([0.6, 0.8])
  ),
  "with_attention_labels": lambda: wrappers.with_attention_labels(
    synthetic.direct(), lambda batch: EVEN
  ),
  "with_rationales": lambda: wrappers.with_rationales(synthetic.direct()),
}
each_stored = pytest.mark.parametrize("name", PARAMETERIZATIONS)


def rows():
  """A batch with all that a set may learn."""
  queries = jax.random.normal(jax.random.key(5), (4, 3, 8))
  tokens = batches.Tokens(queries, jnp.full((4, 3), 1 / 3))
  return make_synthetic().replace(tokens=tokens)


def learned(stored):
  """Parameters away from where they start."""
  return jax.tree.map(
    lambda x: x + 0.2 * jax.random.normal(jax.random.key(x.size), x.shape),
    stored.init(rows()),
  )


def test_every_parameterization_has_its_laws():
  known = makers(synthetic.Parameterization, synthetic, wrappers)
  assert {name.split("-")[0] for name in PARAMETERIZATIONS} == known


@each_stored
def test_a_set_decodes_to_as_many_rows_and_every_part_of_it_is_finite(name):
  syn = PARAMETERIZATIONS[name]().decode(learned(PARAMETERIZATIONS[name]()))
  assert len(syn.batch) == 4
  assert syn.batch.mask.shape == syn.batch.inputs.shape[:2]
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(syn))


@each_stored
def test_a_decoded_set_is_encoded_to_what_decodes_to_it(name):
  stored = PARAMETERIZATIONS[name]()
  syn = stored.decode(learned(stored))
  again = stored.decode(synthetic.encoded(stored, syn))
  # Many bases span the same embeddings.
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4),
    syn.replace(basis=None),
    again.replace(basis=None),
  )


@each_stored
def test_the_embeddings_of_a_set_are_learned(name):
  stored = PARAMETERIZATIONS[name]()
  params = stored.init(rows())
  grads = jax.grad(lambda p: jnp.square(stored.decode(p).batch.inputs).sum())(
    params
  )
  sizes = [float(jnp.abs(x).max()) for x in jax.tree.leaves(grads)]
  assert np.isfinite(sizes).all() and max(sizes) > 0


# -- protocols ---------------------------------------------------------------

SHORT = dict(num_steps=2, batch_size=3, num_students=2)
PROTOCOLS = {
  "fine_tuning": lambda: protocols.fine_tuning(rates=(1e-2,), **SHORT),
  "replaying": lambda: protocols.replaying(num_steps=2, rates=(0.1,)),
  "untrained": protocols.untrained,
  "bayesian": lambda: protocols.bayesian(
    protocols.replaying(num_steps=2, rates=(0.1,)),
    strength=1.0,
    prior_std=0.1,
    num_students=2,
    step_size=1e-4,
    samples=2,
    burn_in=1,
    thin=1,
  ),
}


def test_every_protocol_has_its_laws():
  assert set(PROTOCOLS) == makers(protocols.Protocol, protocols)


@pytest.mark.parametrize("name", PROTOCOLS)
def test_a_student_is_a_function_of_its_key(name):
  protocol, problem = PROTOCOLS[name](), make_problem("textcnn")
  syn, rate = synthetic.SyntheticSet(make_synthetic()), protocol.rates[0]
  keys = jax.random.split(jax.random.key(0), 2)[jnp.array([0, 1, 0])]

  @jax.jit
  def logits(keys):
    def of_one(key):
      params = protocol.train(problem, syn, key, jnp.asarray(rate))
      return protocol.logits(problem, params, make_synthetic(seed=9))

    return jax.vmap(of_one)(keys)

  first, other, again = logits(keys)
  np.testing.assert_array_equal(first, again)
  assert first.shape == (4, 2) and np.isfinite(first).all()
  assert np.abs(first - other).max() > 1e-3


# -- real rows ---------------------------------------------------------------


def balanced():
  return samplers.class_balanced_sampler(
    make_examples(), rows_per_class=3, num_classes=2, seed=1
  )


SAMPLERS = {
  "class_balanced_sampler": balanced,
  "refreshed": lambda: coresets.refreshed(
    coresets.representatives(
      make_problem("textcnn"),
      make_examples(),
      rows_per_class=3,
      num_classes=2,
      pool=20,
      seed=1,
    ),
    refresh=2,
  ),
  "sampler": lambda: joined.sampler(
    balanced(),
    make_examples(),
    lambda ids, mask, truth: (truth, None),
    share=0.5,
    label_names=("a", "b"),
    seed=1,
  ),
}


def test_every_sampler_has_its_laws():
  known = makers(samplers.Sampler, samplers, coresets, joined)
  assert set(SAMPLERS) == known


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_batch_is_a_function_of_its_step_and_has_rows_of_every_class(name):
  one, other = SAMPLERS[name](), SAMPLERS[name]()
  late = one(5)
  for step in (0, 3, 5):
    jax.tree.map(np.testing.assert_array_equal, one(step), other(step))
  jax.tree.map(np.testing.assert_array_equal, late, one(5))
  assert len(late) == 6 and late.mask.any(axis=1).all()
  np.testing.assert_allclose(late.labels.sum(axis=1), 1.0)
  assert not np.array_equal(late.inputs, one(0).inputs)


@pytest.mark.parametrize("method", coresets.CORESETS)
def test_a_coreset_is_rows_of_every_class_in_order_once(method):
  examples, problem = make_examples(60), make_problem("textcnn")
  chosen, again = (
    coresets.choose(method, problem, examples, per_class=3, pool=10, seed=1)
    for _ in range(2)
  )
  np.testing.assert_array_equal(chosen, again)
  assert examples.labels[chosen].tolist() == [0, 0, 0, 1, 1, 1]
  assert len(set(chosen.tolist())) == 6


# -- numbers -----------------------------------------------------------------


@pytest.mark.parametrize("kind", replays.SCHEDULES)
def test_a_schedule_of_steps_starts_whole_and_never_rises(kind):
  sizes_T = replays.schedule(kind, 5)
  assert sizes_T.shape == (5,) and sizes_T[0] == 1.0
  assert (np.diff(sizes_T) <= 0).all() and (sizes_T > 0).all()


@pytest.mark.parametrize("kind", distances.KINDS)
def test_a_distance_is_symmetric_and_zero_to_itself_alone(kind):
  a, b = (
    {"head": {"kernel": jax.random.normal(jax.random.key(i), (4, 3))}}
    for i in (0, 1)
  )

  def distance(one, other):
    return float(
      distances.between(one, other, roles.ENCODER, kind=kind, matched="all")
    )

  assert distance(a, b) == pytest.approx(distance(b, a), rel=1e-6)
  assert distance(a, b) > 0.1 and distance(a, a) == pytest.approx(0, abs=1e-6)
