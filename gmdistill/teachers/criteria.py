"""What a student loses in training beside its labels: knowledge distillation.

A `Criterion` adds to the loss of a `problem.Problem` what the rows' teachers
say (`Batch.teachers`), and what a student's deep layers teach its shallow
ones.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gmdistill.data import batches
from gmdistill.students import outputs as student_outputs
from gmdistill.students import tasks
from gmdistill.teachers import divergences, ensembles

Params = dict[str, Any]

Schedule = Callable[[Any], jax.Array]  # of the share of training that is over


def _no_params(
  key: jax.Array, outputs: student_outputs.Outputs, batch: batches.Batch
) -> Params:
  del key, outputs, batch
  return {}


# Of logits that are divided by tau: what is lost to a teacher's in one mask,
# the rows' classes and the share of the training, and the power of tau that
# gives the gradient its size back. Total variation falls with the gap to the
# teacher, the others with its square.
LOSSES: dict[str, tuple[Callable[..., jax.Array], int]] = {
  "forward_kl": (lambda s, p, m, y, t: divergences.forward_kl(s, p, m), 2),
  "reverse_kl": (lambda s, p, m, y, t: divergences.reverse_kl(s, p, m), 2),
  "jensen_shannon": (
    lambda s, p, m, y, t: divergences.jensen_shannon(s, p, m),
    2,
  ),
  "skew_forward_kl": (
    lambda s, p, m, y, t: divergences.skew_forward_kl(s, p, m),
    2,
  ),
  "skew_reverse_kl": (
    lambda s, p, m, y, t: divergences.skew_reverse_kl(s, p, m),
    2,
  ),
  "total_variation": (
    lambda s, p, m, y, t: divergences.total_variation(s, p, m),
    1,
  ),
  "soft_cross_entropy": (
    lambda s, p, m, y, t: divergences.soft_cross_entropy(s, p, m),
    2,
  ),
  "bild": (
    lambda s, p, m, y, t: divergences.bild(
      s, p, m, k=min(8, s.shape[-1]), temperature=1.0
    ),
    2,
  ),
  "decoupled": (lambda s, p, m, y, t: divergences.decoupled(s, p, m, y), 2),
  "taid": (lambda s, p, m, y, t: divergences.taid(s, p, m, t=t), 2),
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
    weight: w at a share of the training from 0 to 1; see `losses.schedule`.
    temperature: tau, likewise.
    join: Of several teachers, the mean of `losses`, of `probabilities` or of
      `logits`: three different things.
    weights: `equal`, `confidence` in the row's class, `entropy`, or `gate`: a
      linear map of the student's features, learned so that the weighed
      teachers know the labels. No gradient flows through it to the student.

  Raises:
    ValueError: an unknown name.
  """
  _check("loss", loss, LOSSES)
  _check("join", join, JOINS)
  _check("weights", weights, WEIGHTS)
  divergence, power = LOSSES[loss]

  def init(key, outputs, batch):
    del key
    said_BxKxC = _teachers(batch).logits
    if weights != "gate" or said_BxKxC is None:
      return {}
    count = said_BxKxC.shape[1]
    return {"gate": ensembles.init_gate(outputs.features.shape[-1], count)}

  def value(own, params, outputs, batch):
    said_BxKxC = _teachers(batch).logits
    if said_BxKxC is None:
      return own
    t = _progress(batch)
    share, tau = weight(t), temperature(t)
    said_KxBxC = jnp.moveaxis(jnp.asarray(said_BxKxC), 1, 0)
    labels_B, counted_B = batch.labels.argmax(-1), jnp.ones(len(batch))
    gate_loss = 0.0
    if weights == "gate":
      own_KxB, gate_loss = _gate(params["gate"], outputs, said_KxBxC, batch)
    else:
      own_KxB = ensembles.weights(weights, said_KxBxC, batch.labels)
    student_BxC, said_KxBxC = outputs.logits / tau, said_KxBxC / tau
    if join == "losses":
      lost = ensembles.mean_of_losses(
        lambda s, p, m, y: divergence(s, p, m, y, t),
        student_BxC,
        said_KxBxC,
        counted_B,
        own_KxB,
        labels_B,
      )
    else:
      joined_BxC = ensembles.JOINS[join](said_KxBxC, own_KxB)
      lost = divergence(student_BxC, joined_BxC, counted_B, labels_B, t)
    mixed = (1.0 - share) * own + share * tau**power * lost
    return jnp.where(share > 0, mixed, own) + gate_loss

  return tasks.Criterion(init, value)


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
  (`losses.layer_map`), through a linear map that is learned with the student.
  The batch brings the teacher's; one without them adds nothing.

  Raises:
    ValueError: an unknown kind.
  """
  _check("kind", kind, FEATURES)
  gap = FEATURES[kind]

  def init(key, outputs, batch):
    theirs = _teachers(batch).features
    if theirs is None:
      return {}
    layers, width = _layers(outputs).shape[1:]
    one = lambda k: divergences.init_projection(  # noqa: E731
      k, width, theirs.shape[-1]
    )
    return {"projections": jax.vmap(one)(jax.random.split(key, layers))}

  def value(own, params, outputs, batch):
    features_BxMxF = _teachers(batch).features
    if features_BxMxF is None:
      return own
    ours_BxNxF = _layers(outputs)
    theirs = np.array(
      divergences.layer_map(ours_BxNxF.shape[1], features_BxMxF.shape[1])
    )
    counted_B = jnp.ones(len(ours_BxNxF))
    gaps_N = jax.vmap(gap, in_axes=(1, 1, None, 0))(
      ours_BxNxF,
      jnp.asarray(features_BxMxF)[:, theirs],
      counted_B,
      params["projections"],
    )
    return own + weight * gaps_N.mean()

  return tasks.Criterion(init, value)


def to_deepest(*, weight: float) -> tasks.Criterion:
  """Adds KL(last || layer), the mean over the layers below the last.

  Self-distillation (Zhang et al. 2019): the student's own head reads every
  layer's features, and the last layer's answer is a constant, so that shallow
  layers learn of deep ones and never the other way.
  """

  def value(own, params, outputs, batch):
    del batch
    head = params["head"]
    layers_BxNxF = _layers(outputs)
    if layers_BxNxF.shape[1] == 1:
      return own
    # The head is the deep branch's: it is a teacher here, and stays as it is.
    kernel, bias = jax.lax.stop_gradient((head["kernel"], head["bias"]))
    logits_NxBxC = jnp.moveaxis(layers_BxNxF, 1, 0) @ kernel
    logits_NxBxC = logits_NxBxC + bias[None, None]
    # Of the last layer too: a loss may have centred the outputs' own logits.
    deepest_BxC = logits_NxBxC[-1]
    gaps_N = jax.vmap(divergences.forward_kl, in_axes=(0, None, None))(
      logits_NxBxC[:-1], deepest_BxC, jnp.ones(len(layers_BxNxF))
    )
    return own + weight * gaps_N.mean()

  return tasks.Criterion(_no_params, value)


def in_turn(criteria: Sequence[tasks.Criterion]) -> tasks.Criterion:
  """Returns one criterion: each adds to what those before it made."""

  def init(key, outputs, batch):
    keys = jax.random.split(key, len(criteria))
    found: Params = {}
    for one, own_key in zip(criteria, keys, strict=True):
      found |= one.init(own_key, outputs, batch)
    return found

  def value(own, params, outputs, batch):
    for one in criteria:
      own = one.loss(own, params, outputs, batch)
    return own

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


def _check(field, value, known):
  if value not in known:
    raise ValueError(f"{field}={value!r} is none of {', '.join(known)}.")
