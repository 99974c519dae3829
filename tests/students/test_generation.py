"""Generation says what whole passes, again and again, would say; what is drawn
is as likely as its probabilities say."""

import functools

import jax
import jax.numpy as jnp
import make_tiny_decoders
import numpy as np
import pytest
import test_decoders
import tiny_lms

from gmdistill import errors
from gmdistill.data import batches
from gmdistill.students import (
  adapters,
  decoder_weights,
  generation,
  problems,
  tasks,
)

NEW = 5  # tokens of an answer

PROMPTS = [[3, 7, 11, 2, 5], [4, 9, 1], [8, 8, 0, 13, 6]]


def problem_of(read):
  params = dict(read.params)
  return problems.Problem(
    read.embeddings, params, read.module, asks=tasks.next_tokens()
  )


@pytest.fixture(scope="module", params=tiny_lms.FAMILIES)
def problem(request, tmp_path_factory):
  folder = tmp_path_factory.mktemp("decoders")
  folder = tiny_lms.write_directory(folder, request.param)
  return problem_of(decoder_weights.load(folder))


@functools.partial(jax.jit, static_argnames="start")
def extended(problem, params, cache, x, mask, start):
  return problem.student.apply(
    {"params": params, **cache},
    x,
    mask,
    start,
    method="encode",
    mutable=["cache"],
  )


def padded(side):
  """The prompts, and their mask, with padding on one side."""
  ids, mask = np.full((3, 6), 17, np.int32), np.zeros((3, 6), bool)
  for row, prompt in enumerate(PROMPTS):
    own = np.s_[: len(prompt)] if side == "right" else np.s_[-len(prompt) :]
    ids[row, own], mask[row, own] = prompt, True
  return batches.Batch(ids, mask)


def said(answers):
  return [
    ids[mask].tolist()
    for ids, mask in zip(answers.ids, answers.mask, strict=True)
  ]


def by_whole_passes(hidden, table, prompt):
  """The likeliest tokens, each by a pass over all before it."""
  ids = list(prompt)
  for _ in range(NEW):
    row = np.zeros((1, 10), np.int32)
    row[0, : len(ids)] = ids
    ids.append(int((hidden(row)[0, len(ids) - 1] @ table.T).argmax()))
  return ids[len(prompt) :]


def test_kept_keys_and_values_give_the_hidden_states_of_a_whole_pass(problem):
  ids, mask = make_tiny_decoders.ids_and_mask()
  x, params = problem.embeddings[ids], problem.initial
  whole = test_decoders.hidden_states(problem.student, params, x, mask)
  cache, parts = {}, []
  for first, last in ((0, 6), (6, 9), (9, 10)):
    hidden, cache = extended(
      problem, params, cache, x[:, first:last], mask, first
    )
    parts.append(hidden)
  actual = np.concatenate(parts, axis=1)
  np.testing.assert_allclose(actual[mask], np.asarray(whole)[mask], atol=2e-5)


def test_answers_are_those_of_repeated_whole_passes(problem):
  params = problem.initial
  table = np.asarray(params.get("unembedding", problem.embeddings))
  expected = [
    by_whole_passes(
      lambda ids: np.asarray(
        test_decoders.hidden_states(
          problem.student,
          params,
          problem.embeddings[ids],
          jnp.ones(ids.shape, bool),
        )
      ),
      table,
      prompt,
    )
    for prompt in PROMPTS
  ]
  none = np.array([-1])
  for side in ("left", "right"):
    answers = generation.greedy(
      problem, params, padded(side), none, num_tokens=NEW
    )
    assert said(answers) == expected
  # A token that stops is the first that is left out.
  stop = expected[0][2]
  answers = generation.greedy(
    problem, params, padded("left"), np.array([stop]), num_tokens=NEW
  )
  cut = [x[: x.index(stop)] if stop in x else x for x in expected]
  assert said(answers) == cut and len(cut[0]) <= 2
  # In the order that they were asked, whatever their lengths.
  listed = generation.answers(
    problem, params, PROMPTS, stops=[stop], num_tokens=NEW
  )
  assert listed == cut


