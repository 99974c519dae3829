"""A learning problem: an architecture and the frozen table that it reads."""

import dataclasses
import hashlib
from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from gmdistill import trees
from gmdistill.data import batches
from gmdistill.students import outputs as student_outputs
from gmdistill.students import roles as tensor_roles
from gmdistill.students import tasks
from gmdistill.system import devices, parts


@flax.struct.dataclass
class Problem:
  """A student architecture over a frozen token-embedding table.

  A pytree: the table and the pretrained parameters are arguments of `jit`,
  never constants baked into the program. It holds no trained parameters.
  """

  embeddings: jax.Array  # [V, D], frozen, shared by every student of a run
  initial: trees.Params | None  # pretrained parameters, all but the head
  # A Linen module, or what changes one; see `adapters`.
  student: Any = flax.struct.field(pytree_node=False)
  # What is lost beside the task; None: nothing.
  criterion: tasks.Criterion | None = flax.struct.field(
    pytree_node=False, default=None
  )
  # What students read beside what they train; None: nothing. See `adapters`.
  frozen: trees.Params | None = None
  # What is asked of a student; None: a row's class.
  asks: tasks.Task | None = flax.struct.field(pytree_node=False, default=None)

  @property
  def task(self) -> tasks.Task:
    """What is asked of a student."""
    return self.asks or tasks.classes(self.student.num_classes)

  @property
  def groups(self) -> int:
    """G: real batches and sets hold as many rows of each, group by group."""
    return self.task.groups

  @property
  def roles(self) -> tensor_roles.Roles:
    """Which of its students' tensors is what."""
    found: tensor_roles.Roles = self.student.roles
    return found

  @property
  def is_pretrained(self) -> bool:
    """Whether its students start from weights, or read some that are frozen."""
    return self.initial is not None or self.frozen is not None

  @property
  def weights_id(self) -> str:
    """A hash of the pretrained parameters; slow, keep it."""
    digest = hashlib.sha256()
    leaves = jax.tree_util.tree_leaves_with_path
    for path, leaf in (*leaves(self.initial), *leaves(self.frozen)):
      digest.update(jax.tree_util.keystr(path).encode())
      digest.update(np.ascontiguousarray(devices.host(leaf)).data)
    return digest.hexdigest()

  @property
  def _split(self) -> tuple[str, ...]:
    """The stacks of a frozen base's layers that devices hold together."""
    split: tuple[str, ...] = getattr(
      getattr(self.student, "module", None), "split", ()
    )
    return split

  @property
  def layout(self) -> Any:
    """Where its arrays lie on a mesh: everywhere, but for a split base."""
    if not self._split:
      return devices.EVERYWHERE
    return dataclasses.replace(
      self,
      embeddings=parts.split(self.embeddings),
      frozen=parts.split(self.frozen),
      initial=None if self.initial is None else devices.EVERYWHERE,
    )

  def gathered(self) -> "Problem":
    """Returns it as one device reads it, inside `over_students`.

    The layers of a split base stay so: each is gathered where it is read.
    """
    if not self._split:
      return self
    frozen = self.frozen or {}
    above = {name: x for name, x in frozen.items() if name not in self._split}
    return dataclasses.replace(
      self,
      embeddings=parts.gathered(self.embeddings),
      frozen={**frozen, **parts.gathered(above)},
    )

  @jax.jit  # one program wherever it is called, of nothing but what is drawn
  def init(self, key: jax.Array) -> trees.Params:
    """Returns the parameters of a new student.

    Pretrained parameters where there are any, and a head drawn afresh from
    `key`; else a random initialisation of the whole student.
    """
    inputs = jnp.zeros((1, 2, self.embeddings.shape[1]))
    drawn = self.student.init(key, inputs, jnp.ones((1, 2), bool))["params"]
    drawn = jax.tree.map(lambda x: x.astype(self.embeddings.dtype), drawn)
    if self.initial is None:
      return drawn
    fresh = {name: drawn[name] for name in self.roles.fresh if name in drawn}
    # A decoder's unembedding is no part of a student that tells classes.
    kept = {name: x for name, x in self.initial.items() if name in drawn}
    return {**kept, **fresh}

  def apply(
    self, params: trees.Params, batch: batches.Batch
  ) -> student_outputs.Outputs:
    """Returns the task's logits and features [B, F] of ids or of embeddings."""
    variables = {"params": params}
    if self.frozen is not None:
      variables["frozen"] = self.frozen
    outputs: Any = self.student.apply(variables, self.embed(batch), batch.mask)
    logits = self.task.logits(outputs, self.embeddings)
    return outputs._replace(logits=logits)

  @jax.jit  # one program for all weights of a shape: they are arguments
  def logits(self, params: trees.Params, batch: batches.Batch) -> jax.Array:
    """Returns the task's logits alone; see `apply`."""
    return self.apply(params, batch).logits

  def embed(self, batch: batches.Batch) -> batches.Array:
    """Returns the batch's word-level embeddings [B, L, D]."""
    if jnp.issubdtype(batch.inputs.dtype, jnp.integer):
      return self.embeddings[batch.inputs]
    return batch.inputs

  def loss(self, params: trees.Params, batch: batches.Batch) -> jax.Array:
    """Returns what the task loses, the mean over the batch (nats).

    The labels of classes need not be a distribution: synthetic labels may be
    unrestricted. Where the batch has attention labels, their divergence from
    the student's attention is added; then comes what the criterion makes of it.
    Where the batch has token targets beside labels, all that has the task's
    `label_share`, and their cross-entropy the rest (Hsieh et al. 2023).
    """
    return self.loss_and_logits(params, batch)[0]

  def loss_and_logits(
    self, params: trees.Params, batch: batches.Batch, *, centred: bool = False
  ) -> tuple[jax.Array, jax.Array]:
    """Returns the loss of `batch` and its logits, in one pass.

    `centred`: of the logits [B, C] around their mean over the batch, and 0.01
    times the square of how that mean shifts the classes apart.
    """
    task = self.task
    outputs = whole = self.apply(params, batch)
    shift: batches.Array | float = 0.0
    if centred:
      mean_1xC = whole.logits.mean(axis=0, keepdims=True)
      outputs = whole._replace(logits=whole.logits - mean_1xC)
      shift = 0.01 * jnp.square(mean_1xC - mean_1xC.mean()).sum()
    value = task.loss(outputs.logits, batch, self.embeddings).mean()
    if batch.attention is not None:
      gaps = _attention_gaps(batch.attention, outputs.attention)
      value += batches.row_mean(gaps, batch)
    if self.criterion is not None:
      told = outputs
      if outputs.unembedding is None:
        told = outputs._replace(unembedding=self.embeddings)
      value = self.criterion.loss(value, params, told, batch)
    if batch.tokens is not None and outputs.queries is not None:
      lost_B = tasks.token_loss(
        outputs.queries, batch.tokens, self.embeddings, task.token_logits
      )
      beside = batches.row_mean(lost_B, batch)
      value = task.label_share * value + (1 - task.label_share) * beside
    return value + shift, whole.logits

  def score(self, logits: jax.Array, batch: batches.Batch) -> jax.Array:
    """Returns how well each row is answered, [B]; more is better."""
    return self.task.score(logits, batch, self.embeddings)

  def with_criterion_params(
    self, params: trees.Params, batch: batches.Batch, key: jax.Array
  ) -> trees.Params:
    """Returns the parameters, and those that a criterion learns."""
    if self.criterion is None:
      return params
    outputs = jax.eval_shape(self.apply, params, batch)
    return {**params, **self.criterion.init(key, outputs, batch)}

  def token_logits(self, queries: batches.Array) -> jax.Array:
    """Returns the logits [..., V] of tokens that queries [..., D] say."""
    return self.task.token_logits(queries, self.embeddings)


