"""Students and the problem around them."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import LENGTH, make_examples, make_problem, make_synthetic

from gmdistill.data import batches
from gmdistill.objectives import distances
from gmdistill.students import blocks, problems, small

# One program a kind and shape, whichever test asks; op by op, each of hundreds
# is compiled.
apply = jax.jit(problems.Problem.apply)
value_and_grad = jax.jit(jax.value_and_grad(problems.Problem.loss, argnums=1))

KINDS = ["transformer", "bilstm", "textcnn", "gpt2", "qwen2"]


def padded_batch():
  """Real rows, some of them shorter than the batch."""
  batch = batches.as_batch(make_examples(8), 2)
  assert not batch.mask.all()
  return jax.tree.map(jnp.asarray, batch)


@pytest.mark.parametrize("pooling", ["first", "mean"])
@pytest.mark.parametrize("kind", KINDS)
def test_masked_tokens_do_not_change_the_loss(kind, pooling):
  fields = {"pooling": pooling} if kind == "transformer" else {}
  problem, batch = make_problem(kind, **fields), padded_batch()
  params = problem.init(jax.random.key(0))
  other = batch.replace(inputs=jnp.where(batch.mask, batch.inputs, 7))
  before = value_and_grad(problem, params, batch)
  after = value_and_grad(problem, params, other)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), before, after
  )


@pytest.mark.parametrize("kind", KINDS)
def test_ids_and_their_embeddings_are_the_same_input(kind):
  problem, batch = make_problem(kind), padded_batch()
  params = problem.init(jax.random.key(0))
  embedded = batch.replace(inputs=problem.embeddings[batch.inputs])
  np.testing.assert_array_equal(
    apply(problem, params, batch).logits,
    apply(problem, params, embedded).logits,
  )


@pytest.mark.parametrize("kind", KINDS)
def test_padding_a_batch_further_changes_nothing(kind):
  problem, batch = make_problem(kind), padded_batch()
  params = problem.init(jax.random.key(0))
  cut = LENGTH - 1
  short = batch.mask[:, cut:].sum(axis=1) == 0
  rows = np.flatnonzero(short)
  assert len(rows)
  one = apply(problem, params, jax.tree.map(lambda x: x[rows], batch)).logits
  trimmed = batches.Batch(
    batch.inputs[rows, :cut], batch.mask[rows, :cut], batch.labels[rows]
  )
  two = apply(problem, params, trimmed).logits
  np.testing.assert_allclose(one, two, atol=1e-6)


@pytest.mark.parametrize(
  "fields", [{"remat": "layers"}, {"remat": "elementwise"}, {"unroll": 2}]
)
def test_remat_and_unrolled_layers_change_no_number(fields):
  batch = make_synthetic()
  plain, other = make_problem(), make_problem(**fields)
  params = plain.init(jax.random.key(0))
  a = value_and_grad(plain, params, batch)
  b = value_and_grad(other, params, batch)
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-6), a, b)


def test_gelu_is_the_exact_one_to_its_second_derivative(x64):
  x = jnp.linspace(-9.0, 9.0, 301)
  ours, linens = blocks.gelu, functools.partial(nn.gelu, approximate=False)
  for derive in (lambda f: f, jax.grad, lambda f: jax.grad(jax.grad(f))):
    a, b = (jax.vmap(derive(f))(x) for f in (ours, linens))
    np.testing.assert_allclose(a, b, atol=1e-14)


def test_gelu_of_sixteen_bits_is_rounded_once():
  x = jnp.linspace(-4.0, 4.0, 301).astype(jnp.bfloat16)
  exact = blocks.gelu(x.astype(jnp.float32)).astype(jnp.bfloat16)
  np.testing.assert_array_equal(blocks.gelu(x), exact)


def test_an_unknown_remat_is_refused():
  with pytest.raises(ValueError, match="remat=all is none of none, layers"):
    make_problem(remat="all").init(jax.random.key(0))


def test_the_key_biases_have_no_gradient():
  problem, batch = make_problem(), make_synthetic()
  _, grads = value_and_grad(problem, problem.init(jax.random.key(0)), batch)
  bias = grads["layers"]["attention"]["key"]["bias"]
  np.testing.assert_allclose(bias, 0.0, atol=1e-8)


def test_a_pretrained_student_differs_in_its_head_alone():
  scratch = make_problem()
  params = scratch.init(jax.random.key(5))
  initial = {k: v for k, v in params.items() if k != "head"}
  problem = problems.Problem(scratch.embeddings, initial, scratch.student)
  one, two = problem.init(jax.random.key(1)), problem.init(jax.random.key(2))
  assert not np.array_equal(one["head"]["kernel"], two["head"]["kernel"])
  for name in initial:
    jax.tree.map(np.testing.assert_array_equal, one[name], params[name])
  assert np.std(one["head"]["kernel"]) == pytest.approx(0.02, rel=0.6)


def test_the_table_is_an_argument_and_not_a_constant_of_the_program():
  problem, batch = make_problem(), padded_batch()
  params = problem.init(jax.random.key(0))
  program = jax.jit(lambda p, q, b: p.loss(q, b)).lower(problem, params, batch)
  table = ", ".join(str(n) for n in problem.embeddings.shape)
  shape = f"tensor<{table.replace(', ', 'x')}xf32>"
  lines = [line for line in program.as_text().splitlines() if shape in line]
  assert lines and not any("stablehlo.constant" in line for line in lines)


def test_soft_labels_weight_the_classes():
  problem, batch = make_problem(), make_synthetic()
  params = problem.init(jax.random.key(0))
  loss = jax.jit(problem.loss)
  ones = [batch.replace(labels=jnp.eye(2)[jnp.full(4, c)]) for c in (0, 1)]
  mixed = batch.replace(labels=jnp.tile(jnp.array([[0.3, 0.7]]), (4, 1)))
  expected = 0.3 * loss(params, ones[0])
  expected += 0.7 * loss(params, ones[1])
  np.testing.assert_allclose(loss(params, mixed), expected, rtol=1e-6)


def test_attention_labels_pull_the_first_tokens_attention():
  problem = make_problem()
  batch = jax.tree.map(jnp.asarray, padded_batch())
  params = problem.init(jax.random.key(0))
  own = apply(problem, params, batch).attention
  assert own.shape == (8, 2, 2, LENGTH)  # rows, layers, heads, length
  np.testing.assert_allclose(own.sum(-1), 1.0, rtol=1e-5)
  assert not np.any(np.where(batch.mask[:, None, None], 0.0, own))
  # A student's own attention changes neither its loss nor its gradient.
  at = functools.partial(value_and_grad, problem)
  plain = at(params, batch)
  labelled = at(params, batch.replace(attention=own))
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), plain, labelled
  )
  late = batch.mask * jnp.arange(1, LENGTH + 1)[None] ** 2
  late = (late / late.sum(-1, keepdims=True))[:, None, None]
  labels = jnp.broadcast_to(late, own.shape)
  value, grads = at(params, batch.replace(attention=labels))
  ratio = jnp.log(labels + 1e-30) - jnp.log(own + 1e-30)
  gap = jnp.where(labels > 0, labels * ratio, 0.0).sum(-1).mean()
  assert gap > 0.1
  np.testing.assert_allclose(value - plain[0], gap, rtol=1e-4)
  query = grads["layers"]["attention"]["query"]["kernel"]
  assert np.any(query - plain[1]["layers"]["attention"]["query"]["kernel"])


def test_half_precision_products_leave_gradients_in_single():
  whole, half = make_problem(), make_problem(compute="bfloat16")
  params = whole.init(jax.random.key(0))
  batch = make_synthetic()
  grads = [value_and_grad(p, params, batch)[1] for p in (whole, half)]
  for exact, near in zip(*map(jax.tree.leaves, grads), strict=True):
    assert near.dtype == exact.dtype == jnp.float32
  cosine = float(distances.cosine(*grads, whole.roles, "all"))
  assert 0.99 < cosine < 1.0  # sixteen bits were used, and suffice
  outputs = apply(half, params, batch)
  assert outputs.logits.dtype == outputs.features.dtype == jnp.float32
  with pytest.raises(ValueError, match="compute=half is none of"):
    make_problem(compute="half").init(jax.random.key(0))


def test_textcnn_s_products_are_convolutions():
  x = jax.random.normal(jax.random.key(0), (3, 7, 5))
  for window in (1, 3, 4, 5):
    kernel = jax.random.normal(jax.random.key(window), (window, 5, 2))
    expected = jax.lax.conv_general_dilated(
      x, kernel, (1,), "SAME", dimension_numbers=("NWC", "WIO", "NWC")
    )
    np.testing.assert_allclose(
      small._product_of_windows(x, kernel), expected, rtol=1e-4, atol=1e-5
    )
