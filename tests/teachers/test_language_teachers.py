"""Teachers of language models: a few outcomes a token, exact where all are."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_lms

from gmdistill import errors
from gmdistill.data import batches, plain_tokens
from gmdistill.students import (
  adapters,
  next_token,
  outputs,
  peft_files,
  tasks,
)
from gmdistill.teachers import (
  criteria,
  divergences,
  language_teachers,
  token_labels,
)

B, L, D, V = 2, 5, 8, 13


def constant(value):
  return divergences.schedule("constant", value, value, 1)


def to_teachers(loss, weight=1.0, **fields):
  fields = {"temperature": constant(1.5), **fields}
  return criteria.to_teachers(loss, weight=constant(weight), **fields)


def normal(seed, *shape):
  return jax.random.normal(jax.random.key(seed), shape)


TABLE = normal(0, V, D)
HIDDEN = normal(1, B, L, D)
TARGETS = jax.random.randint(jax.random.key(2), (B, L), 0, V)
# The mean over rows of equally many tokens is that over all tokens.
WEIGHTS = jnp.array([[1.0, 1, 0, 1, 0], [0, 1, 1, 1, 0]])


def tokens_of(hidden, count, teachers=1):
  """What teachers of these hidden states say of every place."""
  told = [
    next_token.likeliest(h, TABLE, count, known=V, others=count < V)
    for h in hidden[:teachers]
  ]
  return batches.Tokens(
    TARGETS,
    WEIGHTS,
    teacher_ids=jnp.stack([ids for ids, _ in told], axis=2),
    teacher_logs=jnp.stack([logs for _, logs in told], axis=2),
  )


TEACHERS = normal(3, 3, B, L, D)


@functools.partial(jax.jit, static_argnums=0)
def lost(criterion, tokens, progress=1.0):
  """What a student loses, and the gradient of its hidden states."""

  def value(hidden):
    said = outputs.Outputs(tasks.Said(hidden, None), hidden[:, 0])
    said = said._replace(unembedding=TABLE)
    batch = batches.Batch(hidden, WEIGHTS > 0, tokens=tokens, progress=progress)
    return criterion.loss(1.3, {}, said, batch)

  return jax.value_and_grad(value)(HIDDEN)


def equal(one, two, tolerance=2e-6):
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=tolerance), one, two
  )


@pytest.mark.parametrize("loss", criteria.LOSSES)
def test_all_tokens_are_the_whole_distributions_and_its_gradient(loss):
  actual = lost(to_teachers(loss), tokens_of(TEACHERS, V))
  divergence, power = criteria.LOSSES[loss]

  @jax.jit
  def whole(hidden):
    ours, theirs = (
      (x.reshape(-1, D) @ TABLE.T) / 1.5 for x in (hidden, TEACHERS[0])
    )
    row = criteria.Row(WEIGHTS.reshape(-1), TARGETS.reshape(-1), 1.0)
    return 1.5**power * divergence(ours, theirs, row)

  equal(actual, jax.value_and_grad(whole)(HIDDEN), 2e-5)


def permuted(tokens, order):
  """The same teachers in another order, or several times."""
  return dataclasses.replace(
    tokens,
    teacher_ids=tokens.teacher_ids[:, :, order],
    teacher_logs=tokens.teacher_logs[:, :, order],
  )


@pytest.mark.parametrize("loss", criteria.LOSSES)
def test_no_weight_is_no_teacher_and_equal_teachers_are_one(loss):
  taught = criteria.to_teachers(
    loss,
    weight=divergences.schedule("linear", 0.0, 1.0, 1),
    temperature=constant(1.5),
    weights="entropy",
  )
  one = tokens_of(TEACHERS, 4)
  value, grads = lost(taught, one, progress=0.0)
  assert value == np.float32(1.3) and not grads.any()
  own = lost(taught, one)
  assert np.isfinite(own[0]) and own[1].any()
  assert not own[1][WEIGHTS == 0].any()
  equal(lost(taught, permuted(one, np.array([0, 0]))), own, 1e-5)


@pytest.mark.parametrize("weights", ["equal", "entropy", "confidence"])
def test_the_order_of_teachers_is_nothing(weights):
  three = tokens_of(TEACHERS, 4, 3)
  taught = to_teachers("reverse_kl", weights=weights)
  turned = permuted(three, np.array([2, 0, 1]))
  equal(lost(taught, three), lost(taught, turned), 1e-5)


def test_a_token_outside_the_likeliest_is_not_what_all_others_are_together():
  # One teacher tells the token that follows, at 0.05; to the other it is one of
  # those that have 0.3 together, none of them above 0.02.
  ids = np.broadcast_to(np.array([[0, 4], [1, 2]]), (B, L, 2, 2))
  said = np.log([[0.9, 0.05, 0.05], [0.68, 0.02, 0.3]]).astype(np.float32)
  both = batches.Tokens(
    np.full((B, L), 4),
    WEIGHTS,
    teacher_ids=ids,
    teacher_logs=np.broadcast_to(said, (B, L, 2, 3)),
  )
  plain = dict(temperature=constant(1.0))
  first, second = (
    lost(to_teachers("forward_kl", **plain), permuted(both, np.array([i])))[0]
    for i in (0, 1)
  )
  taught = to_teachers("forward_kl", weights="confidence", **plain)
  share = (lost(taught, both)[0] - second) / (first - second)
  assert 0.6 < float(share) < 1


def test_few_tokens_and_the_others_are_a_distribution_that_tells_less():
  gaps = []
  for count in (1, 4, V):
    tokens = tokens_of(TEACHERS, count)
    total = jnp.exp(tokens.teacher_logs).sum(-1)
    np.testing.assert_allclose(total, 1.0, atol=1e-5)
    order = jnp.diff(tokens.teacher_logs[..., :count], axis=-1)
    assert (order <= 0).all()
    taught = to_teachers("forward_kl", temperature=constant(1.0))
    gaps.append(float(lost(taught, tokens)[0]))
  assert 0 < gaps[0] < gaps[1] < gaps[2]


def test_neither_logits_of_all_places_nor_their_gradients_are_ever_whole():
  places, rows = next_token.CHUNK, 211
  count = 2 * next_token.CHUNK
  hidden = jnp.zeros((2, places, D))
  table = jnp.zeros((rows, D))
  ids = jnp.zeros((2, places, 1, 4), jnp.int32)

  def value(hidden):
    return next_token.outcomes(hidden, table, ids).sum()

  program = str(jax.make_jaxpr(jax.grad(value))(hidden))
  assert f"[{next_token.CHUNK},{rows}]" in program
  assert f"[2,{places},{rows}]" not in program
  assert f"[{count},{rows}]" not in program
  assert f"[2,{next_token.CHUNK},{rows}]" not in program


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
  """A base, an adapter of it, and a longer table of the same tokens."""
  root = tmp_path_factory.mktemp("teachers")
  base = tiny_lms.write_model(root / "base")
  teacher = language_teachers.load(str(base), "")
  student = adapters.lora(
    teacher.problem.student, teacher.params, rank=2
  ).student
  params = student.init(jax.random.key(0))["params"]
  peft_files.save(
    root / "adapter",
    student,
    jax.tree.map(lambda x: x + 0.1, params),
    family="llama",
    base=str(base),
    base_id=adapters.identity(teacher.params),
  )
  longer = tiny_lms.write_model(root / "longer", rows=320, seed="x")
  return {"base": base, "adapter": root / "adapter", "longer": longer}


def corpus_of(tokenizer, fingerprint="rows"):
  texts = ["the words of the text", "and the end"]
  length = 14
  ids, mask = tokenizer.encode(texts, length)
  weights = mask.astype(np.float32)
  rows = batches.Examples(
    ids,
    mask,
    np.zeros(2, np.int32),
    tokens=batches.Tokens(np.roll(ids, -1, axis=1), weights),
  )
  empty = batches.take(rows, [])
  return batches.Corpus(
    train=rows,
    selection=empty,
    reported=empty,
    label_names=(),
    text_keys=("text",),
    label_key="",
    train_bytes=0,
    dropped=0,
    tokenizer=tokenizer,
    fingerprint=fingerprint,
  )


def test_rows_carry_what_their_teachers_say_kept_by_what_was_read(
  folders, monkeypatch
):
  named = [
    language_teachers.load(str(folders[name]), str(folders["base"]))
    for name in ("base", "adapter", "longer")
  ]
  assert len({teacher.id for teacher in named}) == 3
  tokenizer = tiny_lms.plain()
  for teacher in named:
    language_teachers.require_tokens(teacher, tokenizer)
  known = tokenizer.vocab_size
  asks = token_labels.asked(named, 288, known, 6)
  assert asks == (6, known, True)
  corpus = corpus_of(tokenizer)
  tokens = token_labels.taught(named, corpus, asks).tokens
  assert tokens.teacher_ids.shape == (2, 14, 3, 6)
  assert tokens.teacher_logs.shape == (2, 14, 3, 7)
  assert tokens.teacher_ids.max() < known
  mask = corpus.train.mask
  for i, teacher in enumerate(named):
    batch = batches.Batch(corpus.train.token_ids, mask)
    said = teacher.problem.apply(teacher.params, batch).logits
    table = teacher.params.get("unembedding")
    if table is None:
      table = teacher.problem.frozen["unembedding"]
    logs = jax.nn.log_softmax(said.queries @ table.T)
    ids = tokens.teacher_ids[:, :, i]
    expected = np.take_along_axis(np.asarray(logs), ids, axis=-1)
    np.testing.assert_allclose(
      tokens.teacher_logs[:, :, i, :6][mask], expected[mask], atol=1e-4
    )
    best = np.asarray(logs[..., :known].argmax(-1))
    np.testing.assert_array_equal(ids[..., 0][mask], best[mask])
  # Another adapter, other rows or another k are read anew; the same are not.
  reads = []
  read = token_labels.of_rows
  monkeypatch.setattr(
    token_labels,
    "of_rows",
    lambda *args: reads.append(args[0].name) or read(*args),
  )
  again = token_labels.taught(named, corpus, asks).tokens
  jax.tree.map(np.testing.assert_array_equal, again, tokens)
  assert not reads
  token_labels.taught(named[:1], corpus, asks._replace(top=2))
  token_labels.taught(named[1:2], corpus_of(tokenizer, "others"), asks)
  assert reads == ["llama", "adapter"]
  # One table, all of whose rows are tokens: nothing is left.
  assert not token_labels.asked(named[:2], 288, 288, 400).others
  assert token_labels.asked(named, 288, 288, 400).others


def test_what_is_no_teacher_of_these_tokens_is_refused(folders, tmp_path):
  with pytest.raises(errors.InputError, match="is an adapter, and the stud"):
    language_teachers.load(str(folders["adapter"]), "")
  with pytest.raises(errors.InputError, match="of another base"):
    language_teachers.load(str(folders["adapter"]), str(folders["longer"]))
  short = tiny_lms.write_model(tmp_path / "short", rows=270)
  with pytest.raises(errors.InputError, match="table has 270 rows"):
    language_teachers.load(str(short), "")
  teacher = language_teachers.load(str(folders["base"]), "")
  other = tiny_lms.byte_level()
  other.add_tokens(["<more>"])
  more = plain_tokens.PlainTokenizer(other)
  size = teacher.tokenizer.vocab_size
  message = f"has {size} tokens and the student {size + 1}: token {size} is non"
  with pytest.raises(errors.InputError, match=message):
    language_teachers.require_tokens(teacher, more)
  told = json.loads(tiny_lms.byte_level().to_str())
  told["added_tokens"][-1]["content"] = "<thought>"
  path = tmp_path / "tokenizer.json"
  path.write_text(json.dumps(told))
  renamed = plain_tokens.PlainTokenizer.from_file(path)
  message = f"token {size - 1} is '<think>' of the one and '<thought>'"
  with pytest.raises(errors.InputError, match=message):
    language_teachers.require_tokens(teacher, renamed)
  for fields, message in (
    (dict(weights="gate"), "weights=gate looks at classes"),
    (dict(join="logits"), "join=logits is of teachers that tell the same"),
  ):
    with pytest.raises(ValueError, match=message):
      lost(to_teachers("forward_kl", **fields), tokens_of(TEACHERS, 4, 2))
