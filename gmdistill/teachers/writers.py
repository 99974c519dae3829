"""Language models that write rows of a class, after a few real ones of it."""

import dataclasses
from collections.abc import Sequence
from typing import Annotated, Any, NamedTuple

import jax
import numpy as np

from gmdistill import errors, fields, trees
from gmdistill.data import language_tokens, plain_tokens
from gmdistill.data import texts as row_texts
from gmdistill.students import (
  decoders,
  generation,
  hugging_face,
  problems,
  tasks,
)
from gmdistill.teachers import trained

LABEL, TEXT = "{label}", "{text}"
BETWEEN = " | "  # the two texts of a pair, in a line


@dataclasses.dataclass(frozen=True)
class Options:
  """What `gmdistill write` asks a language model for, and what of it stays.

  Attributes:
    model: The decoder that writes: a Hugging Face directory or hub id.
    num_candidates: Texts of each class, before any is dropped.
    shots: Real rows of the class in a prompt, others for each candidate.
    template: A line for each of them, with {label}, the class's name, and
      {text} at its end. A last line ends where the text is to come.
    temperature: What logits are divided by before tokens are drawn; less: more
      likely ones.
    top_p: Tokens are drawn from the likeliest that have this share together.
    max_tokens: Of a text, by the writer's tokenizer; it ends with its line.
    seed: Of the shots and the draws.
    length_quantile: Texts shorter than this quantile of the training rows'
      lengths are dropped, and those longer than 1 minus it.
    confidence: Texts to whose label students give a lower probability are
      dropped; these are trained on real rows, by `subset.num_students`,
      `subset.num_steps` and its rate. 0: nobody is asked.
  """

  model: str = ""
  num_candidates: fields.Count = 100
  shots: fields.FromZero = 4
  template: str = "{label}: {text}"
  temperature: fields.Positive = 1.0
  top_p: Annotated[float, fields.Range(above=0, most=1)] = 0.95
  max_tokens: fields.Count = 64
  seed: fields.Seed = 0
  length_quantile: Annotated[float, fields.Range(0, below=0.5)] = 0.01
  confidence: fields.Share = 0.5

  def __post_init__(self) -> None:
    """Checks the template.

    Raises:
      InputError: it has not both places, the text's at its end.
    """
    start, text, rest = self.template.partition(TEXT)
    if LABEL not in start or not text or rest or "\n" in start:
      raise errors.InputError(
        f"writer.template={self.template!r} must be a line that names {LABEL} "
        f"and ends with {TEXT}, such as 'A {LABEL} review: {TEXT}'."
      )


class Writer(NamedTuple):
  """A language model that writes rows."""

  name: str
  id: str  # a hash of its files
  problem: problems.Problem
  params: trees.Params
  tokenizer: plain_tokens.PlainTokenizer


class Written(NamedTuple):
  """What a writer wrote after a prompt."""

  line: str
  has_end: bool  # whether it came to the line's end; else it is cut


def load(source: str) -> Writer:
  """Reads a decoder's directory.

  Args:
    source: A Hugging Face directory or a hub id.

  Raises:
    InputError: it is incomplete or damaged, or no decoder.
  """
  try:
    folder = hugging_face.find(source)
    read = hugging_face.load(source)
    tokenizer = plain_tokens.PlainTokenizer.of_folder(folder)
    tokenizer.require_rows(len(read.embeddings), folder)
  except errors.InputError as error:
    raise errors.InputError(f"writer.model={source}: {error}") from error
  kind: Any = read.family.module
  if not issubclass(kind, decoders.Decoder):
    raise errors.InputError(
      f"writer.model={source} is of model_type {read.model_type}, which writes "
      "no text; use a decoder, such as HuggingFaceTB/SmolLM2-135M."
    )
  problem = problems.Problem(
    read.embeddings,
    read.params,
    kind(**read.student),
    asks=tasks.next_tokens(),
  )
  identity = trained.identity(folder)
  return Writer(folder.name, identity, problem, read.params, tokenizer)


def stops(tokenizer: plain_tokens.PlainTokenizer) -> list[int]:
  """Returns the ids of tokens that end a line, or are no text."""
  return [
    token
    for token, name in enumerate(tokenizer.tokens)
    if name in tokenizer.control_tokens or "\n" in tokenizer.decode([token])
  ]


def prompt(
  options: Options, label: str, shots: Sequence[row_texts.Text]
) -> str:
  """Returns what a text of a class is to go on from: real rows, a line each.

  Args:
    options: Whose template.
    label: The class's name.
    shots: Real rows of it.
  """
  before = options.template.removesuffix(TEXT).replace(LABEL, label)
  lines = [f"{before}{_as_line(text)}\n" for text in shots]
  # The space belongs to the word after it, as byte-pair encodings have it.
  return "".join(lines) + before.rstrip()


def _as_line(text):
  parts = [text] if isinstance(text, str) else text
  return BETWEEN.join(" ".join(part.split()) for part in parts)


def as_text(line: str, *, pair: bool) -> row_texts.Text | None:
  """Returns what a line says; None: nothing, or one text where two belong."""
  if not pair:
    return line or None
  first, _, second = (part.strip() for part in line.partition(BETWEEN.strip()))
  return (first, second) if first and second else None


def prompt_ids(
  writer: Writer,
  options: Options,
  label: str,
  shots: Sequence[row_texts.Text],
) -> list[int]:
  """Returns a prompt's tokens; without the first shots, where they have no
  room.

  Raises:
    InputError: the template alone has none.
  """
  encoder = language_tokens.Encoder(writer.tokenizer, None, 1)
  room = writer.problem.student.max_positions - options.max_tokens
  for first in range(len(shots) + 1):
    ids = encoder.prompt(prompt(options, label, shots[first:]))
    if len(ids) <= room:
      return ids
  raise errors.InputError(
    f"writer.template has {len(ids)} tokens, and with writer.max_tokens="
    f"{options.max_tokens} the writer's {writer.problem.student.max_positions} "
    "positions have no room for it; use a smaller writer.max_tokens."
  )


def write(
  writer: Writer,
  options: Options,
  prompts: Sequence[Sequence[int]],
  first: int,
  stop_ids: Sequence[int],
) -> list[Written]:
  """Returns a line for each prompt.

  Args:
    writer: Who writes.
    options: How tokens are drawn.
    prompts: Of `prompt_ids`, at most `generation.ROWS`.
    first: The number of the first prompt's candidate: each has draws of its
      own, by its number.
    stop_ids: Of `stops`.
  """
  longest = writer.problem.student.max_positions - options.max_tokens
  batch = generation.padded(prompts, generation.ROWS, longest)
  numbers = first + np.arange(generation.ROWS)
  root = jax.random.key(options.seed)
  sampling = generation.Sampling(
    jax.vmap(jax.random.fold_in, (None, 0))(root, numbers),
    options.temperature,
    options.top_p,
    writer.tokenizer.vocab_size,
  )
  said = generation.sampled(
    writer.problem,
    writer.params,
    batch,
    np.array(stop_ids, np.int32),
    sampling,
    num_tokens=options.max_tokens,
  )
  ids_RxN = np.asarray(said.ids)
  counts = np.asarray(said.mask).sum(axis=1)[: len(prompts)]
  return [
    _line(writer, ids[: count + 1], bool(count < options.max_tokens))
    for ids, count in zip(ids_RxN, counts, strict=False)
  ]


def _line(writer, ids, has_end):
  """Returns a line; the token that ends it may have text before the end."""
  text = writer.tokenizer.decode(ids, control=False)
  return Written(text.partition("\n")[0].strip(), has_end)
