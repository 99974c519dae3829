"""The embedding space of a run: a frozen table, its tokenizer, its problem.

A space is either read from a pretrained encoder or learned from the real text.
Every student of a run, and every reader of its synthetic set, shares it; its id
is a hash of table and tokenizer.
"""

import hashlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy
import threadpoolctl
from etils import epath
from scipy import sparse

from gmdistill import errors, fields
from gmdistill.data import batches, formats, loading, plain_tokens, tokenizing
from gmdistill.students import families, hugging_face, problems
from gmdistill.system import cache, paths


def id_of(embeddings: Any, tokenizer_fingerprint: str) -> str:
  """Returns the id of an embedding space: a hash of table and tokenizer."""
  digest = hashlib.sha256(np.ascontiguousarray(embeddings).tobytes())
  digest.update(tokenizer_fingerprint.encode())
  return digest.hexdigest()[:16]


class Setup(NamedTuple):
  """What a run works on."""

  problem: problems.Problem
  corpus: batches.Corpus
  space_id: str
  student_name: str
  labels: str = "true"  # whose labels the outer loop's rows carry
  taught: batches.Examples | None = None  # these rows; None: the training part
  teachers: Any = None  # who taught them, opened: `taught_rows.Teachers`

  @property
  def rows(self) -> batches.Examples:
    """The training part as the outer loop sees it."""
    return self.corpus.train if self.taught is None else self.taught


def build(
  student: Mapping[str, Any],
  table: Mapping[str, Any],
  options: loading.Options,
) -> Setup:
  """Loads the corpus and builds the problem that a config describes.

  Args:
    student: `pretrained`, a Hugging Face directory or hub id, with
      `num_layers` (0: all) and `pooling`; of a `kind` that stands in no such
      directory, a fresh student over that one's table. Without it, `kind` and
      that student's own arguments, over the space in the folder `space` or,
      where that is empty, over one learned now.
    table: Arguments of `learn_table`, read where a table is learned.
    options: Which data; their rows must fit the student's positions.

  Raises:
    InputError: anything that does not fit together, named.
  """
  kind = student.get("kind", "transformer")
  if student.get("pretrained") and families.named(kind).form is not None:
    problem, corpus, name = _pretrained(student, options)
  else:
    problem, corpus, name = _from_scratch(student, table, options)
  vocabulary = corpus.tokenizer.vocab_size
  if vocabulary > problem.embeddings.shape[0]:
    raise errors.InputError(
      f"the tokenizer has {vocabulary} tokens, the embedding table "
      f"{problem.embeddings.shape[0]} rows; they are not of one model."
    )
  fingerprint = corpus.tokenizer.fingerprint
  return Setup(problem, corpus, id_of(problem.embeddings, fingerprint), name)


def _pretrained(
  student: Mapping[str, Any], options: loading.Options
) -> tuple[problems.Problem, batches.Corpus, str]:
  source = student["pretrained"]
  choices = {k: student[k] for k in ("num_layers", "pooling") if k in student}
  read = hugging_face.load(source, **choices)
  family = read.family
  family.check_options(student)
  given = {name: student[name] for name in family.options if name in student}
  _check_slots(family, f"model_type {read.model_type}", options)
  if options.kmer:
    raise errors.InputError(
      f"data.kmer={options.kmer} makes a tokenizer of DNA, and "
      f"student.pretrained={source} brings its own; leave one of them out."
    )
  check_length(options, read.student["max_positions"])
  corpus = loading.load(options, read.tokenizer_file)
  module = family.build(
    len(corpus.label_names), options.slots, {**read.student, **given}
  )
  problem = problems.Problem(read.embeddings, read.params, module)
  name = paths.absolute(source).name
  return problem, corpus, name + _depth(module)


