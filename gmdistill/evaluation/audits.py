"""What a set gives away of the rows that it was made from, and of others."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from gmdistill.data import batches, tokenizing
from gmdistill.data import texts as row_texts
from gmdistill.evaluation import (
  common_runs,
  diversity,
  likeness,
  membership,
)
from gmdistill.selection import features
from gmdistill.sets import nearest_text, spaces
from gmdistill.students import problems

HELD_OUT = 500  # rows of the reported split that a set is held against
TRAINING = 5000  # training rows whose features are looked at
TOLD_APART = 0.75  # area under the curve from which on rows are told apart
COPY = 0.9  # of the words of two rows that both have: a copy
PART = 8  # tokens of a row, from which on it may be a part of another

Text = row_texts.Text


class Subject(NamedTuple):
  """A set, as an audit looks at it."""

  texts: Sequence[Text]  # of a set of embeddings, its nearest tokens
  batch: batches.Batch  # ids or embeddings, as the student reads them
  labels: np.ndarray  # [M, C], what the loss reads
  members: np.ndarray  # the training rows that it started from; may be none


class Parts(NamedTuple):
  """The real texts that a set is held against, in the corpus's order."""

  train: Sequence[Text]
  reported: Sequence[Text]


def as_texts(
  batch: batches.Batch, table: jax.Array, tokenizer: tokenizing.Tokenizer
) -> list[str]:
  """Returns the nearest tokens of a set of embeddings, as texts.

  Special tokens are left out, and the parts of a word are put together.
  """
  ids, _ = nearest_text.nearest_tokens(
    jax.numpy.asarray(batch.inputs), table[: len(tokenizer.tokens)], k=1
  )
  rows = zip(ids[..., 0], np.asarray(batch.mask), strict=True)
  return [tokenizer.said(ids_L[mask_L]) for ids_L, mask_L in rows]


def audit(
  setup: spaces.Setup, subject: Subject, real: Parts, seed: int = 0
) -> dict[str, Any]:
  """Returns what a set's card says of its privacy and its diversity.

  Args:
    setup: The student whose features and table measure distances, and the data.
    subject: The set.
    real: The texts of the data.
    seed: Of the rows that are drawn to compare with.
  """
  rng = np.random.default_rng([seed, 11])
  held = _drawn(rng, np.arange(len(real.reported)), HELD_OUT)
  reported = [real.reported[i] for i in held]
  corpus = setup.corpus
  every = np.arange(len(corpus.train.labels))
  near = np.union1d(_drawn(rng, every, TRAINING), subject.members)
  features_NxF, held_HxF = (
    _features(setup, rows)
    for rows in (
      batches.take(corpus.train, near),
      batches.take(corpus.reported, held),
    )
  )
  own_MxF = _set_features(setup, subject.batch)
  # A fresh student's features have most in common: it says nothing of a row.
  mean_1xF = features_NxF.mean(axis=0, keepdims=True)
  features_NxF, held_HxF, own_MxF = (
    x - mean_1xF for x in (features_NxF, held_HxF, own_MxF)
  )
  return {
    "rows": len(subject.texts),
    "copies": _copies(subject, reported, real, corpus.tokenizer),
    "distance": {
      "is": "cosine distance of a fresh student's features, around their mean, "
      f"to the nearest of {len(near)} training rows, the median",
      "set": _nearest_distance(own_MxF, features_NxF),
      "held_out": _nearest_distance(held_HxF, features_NxF),
    },
    "membership": membership.attacks(
      setup, subject.batch, subject.members, held, rng
    ),
    "diversity": _diversity(
      subject, [real.train[i] for i in near], own_MxF, features_NxF, rng
    ),
    "mauve": likeness.to_training(own_MxF, features_NxF, seed),
    "labels": _balance(subject.labels, corpus.label_names),
    "leakage": _leakage(subject, real),
  }


def _drawn(rng, rows, most):
  return np.sort(rng.permutation(rows)[:most])


def _features(setup, examples):
  params = setup.problem.init(jax.random.key(0))
  return features.features(setup.problem, params, examples)


def _set_features(setup, batch):
  params = setup.problem.init(jax.random.key(0))
  read = jax.jit(problems.Problem.apply)
  return np.asarray(read(setup.problem, params, batch).features)


def _nearest_distance(rows_MxF, others_NxF):
  cosines_M = (membership.unit(rows_MxF) @ membership.unit(others_NxF).T).max(
    axis=1
  )
  return float(np.median(1 - cosines_M))


