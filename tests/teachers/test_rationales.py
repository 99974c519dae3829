"""Rationales: slots, weights, schedules, losses, and sets that carry them."""

import dataclasses
import functools
import pathlib

import conftest
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import safetensors.numpy
import tiny_config
from conftest import (
  make_examples,
  make_problem,
  make_small_problem,
  make_synthetic,
)

from gmdistill import errors, main
from gmdistill.data import (
  batches,
  corpus_files,
  formats,
  loading,
  samplers,
  sources,
  tokenizing,
  vocabularies,
)
from gmdistill.data import splits as row_splits
from gmdistill.data.corpora import chains
from gmdistill.evaluation import measuring, protocols, readings, trainers
from gmdistill.objectives import contract, look_ahead
from gmdistill.runs.config import assembly, row_fields, settings, teacher_fields
from gmdistill.sets import set_files, synthetic, wrappers
from gmdistill.students import encoders, hugging_face, tasks
from gmdistill.teachers import rationales, relabelling, trained
from gmdistill.training import constant_memory, fitting, replays

HERE = pathlib.Path(__file__).parents[1]
CONFIG = f"--config={HERE}/tiny_config.py"
SHARED = HERE.parents[1] / "shared/data/tfds"
SLOTS = 4
STEPS = np.array([[0, 0, 1, 2], [0, 1, -1, -1], [-1, -1, -1, -1]], np.int32)
IDS = np.array([[5, 6, 7, 3], [5, 3, 0, 0], [0, 0, 0, 0]], np.int32)


def reasoner(label_share=1.0, **fields):
  """A student of D=8 with four slots before six positions of text."""
  module = encoders.RationaleTransformer(
    conftest.CLASSES,
    width=conftest.WIDTH,
    num_layers=2,
    num_heads=2,
    hidden=16,
    max_positions=conftest.LENGTH + SLOTS,
    rationale_slots=SLOTS,
  )
  asks = tasks.classes(conftest.CLASSES, label_share=label_share)
  return dataclasses.replace(
    make_problem(), student=module, asks=asks, **fields
  )


def even(problem):
  """The same problem over a table of equally long rows."""
  lengths_Vx1 = jnp.linalg.norm(problem.embeddings, axis=1, keepdims=True)
  return dataclasses.replace(
    problem, embeddings=problem.embeddings / lengths_Vx1
  )


def told_examples(rows=12):
  """Rows with slots and rationales of the three kinds in `IDS`, in turn."""
  examples = formats.with_slots(make_examples(rows), SLOTS, 4)
  kinds = np.arange(rows) % 3
  weights = rationales.token_weights(IDS, STEPS >= 0)
  return examples._replace(
    tokens=batches.Tokens(IDS[kinds], weights[kinds], STEPS[kinds])
  )


def with_tokens(batch, **fields):
  """The batch with other fields of its tokens."""
  tokens = dataclasses.replace(batch.tokens, **fields)
  return dataclasses.replace(batch, tokens=tokens)


def told_batch(rows=12):
  batch = batches.as_batch(told_examples(rows), conftest.CLASSES)
  return jax.tree.map(jnp.asarray, batch)


# --- weights and schedules ---------------------------------------------------


@pytest.mark.parametrize("kind", rationales.WEIGHTS)
def test_weights_sum_to_one_in_each_rationale_and_are_zero_outside(kind):
  weights = rationales.token_weights(IDS, STEPS >= 0, kind)
  np.testing.assert_allclose(weights.sum(axis=1), [1, 1, 0], atol=1e-6)
  assert ((weights > 0) == (STEPS >= 0)).all()


def test_a_token_that_few_rationales_say_counts_more():
  weights = rationales.token_weights(IDS, STEPS >= 0, "rare")
  common, rare = np.log(3 / 3) + 1, np.log(3 / 2) + 1  # 5 and 3; 6 and 7
  expected = np.array([common, rare, rare, common])
  np.testing.assert_allclose(weights[0], expected / expected.sum(), rtol=1e-5)
  np.testing.assert_allclose(weights[1, :2], 0.5)


