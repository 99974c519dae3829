"""Two processes with two devices each are one run, and end together."""

import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
import safetensors.numpy
import tiny_language

HERE = pathlib.Path(__file__).parents[1]
FIELDS = [
  "objective=look_ahead",
  "student.kind=textcnn",  # which is traced soonest
  # Small steps: at the config's own rate, the outer loop doubles a difference
  # of rounding every step or two.
  "outer.learning_rate=1e-3",
  "num_students=4",
  "num_steps=20",
  "checkpoint_every=4",
  "eval_every=20",
  "steps_per_dispatch=1",
  "protocols=('replay',)",
  "replay.num_students=1",
  "replay.rates=(0.1,)",
  "full.num_students=1",
  "coreset_pool=4",
]


def in_flags(fields):
  return [f"--config.{field}" for field in fields]


def start(workdir, *extra, devices=2, code=None, run=None):
  run = run or [f"--config={HERE}/tiny_config.py", *in_flags(FIELDS)]
  flags = [
    *(x for x in os.environ["XLA_FLAGS"].split() if "device_count" not in x),
    f"--xla_force_host_platform_device_count={devices}",
  ]
  return subprocess.Popen(
    [
      *(sys.executable, *(("-c", code) if code else ("-m", "gmdistill"))),
      "distill",
      *(*run, f"--workdir={workdir}"),
      *extra,
    ],
    env={**os.environ, "XLA_FLAGS": " ".join(flags)},
    stderr=subprocess.PIPE,
    stdout=subprocess.PIPE,
    text=True,
  )


def pair(
  workdir, *extra, second=(), codes=(None, None), second_in=None, **options
):
  with socket.create_server(("", 0)) as free:
    port = free.getsockname()[1]
  own = ["--distributed", f"--coordinator=localhost:{port}", *extra]
  return [
    start(
      *(place, *own, "--num_processes=2", f"--process_id={i}", *others),
      code=c,
      **options,
    )
    for i, (others, place, c) in enumerate(
      [((), workdir, codes[0]), (second, second_in or workdir, codes[1])]
    )
  ]


# What Gloo says once it is connected, in pieces as its threads write it.
GLOO = re.compile(
  r"\[Gloo\]|Rank|is connected to|peer ranks\.?|Expected number of connected"
  r"|is|:|\d+"
)


def ended(processes, timeout=300):
  """Returns exit statuses, and what each process said to a person."""
  said = [process.communicate(timeout=timeout) for process in processes]
  # The results are the first one's to print.
  for out, _ in said[1:]:
    assert not GLOO.sub("", out).strip()
  return [process.returncode for process in processes], [x[1] for x in said]


def once_at(step, workdir, process, number):
  path = workdir / "metrics.jsonl"
  while not path.is_file() or len(path.read_text().splitlines()) < step:
    assert process.poll() is None
    time.sleep(0.02)
  process.send_signal(number)


def the_set(workdir):
  return safetensors.numpy.load_file(workdir / "set" / "set.safetensors")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
  workdir = tmp_path_factory.mktemp("distributed") / "whole"
  codes, said = ended(pair(workdir))
  assert codes == [0, 0], said
  return workdir


def test_two_processes_give_the_set_of_one(whole, tmp_path):
  codes, said = ended([start(tmp_path / "one", devices=1, code=THE_SET_ALONE)])
  assert codes == [0], said
  ours, theirs = the_set(whole), the_set(tmp_path / "one")
  for name, tensor in ours.items():
    np.testing.assert_allclose(tensor, theirs[name], atol=1e-5, err_msg=name)
  assert (whole / "report.html").is_file()


def test_two_processes_hold_a_base_together_and_give_the_set_of_one(tmp_path):
  rows = tiny_language.write_rows(tmp_path / "rows")
  fields = [
    f"data.name={rows}",
    "initialise=k_centers",  # whose features are of both processes' parts
    "student.remat=layers",
    "outer.learning_rate=1e-3",
    "num_students=2",
    "num_steps=4",
    "rows_per_class=4",
  ]
  run = ["--config=shakespeare:tiny", *in_flags(fields)]
  alone = start(tmp_path / "one", devices=1, code=THE_SET_ALONE, run=run)
  codes, said = ended([alone])
  assert codes == [0], said
  run.append("--config.mesh.base=sharded")
  options = dict(devices=1, codes=[THE_SET_ALONE] * 2, run=run)
  codes, said = ended(pair(tmp_path / "both", **options))
  assert codes == [0, 0], said
  assert "base: a part of every tensor on each of 2 devices" in said[0]
  both, one = the_set(tmp_path / "both"), the_set(tmp_path / "one")
  for name, tensor in one.items():
    np.testing.assert_allclose(both[name], tensor, atol=1e-5, err_msg=name)


# What is asked here is the set; measuring it takes the longest.
THE_SET_ALONE = """
import sys
from gmdistill import main
from gmdistill.runs import finish
from gmdistill.sets import set_files
from gmdistill.system import processes
def only(job, folder, outcome):
  if processes.is_first():
    set_files.save(folder / "set", outcome.best, {})
finish.finish = only
sys.exit(main.main(sys.argv))
"""
# Told to stop after the last step, and still at work then.
STOPPED_LATE = """
import os, signal, sys
from gmdistill import main
from gmdistill.runs import finish
finish.finish = lambda *_: os.kill(os.getpid(), signal.SIGTERM)
sys.exit(main.main(sys.argv))
"""
SLOW = """
import sys, time
from gmdistill import main
from gmdistill.runs import finish
finish.finish = lambda *_: time.sleep(300)
sys.exit(main.main(sys.argv))
"""


