"""Laws of every field of a batch: it goes wherever its rows go."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import CLASSES, LENGTH, WIDTH, make_examples, make_problem

from gmdistill.data import batches
from gmdistill.evaluation import readings
from gmdistill.sets import set_files, synthetic
from gmdistill.students import tasks
from gmdistill.training import constant_memory, replays

ROWS = 4
OF_ROWS = [path for path in batches.PATHS if path != "progress"]


SHAPES = {  # of a row; of `tokens`, two places
  "inputs": (LENGTH, WIDTH),
  "mask": (LENGTH,),
  "labels": (CLASSES,),
  "weights": (),
  "attention": (2, 2, LENGTH),
  "teachers/logits": (3, CLASSES),
  "teachers/features": (2, WIDTH),
  "tokens/teacher_ids": (2, 3, 4),
  "tokens/teacher_logs": (2, 3, 5),
}


def drawn(path, rows=ROWS):
  """Entries of a field that tell its rows apart."""
  if path == "progress":
    return jnp.float32(0.25)
  shape = (rows, *SHAPES.get(path, (2,)))
  values = jnp.arange(np.prod(shape), dtype=jnp.float32).reshape(shape)
  if path == "tokens/teacher_ids":
    return values.astype(jnp.int32)
  return values % 5 > 1 if path == "mask" else jnp.sin(values) + 1.1


def full_batch():
  """A batch that brings everything that a batch may."""
  return batches.Batch(
    **batches.of_named({path: drawn(path) for path in batches.PATHS})
  )


def test_a_full_batch_has_every_field():
  told = batches.named(full_batch())
  assert set(told) == set(batches.PATHS)
  fields = {path.split("/")[0] for path in told}
  assert fields == {field.name for field in dataclasses.fields(batches.Batch)}
  assert len(full_batch()) == ROWS


@pytest.mark.parametrize("path", batches.PATHS)
def test_every_field_goes_where_its_rows_go(path):
  batch, rows = full_batch(), jnp.array([2, 0])
  before = batches.named(batch)[path]
  after = batches.named(batches.take_rows(batch, rows))[path]
  expected = before if path == "progress" else before[rows]
  np.testing.assert_array_equal(after, expected)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
  folder = tmp_path_factory.mktemp("set")
  card = {"embedding_space": "any"}
  set_files.save(folder, synthetic.SyntheticSet(full_batch()), card)
  return set_files.load(folder)[0].batch


@pytest.mark.parametrize("path", OF_ROWS)
def test_every_field_is_saved_and_read_back(path, saved):
  before, after = batches.named(full_batch())[path], batches.named(saved)[path]
  np.testing.assert_array_equal(before, after)
  assert before.dtype == after.dtype


def examples_with_all():
  """Host rows that bring everything that rows may."""
  whole = full_batch()
  rows = make_examples(ROWS)
  told = jax.tree.map(np.asarray, (whole.teachers, whole.tokens))
  return rows._replace(teachers=told[0], tokens=told[1])


@pytest.mark.parametrize("name", batches.named(examples_with_all()))
def test_every_field_of_rows_is_taken_and_sorted_by_length(name):
  rows = examples_with_all()
  before = batches.named(rows)[name]
  taken = batches.named(batches.take(rows, [3, 1]))[name]
  np.testing.assert_array_equal(taken, before[[3, 1]])
  path = {"token_ids": "inputs"}.get(name, name)
  buckets = readings.length_buckets(rows, 2, rows=3)
  found = {}
  for bucket in buckets:
    told = {
      path: np.asarray(x).reshape(-1, *x.shape[2:])
      for path, x in batches.named(bucket).items()
    }
    counted = np.asarray(batches.counted(bucket)).reshape(-1)
    for i in np.flatnonzero(counted):
      # Which row it is, is told by its ids: they differ.
      length = told["inputs"].shape[1]
      of_row = (rows.token_ids[:, :length] == told["inputs"][i]).all(axis=1)
      (row,) = np.flatnonzero(of_row & (rows.mask.sum(axis=1) <= length))
      found[row] = told[path][i]
  assert sorted(found) == list(range(ROWS))
  for row, value in found.items():
    expected = before[row]
    if name == "labels":
      value = value.argmax()
    elif np.ndim(value):
      expected = expected[: len(value)]
    np.testing.assert_array_equal(value, expected)


@pytest.mark.parametrize("places", [2, LENGTH])
@pytest.mark.parametrize("stacked", [False, True])
def test_targets_of_every_position_are_cut_with_them_and_slots_stay(
  places, stacked
):
  told = jnp.ones((ROWS, places))
  batch = dataclasses.replace(
    full_batch(), tokens=batches.Tokens(told, told), progress=None
  )
  if stacked:
    batch = jax.tree.map(lambda x: x[None], batch)
  short = batches.cut(batch, LENGTH - 1)
  assert short.mask.shape[-1] == short.inputs.shape[-2] == LENGTH - 1
  expected = LENGTH - 1 if places == LENGTH else places
  assert short.tokens.targets.shape[-1] == expected
  assert short.tokens.weights.shape == short.tokens.targets.shape


def reads(path):
  """A criterion that loses by one field of its rows alone."""

  def loss(own, params, outputs, batch):
    read_BxN = batches.named(batch)[path].reshape(len(batch), -1)
    return own + (outputs.logits[:, 0] * read_BxN.sum(axis=1)).mean()

  return tasks.Criterion(lambda key, outputs, batch: {}, loss)


@pytest.mark.parametrize(
  "path", ["labels", "tokens/weights", "teachers/logits", "teachers/features"]
)
@pytest.mark.parametrize("constant", [False, True])
def test_every_field_is_replayed_and_has_a_slope(path, constant):
  problem = dataclasses.replace(make_problem("textcnn"), criterion=reads(path))
  whole = dataclasses.replace(full_batch(), attention=None)  # it has none
  start = problem.init(jax.random.key(0))
  steps = replays.Steps(jnp.array([0.1]), order=jnp.array([[3, 1]]))
  how = constant_memory.replay if constant else replays.replay

  def lost(field):
    named = {**batches.named(whole), path: field}
    batch = batches.Batch(**batches.of_named(named))
    later = how(problem, start, batch, steps)
    return problem.apply(later, whole).logits[:, 0].sum()

  slope = jax.jit(jax.grad(lost))(batches.named(whole)[path])
  assert np.abs(slope[jnp.array([3, 1])]).max() > 0
  np.testing.assert_array_equal(slope[jnp.array([2, 0])], 0.0)
