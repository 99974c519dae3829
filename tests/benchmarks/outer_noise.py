"""Where the noise of a look-ahead's outer gradient comes from.

python tests/benchmarks/outer_noise.py --set=runs/quickstart/set

At a finished run's set: how much the gradient of its embeddings differs between
real batches and between students with new heads, by a two-way analysis of
variance; and how the loss goes along the mean gradient of several batches, each
entry over its root mean square, on those batches and on as many others. A step
that helps the first alone follows what is odd in them. The first stage's
objective, one student a batch; minutes on a CPU.
"""

import argparse

import jax
import jax.numpy as jnp
import numpy as np

from gmdistill.runs import jobs
from gmdistill.runs.commands import shared

FAR = 10**6  # batches that the run itself has not drawn
SIZES = (0.0, 0.002, 0.005, 0.01, 0.02, 0.05)


def main():
  parser = argparse.ArgumentParser()
  parser.add_argument("--set", required=True)
  parser.add_argument("--batches", type=int, default=12)
  parser.add_argument("--students", type=int, default=3)
  parser.set_defaults(config=None)  # the run's own
  options = parser.parse_args()
  config, folder = shared.config_and_set(options)
  config.start = str(folder)
  config.num_students = 1
  job = jobs.prepare(config)
  objective, decode = job.stages[0].objective, job.parameterization.decode

  def loss(params, problem, real, key):
    state = objective.init(problem, key, jnp.float32(0))
    return objective.loss(problem, decode(params), state, real, key)[0]

  value = jax.jit(loss)
  gradient = jax.jit(jax.grad(loss))
  keys = jax.random.split(jax.random.key(1), options.students)

  def batches(first):
    return [
      jax.tree.map(lambda x: x[0, 0], job.draws[0](FAR + first + i, 1))
      for i in range(options.batches)
    ]

  own, others = batches(0), batches(options.batches)
  grads = [
    [
      jax.device_get(gradient(job.params, job.problem, batch, student))
      for batch in own
    ]
    for student in keys
  ]
  told = _analysis(grads)
  print(
    "squared norm of the embeddings' gradient, of one student and batch: "
    + ", ".join(f"{name} {size:.3g}" for name, size in told.items())
  )
  squares = jax.tree.map(lambda *xs: np.square(xs).mean(0), *grads[0])
  way = jax.tree.map(
    lambda square, *xs: np.mean(xs, axis=0) / np.sqrt(square + 1e-20),
    squares,
    *grads[0],
  )
  print(f"a step of  {options.batches} batches  as many others")
  for size in SIZES:
    moved = jax.tree.map(lambda p, d, size=size: p - size * d, job.params, way)
    here, there = (
      np.mean([value(moved, job.problem, one, keys[0]) for one in group])
      for group in (own, others)
    )
    print(f"{size:9.3f}  {here:10.4f}  {there:14.4f}", flush=True)


def _analysis(grads):
  """Returns the parts of the mean square: mean, students, batches, both."""
  leaves = jax.tree_util.tree_leaves_with_path
  pick = lambda tree: np.concatenate(  # noqa: E731
    [
      np.ravel(x)
      for path, x in leaves(tree)
      if "embeddings" in jax.tree_util.keystr(path)
    ]
  )
  g_SxBxD = np.array([[pick(tree) for tree in row] for row in grads])
  students, batches = g_SxBxD.shape[:2]
  mean = g_SxBxD.mean(axis=(0, 1))
  by_student = g_SxBxD.mean(axis=1, keepdims=True) - mean
  by_batch = g_SxBxD.mean(axis=0, keepdims=True) - mean
  rest = np.square(g_SxBxD - mean - by_student - by_batch).sum()
  both = rest / ((students - 1) * (batches - 1))
  of_students = np.square(by_student).sum() / (students - 1) - both / batches
  of_batches = np.square(by_batch).sum() / (batches - 1) - both / students
  noise = of_students / students + of_batches / batches
  noise += both / (students * batches)
  return {
    "mean": np.square(mean).sum() - noise,
    "between students": of_students,
    "between batches": of_batches,
    "both": both,
  }


if __name__ == "__main__":
  main()