def test_another_way_to_weigh_is_refused():
  with pytest.raises(ValueError, match="uniform, rare"):
    rationales.token_weights(IDS, STEPS >= 0, "loud")


def test_the_mask_begins_with_the_last_step_only_grows_and_ends_whole():
  weights = rationales.token_weights(IDS, STEPS >= 0)
  masks = [
    np.asarray(rationales.step_mask(STEPS, weights, progress))
    for progress in np.linspace(0, 1.2, 25)
  ]
  np.testing.assert_array_equal(masks[0][0], [False, False, False, True])
  np.testing.assert_array_equal(masks[0][1], [False, True, False, False])
  for earlier, later in zip(masks, masks[1:], strict=False):
    assert (later | ~earlier).all()
  np.testing.assert_array_equal(masks[20], STEPS >= 0)  # at 1
  np.testing.assert_array_equal(masks[-1], STEPS >= 0)
  assert any(mask[0].sum() == 2 for mask in masks)  # step by step


def test_what_counts_sums_to_one_all_through_the_curriculum():
  told = told_batch(3)
  for step in range(20):
    batch = dataclasses.replace(told, progress=jnp.float32(step / 20))
    seen = rationales.curriculum(0.5)(batch).tokens.weights
    np.testing.assert_allclose(seen.sum(axis=1), [1, 1, 0], atol=1e-6)
    if step in (0, 10):  # the first step of the first rationale
      assert bool(seen[0, 0] > 0) == (step == 10)
  np.testing.assert_allclose(seen, told.tokens.weights, rtol=1e-6)


def test_without_a_curriculum_or_without_steps_nothing_is_hidden():
  assert rationales.curriculum(0.0) is None
  batch = with_tokens(told_batch(), steps=None)
  batch = dataclasses.replace(batch, progress=jnp.float32(0.0))
  assert rationales.curriculum(0.5)(batch) is batch


def test_the_first_update_of_a_curriculum_sees_the_last_steps_alone():
  problem, batch = reasoner(label_share=0.5), told_batch()

  def fit(examples, seen):
    course = fitting.Course(num_steps=1, batch_size=99, seen=seen)
    return jax.jit(
      lambda examples: fitting.fit_course(
        problem, examples, optax.sgd(0.1), course, key=jax.random.key(2)
      )
    )(examples)

  last = jnp.asarray(STEPS == STEPS.max(axis=1, keepdims=True)) & (STEPS >= 0)
  last = jnp.tile(last, (4, 1)).astype(jnp.float32)
  expected = fit(with_tokens(batch, weights=last), None)
  found = fit(batch, rationales.curriculum(1.0))
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), found, expected
  )
  whole = fit(batch, None)["rationale_head"]["dense"]["kernel"]
  assert np.abs(whole - found["rationale_head"]["dense"]["kernel"]).max() > 1e-5


# --- the loss ----------------------------------------------------------------


def test_the_loss_is_the_shares_of_label_and_rationale():
  batch, params = told_batch(), reasoner().init(jax.random.key(0))
  bare = dataclasses.replace(batch, tokens=None)
  label = reasoner().loss(params, bare)
  rationale = reasoner(label_share=0.0).loss(params, batch)
  assert float(rationale) > 0.1
  np.testing.assert_array_equal(reasoner().loss(params, batch), label)
  mixed = reasoner(label_share=0.3).loss(params, batch)
  np.testing.assert_allclose(mixed, 0.3 * label + 0.7 * rationale, rtol=1e-5)
  # A batch without rationales has its labels in full.
  np.testing.assert_array_equal(
    reasoner(label_share=0.3).loss(params, bare), label
  )


def test_the_rationale_loss_is_the_weighted_cross_entropy_of_the_tokens():
  problem, batch = reasoner(label_share=0.0), told_batch(3)
  params = problem.init(jax.random.key(0))
  said = problem.apply(params, batch).queries
  table = np.asarray(problem.embeddings)
  logits = np.asarray(said) @ table.T / np.sqrt((table**2).sum(1).mean())
  logs = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
  first = logs[0, np.arange(4), IDS[0]].mean()
  second = logs[1, np.arange(2), IDS[1, :2]].mean()
  expected = -(first + second) / 3  # the third has none
  np.testing.assert_allclose(problem.loss(params, batch), expected, rtol=1e-5)