def _words(texts):
  return [row_texts.joined(text).lower().split() for text in texts]


def _numbered(*groups):
  """Returns rows of words as rows of numbers, one number a word."""
  index: dict[str, int] = {}
  return [
    [[index.setdefault(w, len(index) + 1) for w in row] for row in rows]
    for rows in groups
  ]


def _tokens(tokenizer, texts):
  """Returns the tokens of texts, without those that frame them."""
  longest = max(len(row_texts.joined(text)) for text in texts) + 4
  ids, mask = tokenizer.encode(list(texts), min(longest, 512))
  frame = tokenizer.frame(pair=False)
  first, last = (1, -1) if frame >= 2 else (0, None)
  return [row[keep][first:last] for row, keep in zip(ids, mask, strict=True)]


def _copies(subject, reported, real, tokenizer):
  texts, train = subject.texts, list(real.train)
  own, held, theirs = _numbered(*map(_words, (texts, reported, train)))
  nearest_M, overlap_M = row_texts.nearest(texts, train)
  tokens = [_tokens(tokenizer, x) for x in (texts, train, reported)]
  runs_M = common_runs.longest_runs(tokens[0], tokens[1])
  lengths_M = np.array([len(x) for x in tokens[0]])
  copies = np.flatnonzero(overlap_M >= COPY)
  is_part_M = (runs_M >= COPY * lengths_M) & (lengths_M >= PART)
  is_part_M &= overlap_M < COPY  # else it is a copy already
  return {
    "is": f"rows that have {COPY:.0%} of their words and a training row's "
    "in common",
    "rows": len(copies),
    "share": len(copies) / len(texts),
    "of": [int(nearest_M[m]) for m in copies],
    "parts": {
      "is": f"other rows, of {PART} tokens or more, {COPY:.0%} of which a "
      "training row has in a row: copies that were cut",
      "rows": int(is_part_M.sum()),
    },
    "longest_run": {
      "is": "tokens in a row that a training row has too",
      "most": int(runs_M.max()),
      "mean": float(runs_M.mean()),
      "share_of_row": float((runs_M / np.maximum(lengths_M, 1)).mean()),
      "held_out_mean": float(
        common_runs.longest_runs(tokens[2], tokens[1]).mean()
      ),
    },
    **{
      f"{name}_words": {
        "set": common_runs.overlap(own, theirs, n),
        "held_out": common_runs.overlap(held, theirs, n),
      }
      for name, n in (("five", 5), ("eight", 8))
    },
  }


def _diversity(subject, train, own_MxF, features_NxF, rng):
  """Returns the set's diversity, and that of as many training rows."""
  rows = _drawn(rng, np.arange(len(features_NxF)), len(subject.texts))
  groups = {
    "set": (_words(subject.texts), own_MxF),
    "training_rows": (
      _words([train[i] for i in rows]),
      features_NxF[rows],
    ),
  }
  tokens = min(sum(map(len, words)) for words, _ in groups.values())
  return {
    "tokens": tokens,
    **{name: _measures(*group, tokens) for name, group in groups.items()},
  }


def _measures(words, features_MxF, tokens):
  counts = {n: diversity.distinct(words, n) for n in (1, 2, 3)}
  return {
    **{f"distinct_{n}": a / max(b, 1) for n, (a, b) in counts.items()},
    "self_bleu_4": diversity.self_bleu(words),
    "gzip_ratio": diversity.gzip_ratio(words, tokens),
    "vendi": diversity.vendi(features_MxF),
  }


def _balance(labels_MxC, names):
  mass_C = np.maximum(labels_MxC, 0).sum(axis=0)
  shares = mass_C / max(mass_C.sum(), 1e-12)
  counts = np.bincount(labels_MxC.argmax(axis=1), minlength=len(names))
  return {
    name: {"rows": int(counts[c]), "share": float(shares[c])}
    for c, name in enumerate(names)
  }


def _leakage(subject, real):
  """Returns what the set has in common with the rows that are reported."""
  reported = list(real.reported)
  nearest_M, overlap_M = row_texts.nearest(subject.texts, reported)
  own, theirs = _numbered(_words(subject.texts), _words(reported))
  copies = np.flatnonzero(overlap_M >= COPY)
  return {
    "is": "rows that have so many of their words and a reported row's in "
    "common",
    "rows": len(copies),
    "of": [int(nearest_M[m]) for m in copies],
    "eight_words": common_runs.overlap(own, theirs, 8),
  }
