"""What the README shows works as it stands."""

import pathlib
import re

import jax
import jax.numpy as jnp
from conftest import make_problem, make_real, make_synthetic

from gmdistill import main
from gmdistill.objectives import contract
from gmdistill.sets import synthetic

README = (pathlib.Path(__file__).parents[2] / "README.md").read_text()


def test_the_worked_objective_is_an_objective():
  (code,) = re.findall(r"```python\n(.*?)```", README, re.S)
  names = {}
  exec(code, names)
  objective = names["spread_matching"]()
  problem, batch = make_problem(), make_synthetic()

  def loss(inputs):
    syn = synthetic.SyntheticSet(batch.replace(inputs=inputs))
    real = contract.Real(make_real(objective.num_batches))
    return objective.loss(problem, syn, (), real, jax.random.key(0))[0]

  assert float(jnp.abs(jax.grad(loss)(batch.inputs)).max()) > 0


def test_every_command_of_the_readme_is_a_verb_and_every_file_exists():
  root = pathlib.Path(__file__).parents[2]
  verbs = re.findall(r"^gmdistill (\w+) (?:--|runs)", README, re.M)
  assert verbs and set(verbs) <= set(main.VERBS)
  for path in re.findall(r"(?:configs|notebooks)/\w+\.py", README):
    assert (root / path).is_file(), path
  for name in re.findall(r"`((?:\w+/)+\w+\.py)`", README):
    beside = root / name, root / "gmdistill" / name
    assert any(path.is_file() for path in beside), name