def _from_scratch(
  student: Mapping[str, Any],
  table: Mapping[str, Any],
  options: loading.Options,
) -> tuple[problems.Problem, batches.Corpus, str]:
  kind = student.get("kind", "transformer")
  source, space = student.get("pretrained", ""), student.get("space", "")
  family = families.named(kind)
  fields = family.takes(student)
  _check_slots(family, f"kind {kind}", options)
  family.check(fields)
  check_length(options, _positions(family, fields))
  tokenizer_file = f"{space}/tokenizer.json" if space else ""
  if source:
    embeddings, tokenizer_file = hugging_face.read_table(source)
  corpus = loading.load(options, tokenizer_file)
  module = family.build(len(corpus.label_names), options.slots, fields)
  if space:
    width = module.width if family.as_wide_as_table else 0
    embeddings = read_table(paths.path(space), width)
  elif not source:
    embeddings = cached_table(module, corpus, dict(table))
  problem = problems.Problem(embeddings, None, module)
  return problem, corpus, f"{kind} of width {module.width}{_depth(module)}"


def _depth(module: Any) -> str:
  layers = getattr(module, "num_layers", 0)
  return f", {layers} layers" if layers else ""


def _check_slots(
  family: families.Family, kind: str, options: loading.Options
) -> None:
  if options.slots and family.with_slots is None:
    known = [name for name, x in families.FAMILIES.items() if x.with_slots]
    raise errors.InputError(
      f"data.rationale_key={options.rationale_key}, but a student of {kind} "
      "has no slots for rationales; use "
      f"student.kind={' or '.join(known)}."
    )


def _positions(family: families.Family, fields: Mapping[str, Any]) -> int:
  """Returns how many tokens a student from random weights reads at most."""
  return family.module(1, **fields).max_positions


def learn_table(
  examples: batches.Examples,
  *,
  shape: tuple[int, int],
  window: fields.Count = 4,
) -> np.ndarray:
  """Learns a table [V, D] (float32) from the real text alone.

  Positive pointwise mutual information of tokens within a window, factorised:
  what skip-gram with negative sampling converges to (Levy and Goldberg 2014;
  context counts to the power 0.75). It reads no labels: a table trained on
  them would hand the answers to every student, whatever set it trains on.

  Args:
    examples: Rows of token ids.
    shape: (V, D).
    window: Neighbours on either side.
  """
  vocab_size, width = shape
  examples = formats.without_slots(examples)
  ids, mask = examples.token_ids, examples.mask
  counts = sparse.csr_matrix((vocab_size, vocab_size))
  for start in range(0, len(ids), _ROWS):
    counts += _neighbours(
      ids[start : start + _ROWS], mask[start : start + _ROWS], window, counts
    )
  counts = (counts + counts.T).tocoo()
  of_token = np.asarray(counts.sum(axis=1)).ravel()
  context = of_token**0.75 / (of_token**0.75).sum()
  information = np.log(
    counts.data / (of_token[counts.row] * context[counts.col])
  )
  positive = information > 0
  where = (counts.row[positive], counts.col[positive])
  matrix = sparse.csr_matrix((information[positive], where), counts.shape)
  from sklearn.utils import extmath  # slow to import

  # The order in which sums are taken decides a table's last bits, and these its
  # id: with one thread it is the same on as many cores as there are.
  with threadpoolctl.threadpool_limits(1):
    left, _, _ = extmath.randomized_svd(matrix, width, random_state=0)
  # Rows of one length, entries of about 0.05, as BERT's.
  left = left / (left.std(axis=1, keepdims=True) + 1e-6)
  return (left * (0.05 / left.std())).astype(np.float32)


_ROWS = 1 << 16  # whose neighbours are counted at once


def _neighbours(ids, mask, window, like):
  """Returns how often each token stands before each other one."""
  counts = sparse.csr_matrix(like.shape)
  for shift in range(1, min(window, ids.shape[1] - 1) + 1):
    both = mask[:, shift:] & mask[:, :-shift]
    pair = (ids[:, :-shift][both], ids[:, shift:][both])
    counts += sparse.csr_matrix((np.ones(both.sum()), pair), counts.shape)
  return counts