def over_students(
  mesh: Any, function: Callable[..., Any], in_specs: Any, out_specs: Any
) -> Callable[..., Any]:
  """Maps `function(problem, ...)` over the mesh's groups of devices.

  Args:
    mesh: The devices.
    function: Written for one of them; see `devices.over_students`.
    in_specs: Of the arguments after the problem, which knows its own layout.
    out_specs: Of what it returns.
  """

  def inside(problem, *rest):
    return function(problem.gathered(), *rest)

  def mapped(problem, *rest):
    specs = (problem.layout, *in_specs)
    return devices.over_students(mesh, inside, specs, out_specs)(problem, *rest)

  return mapped


def first_student(problem: Problem, key: jax.Array) -> trees.Params:
  """Returns the student that a training with `key` starts from.

  Every protocol draws it here, so that students of one key are one student
  whatever they are trained by.
  """
  return problem.init(jax.random.split(key)[0])


def unembedding(problem: Problem) -> jax.Array:
  """Returns the table [V, D] by which a new student says tokens."""
  params = problem.initial
  for whole in (problem.frozen, params):
    if whole is not None and "unembedding" in whole:
      return whole["unembedding"]
  return problem.embeddings


def _attention_gaps(labels: batches.Array, attention: Any) -> jax.Array:
  """Returns KL(labels || attention) of rows, layers and heads [B, N, H].

  Their mean has weight 1 in the loss, as in Maekawa et al. 2023.
  """
  # Masked positions have weight and label 0: no log of zero, no gradient.
  logs = jnp.log(jnp.maximum(attention, 1e-9))
  return (jax.scipy.special.xlogy(labels, labels) - labels * logs).sum(-1)
