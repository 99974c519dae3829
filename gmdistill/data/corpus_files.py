"""A corpus as arrays that are kept in the user's cache folder."""

import hashlib
import json
from collections.abc import Callable
from typing import Any

import numpy as np
from etils import epath

from gmdistill.data import batches, tokenizing
from gmdistill.system import cache, json_files

PARTS = ("train", "selection", "reported")


def kept(
  entry: epath.Path, build: Callable[[], batches.Corpus]
) -> batches.Corpus:
  """Returns the corpus of an entry of the cache; builds it where none is."""
  corpus = of_arrays(cache.read_arrays(entry))
  if corpus is None:
    corpus = build()
    corpus = corpus._replace(fingerprint=fingerprint(corpus))
    cache.write_arrays(entry, as_arrays(corpus))
  return corpus


def _facts(corpus: batches.Corpus) -> dict[str, Any]:
  """Returns what a corpus holds beside arrays, tokenizer and fingerprint."""
  kept = corpus._asdict()
  for key in (*PARTS, "tokenizer", "fingerprint"):
    del kept[key]
  if not corpus.group_names:
    del kept["group_names"]
  return kept


def fingerprint(corpus: batches.Corpus) -> str:
  """Returns a hash of all that a corpus holds."""
  facts = _facts(corpus)
  del facts["notes"]  # words about the rows, which are all hashed
  digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
  digest.update(corpus.tokenizer.to_json().encode())
  for part in PARTS:
    for array in _stored(getattr(corpus, part)).values():
      digest.update(f"{array.shape} {array.dtype}".encode())
      digest.update(np.ascontiguousarray(array).data)
  return digest.hexdigest()


def _stored(examples: batches.Examples) -> dict[str, np.ndarray]:
  """Returns the arrays that are part of the data, by their names.

  No teacher is, nor what is made of a rationale.
  """
  made = ["soft", "teachers"]
  if not batches.is_language(examples):
    made.append("tokens/weights")
  return {
    name: np.asarray(array)
    for name, array in batches.named(examples).items()
    if not name.startswith(tuple(made))
  }


def as_arrays(corpus: batches.Corpus) -> dict[str, np.ndarray]:
  """Returns a corpus as arrays by name, which `of_arrays` reads."""
  facts = _facts(corpus) | {"fingerprint": corpus.fingerprint}
  arrays = {
    "facts": np.array(json.dumps(facts)),
    "tokenizer": np.array(corpus.tokenizer.to_json()),
  }
  for part in PARTS:
    for field, array in _stored(getattr(corpus, part)).items():
      arrays[f"{part}/{field}"] = array
  return arrays


def of_arrays(arrays: dict[str, np.ndarray] | None) -> batches.Corpus | None:
  """Returns the corpus, or None where the arrays are not a whole one's."""
  if arrays is None:
    return None
  try:
    facts = json_files.parse(str(arrays["facts"]))
    facts["label_names"] = tuple(facts["label_names"])
    facts["text_keys"] = tuple(facts["text_keys"])
    facts["notes"] = tuple(facts["notes"])
    facts["group_names"] = tuple(facts.get("group_names", ()))
    tokenizer = tokenizing.Tokenizer.from_json(str(arrays["tokenizer"]))
    examples = {
      part: batches.Examples(
        **batches.of_named(
          {
            name.removeprefix(f"{part}/"): array
            for name, array in arrays.items()
            if name.startswith(f"{part}/")
          }
        )
      )
      for part in PARTS
    }
    corpus = batches.Corpus(**(facts | examples), tokenizer=tokenizer)
  except (ValueError, KeyError, TypeError):
    return None
  return corpus if fingerprint(corpus) == corpus.fingerprint else None