def write(
  folder: epath.Path, embeddings: batches.Array, tokenizer: tokenizing.Tokenizer
) -> None:
  """Writes `tokenizer.json` and `embeddings.safetensors`, which completes it.

  A space that another process, or an earlier run, has written is kept.
  """
  if is_written(folder):
    return
  table = {"embeddings": np.ascontiguousarray(embeddings)}
  files = {
    "tokenizer.json": tokenizer.to_json().encode(),
    "embeddings.safetensors": safetensors.numpy.save(table),
  }
  if isinstance(tokenizer, plain_tokens.PlainTokenizer):
    files = {plain_tokens.CONFIG: tokenizer.config.encode(), **files}
  paths.write_files(folder, files)


def require_room(folder: epath.Path, space_id: str) -> None:
  """Checks that a space could be written there.

  Raises:
    InputError: another one is there already.
  """
  if not is_written(folder):
    return
  theirs = id_of_folder(folder)
  if theirs != space_id:
    raise errors.InputError(
      f"{folder} is embedding space {theirs}, this set's is {space_id}; give "
      "another --workdir."
    )


def id_of_folder(folder: epath.Path) -> str:
  """Returns a written space's id; InputError: a file is missing or damaged."""
  own = tokenizing.Tokenizer.from_file(str(folder / "tokenizer.json"))
  return id_of(read_table(folder), own.fingerprint)


def is_written(folder: epath.Path) -> bool:
  """Whether a folder holds a whole space."""
  return (folder / "embeddings.safetensors").is_file()


def read_table(folder: epath.Path, width: int = 0) -> jax.Array:
  """Returns the table [V, D] that `write` wrote.

  Args:
    folder: Where.
    width: Of the student that reads it, which must be D; 0: of any.

  Raises:
    InputError: no such file, or a damaged one, or one of another width.
  """
  path = folder / "embeddings.safetensors"
  try:
    table = jnp.asarray(paths.read_tensors(path)["embeddings"])
  except (OSError, KeyError, ValueError, safetensors.SafetensorError) as error:
    raise errors.InputError(
      f"{path} is missing or damaged ({error}); give the space/ folder of a "
      "finished run."
    ) from error
  if width and table.shape[1] != width:
    raise errors.InputError(
      f"student.width={width} is not the width of the table in {folder}; use "
      f"student.width={table.shape[1]}."
    )
  return table


def cached_table(
  module: Any, corpus: batches.Corpus, table: dict[str, Any]
) -> jax.Array:
  """Returns the table learned of a corpus, as wide as a student; kept.

  Raises:
    InputError: it would be wider than there are tokens.
  """
  shape = (corpus.tokenizer.vocab_size, module.width)
  if shape[1] > shape[0]:
    raise errors.InputError(
      f"student.width={shape[1]} is more than the {shape[0]} tokens from which "
      f"the table is learned; use at most {shape[0]}, or a larger "
      "data.vocab_size."
    )
  entry = cache.entry("spaces", [corpus.fingerprint, module.width, table, 3])
  arrays = cache.read_arrays(entry) or {}
  if "embeddings" in arrays and arrays["embeddings"].shape == shape:
    return jnp.asarray(arrays["embeddings"])
  learned = learn_table(corpus.train, shape=shape, **table)
  cache.write_arrays(entry, {"embeddings": learned})
  return jnp.asarray(learned)


def check_length(options: loading.Options, positions: int) -> None:
  """Checks that rows fit a student's positions.

  Raises:
    InputError: they do not; says what would.
  """
  longest = max(options.max_length, options.train_length)
  left = positions - options.slots
  if longest > left:
    field = "max" if longest == options.max_length else "train"
    slots = f" and data.rationale_length={options.slots}" * bool(options.slots)
    use = f"use at most {left}."
    if left < loading.LEAST_LENGTH:
      use = "use a smaller data.rationale_length, or a student of more."
    raise errors.InputError(
      f"data.{field}_length={longest}{slots}, but the student has {positions} "
      f"positions; {use}"
    )
