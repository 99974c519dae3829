"""What is asked of a student: its loss, its score, and the score's unit."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gmdistill import errors, trees
from gmdistill.data import batches
from gmdistill.students import next_token
from gmdistill.students import outputs as student_outputs

# (queries [..., D], table [V, D]) -> logits [..., V] of tokens
TokenLogits = Callable[[batches.Array, jax.Array], jax.Array]


class Criterion(NamedTuple):
  """A term of a student's loss, and the parameters that are learned with it.

  `init(key, outputs, batch) -> params`, from the shapes of what a student says
  of a batch; `loss(own, params, outputs, batch) -> loss`, where `own` is what
  the student loses without it.
  """

  init: Callable[
    [jax.Array, student_outputs.Outputs, batches.Batch], trees.Params
  ]
  loss: Callable[
    [jax.Array, trees.Params, student_outputs.Outputs, batches.Batch], jax.Array
  ]


class Task(NamedTuple):
  """What is asked of a student, as pure functions.

  `logits(outputs, table)` are what losses, scores and teachers read: [B, C], or
  queries [B, R, D] whose products with the table are the logits of tokens.
  `loss(logits, batch, table)` is what each row loses [B], in nats;
  `score(logits, batch, table)` how well each row is answered [B], more being
  better; `counts(batch)` what each row counts in a mean score [B], 0 where it
  is padding.
  """

  logits: Callable[[student_outputs.Outputs, jax.Array], jax.Array]
  loss: Callable[[jax.Array, batches.Batch, jax.Array], jax.Array]
  score: Callable[[jax.Array, batches.Batch, jax.Array], jax.Array]
  counts: Callable[[batches.Batch], jax.Array]
  token_logits: TokenLogits  # how a query says a token
  unit: str  # of the score, or of what it is the negative of
  groups: int  # G: real batches and sets hold equally many rows of each
  smaller_is_better: bool = False  # tables show the score's negative
  # What labels count in the loss of a batch that has token targets beside them;
  # those have the rest.
  label_share: float = 1.0

  def shown(self, score: Any) -> Any:
    """Returns a score as it is told: in the task's unit."""
    return -score if self.smaller_is_better else score


def classes(num_classes: int, *, label_share: float = 1.0) -> Task:
  """Asks for a row's class; the score is 1 where it is right.

  Args:
    num_classes: C; rows come class by class.
    label_share: What the labels count in the loss of a batch that has token
      targets beside them, such as rationales (Hsieh et al. 2023).
  """
  return Task(
    logits=_class_logits,
    loss=_class_loss,
    score=_is_right,
    counts=_counted,
    token_logits=scaled_token_logits,
    unit="accuracy",
    groups=num_classes,
    label_share=label_share,
  )


@dataclasses.dataclass(frozen=True)
class _Words:
  """The logits of label words; equal words are one function to jit."""

  words: tuple[int, ...]

  def __call__(
    self, outputs: student_outputs.Outputs, table_VxD: jax.Array
  ) -> jax.Array:
    whole = _unembedding(outputs, table_VxD)
    return next_token.logits(outputs.features, whole[np.array(self.words)])


def label_words(words: Sequence[int]) -> Task:
  """Asks a language model for a row's class by a word after its last token.

  Args:
    words: One token id a class, in the classes' order.

  Raises:
    ValueError: two classes share a word.
  """
  if len(set(words)) < len(words):
    raise ValueError(f"label words {list(words)} are not one a class.")
  return classes(len(words))._replace(
    logits=_Words(tuple(int(x) for x in words)),
    token_logits=plain_token_logits,
  )


def words_of(task: Task) -> tuple[int, ...]:
  """Returns the token of each class's word; none: classes are not said so."""
  return task.logits.words if isinstance(task.logits, _Words) else ()


def asks_at_end(task: Task) -> bool:
  """Whether a row's last token is asked: rows are alike from their ends."""
  return bool(words_of(task))


class Said(NamedTuple):
  """What a language model says at every place, before any logits of V."""

  queries: jax.Array  # [B, L, D]
  unembedding: jax.Array | None  # [V, D]; None: the table


@dataclasses.dataclass(frozen=True)
class _OfTokens:
  """What each row loses or scores a token [B]; equal ones are one to jit."""

  sign: int
  chunk: int

  def __call__(
    self, said: Any, batch: batches.Batch, table_VxD: jax.Array
  ) -> jax.Array:
    tokens = batch.tokens
    assert tokens is not None and tokens.weights is not None
    whole = table_VxD if said.unembedding is None else said.unembedding
    values_BxL = next_token.losses(
      said.queries, whole, jnp.asarray(tokens.targets), chunk=self.chunk
    )
    weights_BxL = jnp.asarray(tokens.weights)
    total_B = weights_BxL.sum(axis=1)
    # Guarded: a row that is padding has no weight, and no loss.
    safe_B = jnp.where(total_B > 0, total_B, 1.0)
    return self.sign * (weights_BxL * values_BxL).sum(axis=1) / safe_B