@pytest.mark.parametrize("kind", ["lora", "last_layers", "head"])
def test_an_adapted_student_answers_as_the_decoder_that_it_makes(
  kind, tmp_path
):
  folder = tiny_lms.write_directory(tmp_path, "qwen2")
  read = decoder_weights.load(folder)
  whole = problem_of(read)
  if kind == "lora":
    adapted = adapters.lora(read.module, read.params, rank=2)
    params = adapted.student.init(jax.random.key(0))["params"]
  else:
    adapted = {
      "last_layers": lambda: adapters.last_layers(read.module, read.params, 1),
      "head": lambda: adapters.head(read.module, read.params, read.embeddings),
    }[kind]()
    params = adapted.initial
  rng = np.random.default_rng(0)
  params = jax.tree.map(
    lambda x: x + 0.3 * rng.standard_normal(x.shape, np.float32), params
  )
  merged = adapted.student.merged(read.params, params)
  if kind == "head":
    whole = whole.replace(student=adapted.student.module)
  elif kind == "last_layers":
    merged = adapted.student.merged(adapted.frozen, params)
  of = functools.partial(generation.greedy, num_tokens=NEW)
  prompts, none = padded("left"), np.array([-1])
  expected = of(whole, merged, prompts, none)
  answers = of(adapters.over(whole, adapted), params, prompts, none)
  assert said(answers) == said(expected)
  before = of(problem_of(read), read.params, prompts, none)
  assert said(answers) != said(before)


def test_what_cannot_be_answered_is_refused(tmp_path):
  folder = tiny_lms.write_directory(tmp_path, "gpt2")
  problem = problem_of(decoder_weights.load(folder))
  for prompts, message in (
    ([[1], []], "an empty prompt"),
    ([[1] * 12], "12 tokens and an answer of 5 are more than .* 16 positions"),
  ):
    with pytest.raises(errors.InputError, match=message):
      generation.answers(
        problem, problem.initial, prompts, stops=[], num_tokens=NEW
      )
  none = generation.answers(
    problem, problem.initial, [], stops=[], num_tokens=NEW
  )
  assert none == []


def sampling(rows=3, seed=0, temperature=1.0, top_p=1.0, known=10**6):
  keys = jax.random.split(jax.random.key(seed), rows)
  return generation.Sampling(keys, temperature, top_p, known)


def test_tokens_are_drawn_as_often_as_their_probabilities_say():
  logits = jnp.log(jnp.array([0.05, 0.4, 0.25, 0.3, 0.0]) + 1e-9)
  rows = 4000
  whole = jnp.broadcast_to(logits, (rows, 5))
  for temperature, top_p, known, expected in (
    (1.0, 1.0, 5, [0.05, 0.4, 0.25, 0.3, 0]),
    (0.5, 1.0, 5, np.square([0.05, 0.4, 0.25, 0.3, 0]) / 0.315),
    (1.0, 0.6, 5, [0, 4 / 7, 0, 3 / 7, 0]),  # 0.4 alone is not enough
    (1.0, 0.3, 5, [0, 1, 0, 0, 0]),
    (1.0, 1.0, 2, [1 / 9, 8 / 9, 0, 0, 0]),
  ):
    how = sampling(rows, 1, temperature, top_p, known)
    counts = np.bincount(generation.draw(how, whole, 3), minlength=5)
    expected = np.array(expected)
    bound = 4 * np.sqrt(expected * (1 - expected) / rows) + 1e-6
    assert (np.abs(counts / rows - expected) <= bound).all()


def test_a_rows_draws_depend_on_its_key_alone_and_repeat(tmp_path):
  folder = tiny_lms.write_directory(tmp_path, "llama")
  problem = problem_of(decoder_weights.load(folder))
  of = functools.partial(generation.sampled, num_tokens=NEW)
  none = np.array([-1])

  def drawn(how, prompts):
    return said(of(problem, problem.initial, prompts, none, how))

  whole = drawn(sampling(), padded("left"))
  assert whole == drawn(sampling(), padded("left"))
  assert whole != drawn(sampling(seed=1), padded("left"))
  # The rows in another order, with their keys.
  order = np.array([2, 0, 1])
  prompts = jax.tree.map(lambda x: x[order], padded("left"))
  how = sampling()
  other = drawn(how._replace(keys=how.keys[order]), prompts)
  assert other == [whole[row] for row in order]
  # The smallest nucleus is the likeliest token.
  greedy = generation.greedy(
    problem, problem.initial, padded("left"), none, num_tokens=NEW
  )
  assert drawn(sampling(top_p=1e-6), padded("left")) == said(greedy)