def test_tokens_after_the_end_of_a_rationale_do_not_change_the_loss():
  problem, batch = reasoner(label_share=0.5), told_batch()
  params = problem.init(jax.random.key(0))
  other = jnp.where(batch.tokens.weights > 0, batch.tokens.targets, 9)
  np.testing.assert_array_equal(
    problem.loss(params, batch),
    problem.loss(params, with_tokens(batch, targets=other)),
  )


def test_sure_queries_are_a_loss_like_their_tokens():
  problem, batch = even(reasoner(label_share=0.0)), told_batch()
  params = problem.init(jax.random.key(0))
  start = rationales.queries(problem, batch.tokens.targets, sure=1.0)
  soft = with_tokens(batch, targets=start)
  np.testing.assert_allclose(
    problem.loss(params, soft), problem.loss(params, batch), rtol=1e-3
  )


def test_queries_are_nearly_sure_of_their_tokens():
  problem = even(reasoner())
  start = rationales.queries(problem, IDS)
  assert start.shape == (*IDS.shape, conftest.WIDTH)
  said = jax.nn.softmax(problem.token_logits(start))
  of_token = np.take_along_axis(np.asarray(said), IDS[..., None], axis=-1)
  assert (np.abs(of_token - 0.9) < 0.05).all()


def test_the_table_s_scale_does_not_change_what_the_slots_say():
  problem = reasoner()
  larger = dataclasses.replace(problem, embeddings=7 * problem.embeddings)
  said = jax.random.normal(jax.random.key(1), (2, SLOTS, conftest.WIDTH))
  np.testing.assert_allclose(
    problem.token_logits(said), larger.token_logits(said), rtol=1e-4
  )


def test_both_heads_are_drawn_afresh_over_pretrained_parameters():
  bare = reasoner()
  drawn = bare.init(jax.random.key(0))
  body = {k: x for k, x in drawn.items() if k not in bare.roles.fresh}
  problem = reasoner(initial=body)
  one, two = problem.init(jax.random.key(1)), problem.init(jax.random.key(2))
  for name in problem.roles.fresh:
    kernels = [jax.tree.leaves(drawn[name])[1] for drawn in (one, two)]
    assert np.abs(kernels[0] - kernels[1]).max() > 0
  np.testing.assert_array_equal(one["position"], drawn["position"])


# --- data --------------------------------------------------------------------


@pytest.fixture(scope="module")
def tokenizer():
  return vocabularies.train(["one two three four . five six 3.5 m"] * 5, 200)


def test_steps_are_sentences_or_lines(tokenizer):
  texts = ["one two. three.\n\nfour 3.5", "", "six", "one two three four five"]
  ids, steps = tokenizer.encode_steps(texts, 12)
  words = [tokenizer.tokens[i] for i in ids[0]]
  assert words[:6] == ["one", "two", ".", "three", ".", "four"]
  end = words.index("[SEP]")
  assert steps[0].tolist() == [0, 0, 0, 1, 1] + [2] * (end - 4) + [-1] * (
    11 - end
  )
  assert (ids[1] == tokenizer.pad_id).all() and (steps[1] == -1).all()
  cut, _ = tokenizer.encode_steps(texts, 3)
  assert [tokenizer.tokens[i] for i in cut[3]] == ["one", "two", "[SEP]"]


def test_a_tokenizer_without_a_mask_has_no_slots():
  from tokenizers import Tokenizer, models

  known = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
  words = {token: i for i, token in enumerate(known)}
  bare = tokenizing.Tokenizer(Tokenizer(models.WordLevel(words, "[UNK]")))
  with pytest.raises(errors.InputError, match="no .MASK."):
    bare.special_id("mask")


