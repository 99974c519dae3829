"""The rule by which every second-order objective differentiates a gradient.

A bilevel objective needs the derivative of a student's gradient

    g(theta, x) = d/dtheta L(theta, x)

along a covector v. Reverse-over-reverse keeps the whole backward pass alive;
because the second derivative is symmetric, one forward-mode pass over the
ordinary gradient gives the same numbers:

    (H v, (d^2 L / dtheta dx)^T v) = jvp of t -> grad(L, (0, 1))(t, x) along v

(Pearlmutter 1994; the mixed-mode form of Kemaev et al. 2025).
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np

from gmdistill import errors

RULES = ("mixed", "reverse", "linearize")


def grad(
  loss: Callable[..., jax.Array], rule: str = "mixed"
) -> Callable[..., Any]:
  """Returns `jax.grad(loss)`, a gradient that is itself cheap to transpose.

  Args:
    loss: `loss(params, *args) -> scalar`. Everything that is differentiated
      must be an argument; what the function closes over gets no gradient.
    rule: How the gradient of the gradient is taken; equal in exact arithmetic.
      `mixed`: forward-over-reverse, recomputed in the backward pass, so that
      only `params` and `args` stay in memory. `linearize`: the same, with the
      linearisation of the forward pass kept: more memory, less work (7 instead
      of 9 forward passes' worth, the gradient itself included).
      `reverse`: `jax.grad` as it is, reverse-over-reverse.

  Returns:
    `gradient(params, *args)`, a pytree like `params`. Differentiable in
    reverse mode once, with respect to every floating-point argument.

  Raises:
    ValueError: the rule is none of `RULES`.
  """
  errors.choice("rule", rule, RULES)
  if rule == "reverse":
    return jax.grad(loss)

  def hoisted(params, *args):
    loss_of, held = _hoist(loss, params, args)
    return _rule(loss_of, rule)(held, params, *args)

  return hoisted


def _hoist(loss, params, args):
  """Returns `loss_of(held) -> loss`, and what of an outer trace it closes over.

  The backward pass of a step in a scan may not close over it (the table, where
  the loss of embeddings reads one); `custom_vjp` can carry it there.
  """
  closed = jax.make_jaxpr(loss)(params, *args)
  if not any(isinstance(x, jax.core.Tracer) for x in closed.consts):
    return lambda held: loss, []

  def loss_of(held):
    fun = jax.extend.core.jaxpr_as_fun(
      jax.extend.core.ClosedJaxpr(closed.jaxpr, held)
    )
    return lambda *inputs: fun(*jax.tree.leaves(inputs))[0]

  return loss_of, closed.consts


def _rule(loss_of, rule):
  """Returns `gradient(held, params, *args)`; `held` gets no gradient."""

  @jax.custom_vjp
  def gradient(held, params, *args):
    return jax.grad(loss_of(held))(params, *args)

  def forward(held, params, *args):
    if rule == "mixed":
      return gradient(held, params, *args), (held, params, args)
    both, other, rebuild = _gradient_in_all(loss_of(held), args)
    (grads, _), linear = jax.linearize(both, params)
    # The linear map closes over the arrays of the forward pass: hoist them, so
    # that custom_vjp can carry them to the backward pass.
    jaxpr, shapes = jax.make_jaxpr(linear, return_shape=True)(params)
    treedef = jax.tree.structure(shapes)
    apply = functools.partial(_apply, jaxpr.jaxpr, treedef)
    apply, rebuild = map(jax.tree_util.Partial, (apply, rebuild))
    return grads, (apply, jaxpr.consts, other, rebuild)

  def backward(residuals, covector):
    if rule == "mixed":
      held, params, args = residuals
      both, other, rebuild = _gradient_in_all(loss_of(held), args)
      _, (params_bar, floats_bar) = jax.jvp(both, (params,), (covector,))
    else:
      linear, consts, other, rebuild = residuals
      params_bar, floats_bar = linear(consts, covector)
    remaining = iter(floats_bar)
    args_bar = [next(remaining) if x is None else _no_tangent(x) for x in other]
    return None, params_bar, *rebuild(args_bar)

  gradient.defvjp(forward, backward)
  return gradient


def _gradient_in_all(loss, args):
  """Returns the gradient in (params, floats of args), the other leaves of
  args, and what makes leaves into args again."""
  leaves, treedef = jax.tree.flatten(args)
  is_float = [jnp.issubdtype(jnp.result_type(x), jnp.inexact) for x in leaves]
  floats = [x for x, ok in zip(leaves, is_float, strict=True) if ok]
  # A list, not a tree: None marks the place of a float, where a tree's own
  # None is a field left out. The rest (ids, masks, keys) stays.
  other = [None if ok else x for x, ok in zip(leaves, is_float, strict=True)]

  def loss_of_floats(params, floats):
    remaining = iter(floats)
    merged = [next(remaining) if x is None else x for x in other]
    return loss(params, *jax.tree.unflatten(treedef, merged))

  def both(params):
    return jax.grad(loss_of_floats, argnums=(0, 1))(params, floats)

  return both, other, functools.partial(jax.tree.unflatten, treedef)


def _apply(jaxpr, treedef, consts, covector):
  closed = jax.extend.core.ClosedJaxpr(jaxpr, consts)
  flat = jax.extend.core.jaxpr_as_fun(closed)(*jax.tree.leaves(covector))
  return jax.tree.unflatten(treedef, flat)


def _no_tangent(x):
  if jnp.issubdtype(jnp.result_type(x), jax.dtypes.extended):
    return None
  return np.zeros(jnp.shape(x), jax.dtypes.float0)