def next_tokens(*, groups: int = 1, chunk: int = next_token.CHUNK) -> Task:
  """Asks a language model for the token that follows, at every place.

  A batch's `tokens` say it: targets [B, L], of a text its next tokens, and the
  weights that they count with. A row loses the mean over its weights; in a mean
  score it counts with their sum, so that the score's negative is nats a token.

  Args:
    groups: G, such as of sources or of clusters of rows.
    chunk: Tokens whose logits [V] stand in memory at once.
  """
  return Task(
    logits=_said,
    loss=_OfTokens(1, chunk),
    score=_OfTokens(-1, chunk),
    counts=_token_weights,
    token_logits=plain_token_logits,
    unit="nats",
    groups=groups,
    smaller_is_better=True,
  )


@dataclasses.dataclass(frozen=True)
class _Lost:
  """The negative of a loss; equal losses are one function to jit."""

  loss: Callable[[jax.Array, batches.Batch, jax.Array], jax.Array]

  def __call__(
    self, logits: jax.Array, batch: batches.Batch, table_VxD: jax.Array
  ) -> jax.Array:
    return -self.loss(logits, batch, table_VxD)


CHOSEN_BY = ("score", "loss")


def chosen_by(what: str, task: Task) -> Task:
  """Returns the task by whose score students are chosen.

  Args:
    what: The task's own `score`, or its `loss` in nats, the less the better.
    task: What the students are asked.

  Raises:
    InputError: another word.
  """
  errors.choice("selection.by", what, CHOSEN_BY)
  if what == "score" or task.smaller_is_better:
    return task
  return task._replace(
    score=_Lost(task.loss), unit="nats", smaller_is_better=True
  )


TASKS: dict[str, Callable[..., Task]] = {
  "classes": classes,
  "label_words": label_words,
  "next_token": next_tokens,
}


def _unembedding(outputs, table_VxD):
  return table_VxD if outputs.unembedding is None else outputs.unembedding


def _said(outputs: student_outputs.Outputs, table_VxD: jax.Array) -> Any:
  del table_VxD
  return Said(outputs.logits, outputs.unembedding)


def _token_weights(batch: batches.Batch) -> jax.Array:
  assert batch.tokens is not None and batch.tokens.weights is not None
  return jnp.asarray(batch.tokens.weights).sum(axis=-1)


def _class_logits(
  outputs: student_outputs.Outputs, table_VxD: jax.Array
) -> jax.Array:
  del table_VxD
  return outputs.logits


def _class_loss(
  logits_BxC: jax.Array, batch: batches.Batch, table_VxD: jax.Array
) -> jax.Array:
  """Returns -sum_c y_c log softmax(logits)_c of each row, [B]."""
  del table_VxD
  return -(jax.nn.log_softmax(logits_BxC) * batch.class_labels).sum(axis=-1)


def _is_right(
  logits_BxC: jax.Array, batch: batches.Batch, table_VxD: jax.Array
) -> jax.Array:
  del table_VxD
  classes_B = batch.class_labels.argmax(axis=-1)
  right_B = logits_BxC.argmax(axis=-1) == classes_B
  return right_B.astype(jnp.float32)


def _counted(batch: batches.Batch) -> jax.Array:
  return jnp.asarray(batches.counted(batch)).astype(jnp.float32)


def token_loss(
  queries_BxRxD: jax.Array,
  tokens: batches.Tokens,
  table_VxD: jax.Array,
  token_logits: TokenLogits,
) -> jax.Array:
  """Returns the weighted cross-entropy of each row's tokens [B] (nats).

  -sum_r w_br sum_v p_brv log q_brv, with q the softmax of what the queries say,
  and p the token, or the softmax of what a synthetic example's queries say.
  """
  assert tokens.weights is not None
  logs_BxRxV = jax.nn.log_softmax(token_logits(queries_BxRxD, table_VxD))
  targets = tokens.targets
  if jnp.issubdtype(targets.dtype, jnp.integer):
    ids_BxRx1 = jnp.asarray(targets)[..., None]
    values_BxR = -jnp.take_along_axis(logs_BxRxV, ids_BxRx1, axis=-1)[..., 0]
  else:
    p_BxRxV = jax.nn.softmax(token_logits(targets, table_VxD))
    values_BxR = -(p_BxRxV * logs_BxRxV).sum(axis=-1)
  return (values_BxR * tokens.weights).sum(axis=-1)


def plain_token_logits(
  queries: batches.Array, table_VxD: jax.Array
) -> jax.Array:
  """Returns products [..., V] with a table, as a language model has them."""
  return jnp.asarray(queries) @ table_VxD.T


def scaled_token_logits(
  queries: batches.Array, table_VxD: jax.Array
) -> jax.Array:
  """Returns products [..., V] with a table over the length of its rows.

  A query of unit entries, as a LayerNorm starts with, is then sure of a token
  whatever the table's scale. Products with a table of small entries stay near
  zero for the thousands of steps in which the LayerNorm grows.
  """
  squares_V = jnp.square(table_VxD).sum(axis=1)
  length = jnp.sqrt(squares_V.mean())
  return jnp.asarray(queries) @ table_VxD.T / length