def test_slots_stand_after_the_first_token_and_rows_end_in_padding():
  examples = make_examples()
  told = told_examples(40)
  assert (told.token_ids[:, 1 : 1 + SLOTS] == 4).all()
  np.testing.assert_array_equal(told.token_ids[:, 0], examples.token_ids[:, 0])
  lengths = told.mask.sum(axis=1, keepdims=True)
  np.testing.assert_array_equal(
    told.mask, np.arange(told.mask.shape[1])[None] < lengths
  )
  bare = formats.without_slots(told)
  np.testing.assert_array_equal(bare.token_ids, examples.token_ids)
  np.testing.assert_array_equal(bare.mask, examples.mask)


def test_slots_are_not_counted_as_text():
  config = tiny_chains()
  setup = assembly.setup(settings.recipe(config))
  corpus = setup.corpus
  # start, a digit and four words, between [CLS] and [SEP]
  rows = row_splits.long_rows(corpus.train, 8, "min_tokens", corpus.label_names)
  assert (rows.tokens.steps.max(axis=1) == 3).all()
  # All rows share their slots, and few share seven tokens of text.
  config.selection.apart = 7
  kept = row_fields.training_rows(setup, settings.recipe(config))
  assert len(kept.labels) > 1000


def test_rationales_go_where_their_rows_go():
  told = told_examples()
  taken = batches.take(told, [4, 1])
  said = told.tokens.targets
  np.testing.assert_array_equal(taken.tokens.targets, said[[4, 1]])
  sampler = samplers.class_balanced_sampler(
    told, rows_per_class=3, num_classes=conftest.CLASSES, seed=0
  )
  batch = sampler(0)
  for ids, row in zip(batch.inputs, batch.tokens.targets, strict=True):
    where = (told.token_ids == ids).all(axis=1)
    assert (said[where] == row).all(axis=1).any()
  assert batches.as_batch(make_examples(), 2).tokens is None


def test_neither_teachers_nor_weights_are_part_of_the_data():
  stored = corpus_files._stored(told_examples()._replace(soft=np.ones((12, 2))))
  assert list(stored) == [
    "token_ids",
    "mask",
    "labels",
    "tokens/targets",
    "tokens/steps",
  ]
  assert list(corpus_files._stored(make_examples())) == [
    "token_ids",
    "mask",
    "labels",
  ]


def chain_options(**fields):
  return loading.Options(
    **dict(
      name="chains",
      text_keys=("text",),
      vocab_size=100,
      max_length=10,
      rationale_key="rationale",
      rationale_length=7,
      group_key="length",
    )
    | fields
  )


@pytest.fixture(scope="module")
def chain_corpus():
  return loading.load(chain_options())


def test_a_chain_s_rationale_is_its_partial_results_and_ends_in_its_label():
  rows = chains.rows()
  texts = [row["text"] for split in rows.values() for row in split]
  assert len(texts) == len(set(texts))
  for split, counts in (("train", chains.TRAIN), ("test", chains.TEST)):
    for row in rows[split]:
      _, start, *words = row["text"].split()
      digits = chains.results(int(start), words)
      assert row["rationale"].split("\n") == [str(digit) for digit in digits]
      assert row["label"] == digits[-1] and row["length"] == len(words)
      assert len(words) in counts
  assert max(chains.TEST) > max(chains.TRAIN)
  assert rows == chains.rows()


def test_a_corpus_with_rationales_comes_back_from_the_cache(chain_corpus):
  again = loading.load(chain_options())
  assert again.fingerprint == chain_corpus.fingerprint
  jax.tree.map(np.testing.assert_array_equal, again.train, chain_corpus.train)
  tokens = chain_corpus.tokenizer.tokens
  for part in (again.train, again.selection, again.reported):
    assert {tokens[i] for i in np.unique(part.token_ids[:, 1:8])} == {"[MASK]"}
    said = [[tokens[i] for i in row if i] for row in part.tokens.targets]
    assert all(row[-1] == "[SEP]" for row in said)
    assert [int(row[-2]) for row in said] == part.labels.tolist()
    assert (part.tokens.steps.max(axis=1) + 1 == part.groups).all()


