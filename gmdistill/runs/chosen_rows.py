"""What `gmdistill select` writes of the rows that it chose."""

import io
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from gmdistill.data import (
  batches,
  language,
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
    # A column that lines have of their own is refused before anything is done.
    first = row_lines.columns(self._source, self._whole.train, 0)
    row_lines.line(first, _more("train", 0, 0))

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

  def text_set(self, choice: Choice) -> list[dict[str, Any]]:
    """Returns the chosen rows as those of a text set, see `text_sets`.

    A training row is the one most like itself; what a written one is most like
    says the file that it comes from.
    """
    names, count = self._source.label_names, len(self._train)
    numbers = [int(x) for x in choice.drawn[choice.chosen]]
    texts = {number: self._text(number) for number in numbers}
    sources = [x if x < count else text_sets.WRITTEN for x in numbers]
    labels = np.eye(len(names))[choice.pool.rows.labels[choice.chosen]]
    chosen = text_sets.of_rows(numbers, texts, labels)
    rows = text_sets.lines(
      chosen._replace(sources=tuple(sources)), names, chosen.texts
    )
    for row in rows:
      row["nearest_real"] = row["source"]
      if row["source"] == text_sets.WRITTEN:
        del row["nearest_real"], row["overlap"]
    return rows

  def _text(self, number):
    """Returns the text of a row that may be chosen, a real or a written one."""
    if number < len(self._train):
      return self._whole.train.texts[int(self._train[number])]
    return self._written[number - len(self._train)]

  def _line(self, choice, at):
    """Returns a row of the pool as a line."""
    source, number = self._source, int(choice.drawn[at])
    if number < len(self._train):
      place = int(self._train[number])
      said = row_lines.columns(source, self._whole.train, place)
      row: int | str = int(self._whole.train_at[place])
    else:
      row, text = text_sets.WRITTEN, self._text(number)
      texts = (text,) if isinstance(text, str) else text
      label = source.label_names[int(choice.pool.rows.labels[at])]
      said = dict(zip(source.text_keys, texts, strict=True))
      said[source.label_key] = label
    return row_lines.line(said, _more("train", row, choice.scores[at]))


class OfLanguage:
  """Rows of a language model: answers and conversations as their data set says
  them, and of texts, which are cut into rows, the tokens of each as text."""

  def __init__(self, options: loading.Options, corpus: batches.Corpus):
    """Reads the data set's rows; the corpus's tokenizer says tokens as text."""
    self._corpus, self._source = corpus, language.opened(options)
    self._parts: dict[str, language.Part] = {}
    if self._source.kind != "text":
      self._parts = language.whole_rows(self._source, options.reported_split)
    self._reported = row_lines.reported_name(options.reported_split)
    keys = () if self._source.kind == "messages" else self._source.keys
    self.columns = {
      "text_keys": ",".join(keys),
      "reported_split": self._reported if options.reported_split else "",
    }
    row_lines.line(self._said("train", 0), _more("train", 0, 0))

  def files(self, choice: Choice) -> dict[str, bytes]:
    """Returns the files that are written, by their names."""
    rows_P = self._at("train")[choice.drawn]
    lines = [
      row_lines.line(
        self._said("train", int(choice.drawn[at])),
        _more("train", rows_P[at], choice.scores[at]),
      )
      for at in choice.chosen
    ]
    others = [
      row_lines.line(self._said("reported", row), _more(self._reported, at, 0))
      for row, at in enumerate(self._at("reported"))
    ]
    return _files(choice, rows_P, lines, others)

  def _at(self, part):
    """Returns where the rows of a part are in their split."""
    if self._parts:
      return self._parts[part].at
    return np.arange(len(getattr(self._corpus, part).labels))

  def _said(self, part, row):
    """Returns what the data say of a row."""
    source, corpus = self._source, self._corpus
    if self._parts:
      one = self._parts[part].rows[row]
      values = one.value if source.kind == "answers" else (one.value,)
      group = one.group
    else:
      rows = getattr(corpus, part)
      values = (self._text(rows, row),)
      group = (
        "" if rows.groups is None else corpus.group_names[rows.groups[row]]
      )
    said = dict(zip(source.keys, values, strict=True))
    return said | ({source.group_key: group} if source.group_key else {})

  def _text(self, rows, row):
    """Returns the text of a row: what it reads, and what follows the last."""
    mask_L = rows.mask[row]
    last = np.asarray(rows.tokens.targets[row])[mask_L][-1:]
    ids = np.concatenate([rows.token_ids[row][mask_L], last])
    decode: Any = self._corpus.tokenizer.decode  # type: ignore[attr-defined]
    return decode(ids, control=False)


def texts_of(
  config: recipes.Recipe,
  corpus: batches.Corpus,
  written: Sequence[row_texts.Text] = (),
) -> OfClasses | OfLanguage:
  """Returns what says a config's rows as people read them."""
  if config.has_classes:
    return OfClasses(config.data, written)
  return OfLanguage(config.data, corpus)


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
