"""A set's card: what it is of, and what it needs of a student."""

from collections.abc import Mapping
from typing import Any

import jax

from gmdistill.sets import spaces
from gmdistill.students import (
  adapters,
  bert_weights,
  decoder_names,
  encoders,
  problems,
  small,
  tasks,
)
from gmdistill.system import folders

DISTILLED = "distilled"  # what a learned set's examples are; see `first_card`


def first_card(
  setup: spaces.Setup,
  *,
  task: str,
  size: Mapping[str, int],
  sequence_length: int,
  command: str,
  rows: str = DISTILLED,
) -> dict[str, Any]:
  """Returns what a set's card says before anything is measured.

  Args:
    setup: The space that the set lives in, and its classes.
    task: The data set's name.
    size: How many examples, by the field of a config that says it:
      `data_per_class`, or `num_sequences`.
    sequence_length: Positions of an example.
    command: What made the set.
    rows: What its examples are: distilled, a coreset's name, or texts.
  """
  return {
    "rows": rows,
    "task": task,
    "label_names": list(setup.corpus.label_names),
    "text_keys": list(setup.corpus.text_keys),
    "label_key": setup.corpus.label_key,
    "pooling": _pooling(setup.problem.student),
    **size,
    "sequence_length": sequence_length,
    "embedding_space": setup.space_id,
    "reader": reader(setup.problem),
    "provenance": folders.environment(command),
    "results": {},
  }


def _pooling(student: Any) -> str:
  if decoder_names.is_one(student):
    return "last"
  if isinstance(student, small.TextCNN):
    return "max"
  return str(getattr(student, "pooling", "mean"))


_INPUTS = (
  "embeddings are word-level (inputs_embeds): positions, token type 0 of every "
  "position and the embedding LayerNorm come after; no dropout"
)
_OF_SMALL = (
  "embeddings are word-level (inputs_embeds), read as they are: no positions, "
  "no dropout"
)
_FEATURES = {
  "first": "tanh of the pooler's dense layer of the first token's last state",
  "mean": "the mean of the last hidden states over unmasked positions",
}
_HEAD = (
  "a dense layer of the features, a logit a class; fresh for every student"
)
_LOSS = (
  "-sum over classes of labels * log softmax(logits), the mean over the "
  "examples of a step; labels need not sum to one, nor be positive. Where the "
  "file has `attention`, KL(attention || the first token's attention weights) "
  "is added, the mean over rows, layers and heads"
)
_STEPS = (
  "t = 1 .. T, on the rows order[t], or all: plain SGD of step "
  "learning_rates[t]; of the head, head_learning_rates[t] where there are "
  "some. With tensor_shares [T, K], the k-th tensor of `moved` goes "
  "learning_rates[t] * tensor_shares[t, k] along its gradient over that "
  "gradient's norm (a gradient of zero: stays), the head as before, and "
  "`frozen_in_normalised_steps` stay"
)


_TOKENS = (
  "`target_weights` of the cross-entropy (nats) of each place's `targets` [M, "
  "L], token ids, over their sum in each example; the mean over the examples "
  "of a step. Logits are products of the hidden states after the last norm "
  "with the unembedding. Nothing is shifted: a place's target is what follows "
  "it. Queries [M, L, D] in their place say softmax(products with the "
  "unembedding)"
)
_OF_DECODERS = (
  "embeddings are inputs_embeds of a causal decoder; positions count the "
  "unmasked places before; no dropout"
)
_WORDS = (
  "no head: the logit of a class is the product of the last unmasked token's "
  "hidden state with the unembedding's row of its word, `words`"
)
_LORA = (
  "what is trained are pairs A [in, rank], uniform within 1 / sqrt(in), and B "
  "[rank, out], zero: W + scale * A B. PEFT's lora_A and lora_B are their "
  "transposes"
)


def reader(problem: problems.Problem) -> dict[str, Any]:
  """Returns what another framework must know to train a student on a set.

  Words for a person, and beside them the values that a program reads.
  """
  student, is_decoder = problem.student, decoder_names.is_one(problem.student)
  is_bert = isinstance(student, encoders.Transformer)
  head: dict[str, Any] = {
    "is": _HEAD,
    "weight_std": encoders.HEAD_STD if is_bert else None,
    "bias": 0.0,
  }
  features = _FEATURES.get(getattr(student, "pooling", ""), "its own")
  loss = {"kind": "soft_cross_entropy", "is": _LOSS}
  inputs = _INPUTS if is_bert else _OF_SMALL
  if is_decoder:
    inputs = _OF_DECODERS
    features = "the last unmasked token's hidden state, after the last norm"
    if words := tasks.words_of(problem.task):
      head = {"is": _WORDS, "words": list(words)}
  if problem.task.smaller_is_better:
    head = {"is": "none"}
    loss = {"kind": "token_cross_entropy", "is": _TOKENS}
  said = {
    "student": type(student).__name__,
    "layers": getattr(student, "num_layers", None),
    "inputs": inputs,
    "features": features,
    "head": head,
    "loss": loss
    | {"besides": [] if problem.criterion is None else ["kd, see config.json"]},
    "steps": {"is": _STEPS, **_tensors(problem, is_bert)},
    **({"bert": _sizes(student)} if is_bert else {}),
  }
  if isinstance(student, adapters.LowRank):
    said["adapter"] = {
      "is": _LORA,
      "kind": "lora",
      "rank": student.rank,
      "scale": student.scale,
      "targets": list(student.targets),
    }
  return said


def _sizes(student):
  """Returns what `transformers.BertConfig` takes of a student's sizes."""
  return {
    "hidden_size": student.width,
    "num_hidden_layers": student.num_layers,
    "num_attention_heads": student.num_heads,
    "intermediate_size": student.hidden,
    "max_position_embeddings": student.max_positions,
  }


def _tensors(problem, is_bert):
  """Returns the names of what steps move, and of what they leave as it is."""
  shapes = jax.eval_shape(problem.init, jax.random.key(0))
  if decoder_names.is_one(problem.student):
    moved, still = decoder_names.moved(problem.student, shapes)
    return {
      "moved": moved,
      "frozen": decoder_names.frozen(problem.student),
      "frozen_in_normalised_steps": still,
    }
  frozen = ["embeddings.word_embeddings.weight"]
  if not is_bert:
    moved, more = _names(shapes, problem.roles), []
  else:
    moved = bert_weights.movable_names(shapes, problem.roles)
    # Their gradients are zero, or rows of them are.
    more = [f"embeddings.{x}_embeddings.weight" for x in _TABLES] + [
      f"encoder.layer.{i}.attention.self.key.bias"
      for i in range(problem.student.num_layers)
    ]
  return {
    "moved": moved,
    "frozen": frozen,
    "frozen_in_normalised_steps": [*frozen, *more],
  }


_TABLES = ("position", "token_type")


def _names(shapes, roles):
  names = []
  for path, x in jax.tree_util.tree_leaves_with_path(shapes):
    name = jax.tree_util.keystr(path, simple=True, separator="/")
    count = roles.num_movable(path, x)
    stacked = roles.is_stacked(path)
    names += [f"{name}[{i}]" if stacked else name for i in range(count)]
  return names
