"""What `gmdistill select` writes of the rows that it chose."""

import io
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from gmdistill.data import (
  batches,
  loading,
  parts,
  row_lines,
  sources,
  splits,
)
from gmdistill.data import texts as row_texts
from gmdistill.runs.config import recipe as recipes
from gmdistill.selection import pools
from gmdistill.sets import text_sets


class Choice(NamedTuple):
  """The rows of a pool, their scores, and those that are chosen."""

  # [P] the pool's rows among those to train on; written ones come after these
  drawn: np.ndarray
  pool: pools.Pool
  scores: np.ndarray  # [P]
  chosen: np.ndarray  # of the pool, in class order


class OfClasses:
  """Rows that have classes, as their data set says them."""

  def __init__(
    self, options: loading.Options, written: Sequence[row_texts.Text] = ()
  ):
    """Reads the data set's texts; `written`: others that may be chosen."""
    self._written = written
    self._source = sources.with_classes(loading.opened(options))
    self._whole = parts.whole(self._source, options.reported_split)
    self._train = splits.selection_split(self._whole.train.labels)[0]
    self._reported = row_lines.reported_name(options.reported_split)
    self.columns = row_lines.read_by(self._source, options.reported_split)

  def files(self, choice: Choice) -> dict[str, bytes]:
    """Returns the files that are written, by their names."""
    reported = self._whole.reported
    lines = [self._line(choice, int(at)) for at in choice.chosen]
    others = [
      row_lines.line(
        row_lines.columns(self._source, reported, row, text),
        _more(self._reported, self._whole.reported_at[row], 0),
      )
      for row, text in enumerate(reported.texts)
    ]
    rows_P = np.full(len(choice.drawn), -1)  # of written ones
    is_real_P = choice.drawn < len(self._train)
    places = self._train[choice.drawn[is_real_P]]
    rows_P[is_real_P] = self._whole.train_at[places]
    return _files(choice, rows_P, lines, others)

  def _line(self, choice, at):
    """Returns a row of the pool as a line."""
    source, number = self._source, int(choice.drawn[at])
    if number < len(self._train):
      place = int(self._train[number])
      said = row_lines.columns(source, self._whole.train, place)
      row: int | str = int(self._whole.train_at[place])
    else:
      row, text = text_sets.WRITTEN, self._written[number - len(self._train)]
      texts = (text,) if isinstance(text, str) else text
      label = source.label_names[int(choice.pool.rows.labels[at])]
      said = dict(zip(source.text_keys, texts, strict=True))
      said[source.label_key] = label
    return row_lines.line(said, _more("train", row, choice.scores[at]))


class OfLanguage:
  """Rows of a language model, as it reads them: their tokens, as text."""

  def __init__(self, corpus: batches.Corpus):
    """Takes the corpus, whose tokenizer says tokens as text."""
    self._corpus = corpus
    self._keys = corpus.text_keys[:2]
    self.columns = {"text_keys": ",".join(self._keys)}

  def files(self, choice: Choice) -> dict[str, bytes]:
    """Returns the files that are written, by their names."""
    train, reported = self._corpus.train, self._corpus.reported
    places = np.asarray(choice.drawn)
    lines = [
      row_lines.line(
        self._said(train, places[at]),
        _more("train", places[at], choice.scores[at]),
      )
      for at in choice.chosen
    ]
    others = [
      row_lines.line(self._said(reported, row), _more("test", row, 0))
      for row in range(len(reported.labels))
    ]
    return _files(choice, places, lines, others)

  def _said(self, rows, row):
    """Returns a text, or a prompt and its completion."""
    ids = rows.token_ids[row][rows.mask[row]]
    decode: Any = self._corpus.tokenizer.decode  # type: ignore[attr-defined]
    if len(self._keys) < 2:
      return {self._keys[0]: decode(ids, control=False)}
    # The place that says the answer's first token is the prompt's last.
    first = int((np.asarray(rows.tokens.weights[row]) > 0).argmax()) + 1
    return {
      self._keys[0]: decode(ids[:first], control=False),
      self._keys[1]: decode(ids[first:], control=False),
    }


def texts_of(
  config: recipes.Recipe,
  corpus: batches.Corpus,
  written: Sequence[row_texts.Text] = (),
) -> OfClasses | OfLanguage:
  """Returns what says a config's rows as people read them."""
  if config.has_classes:
    return OfClasses(config.data, written)
  return OfLanguage(corpus)


def _more(split, row, score):
  return {
    row_lines.SPLIT: split,
    "row": row if isinstance(row, str) else int(row),
    "score": round(float(score), 7),
  }


def _files(choice, rows_P, lines, others):
  arrays = io.BytesIO()
  np.savez(
    arrays,
    scores=choice.scores,
    rows=rows_P,
    labels=choice.pool.rows.labels,
    tokens=choice.pool.lengths,
    chosen=rows_P[choice.chosen],
  )
  return {
    "rows.jsonl": row_lines.encoded(lines),
    "reported.jsonl": row_lines.encoded(others),
    "scores.npz": arrays.getvalue(),
  }
