"""What a student loses in training beside its labels: knowledge distillation.

A `Criterion` adds to the loss of a `problems.Problem` what the rows' teachers
say (`Batch.teachers`), and what a student's deep layers teach its shallow
ones.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gmdistill import errors, trees
from gmdistill.data import batches
from gmdistill.students import outputs as student_outputs
from gmdistill.students import roles, tasks
from gmdistill.teachers import divergences, ensembles, token_criteria

Schedule = Callable[[Any], jax.Array]  # of the share of training that is over


def _no_params(
  key: jax.Array, outputs: student_outputs.Outputs, batch: batches.Batch
) -> trees.Params:
  del key, outputs, batch
  return {}


class Row(NamedTuple):
  """What a divergence may ask of rows beside the logits of both."""

  mask: jax.Array  # [B], the rows that count
  labels: jax.Array  # [B], their classes
  progress: Any  # the share of the training that is over


Divergence = Callable[[Any, Any, Row], jax.Array]


def _of_mask(divergence: Callable[..., jax.Array]) -> Divergence:
  """Returns a divergence that asks for nothing of a row but its mask."""
  return lambda student, teacher, row: divergence(student, teacher, row.mask)


def _bild(student, teacher, row):
  k = min(8, student.shape[-1])
  return divergences.bild(student, teacher, row.mask, k=k, temperature=1.0)


def _decoupled(student, teacher, row):
  return divergences.decoupled(student, teacher, row.mask, row.labels)


def _taid(student, teacher, row):
  return divergences.taid(student, teacher, row.mask, t=row.progress)


# Of logits that are divided by tau: what is lost to a teacher's, and the power
# of tau that gives the gradient its size back. Total variation falls with the
# gap to the teacher, the others with its square.
LOSSES: dict[str, tuple[Divergence, int]] = {
  "forward_kl": (_of_mask(divergences.forward_kl), 2),
  "reverse_kl": (_of_mask(divergences.reverse_kl), 2),
  "jensen_shannon": (_of_mask(divergences.jensen_shannon), 2),
  "skew_forward_kl": (_of_mask(divergences.skew_forward_kl), 2),
  "skew_reverse_kl": (_of_mask(divergences.skew_reverse_kl), 2),
  "total_variation": (_of_mask(divergences.total_variation), 1),
  "soft_cross_entropy": (_of_mask(divergences.soft_cross_entropy), 2),
  "bild": (_bild, 2),
  "decoupled": (_decoupled, 2),
  "taid": (_taid, 2),
}

JOINS = ("losses", *ensembles.JOINS)

WEIGHTS = (*ensembles.WEIGHTS, "gate")

FEATURES: dict[str, Callable[..., jax.Array]] = {
  "cosine": divergences.feature_cosine,
  "mse": divergences.feature_mse,
}


def to_teachers(
  loss: str,
  *,
  weight: Schedule,
  temperature: Schedule,
  join: str = "losses",
  weights: str = "equal",
) -> tasks.Criterion:
  """Loses 1 - w of what it did, and w of a divergence to the row's teachers.

  A batch without teachers loses what it did; so does one with them at w = 0,
  to the bit.

  Args:
    loss: One of `LOSSES`, of logits divided by tau. `taid` goes from the
      student itself to the teacher over the training.
    weight: w at a share of the training from 0 to 1; see
      `divergences.schedule`.
    temperature: tau, likewise.
    join: Of several teachers, the mean of `losses`, of `probabilities` or of
      `logits`: three different things.
    weights: `equal`, `confidence` in the row's class, `entropy`, or `gate`: a
      linear map of the student's features, learned so that the weighed
      teachers know the labels. No gradient flows through it to the student.

  Raises:
    ValueError: an unknown name.
  """
  errors.choice("loss", loss, LOSSES)
  errors.choice("join", join, JOINS)
  errors.choice("weights", weights, WEIGHTS)
  how = _Loss(*LOSSES[loss], join, weights)

  def init(key, outputs, batch):
    del key
    said_BxKxC = _teachers(batch).logits
    if weights != "gate" or said_BxKxC is None:
      return {}
    count = said_BxKxC.shape[1]
    return {"gate": ensembles.init_gate(outputs.features.shape[-1], count)}

  def value(lost_before, params, outputs, batch):
    t = _progress(batch)
    share, tau = weight(t), temperature(t)
    gate_loss = 0.0
    if batch.tokens is not None and batch.tokens.teacher_ids is not None:
      lost = _to_tokens(how, outputs, batch, tau)
    elif _teachers(batch).logits is not None:
      lost, gate_loss = _to_classes(how, params, outputs, batch, tau)
    else:
      return lost_before
    mixed = (1.0 - share) * lost_before + share * tau**how.power * lost
    return jnp.where(share > 0, mixed, lost_before) + gate_loss

  return tasks.Criterion(init, value)


class _Loss(NamedTuple):
  """What is lost to teachers, and how several are joined."""

  divergence: Divergence
  power: int
  join: str
  weights: str


def _to_classes(how, params, outputs, batch, tau):
  """Returns what is lost to the teachers' logits of classes, and by the gate
  that weighs them."""
  t = _progress(batch)
  said_KxBxC = jnp.moveaxis(jnp.asarray(_teachers(batch).logits), 1, 0)
  labels_B = batch.labels.argmax(-1)
  gate_loss = 0.0
  if how.weights == "gate":
    own_KxB, gate_loss = _gate(params["gate"], outputs, said_KxBxC, batch)
  else:
    own_KxB = ensembles.weights(how.weights, said_KxBxC, batch.labels)
  student_BxC, said_KxBxC = outputs.logits / tau, said_KxBxC / tau

  def mean(counted_B):
    if how.join == "losses":
      return ensembles.mean_of_losses(
        lambda s, p, mask, labels: how.divergence(s, p, Row(mask, labels, t)),
        student_BxC,
        said_KxBxC,
        counted_B,
        own_KxB,
        labels_B,
      )
    joined_BxC = ensembles.JOINS[how.join](said_KxBxC, own_KxB)
    row = Row(counted_B, labels_B, t)
    return how.divergence(student_BxC, joined_BxC, row)

  return divergences.over_rows(mean, len(batch), batch.weights), gate_loss


def _to_tokens(how, outputs, batch, tau):
  """Returns what is lost to what the teachers say of tokens."""
  tokens, t = batch.tokens, _progress(batch)
  if how.weights not in ensembles.WEIGHTS:
    raise ValueError(
      f"weights={how.weights} looks at classes, and these rows have tokens; "
      f"use {', '.join(ensembles.WEIGHTS)}."
    )
  if how.join != "losses" and tokens.teacher_ids.shape[2] > 1:
    raise ValueError(
      f"join={how.join} is of teachers that tell the same outcomes, and each "
      "tells its own likeliest tokens; use join=losses."
    )
  lost_B = token_criteria.lost(
    outputs,
    tokens,
    lambda s, p, mask, labels: how.divergence(s, p, Row(mask, labels, t)),
    temperature=tau,
    weights=how.weights,
  )
  return batches.row_mean(lost_B, batch)


def _gate(gate, outputs, said_KxBxC, batch):
  """Returns the gate's weights [K, B], constants, and what the gate loses."""
  features_BxF = jax.lax.stop_gradient(outputs.features)
  weights_KxB = ensembles.gate_weights(gate, features_BxF)
  said_BxC = ensembles.mean_of_probabilities(said_KxBxC, weights_KxB)
  lost = -(batch.labels * said_BxC).sum(axis=-1).mean()
  return jax.lax.stop_gradient(weights_KxB), lost


