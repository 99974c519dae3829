"""A student that tells classes by a word: it reads texts in their template."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from gmdistill.data import templates
from gmdistill.runs import opened
from gmdistill.runs.config import recipe as recipes
from gmdistill.sets import readable, spaces, text_sets


class WordStudent(opened.Student):
  """A language model whose next word, after the template, says the class."""

  def __init__(self, setup: spaces.Setup, config: recipes.Recipe, params: Any):
    """Keeps the parameters, and what stands around a row's texts."""
    corpus = setup.corpus
    tokenizer: Any = corpus.tokenizer
    self._template = templates.Template(tokenizer, config.task.template)
    self._keys = corpus.text_keys
    super().__init__(
      setup.problem,
      params,
      tokenizer=tokenizer,
      label_names=corpus.label_names,
      data=corpus,
    )

  def _read(self, texts: Sequence[Any], length: int) -> Any:
    """Returns ids [N, length] and mask [N, length].

    Raises:
      InputError: rows of another number of texts than the data's.
    """
    labels = np.ones((len(texts), len(self.label_names)), np.float32)
    rows = text_sets.of_rows(range(len(texts)), list(texts), labels)
    batch = readable.in_template(rows, self._template, self._keys, length)
    return batch.inputs, batch.mask
