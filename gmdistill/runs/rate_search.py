"""The outer learning rate, found by a short range test (Smith 2017).

From cycle to cycle over the same few batches and students the rate grows by
one factor, until the loss has stopped falling. The run then starts from where
the test started, at the rate at which the loss fell fastest.
"""

from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from gmdistill.objectives import contract
from gmdistill.runs import outer
from gmdistill.runs.config import schedule
from gmdistill.sets import synthetic
from gmdistill.students import problems
from gmdistill.system import logs

CYCLE = 5  # outer steps at one rate

TOO_HIGH = 1.1  # times the lowest loss: the test is over

RATES = tuple(float(rate) for rate in np.geomspace(1e-3, 1.0, 13))


def find(
  problem: problems.Problem,
  stage: schedule.Stage,
  parameterization: synthetic.Parameterization,
  state: outer.DistillState,
  real: contract.Real,
  root_key: jax.Array,
  options: ml_collections.ConfigDict,
  mesh: jax.sharding.Mesh,
) -> dict[str, Any]:
  """Returns the rate for a stage, and the losses that speak for it.

  Args:
    problem: The student's architecture.
    stage: Whose objective and optimiser are tried.
    parameterization: How the set is stored.
    state: At the start of the stage; it is left as it is.
    real: `CYCLE` outer steps' worth, leaves [CYCLE, S, ...].
    root_key: The run's.
    options: `config.outer`.
    mesh: Where the state lies.
  """
  growing = schedule.at_rate(
    stage, options, lambda count: jnp.asarray(RATES)[count // CYCLE]
  )
  steps = outer.outer_steps(growing, parameterization, 0.0, mesh)
  copy = jax.jit(lambda x: jax.tree.map(jnp.copy, x))  # steps donate theirs
  own = copy(state).replace(optimizer=growing.optimizer.init(state.params))
  losses: list[float] = []
  for _ in RATES:
    # The same heads and students in every cycle: only the set has changed.
    own = own.replace(step=jnp.copy(state.step), students=copy(state.students))
    own, seen = steps(problem, own, real, root_key)
    losses.append(float(np.mean(seen["outer/loss"])))
    logs.check_finite(
      int(state.step) + 1,
      np.array(losses[:1]),
      {},
      "Try a smaller initial_step_size.",
    )
    if not losses[-1] < TOO_HIGH * min(losses):
      break
  rate = choose(losses)
  logs.say(f"range test: outer learning rate {rate:.2g}")
  return {
    "learning_rate": rate,
    "rates": list(RATES[: len(losses)]),
    "losses": [loss if np.isfinite(loss) else None for loss in losses],
  }


def choose(losses: list[float]) -> float:
  """Returns the rate of the cycle in which the loss fell most.

  Args:
    losses: The mean loss of each cycle, at the rates `RATES`, up to the first
      that rose. What the steps of a cycle do shows in the next.
  """
  lowest = int(np.nanargmin(losses))
  falls = -np.diff(losses[: lowest + 1])
  return RATES[int(falls.argmax())] if lowest else RATES[0]
