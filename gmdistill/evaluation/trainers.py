"""Students that are trained in chunks, on sets, by a protocol."""

import functools
import time
from typing import Any

import jax
import numpy as np

from gmdistill.evaluation import protocols
from gmdistill.sets import synthetic
from gmdistill.students import bases, problems
from gmdistill.system import costs, devices, waits

SyntheticSet = synthetic.SyntheticSet

TRIED_STUDENTS = 5  # of a row, with each learning rate


class Trainer:
  """Trains students in chunks: so many at once on every device, in one
  program, compiled once a shape."""

  def __init__(
    self, problem: problems.Problem, protocol: protocols.Protocol, at_once: int
  ):
    """Compiles nothing yet; `at_once` students are vmapped on a device."""
    self.protocol = protocol
    self.at_once = at_once
    self._mesh = devices.whole()
    self.chunk = at_once * self._mesh.size
    problem = bases.narrowed(problem)
    self.problem = devices.put(self._mesh, problem, problem.layout)
    self._programs = _programs(protocol.train, self._mesh)
    self._paced: set[jax.stages.Compiled] = set()
    self.count = waits.Count("", 0, "students")  # who are awaited
    self._pace = costs.Pace(repr(problem.student))

  def expect(self, label: str, sets: SyntheticSet, num_students: int) -> None:
    """Counts from here on, for who waits, those tried with each rate too."""
    protocol = self.protocol
    chosen = protocol.replays and sets.learning_rates is not None
    rates = 0 if chosen or len(protocol.rates) == 1 else len(protocol.rates)
    tried = min(protocol.num_students, TRIED_STUDENTS)
    each = [tried] * rates + [num_students]
    total = sum(-(-count // self.chunk) * self.chunk for count in each)
    self.count.close()
    self.count = waits.Count(label, total, "students")

  def __call__(
    self, sets: SyntheticSet, keys: jax.Array, rate: protocols.Rate, first: int
  ) -> tuple[Any, float]:
    """Trains students `first` and on; returns parameters and seconds.

    Args:
      sets: Stacked sets, leaves [k, ...]; student i trains on set i mod k.
      keys: One key a student, [chunk].
      rate: The learning rate.
      first: The index i of the first of these students.
    """
    length = len(sets.batch)
    index = (first + np.arange(self.chunk)) % length
    chosen = jax.tree.map(lambda x: np.asarray(x)[index], sets)
    put = functools.partial(devices.put, self._mesh)
    arguments = (
      self.problem,
      put(chosen, devices.BY_STUDENT),
      put(keys, devices.BY_STUDENT),
      put(np.asarray(rate, np.float32)),
    )
    with self.count.preparing("compiling"):
      program, flops = self._programs(arguments)
    if program not in self._paced:
      self.count.reckon(self._pace.seconds(flops))
    start = time.perf_counter()
    params = jax.block_until_ready(program(*arguments))
    seconds = time.perf_counter() - start
    if program not in self._paced:
      self._paced.add(program)
      self._pace.note(flops, seconds)
    return params, seconds


_MOST_PROGRAMS = 8  # a program keeps some memory of its device


# Of the last protocols, whoever trains by them.
@functools.lru_cache(maxsize=_MOST_PROGRAMS)
def _programs(train, mesh):
  """Returns `program(arguments)`, compiled where it was not, and its FLOPs."""
  everywhere, by_student = devices.EVERYWHERE, devices.BY_STUDENT
  jitted = jax.jit(
    problems.over_students(
      mesh,
      jax.vmap(train, in_axes=(None, 0, 0, None)),
      (by_student, by_student, everywhere),
      by_student,
    )
  )
  compiled: dict[Any, Any] = {}

  def program(arguments):
    leaves, structure = jax.tree.flatten(arguments)
    key = (structure, *((x.shape, x.dtype) for x in leaves))
    if key not in compiled:
      while len(compiled) >= _MOST_PROGRAMS:
        del compiled[next(iter(compiled))]
      traced = jitted.trace(*arguments)
      flops = costs.matmul_flops(traced.jaxpr.jaxpr)
      compiled[key] = traced.lower().compile(), flops
    return compiled[key]

  return program
