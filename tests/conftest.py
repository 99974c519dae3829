"""Fixture-size problems, and the folders that a run of the suite shares."""

import fcntl
import functools
import gc
import os
import pathlib
from importlib import metadata

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# The suite keeps every program it compiles, for its own command lines too.
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"
# Compiling is most of the suite's time, and no test measures speed. JAX 0.11
# has one kind of emitters alone, and ends at a flag that it does not know.
# Each flag once: a program is kept under the flags that it was compiled with.
os.environ["XLA_FLAGS"] = " ".join(
  dict.fromkeys(
    [
      *os.environ.get("XLA_FLAGS", "").split(),
      "--xla_backend_optimization_level=0",
      *["--xla_cpu_use_fusion_emitters=false"]
      * metadata.version("jax").startswith("0.10."),
    ]
  )
)

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_config

from gmdistill.data import batches as row_batches
from gmdistill.data import samplers
from gmdistill.objectives import contract
from gmdistill.runs import distill
from gmdistill.students import families, problems

jax.config.update("jax_numpy_rank_promotion", "raise")
# Tracing makes objects by the thousand, few of them in cycles.
gc.set_threshold(100_000, 50, 100)

# Whole files are shared out among processes: those that take longest go first,
# so that all processes end together.
LONGEST = """
runs/test_distributed.py laws/test_objectives.py objectives/test_unrolled.py
teachers/test_relabel.py objectives/test_bank.py runs/test_distill.py
teachers/test_rationales.py objectives/test_memory.py system/test_mesh.py
training/test_training.py students/test_pretrained.py system/test_remote.py
""".split()


def pytest_collection_modifyitems(items):
  place = {f"tests/{name}": i for i, name in enumerate(LONGEST)}
  items.sort(key=lambda x: place.get(x.nodeid.split("::")[0], len(LONGEST)))


VOCABULARY, WIDTH, LENGTH, CLASSES = 20, 8, 6, 2


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory):
  """A folder that the processes of one run of the suite share."""
  base = tmp_path_factory.getbasetemp()
  return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@pytest.fixture(scope="session", autouse=True)
def cache_of_the_session(shared_folder):
  folder = shared_folder / "cache"
  # JAX's own setting goes before: several runs of the suite may share it.
  programs = os.environ.get(
    "JAX_COMPILATION_CACHE_DIR", str(shared_folder / "programs")
  )
  jax.config.update("jax_compilation_cache_dir", programs)
  os.environ["JAX_COMPILATION_CACHE_DIR"] = programs
  before = os.environ.get("GMDISTILL_CACHE")
  os.environ["GMDISTILL_CACHE"] = str(folder)
  yield folder
  if before is None:
    del os.environ["GMDISTILL_CACHE"]
  else:
    os.environ["GMDISTILL_CACHE"] = before


MOST_MAPS = 20_000  # of the 65,530 that Linux allows a process


@pytest.fixture(scope="module", autouse=True)
def programs_of_the_modules():
  """Frees compiled programs where they have become many: thousands of them
  pass Linux's limit on memory maps of one process, and XLA then crashes."""
  yield
  maps = pathlib.Path("/proc/self/maps")
  if not maps.exists() or maps.read_bytes().count(b"\n") > MOST_MAPS:
    jax.clear_caches()


@pytest.fixture(scope="session")
def finished_run(shared_folder):
  """An uninterrupted run of both objectives: its workdir and last step.

  One for all processes of the suite, to be read: copy it before a change.
  """
  workdir = shared_folder / "whole"
  with (shared_folder / "whole.lock").open("w") as file:
    fcntl.flock(file, fcntl.LOCK_EX)
    if not (workdir / "report.html").exists():  # which comes last
      config = tiny_config.get_config()
      config.log_to = ("tensorboard",)
      distill.run(config, str(workdir), "the command")
  return workdir, max(int(x.name) for x in (workdir / "checkpoints").iterdir())


def make_problem(kind="transformer", classes=CLASSES, **fields):
  """A student of D=8, L=6 from random initialisation."""
  table = jax.random.normal(jax.random.key(11), (VOCABULARY, WIDTH))
  if kind == "transformer":
    fields = (
      dict(
        width=WIDTH, num_layers=2, num_heads=2, hidden=16, max_positions=LENGTH
      )
      | fields
    )
  else:
    fields = dict(width=WIDTH) | fields
  module = families.FAMILIES[kind].module(classes, **fields)
  return problems.Problem(table, None, module)


def make_small_problem(classes=CLASSES):
  """A student that is traced and compiled in a fifth of a transformer's time:
  for laws of what is done with students, whoever they are."""
  return make_problem("textcnn", classes, windows=(3,))


def make_examples(rows=40, classes=CLASSES, seed=0):
  """Rows whose class shows in their tokens, some of them padded."""
  rng = np.random.default_rng(seed)
  labels = np.arange(rows) % classes
  ids = rng.integers(0, VOCABULARY // classes, (rows, LENGTH))
  ids = ids + labels[:, None] * (VOCABULARY // classes)
  lengths = rng.integers(3, LENGTH + 1, rows)
  mask = np.arange(LENGTH)[None] < lengths[:, None]
  ids = np.where(mask, ids, 0)
  return row_batches.Examples(
    ids.astype(np.int32), mask, labels.astype(np.int32)
  )


def make_synthetic(per_class=2, classes=CLASSES, seed=3):
  """A batch of embeddings in class order, all positions in use."""
  m = per_class * classes
  inputs = jax.random.normal(jax.random.key(seed), (m, LENGTH, WIDTH))
  labels = jnp.repeat(jnp.eye(classes), per_class, axis=0)
  return row_batches.Batch(inputs, jnp.ones((m, LENGTH), bool), labels)


def make_real(num_batches=1, rows_per_class=4, classes=CLASSES):
  """What an objective reads: leaves [N, C * rows, ...] in class order."""
  sampler = samplers.class_balanced_sampler(
    make_examples(classes=classes),
    rows_per_class=rows_per_class,
    num_classes=classes,
    seed=0,
  )
  batches = [sampler(i) for i in range(num_batches)]
  return jax.tree.map(
    lambda *xs: jnp.stack([jnp.asarray(x) for x in xs]), *batches
  )


_gradient = jax.jit(jax.grad(problems.Problem.loss, argnums=1))


def make_expert(problem, reads, batch=None):
  """A state, two SGD steps on, and class gradients of a real batch."""
  if not reads:
    return contract.Expert()
  start = problem.init(jax.random.key(21))
  rows = jax.tree.map(lambda x: x[0], make_real(1)) if batch is None else batch
  gradient = functools.partial(_gradient, problem)
  later = start
  for _ in range(2):
    grads = gradient(later, rows)
    later = jax.tree.map(lambda p, g: p - 0.3 * g, later, grads)
  targets = [
    problem.roles.keep(
      gradient(start, jax.tree.map(lambda x, c=c: x[c], split)), "all"
    )
    for split in [contract.by_group(rows, 2)]
    for c in range(2)
  ]
  whole = contract.Expert(
    params=start,
    targets=jax.tree.map(lambda *xs: jnp.stack(xs), *targets),
    later=later,
  )
  return contract.Expert(**{name: getattr(whole, name) for name in reads})


@pytest.fixture
def x64():
  """Double precision, for finite differences."""
  with jax.enable_x64(True):
    yield


def as_float64(tree):
  """Floats of a tree in double precision; ids and masks as they are."""
  return jax.tree.map(
    lambda x: (
      x.astype(jnp.float64) if jnp.issubdtype(x.dtype, jnp.floating) else x
    ),
    tree,
  )
