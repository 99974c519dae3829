"""What an outer step needs, known before it runs: compiled, and read."""

import collections
import contextlib
import functools
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.interpreters import partial_eval

from gmdistill import errors
from gmdistill.system import cache, devices, processes, units

_COLLECTIVES = (
  "all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute"
)


class Cost(NamedTuple):
  """What each device needs; bytes, but for `flops`."""

  pool: int  # the students that live there
  bank: int  # the bank's states that a dispatch reads
  base: int  # the table and pretrained parameters
  arguments: int  # those, the set and its optimiser
  temporary: int
  # Of an outer step, by all devices that share a student's batch; a
  # multiply-add is two.
  flops: int
  crossing: int  # sent between devices in an outer step
  room: int  # the device's memory

  @property
  def needed(self) -> int:
    """Bytes that must fit at once."""
    return self.arguments + self.temporary


def program(
  steps: Any, arguments: tuple[Any, ...]
) -> tuple[jax.stages.Compiled, Cost]:
  """Compiles a dispatch of outer steps, and says what it costs.

  Args:
    steps: What `outer.outer_steps` returned.
    arguments: Its arguments, or their shapes; the state is laid out.

  Returns:
    The program, to be called with arguments of the same layout, and its cost.
  """
  problem, state, real, _ = arguments
  traced = steps.trace(*arguments)
  compiled = traced.lower().compile()
  memory = compiled.memory_analysis()
  num_steps = len(jax.tree.leaves(real)[0])
  devices_used = len(jax.tree.leaves(state)[0].sharding.device_set)
  # A large program is tens of megabytes of text, to find nothing on one device.
  text = compiled.as_text() if devices_used > 1 else ""
  return compiled, Cost(
    pool=_on_a_device(state.students),
    bank=_on_a_device(real.expert),
    base=_on_a_device(problem),
    arguments=memory.argument_size_in_bytes,
    temporary=memory.temp_size_in_bytes,
    flops=matmul_flops(traced.jaxpr.jaxpr) // num_steps,
    crossing=crossing(text) // num_steps,
    room=devices.room(),
  )


@contextlib.contextmanager
def memory_errors_named() -> Iterator[None]:
  """What no plan foresees: evaluation, say, or a device that others use too.

  Raises:
    InputError: a device ran out of memory.
  """
  try:
    yield
  except jax.errors.JaxRuntimeError as error:
    if "RESOURCE_EXHAUSTED" not in str(error):
      raise
    raise errors.InputError(
      f"a device ran out of memory ({' '.join(str(error).split())[:120]}); use "
      "a smaller students_at_once, outer.students_at_once or rows_per_class, "
      "or a larger device."
    ) from error


def require_room(cost: Cost, remedies: list[str]) -> None:
  """Checks that a run fits its devices.

  Raises:
    InputError: it does not; says by how much, and what would make it smaller.
  """
  if cost.needed > cost.room:
    named = {
      name: units.size(value)
      for name, value in {**cost._asdict(), "needed": cost.needed}.items()
    }
    raise errors.InputError(
      "an outer step needs {needed} on each device, which has {room}: "
      "{arguments} of arguments (base {base}, students {pool}, bank {bank}) "
      "and {temporary} of temporary memory. ".format(**named)
      + f"Try {', or '.join(remedies)}."
    )


def matmul_flops(jaxpr: Any) -> int:
  """Returns the FLOPs of the products and convolutions of a jaxpr.

  Loops count as often as they run, unlike in XLA's own analysis; of branches
  the dearest counts, of a mapped function the share of one device, or of those
  that `data` makes one. What nobody reads is not computed, and does not count.
  """
  return _count(partial_eval.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))[0])


