"""Rows chosen by what they are about."""

import json

import numpy as np
import pytest
from conftest import make_examples, make_problem

from gmdistill import errors
from gmdistill.data import loading
from gmdistill.selection import coresets, topics

# Row 0 and 1 share a rare heading, 2 and 3 another; all have heading 0.
TOPICS = np.array([[0, 1, -1], [0, 1, 2], [0, 3, -1], [0, 3, 4]], np.int32)


def test_a_heading_of_every_row_tells_nothing_and_a_rare_one_more():
  content = topics.information(TOPICS)
  np.testing.assert_allclose(content, np.log([1, 2, 4, 2, 4]))


def test_closeness_is_symmetric_one_to_itself_and_counts_what_is_shared():
  close = topics.closeness(TOPICS)
  np.testing.assert_allclose(close, close.T)
  np.testing.assert_allclose(np.diag(close), 1.0, rtol=1e-6)
  # 2 log 2 shared, of log 2 and log 2 + log 4.
  assert close[0, 1] == pytest.approx(2 / 4)
  assert close[0, 2] == 0.0
  nothing = topics.closeness(np.array([[0], [0], [-1]]))
  assert nothing[0, 2] == 0.0 and np.isfinite(nothing).all()


def test_rows_that_stand_for_their_class_are_chosen():
  # Two groups of alike rows in each class, and rows like no other.
  groups = [[0, 1], [0, 1], [0, 1], [2, 3], [2, 3], [4, 5], [6, 7]]
  of_rows = np.array(groups * 2, np.int32)
  labels = np.repeat([0, 1], len(groups)).astype(np.int32)
  examples = make_examples(len(labels))._replace(labels=labels, topics=of_rows)
  chosen = coresets.choose("topics", make_problem(), examples, per_class=2)
  assert labels[chosen].tolist() == [0, 0, 1, 1]
  assert of_rows[chosen].tolist() == [[0, 1], [2, 3]] * 2
  assert "topics" in coresets.methods(examples)


def test_rows_without_topics_are_not_chosen_by_them():
  examples = make_examples()
  assert coresets.methods(examples) == coresets.CORESETS
  with pytest.raises(errors.InputError, match="data.topics_key"):
    coresets.choose("topics", make_problem(), examples, per_class=2)


def test_topics_are_read_from_lists_and_from_words_between_semicolons(
  tmp_path, monkeypatch
):
  monkeypatch.setenv("GMDISTILL_CACHE", str(tmp_path / "cache"))
  said = [["Humans", "Pain"], "Pain; Age", None, ["Age", "Age"]] * 4
  lines = [
    {"text": f"a case {n} of it", "label": n % 2, "about": about}
    for n, about in enumerate(said)
  ]
  path = tmp_path / "rows.jsonl"
  path.write_text("\n".join(map(json.dumps, lines)))
  options = loading.Options(name=str(path), topics_key="about")
  corpus = loading.load(options)
  again = loading.load(options)  # from the cache
  np.testing.assert_array_equal(again.train.topics, corpus.train.topics)
  # Age, Humans, Pain by number; -1: no more.
  rows = {tuple(x) for x in corpus.train.topics.tolist()}
  assert rows <= {(1, 2), (0, 2), (-1, -1), (0, -1)} and len(rows) == 4
  path.write_text('{"text": "a b", "label": "x", "about": 3}\n')
  with pytest.raises(errors.InputError, match="line 1: 'about' is a number"):
    loading.load(options)
