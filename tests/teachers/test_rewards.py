"""A writer taught by rewards: its gradient is that of what is expected."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_lms
from etils import epath

from gmdistill.data import batches
from gmdistill.students import generation
from gmdistill.teachers import rewards, writers

STUDENTS, SIZE, WORDS, ROWS = 2, 3, 3, 2


def drawn(seed=0):
  """The gradient of each word at each student, and the real rows'."""
  rng = np.random.default_rng(seed)
  words = rng.normal(size=(STUDENTS, WORDS, SIZE))
  return words, rng.normal(size=(STUDENTS, SIZE))


def test_the_surrogates_gradient_is_that_of_the_expected_reward(x64):
  words, target = drawn()
  every = list(itertools.product(range(WORDS), repeat=ROWS))
  found = [rewards.judged(words[:, list(texts)], target) for texts in every]
  logits = jnp.array([0.3, -0.5, 0.9])  # of texts of one word

  def expected(logits):
    logs = jax.nn.log_softmax(logits)
    return sum(
      jnp.exp(logs[jnp.array(texts)].sum()) * one.reward
      for texts, one in zip(every, found, strict=True)
    )

  def estimated(logits):
    logs = jax.nn.log_softmax(logits)
    likely = jax.lax.stop_gradient(logs)
    return -sum(
      jnp.exp(likely[jnp.array(texts)].sum())
      * rewards.surrogate(logs[jnp.array(texts)], one.advantages)
      for texts, one in zip(every, found, strict=True)
    )

  wanted = jax.grad(expected)(logits)
  assert np.abs(wanted).max() > 0.01
  np.testing.assert_allclose(jax.grad(estimated)(logits), wanted, atol=1e-12)


def test_a_row_that_says_nothing_has_no_advantage():
  words, target = drawn()
  rows = np.concatenate([words, np.zeros((STUDENTS, 1, SIZE))], axis=1)
  found = rewards.judged(rows, target)
  assert found.advantages[-1] == 0 and np.abs(found.advantages[:-1]).min() > 0
  nothing = rewards.judged(np.zeros_like(words), target)
  assert nothing.reward == 0 and not nothing.advantages.any()


@pytest.fixture(scope="module")
def writer(tmp_path_factory):
  folder = tmp_path_factory.mktemp("writer")
  return writers.load(str(epath.Path(tiny_lms.write_model(folder))))


def test_probabilities_are_those_that_tokens_are_drawn_by(writer):
  options = writers.Options(reward_rank=2)
  fresh = rewards.with_adapter(writer, options)
  problem, known = writer.problem, writer.tokenizer.vocab_size - 3
  prompt = [5, 80, 33]
  every = np.arange(known)
  ids = np.array([[*prompt, word] for word in every], np.int32)
  rows = batches.Batch(ids, np.ones(ids.shape, bool))
  is_drawn = np.broadcast_to(np.arange(4) == 3, ids.shape)
  logs = [
    rewards.log_probabilities(
      own.problem, own.params, rows, is_drawn, temperature=0.7, known=known
    )
    for own in (writer, fresh)
  ]
  np.testing.assert_allclose(*logs, atol=1e-5)  # a new adapter changes nothing
  assert float(jnp.exp(logs[0]).sum()) == pytest.approx(1, abs=1e-4)
  greedy = generation.answers(
    problem, writer.params, [prompt], stops=[], num_tokens=1
  )
  ours = int(logs[0].argmax())
  assert greedy == [[ours]] or greedy[0][0] >= known


def test_the_reward_rises_where_it_asks_for_letters(writer):
  options = writers.Options(
    max_tokens=4, reward_rows=16, reward_rank=4,
    reward_rate=0.02, seed=3,
  )  # fmt: skip
  fresh = rewards.with_adapter(writer, options)
  prompt = writers.prompt_ids(fresh, options, "word", ["the end"])

  def judge(step, lines):
    del step
    letters = [sum(x.isascii() and x.isalpha() for x in y) for y in lines]
    others = [len(y) - n for y, n in zip(lines, letters, strict=True)]
    return rewards.judged(
      np.array([[letters, others]], float).swapaxes(1, 2),
      np.array([[1.0, 0.0]]),
    )

  def train(progress, until):
    prompts = [prompt] * options.reward_rows
    return rewards.train(
      fresh, options, lambda step: prompts, judge, progress, until
    )

  start = rewards.begun(fresh, options)
  taught = train(start, 20)
  found = taught.rewards
  assert np.mean(found[-5:]) > np.mean(found[:5]) + 0.1, found
  # Stopped on the way, it comes to the same bits.
  again = train(train(start, 7), 20)
  assert found == again.rewards
  for one, other in zip(
    jax.tree.leaves(taught.params), jax.tree.leaves(again.params), strict=True
  ):
    np.testing.assert_array_equal(one, other)
