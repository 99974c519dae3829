"""The field `mesh.base`: how devices hold the frozen base of adapters."""

import functools

import jax

from gmdistill.runs.config import recipe as recipes
from gmdistill.students import bases, decoder_weights, problems
from gmdistill.system import devices, logs, parts, units


def is_sharded(config: recipes.Recipe) -> bool:
  """Whether a config has all devices hold one base together."""
  return bool(config.mesh.base == "sharded")


def place(config: recipes.Recipe) -> decoder_weights.Place:
  """Returns how a pretrained model's parameters are laid out as they are read:
  whole, or to every device its own part, which its process alone reads."""
  if not is_sharded(config):
    return decoder_weights.whole
  return functools.partial(parts.spread, devices.whole())


def laid_out(
  problem: problems.Problem, config: recipes.Recipe
) -> problems.Problem:
  """Returns the problem whose base lies as the config says.

  Raises:
    InputError: its students have no frozen base.
  """
  if not is_sharded(config):
    return problem
  spread = bases.spread(problem)
  most = units.size(devices.peak_host_memory())
  logs.say(
    f"base: a part of every tensor on each of {jax.device_count()} devices; "
    f"this process has had {most} of the host's memory at most"
  )
  return spread
