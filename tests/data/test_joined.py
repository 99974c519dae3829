"""Rows made of two, labelled by teachers."""

import pathlib

import numpy as np
import pytest
import tiny_config

from gmdistill import errors, main
from gmdistill.data import batches, joined, samplers
from gmdistill.runs.config import settings

HERE = pathlib.Path(__file__).parents[1]
CONFIG = f"--config={HERE}/tiny_config.py:polish"


def make_rows(lengths=(5, 6, 9, 5, 6, 9), length=10):
  """Rows 1 a b .. 2 of two classes, whose tokens say which row they are of."""
  ids = np.zeros((len(lengths), length), np.int32)
  for row, count in enumerate(lengths):
    ids[row, :count] = [1, *[10 * (row + 1)] * (count - 2), 2]
  labels = np.arange(len(lengths), dtype=np.int32) // (len(lengths) // 2)
  return batches.Examples(ids, ids > 0, labels)


def sampler(label, share=0.5, examples=None, **fields):
  rows = make_rows() if examples is None else examples
  plain = samplers.class_balanced_sampler(
    rows, rows_per_class=4, num_classes=2, seed=0
  )
  names = ("a", "b")
  return plain, joined.sampler(
    plain, rows, label, share=share, label_names=names, seed=0, **fields
  )


def as_truth(ids, mask, truth):
  return truth, None


def test_two_rows_stand_in_one_frame_at_their_class():
  plain, drawn = sampler(as_truth)
  seen = set()
  for step in range(20):
    before, batch = plain(step), drawn(step)
    for row in range(8):
      ids = batch.inputs[row][batch.mask[row]]
      if row % 4 >= 2:  # the second half of each class is as it was
        np.testing.assert_array_equal(batch.inputs[row], before.inputs[row])
        np.testing.assert_array_equal(batch.labels[row], before.labels[row])
        continue
      assert ids[0] == 1 and ids[-1] == 2 and (ids == 1).sum() == 1
      parts = [int(x) // 10 - 1 for x in dict.fromkeys(ids[1:-1])]
      # Rows of nine are too long: two do not fit in ten.
      assert set(parts) <= {0, 1, 3, 4}
      assert row // 4 in [part // 3 for part in parts]
      truth = np.mean([np.eye(2)[part // 3] for part in parts], axis=0)
      if len(parts) == 2:
        np.testing.assert_array_equal(batch.labels[row], truth)
      seen.add(tuple(parts))
  assert {(0, 1), (1, 0), (3, 4)} <= seen
  assert any(a // 3 != b // 3 for a, b in (x for x in seen if len(x) == 2))


def test_labels_are_those_that_are_said_and_batches_a_function_of_the_step():
  said = lambda ids, mask, truth: (  # noqa: E731
    np.full_like(truth, 0.25),
    np.ones((len(ids), 1, 2)),
  )
  _, drawn = sampler(said, share=1.0)
  one, two = drawn(3), drawn(3)
  np.testing.assert_array_equal(one.inputs, two.inputs)
  assert (one.labels == 0.25).all()
  assert one.teachers is None  # of rows whose teachers say none


@pytest.mark.parametrize("short", [0, 1])
def test_longer_rows_are_cut_where_a_class_has_few_others(short):
  own = [9] * 20
  own[:short] = [5] * short  # less than a tenth of twenty
  rows = make_rows([*[5] * 20, *own])
  _, drawn = sampler(as_truth, examples=rows, share=1.0)
  seen = {
    int(x) // 10 - 1
    for step in range(20)
    for row in drawn(step).inputs
    for x in row
  }
  assert len(seen & set(range(20, 40))) > 10


def test_longer_rows_are_cut_to_half_a_row():
  _, drawn = sampler(
    as_truth, examples=make_rows((5, 6, 9, 9, 9, 9)), share=1.0
  )
  for step in range(5):
    batch = drawn(step)
    counts = [
      [int((row == 10 * (part + 1)).sum()) for part in range(6)]
      for row in batch.inputs
    ]
    assert all(max(own[3:]) in (0, 4, 8) for own in counts)
    assert max(batch.mask.sum(axis=1)) == 10
  rows = make_rows((5, 6, 9, 3, 3, 3))
  with pytest.raises(errors.InputError, match="no row of class b has 5 tokens"):
    sampler(as_truth, examples=rows)


def test_teachers_label_the_rows_of_a_run(tmp_path, capsys):
  teacher, run = tmp_path / "teacher", tmp_path / "run"
  assert not main.main(["x", "teach", CONFIG, f"--workdir={teacher}"])
  flags = ["x", "distill", CONFIG, f"--workdir={run}", "--config.num_steps=2"]
  flags += ["--config.eval_every=2", "--config.joined_rows=0.5"]
  capsys.readouterr()
  assert main.main(flags) == 2
  assert "none but a teacher knows" in capsys.readouterr().err
  assert not main.main([*flags, f"--config.teachers.dirs=('{teacher}',)"])
  assert (run / "summary.json").is_file()


@pytest.mark.parametrize("share", [-0.1, 1.5, 0.1])
def test_what_is_no_share_of_the_rows_is_refused(share):
  config = tiny_config.get_config()  # four rows a class
  config.joined_rows = share
  with pytest.raises(errors.InputError, match="joined_rows=.* must "):
    settings.recipe(config)