def test_a_corpus_s_text_is_the_same_without_its_rationales(chain_corpus):
  bare = loading.load(chain_options(rationale_key="", group_key=""))
  assert bare.train.tokens is None and bare.train.groups is None
  assert bare.fingerprint != chain_corpus.fingerprint
  told = formats.without_slots(chain_corpus.train)
  np.testing.assert_array_equal(bare.train.token_ids, told.token_ids)
  assert bare.tokenizer.fingerprint == chain_corpus.tokenizer.fingerprint


def test_the_groups_are_parts_of_the_reported_split(chain_corpus):
  reported = chain_corpus.reported
  parts = readings.groups(reported)
  assert {name: len(at) for name, at in parts.items()} == {
    str(length): count for length, count in chains.TEST.items()
  }
  rows = np.concatenate([readings.order(reported)[x] for x in parts.values()])
  assert sorted(rows) == list(range(len(reported.labels)))
  assert readings.groups(make_examples()) == {}


def test_the_mean_over_groups_is_the_accuracy():
  examples = make_examples(40)._replace(groups=np.arange(40) % 3)
  cut = lambda rows: readings.length_buckets(rows, conftest.CLASSES)  # noqa: E731
  parts = readings.groups(examples)
  trainer = trainers.Trainer(
    make_small_problem(), protocols.fine_tuning(num_steps=2, num_students=2), 1
  )
  batch = batches.as_batch(examples, conftest.CLASSES)
  sets = measuring.stacked(synthetic.SyntheticSet(batch))
  splits = measuring.Splits(cut(examples), cut(examples), parts)
  found = measuring.measure(trainer, sets, splits)
  row = found.row()
  sizes = {"0": 14, "1": 13, "2": 13}
  mean = sum(sizes[name] * row["by_group"][name] for name in sizes) / 40
  np.testing.assert_allclose(mean, row["mean"], atol=1e-6)
  # One pass over all rows says of a group what a split of its rows alone does.
  students = jax.vmap(trainer.problem.init)(jax.random.split(jax.random.key(3)))
  whole = (trainer.problem, students, cut(examples))
  means = readings.means(*whole, parts)
  for group in range(3):
    alone = batches.take(examples, np.flatnonzero(examples.groups == group))
    np.testing.assert_allclose(
      means[str(group)],
      readings.accuracies(trainer.problem, students, cut(alone)),
      rtol=1e-6,
    )


@pytest.mark.skipif(not SHARED.is_dir(), reason="shared/data/tfds is absent")
def test_real_choices_are_read_as_one_text_with_their_rationale():
  source = sources.open_source(
    "cqa_rationales",
    data_dir=str(SHARED),
    embedded_dir=SHARED,
    text_keys=("question", "choices"),
    label_key="label",
    rationale_key="llm_rationale",
  )
  rows = sources.read(source, "test")
  assert len(rows.rationales) == len(rows.labels) == 1221
  assert all(text[1].count(" ; ") == 4 for text in rows.texts)


# --- sets --------------------------------------------------------------------


def told_set():
  problem = reasoner(label_share=0.5)
  inputs = jax.random.normal(jax.random.key(5), (4, 10, conftest.WIDTH))
  start = make_synthetic().replace(
    inputs=inputs,
    mask=jnp.ones((4, 10), bool),
    tokens=batches.Tokens(
      rationales.queries(problem, IDS[[0, 1, 0, 1]]),
      told_batch(2).tokens.weights[jnp.array([0, 1, 0, 1])],
    ),
  )
  stored = wrappers.with_learning_rates(
    wrappers.with_rationales(synthetic.direct()), 2, 0.1, 0.2
  )
  return problem, stored, stored.init(start)


