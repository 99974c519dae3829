"""Three teachers, one of which learned from shuffled labels.

python tests/benchmarks/shuffled_teacher.py

On the embedded corpus, with the quickstart's student: the mean weight that each
teacher gets, and the accuracy of students that train on all real rows with the
labels that come of it. A few minutes on a CPU. With --teacher_steps=5000 the
teachers know their labels by heart; with --rows=50 --steps=300 students see
few.
"""

import argparse
import functools

import jax
import numpy as np
import optax

from gmdistill.data import batches
from gmdistill.evaluation import readings
from gmdistill.runs.config import assembly, settings, shipped
from gmdistill.selection import coresets
from gmdistill.teachers import ensembles
from gmdistill.training import fitting


@functools.partial(jax.jit, static_argnames="num_steps")
def trained(problem, batch, key, num_steps):
  """Returns a student trained on a batch of ids, as the quickstart's full."""
  optimizer = optax.adamw(
    optax.warmup_cosine_decay_schedule(0.0, 3e-3, num_steps // 10, num_steps),
    weight_decay=0.1,
  )
  return fitting.fit(
    problem, batch, optimizer, num_steps=num_steps, batch_size=32, key=key
  )


@jax.jit
def logits_of(problem, params, batch):
  return problem.apply(params, batch).logits


def main():
  parser = argparse.ArgumentParser()
  parser.add_argument("--students", type=int, default=5)
  parser.add_argument("--steps", type=int, default=1200)
  parser.add_argument("--teacher_steps", type=int, default=1200)
  parser.add_argument("--rows", type=int, default=0, help="a class; 0: all")
  options = parser.parse_args()
  config = shipped.config_for("quickstart")
  setup = assembly.setup(settings.recipe(config))
  problem, train = setup.problem, setup.corpus.train
  classes = len(setup.corpus.label_names)
  batch = jax.device_put(batches.as_batch(train, classes))

  def fit(labels, seed, num_steps, rows=np.s_[:]):
    own = batch.replace(labels=jax.numpy.asarray(labels))
    own = jax.tree.map(lambda x: x[rows], own)
    return trained(problem, own, jax.random.key(seed), num_steps)

  truth = np.eye(classes, dtype=np.float32)[train.labels]
  shuffled = np.random.default_rng(0).permutation(truth)
  params = [
    fit(labels, 100 + i, options.teacher_steps)
    for i, labels in enumerate((truth, truth, shuffled))
  ]
  rows = np.s_[:]
  if options.rows:
    rows = coresets.random(train.labels, options.rows, 0)
  said = np.stack([np.asarray(logits_of(problem, p, batch)) for p in params])
  buckets = readings.length_buckets(setup.corpus.reported, classes)
  for kind in ensembles.WEIGHTS:
    weights = np.asarray(ensembles.weights(kind, said, truth))
    soft = ensembles.soft_labels(said, truth, ensembles.Options(weights=kind))
    found = np.concatenate(
      [
        readings.accuracies(
          problem,
          jax.tree.map(lambda x: x[None], fit(soft, seed, options.steps, rows)),
          buckets,
        )
        for seed in range(options.students)
      ]
    )
    error = found.std(ddof=1) / len(found) ** 0.5
    print(
      f"{kind:12} mean weights {np.round(weights.mean(axis=1), 3)}  students "
      f"{100 * found.mean():.1f} ± {100 * error:.1f} (standard error)",
      flush=True,
    )


if __name__ == "__main__":
  main()