class Pace:
  """How fast programs of a kind ran on this kind of device, kept in the cache:
  who waits is told by it about how long the next one takes."""

  def __init__(self, kind: str):
    """Of programs of a kind, in any words."""
    device = jax.devices()[0].device_kind
    self._entry = cache.entry("paces", [kind, device, jax.device_count()])

  def note(self, flops: int, seconds: float) -> None:
    """Keeps how long a program of so many FLOPs took."""
    if flops and seconds and processes.is_first():
      cache.write_facts(self._entry, {"flops_per_second": flops / seconds})

  def seconds(self, flops: int) -> float | None:
    """Returns about how long one takes; None: none has run yet."""
    pace = (cache.read_facts(self._entry) or {}).get("flops_per_second")
    if isinstance(pace, int | float) and pace > 0:
      return flops / pace
    return None


def _count(jaxpr):
  total = 0
  for equation in jaxpr.eqns:
    name, params = equation.primitive.name, equation.params
    inner = [_count(sub) for sub in _inner(params)]
    if name == "dot_general":
      (contracted, _), _ = params["dimension_numbers"]
      shape = equation.invars[0].aval.shape
      depth = int(np.prod([shape[i] for i in contracted]))
      total += 2 * depth * int(np.prod(equation.outvars[0].aval.shape))
    elif name == "conv_general_dilated":
      kernel = equation.invars[1].aval.shape
      out = params["dimension_numbers"].rhs_spec[0]
      each = int(np.prod(kernel)) // kernel[out]
      total += 2 * each * int(np.prod(equation.outvars[0].aval.shape))
    elif name == "scan":
      total += params["length"] * sum(inner)
    elif name == "cond":
      total += max(inner)
    else:
      total += sum(inner)
  return total


def _inner(params):
  """Yields the jaxprs in an equation's parameters."""
  for value in params.values():
    for item in value if isinstance(value, (tuple, list)) else (value,):
      if hasattr(item, "eqns"):
        yield item
      elif hasattr(item, "jaxpr") and hasattr(item.jaxpr, "eqns"):
        yield item.jaxpr


def crossing(text: str) -> int:
  """Returns the bytes of what devices exchange in a compiled program.

  Args:
    text: The program's HLO; a loop counts as often as it says that it runs.
  """
  sent: collections.Counter[str] = collections.Counter()
  calls: dict[str, list[tuple[str, int]]] = collections.defaultdict(list)
  entry = place = ""
  for line in text.splitlines():
    if begun := re.match(r"(ENTRY )?%?(\S+) \(.*\{$", line):
      place = begun[2]
      entry = place if begun[1] else entry
    sent[place] += _exchanged(line)
    times = re.search(r'known_trip_count":\{"n":"(\d+)"', line)
    for names in re.findall(
      r"(?:to_apply|calls|body|\w+_computations?)=(\{.*?\}|%[^\s,]+)", line
    ):
      callees = re.findall(r"%([^\s,}]+)", names)
      calls[place] += [
        (name, int(times[1]) if times else 1) for name in callees
      ]

  @functools.cache
  def total(name: str) -> int:
    inner = sum(times * total(callee) for callee, times in calls[name])
    return sent[name] + inner

  return total(entry)


def _exchanged(line):
  """Returns the bytes that one instruction sends between devices."""
  sends = re.match(
    rf"\s*(?:ROOT )?\S+ = (.*?) (?:{_COLLECTIVES})(?:-start)?\(", line
  )
  # A group of one device exchanges nothing.
  alone = re.search(
    r"replica_groups=(\[\d+,1\]|\{\{\d+\}(,\{\d+\})*\}|\{\})", line
  )
  if not sends or alone:
    return 0
  return sum(
    _WIDTHS.get(kind, 4) * int(np.prod([int(n) for n in dims.split(",") if n]))
    for kind, dims in re.findall(r"(\w+)\[([\d,]*)\]", sends[1])
  )


_WIDTHS = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "f64": 8, "s64": 8}


def _on_a_device(tree):
  """Returns the bytes of laid-out arrays that one device holds."""
  return sum(
    int(np.prod(x.sharding.shard_shape(x.shape))) * x.dtype.itemsize
    for x in jax.tree.leaves(tree)
  )