def test_a_set_s_rationales_are_saved_and_read_back(tmp_path):
  _, stored, params = told_set()
  syn = stored.decode(params)
  card = {"embedding_space": "abc"}
  set_files.save(tmp_path, syn, card)
  again, _ = set_files.load(tmp_path)
  jax.tree.map(np.testing.assert_array_equal, syn, again)
  tensors = safetensors.numpy.load_file(tmp_path / "set.safetensors")
  assert tensors["rationale"].shape == (4, SLOTS, conftest.WIDTH)
  bare = synthetic.direct()
  syn = bare.decode(bare.init(make_synthetic()))
  set_files.save(tmp_path, syn, card)
  tensors = safetensors.numpy.load_file(tmp_path / "set.safetensors")
  assert set(tensors) == {"embeddings", "mask", "labels"}


@pytest.mark.parametrize("how", ["mixed", "linearize", "constant"])
def test_replayed_steps_teach_the_set_s_rationales(how):
  problem, stored, params = told_set()
  real = told_batch()
  start = problem.init(jax.random.key(3))
  replay = functools.partial(replays.replay, rule=how)
  if how == "constant":
    replay = constant_memory.replay

  # The problem is an argument, as in a run: each step's gradient reads a table
  # of the trace around it.
  def loss(params, problem):
    syn = stored.decode(params)
    later = replay(problem, start, syn.batch, syn.steps)
    return problem.loss(later, real)

  slopes = jax.jit(jax.grad(loss))(params, problem)["base"]
  assert np.abs(slopes["rationale"]).max() > 0
  assert not np.any(slopes["rationale_weights"])
  if how == "constant":
    return  # it leaves out how earlier steps move later ones
  way = jax.random.normal(jax.random.key(9), slopes["rationale"].shape)
  value = jax.jit(loss)

  def along(t):
    moved = params["base"]["rationale"] + t * way
    base = {**params["base"], "rationale": moved}
    return float(value({**params, "base": base}, problem))

  slope = (along(0.05) - along(-0.05)) / 0.1
  np.testing.assert_allclose((slopes["rationale"] * way).sum(), slope, rtol=0.1)


def test_the_rationale_head_takes_the_head_s_steps():
  problem, stored, params = told_set()
  syn = stored.decode(params)
  start = problem.init(jax.random.key(3))
  one = jax.tree.map(lambda x: x[:1], syn.steps)
  later = jax.jit(replays.replay)(problem, start, syn.batch, one)
  grads = jax.jit(jax.grad(problem.loss))(start, syn.batch)
  for name in problem.roles.fresh:
    expected = jax.tree.map(
      lambda p, g: p - one.head_learning_rates[0] * g, start[name], grads[name]
    )
    jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6),
      later[name],
      expected,
    )
  bare = make_problem().init(jax.random.key(0))
  assert len(problem.roles.movable(start)) == len(
    make_problem().roles.movable(bare)
  )


def test_the_look_ahead_moves_the_rationales_of_a_set():
  problem, stored, params = told_set()
  objective = look_ahead.look_ahead()
  real = contract.Real(jax.tree.map(lambda x: x[None], told_batch()))

  def loss(params):
    state = objective.init(problem, jax.random.key(0), jnp.float32(0))
    key = jax.random.key(1)
    return objective.loss(problem, stored.decode(params), state, real, key)[0]

  slopes = jax.jit(jax.grad(loss))(params)
  assert np.abs(slopes["base"]["rationale"]).max() > 0


# --- the command line --------------------------------------------------------

CHAINS = (
  "--config.data.name=chains",
  "--config.data.rationale_key=rationale",
  "--config.data.rationale_length=7",
  "--config.data.max_length=9",
  "--config.sequence_length=10",
)


def tiny_chains():
  config = tiny_config.get_config()
  for field in CHAINS:
    name, value = field.removeprefix("--config.").split("=")
    value = int(value) if value.isdigit() else value
    config.update_from_flattened_dict({name: value})
  return config


def test_a_bank_of_another_share_is_another_bank():
  config = tiny_chains()
  first = teacher_fields.labels_id(settings.recipe(config))
  config.rationales.label_share = 0.9
  assert teacher_fields.labels_id(settings.recipe(config)) not in (
    first,
    "true",
  )
  config.data.rationale_key = ""
  assert teacher_fields.labels_id(settings.recipe(config)) == "true"