def to_features(kind: str, *, weight: float) -> tasks.Criterion:
  """Adds the gap between each layer's features and those of a teacher's layer.

  A student's layer goes with the teacher's at the same share of its depth
  (`divergences.layer_map`), through a linear map that is learned with the
  student. The batch brings the teacher's; one without them adds nothing.

  Raises:
    ValueError: an unknown kind.
  """
  errors.choice("kind", kind, FEATURES)
  gap = FEATURES[kind]

  def init(key, outputs, batch):
    theirs = _teachers(batch).features
    if theirs is None:
      return {}
    layers, width = _layers(outputs).shape[1:]

    def one(layer_key):
      return divergences.init_projection(layer_key, width, theirs.shape[-1])

    return {"projections": jax.vmap(one)(jax.random.split(key, layers))}

  def value(lost_before, params, outputs, batch):
    features_BxMxF = _teachers(batch).features
    if features_BxMxF is None:
      return lost_before
    ours_BxNxF = _layers(outputs)
    theirs = np.array(
      divergences.layer_map(ours_BxNxF.shape[1], features_BxMxF.shape[1])
    )

    def mean(counted_B):
      gaps_N = jax.vmap(gap, in_axes=(1, 1, None, 0))(
        ours_BxNxF,
        jnp.asarray(features_BxMxF)[:, theirs],
        counted_B,
        params["projections"],
      )
      return gaps_N.mean()

    gaps = divergences.over_rows(mean, len(batch), batch.weights)
    return lost_before + weight * gaps

  return tasks.Criterion(init, value)


def to_deepest(*, weight: float) -> tasks.Criterion:
  """Adds KL(last || layer), the mean over the layers below the last.

  Self-distillation (Zhang et al. 2019): the student's own head reads every
  layer's features, and the last layer's answer is a constant, so that shallow
  layers learn of deep ones and never the other way.
  """

  def value(lost_before, params, outputs, batch):
    readout = roles.readout(params)
    layers_BxNxF = _layers(outputs)
    if layers_BxNxF.shape[1] == 1:
      return lost_before
    # The head is the deep branch's: it is a teacher here, and stays as it is.
    kernel, bias = jax.lax.stop_gradient(readout)
    logits_NxBxC = jnp.moveaxis(layers_BxNxF, 1, 0) @ kernel
    logits_NxBxC = logits_NxBxC + bias[None, None]
    # Of the last layer too: a loss may have centred the outputs' own logits.
    deepest_BxC = logits_NxBxC[-1]

    def mean(counted_B):
      gaps_N = jax.vmap(divergences.forward_kl, in_axes=(0, None, None))(
        logits_NxBxC[:-1], deepest_BxC, counted_B
      )
      return gaps_N.mean()

    gaps = divergences.over_rows(mean, len(batch), batch.weights)
    return lost_before + weight * gaps

  return tasks.Criterion(_no_params, value)


def in_turn(criteria: Sequence[tasks.Criterion]) -> tasks.Criterion:
  """Returns one criterion: each adds to what those before it made."""

  def init(key, outputs, batch):
    keys = jax.random.split(key, len(criteria))
    params: trees.Params = {}
    for one, own_key in zip(criteria, keys, strict=True):
      params |= one.init(own_key, outputs, batch)
    return params

  def value(lost, params, outputs, batch):
    for one in criteria:
      lost = one.loss(lost, params, outputs, batch)
    return lost

  return tasks.Criterion(init, value)


def _layers(outputs: student_outputs.Outputs) -> jax.Array:
  if outputs.layers is None:
    raise ValueError(
      "this student has no layers to match; use student.kind=transformer."
    )
  return outputs.layers


def _teachers(batch: batches.Batch) -> batches.TeacherTargets:
  return batch.teachers or batches.TeacherTargets()


def _progress(batch: batches.Batch) -> Any:
  return 1.0 if batch.progress is None else batch.progress