def test_one_that_ends_ends_both_whenever_it_does_and_they_resume(
  whole, tmp_path
):
  """One run, whose processes are stopped and killed again and again."""
  workdir = tmp_path / "run"
  for step, which, number in (
    (5, 1, signal.SIGTERM),
    (9, 0, signal.SIGKILL),
    (13, 1, signal.SIGKILL),
  ):
    processes = pair(workdir, codes=(SLOW, SLOW))
    once_at(step, workdir, processes[which], number)
    begun = time.monotonic()
    codes, said = ended(processes, timeout=60)
    assert time.monotonic() - begun < 60
    if number == signal.SIGTERM:
      assert codes == [0, 0]
      assert all("go on with the same command: gmdistill" in x for x in said)
    else:
      assert sorted(codes) == [-signal.SIGKILL, 1]
      assert "another process of this run is gone" in said[1 - which]
      assert "Traceback" not in said[1 - which]
    assert ("going on from step" in said[0]) == (step > 5)
  for which, codes in ((0, (STOPPED_LATE, SLOW)), (1, (SLOW, STOPPED_LATE))):
    codes, said = ended(pair(workdir, codes=codes), timeout=120)
    assert codes == [0, 0]
    assert "saved at step 20; go on with the same command" in said[which]
    assert "another process of this run was told to stop" in said[1 - which]
  codes, said = ended(pair(workdir, codes=(THE_SET_ALONE, THE_SET_ALONE)))
  assert codes == [0, 0], said
  assert "going on from step 20" in said[0]
  ours, theirs = the_set(whole), the_set(workdir)
  for name, tensor in ours.items():
    np.testing.assert_array_equal(tensor, theirs[name], err_msg=name)


def test_a_run_goes_on_over_another_number_of_devices(whole, tmp_path):
  workdir = tmp_path / "run"
  alone = start(workdir, devices=1)
  once_at(9, workdir, alone, signal.SIGTERM)
  assert ended([alone])[0] == [0]
  codes, said = ended([start(workdir, devices=4, code=THE_SET_ALONE)])
  assert codes == [0] and "going on from step" in said[0]
  ours, theirs = the_set(whole), the_set(workdir)
  for name, tensor in ours.items():
    np.testing.assert_allclose(tensor, theirs[name], atol=1e-5, err_msg=name)


AT_STEP_SIX = """
import sys
from gmdistill import main
from gmdistill.system import logs as metrics
write = metrics.Writer.write
def own(self, step, values):
  if step == 6:
    {}
  write(self, step, values)
metrics.Writer.write = own
sys.exit(main.main(sys.argv))
"""
FULL = AT_STEP_SIX.format("raise OSError(28, 'No space left on device')")
DEFECT = AT_STEP_SIX.format("raise RuntimeError('a defect')")
# A preemption while the programs compile.
EARLY = """
import os, signal, sys, time
from gmdistill import main
from gmdistill.runs import jobs
def prepare(*_):
  os.kill(os.getpid(), signal.SIGTERM)
  time.sleep(300)
jobs.prepare = prepare
sys.exit(main.main(sys.argv))
"""


@pytest.mark.parametrize(
  "code, status, line",
  [
    (FULL, 2, "No space left on device"),
    (DEFECT, 1, "a defect"),
    (EARLY, 128 + signal.SIGTERM, "interrupted"),
  ],
)
def test_what_befalls_one_process_alone_ends_the_others(
  tmp_path, code, status, line
):
  processes = pair(tmp_path / "run", codes=(code, None))
  codes, said = ended(processes, timeout=60)
  assert codes == [status, 1] and line in said[0]
  assert "another process of this run is gone" in said[1]
  assert "Traceback" not in said[1]


def test_a_folder_that_processes_do_not_share_is_refused(tmp_path):
  codes, said = ended(pair(tmp_path / "one", second_in=tmp_path / "two"))
  assert codes == [2, 2]
  assert all("is not the first process's" in line for line in said)


def test_processes_that_disagree_are_refused(tmp_path):
  codes, said = ended(pair(tmp_path / "run", second=["--config.outer.ema=0.5"]))
  assert codes == [2, 2]
  assert all("do not agree on the config" in line for line in said)
  assert not (tmp_path / "run").exists()


def test_what_one_process_is_refused_for_ends_both_with_its_line(tmp_path):
  codes, said = ended(pair(tmp_path / "run", "--config.num_students=3"))
  assert codes == [2, 2]
  assert all("num_students=3 does not divide" in line for line in said)
  assert not (tmp_path / "run").exists()


def test_a_process_that_is_left_alone_says_so(tmp_path):
  with (
    socket.create_server(("", 0)) as one,
    socket.create_server(("", 0)) as two,
  ):
    ports = [free.getsockname()[1] for free in (one, two)]
  begun = time.monotonic()
  alone = [  # either of a pair, whose other process never comes
    start(
      tmp_path / "run",
      *("--distributed", f"--coordinator=localhost:{port}"),
      *("--num_processes=2", f"--process_id={which}"),
    )
    for which, port in enumerate(ports)
  ]
  codes, said = ended(alone, timeout=60)
  assert time.monotonic() - begun < 45  # 25 of waiting, the start aside
  for port, code, line in zip(ports, codes, said, strict=True):
    assert code == 2 and f"localhost:{port}: " in line
    assert len(line.splitlines()) == 1
  assert not (tmp_path / "run").exists()