def test_a_taught_student_keeps_its_slots_and_its_second_head(tmp_path, capsys):
  command = ["gmdistill", "teach", CONFIG, *CHAINS, f"--workdir={tmp_path}"]
  command += ["--config.data.group_key=length"]
  command += ["--config.rationales.curriculum=0.5"]
  assert main.main(command) == 0
  assert "by length: 2: " in "".join(capsys.readouterr())
  assert hugging_face.read_config(tmp_path)["rationale_slots"] == 7
  head = safetensors.numpy.load_file(tmp_path / "rationale_head.safetensors")
  assert head["dense.weight"].shape == (16, 16)
  teacher = trained.load(str(tmp_path))
  config = tiny_chains()
  setup, read = (
    assembly.setup(settings.recipe(config)),
    settings.recipe(config).data,
  )
  corpus = setup.corpus
  said = trained.logits(teacher, corpus, read)
  batch = batches.as_batch(batches.take(corpus.train, [3]), 10)
  direct = teacher.problem.apply(teacher.params, jax.device_put(batch)).logits
  np.testing.assert_allclose(said[3], direct[0], atol=1e-5)
  # A text is read as a row is: with slots, by student and teacher.
  texts = tmp_path / "texts.jsonl"
  texts.write_text('{"text": "3 + 4"}')
  rows = relabelling.of_texts(setup, texts, read)
  slots = rows.read(teacher).inputs[0, 1:8]
  np.testing.assert_array_equal(slots, corpus.train.token_ids[0, 1:8])
  np.testing.assert_array_equal(
    rows.syn.batch.inputs[0, 1:8], setup.problem.embeddings[slots]
  )
  options = dataclasses.replace(read, rationale_key="")
  with pytest.raises(errors.InputError, match="reads 7 slots"):
    trained.logits(teacher, corpus, options)


@pytest.mark.parametrize(
  "field, said",
  [
    ("data.rationale_key=why", "'why', which is no text; chains has the feat"),
    ("data.rationale_key=length", "'length', which is no text"),
    ("data.group_key=text", "'text', which is no integer"),
    ("data.text_keys=rationale", "must not read what it is to say"),
    ("data.rationale_length=1", "must be a whole number, from 2"),
    ("data.rationale_length=8", "use at most 8"),
    ("rationales.label_share=1.5", "label_share=1.5 must be a number, from 0"),
    ("rationales.curriculum=-0.1", "curriculum=-0.1 must be a number, from 0"),
    ("rationales.weights=loud", "is none of uniform, rare"),
    ("sequence_length=8", "use 9 or more"),
    ("student.kind=bilstm", "has no slots"),
  ],
)
def test_what_does_not_fit_is_one_line(field, said, capsys):
  fields = [f"--config.{field}"]
  command = ["gmdistill", "evaluate", "--row=full", CONFIG, *CHAINS, *fields]
  assert main.main(command) == 2
  (line,) = capsys.readouterr().err.strip().splitlines()[-1:]
  assert said in line


def test_weights_that_tell_of_other_rows_are_no_private_bank_s(
  tmp_path, capsys
):
  command = [
    "gmdistill",
    "bank",
    CONFIG,
    *CHAINS,
    f"--workdir={tmp_path / 'b'}",
  ]
  command += ["--config.rationales.weights=rare", "--config.bank.clip=1.0"]
  assert main.main([*command, "--config.bank.noise=1.0"]) == 2
  (line,) = capsys.readouterr().err.strip().splitlines()[-1:]
  assert "rationales.weights=rare weighs it by what all rows say" in line
  assert not (tmp_path / "b").exists()


def test_rationales_without_any_text_are_refused(monkeypatch):
  read = sources.read

  def without(source, split):
    rows = read(source, split)
    return rows._replace(rationales=[""] * len(rows.labels))

  monkeypatch.setattr(sources, "read", without)
  with pytest.raises(
    errors.InputError, match="has no text in any training row"
  ):
    loading.load(chain_options(vocab_size=101))
