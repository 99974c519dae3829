"""Language models that write rows of a class, after a few real ones of it."""

import dataclasses
from collections.abc import Sequence
from typing import Annotated, Any, NamedTuple

import jax
import numpy as np

from gmdistill import errors, fields, trees
from gmdistill.data import batches, language_tokens, plain_tokens
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
    reward_steps: Of policy gradient, by which an adapter teaches the writer to
      write what students' gradients go the real rows' way on; 0: it writes as
      it is.
    reward_rows: Texts of one class in each of them.
    reward_rate: Of the Adam that takes them.
    reward_rank: Of the adapter.
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
  reward_steps: fields.StepsFromZero = 0
  reward_rows: Annotated[int, fields.Range(2, 10**4)] = 16
  reward_rate: fields.Rate = 1e-4
  reward_rank: fields.Count = 8

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
  id: str  # a hash of its files, and of its adapter where it has one
  family: str  # its model_type
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
  return Writer(
    folder.name, identity, read.model_type, problem, read.params, tokenizer
  )


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


class Drawn(NamedTuple):
  """Answers to prompts, token by token."""

  prompts: batches.Batch  # [B, P] ids, padded on the left
  ids_BxN: np.ndarray
  counts: np.ndarray  # [B], tokens before one that ends a line

  @property
  def has_end(self) -> np.ndarray:
    """Whether each row [B] came to its line's end."""
    return self.counts < self.ids_BxN.shape[1]

  def lines(self, writer: Writer) -> list[Written]:
    """Returns what the rows say."""
    return [
      # The token that ends a line may have text before the end.
      _line(writer, ids[: count + 1], bool(has_end))
      for ids, count, has_end in zip(
        self.ids_BxN, self.counts, self.has_end, strict=True
      )
    ]


def _line(writer, ids, has_end):
  text = writer.tokenizer.decode(ids, control=False)
  return Written(text.partition("\n")[0].strip(), has_end)


def draw(
  writer: Writer,
  options: Options,
  prompts: Sequence[Sequence[int]],
  keys: jax.Array,
  stop_ids: Sequence[int],
) -> Drawn:
  """Returns drawn answers, one a key [B].

  Args:
    writer: Who writes.
    options: How tokens are drawn.
    prompts: Of `prompt_ids`, at most B.
    keys: A row's draws depend on its own alone.
    stop_ids: Of `stops`.
  """
  longest = writer.problem.student.max_positions - options.max_tokens
  batch = generation.padded(prompts, len(keys), longest)
  sampling = generation.Sampling(
    keys, options.temperature, options.top_p, writer.tokenizer.vocab_size
  )
  said = generation.sampled(
    writer.problem,
    writer.params,
    batch,
    np.array(stop_ids, np.int32),
    sampling,
    num_tokens=options.max_tokens,
  )
  return Drawn(batch, np.asarray(said.ids), np.asarray(said.mask).sum(axis=1))


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
  numbers = np.uint32(first) + np.arange(generation.ROWS, dtype=np.uint32)
  root = jax.random.key(options.seed)
  keys = jax.vmap(jax.random.fold_in, (None, 0))(root, numbers)
  drawn = draw(writer, options, prompts, keys, stop_ids)
  return drawn.lines(writer)[: len(prompts)]
