"""Several processes that act as one run: their start, talk, and end."""

import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any, NoReturn

import jax
import numpy as np
from jax.experimental import multihost_utils

from gmdistill import errors
from gmdistill.system import console

PATIENCE = 25  # seconds that processes wait for each other

TEXT_BYTES = 1000  # of a text that processes exchange


def start(coordinator: str, num_processes: int, process_id: int) -> None:
  """Joins the processes of one run, before anything else asks for a device.

  From then on, the end of one of them ends the others.

  Args:
    coordinator: `host:port` of process 0; empty: found from the environment of
      a TPU pod, of SLURM or of Open MPI.
    num_processes: How many; 0: found too.
    process_id: Which of them this is; -1: found too.

  Raises:
    InputError: the coordinator does not answer, or the environment does not
      say enough.
  """
  if coordinator and not 0 <= process_id < num_processes:
    raise errors.InputError(
      "--coordinator needs --num_processes=N and --process_id=0 to N-1 too."
    )
  if coordinator:  # before JAX, whose own wait ends by an abort
    host, _, port = coordinator.rpartition(":")
    if not port.isdigit() or not 0 < int(port) < 1 << 16:
      raise errors.InputError(
        f"--coordinator={coordinator} must be HOST:PORT, with a port from 1 to "
        "65535."
      )
    _meet(host, int(port), num_processes, process_id)
  # Its handler would swallow every SIGTERM before the outer loop.
  jax.config.update("jax_enable_preemption_service", False)
  try:
    jax.distributed.initialize(
      coordinator_address=coordinator or None,
      num_processes=num_processes or None,
      process_id=None if process_id < 0 else process_id,
      initialization_timeout=PATIENCE,
      heartbeat_timeout_seconds=PATIENCE,
    )
  except (RuntimeError, ValueError) as error:
    raise _apart("found from the environment", error) from error
  if not coordinator:
    with socket.create_server(("", 0)) as free:
      port = of_first(free.getsockname()[1])
    place = jax.process_index()
    _meet(of_first(socket.getfqdn()), port, jax.process_count(), place)
  for connection in _connections:
    threading.Thread(target=_wait_for, args=[connection], daemon=True).start()


# Every process to the first. One that closes without a goodbye is of a process
# that was killed. JAX's own heartbeats, which are slower and end a process by a
# stack trace, are left for machines that vanish.
_connections: list[socket.socket] = []

_GOODBYE, _COMPLETE, _STOPPED = b".", b"!", b"s"

_ending = threading.Event()  # whether this process is about to end by itself


def _meet(host, port, num_processes, process_id):
  """Connects the processes; returns when all of them are there.

  Raises:
    InputError: they are not, in time.
  """
  deadline = time.monotonic() + PATIENCE
  try:
    if process_id:
      connection = _connected(host, port, deadline)
      _connections.append(connection)
      if connection.recv(1) != _COMPLETE:
        raise OSError("some did not come")
    else:
      with socket.create_server(("", port)) as listener:
        while len(_connections) < num_processes - 1:
          listener.settimeout(max(deadline - time.monotonic(), 0.01))
          _connections.append(listener.accept()[0])
      for connection in _connections:
        connection.sendall(_COMPLETE)
  except OSError as error:
    raise _apart(f"{host}:{port}", error) from error
  for connection in _connections:
    connection.settimeout(None)


def _connected(host, port, deadline):
  while True:
    try:
      connection = socket.create_connection((host, port), timeout=PATIENCE)
      connection.settimeout(2 * PATIENCE)
      return connection
    except OSError:
      if time.monotonic() > deadline:
        raise
      time.sleep(0.1)


def _apart(where, error):
  reason = " ".join(str(error).split())[:160]
  return errors.InputError(
    f"--distributed: the processes did not come together (coordinator "
    f"{where}: {reason}); start all within {PATIENCE} s with the same "
    "--coordinator=HOST:PORT and --num_processes, and --process_id from 0."
  )


def _wait_for(connection):
  try:
    word = connection.recv(1)
  except OSError:
    word = b""
  if word == _GOODBYE or _ending.is_set():
    return
  what = "was told to stop" if word == _STOPPED else "is gone"
  console.complain(
    f"gmdistill: another process of this run {what}; start all of them again "
    "with the same commands: they go on from the last checkpoint"
  )
  _tell(word)
  # The interpreter's way out would wait for the one that is gone.
  os._exit(0 if word == _STOPPED else 1)


def leave() -> None:
  """Tells the others that this process ends as they do."""
  _tell(_GOODBYE)


def abandon(status: int, stopped: bool = False) -> NoReturn:
  """Ends this process, and so the others, which would wait for it.

  Args:
    status: This process's exit status.
    stopped: By a signal, and everything is saved: the others' status is 0.
  """
  _ending.set()
  # Others that end for the same reason have a line of their own to print.
  time.sleep(0 if stopped else 1)
  if stopped:
    _tell(_STOPPED)
  else:
    # Heard before JAX hears that its coordinator is gone, which is an abort.
    for connection in _connections:
      with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
    time.sleep(0.5 if _connections else 0)
  console.flush()
  os._exit(status)


def _tell(word):
  for connection in _connections:
    with contextlib.suppress(OSError):
      connection.sendall(word)


def is_first() -> bool:
  """Whether this is the process that writes logs, reports and sets."""
  return not jax.distributed.is_initialized() or jax.process_index() == 0


def gathered(text: str) -> list[str]:
  """Returns each process's text, in their order (at most 1,000 bytes)."""
  line = text.encode()[:TEXT_BYTES]
  padded = np.frombuffer(line.ljust(TEXT_BYTES, b"\0"), np.uint8)
  rows = np.asarray(multihost_utils.process_allgather(padded))
  return [
    row.tobytes().rstrip(b"\0").decode(errors="ignore")
    for row in rows.reshape(-1, TEXT_BYTES)
  ]


def of_first(value: Any) -> Any:
  """Returns what process 0 has for a value that JSON can hold."""
  if jax.process_count() == 1:
    return value
  text = np.frombuffer(json.dumps(value).encode(), np.uint8)
  size = int(multihost_utils.broadcast_one_to_all(np.int32(len(text))))
  padded = np.zeros(size, np.uint8)
  padded[: len(text)] = text[:size]
  whole = np.asarray(multihost_utils.broadcast_one_to_all(padded))
  return json.loads(whole.astype(np.uint8).tobytes())


def largest(value: int) -> int:
  """Returns the largest of the processes' values: whether any was signalled."""
  if jax.process_count() == 1:
    return value
  return int(np.max(multihost_utils.process_allgather(np.int32(value))))


@contextlib.contextmanager
def together() -> Iterator[None]:
  """What is refused in one process is refused in all of them.

  Without it the others would wait for the one that has gone.

  Raises:
    RefusedByAll: what the first of them was refused for.
  """
  refused = ""
  try:
    yield
  except errors.InputError as error:
    if jax.process_count() == 1:
      raise
    refused = str(error)
  if jax.process_count() == 1:
    return
  found = [text for text in gathered(refused) if text]
  if found:
    raise errors.RefusedByAll(found[0])


def require_agreement(what: str, digest: str) -> None:
  """Checks that all processes were started for the same run.

  Raises:
    RefusedByAll: their digests differ.
  """
  if len(set(gathered(digest))) > 1:
    raise errors.RefusedByAll(
      f"the processes of this run do not agree on {what}; start all of them "
      "with the same command, but for --process_id."
    )
