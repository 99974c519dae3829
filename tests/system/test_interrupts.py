"""A signal ends a command soon, at whatever moment it comes."""

import contextlib
import gc
import os
import signal
import subprocess
import sys
import time

import pytest

from gmdistill import errors, main
from gmdistill.system import interrupts, paths


@pytest.fixture
def signals():
  with contextlib.closing(interrupts.Signals()) as taken:
    yield taken


def test_a_signal_is_obeyed_at_once(signals):
  with pytest.raises(errors.Stopped) as stopped:
    signal.raise_signal(signal.SIGTERM)
  assert stopped.value.status == 128 + signal.SIGTERM  # nothing was saved


def test_no_reader_of_errors_takes_a_stop_for_one(signals):
  with pytest.raises(errors.Stopped):
    try:
      signal.raise_signal(signal.SIGINT)
    except Exception:  # noqa: BLE001 as readers of damaged files have
      pytest.fail("swallowed")


def test_a_signal_that_a_collector_swallows_is_obeyed_all_the_same(
  signals, capfd
):
  def callback(phase, _):
    gc.callbacks.remove(callback)
    signal.raise_signal(signal.SIGINT)
    time.sleep(0)  # here the handler raises, and Python drops it

  gc.callbacks.append(callback)
  gc.collect()
  with pytest.raises(errors.Stopped):
    time.sleep(5)
  assert not capfd.readouterr().err  # nor is anything printed of it


def test_files_are_written_to_their_end(signals, tmp_path, monkeypatch):
  replace = os.replace

  def interrupted(*names):
    signal.raise_signal(signal.SIGINT)
    return replace(*names)

  monkeypatch.setattr(os, "replace", interrupted)
  with pytest.raises(errors.Stopped):
    paths.write_files(paths.path(tmp_path), {"a": b"1", "b": b"2"})
  assert sorted(x.name for x in tmp_path.iterdir()) == ["a", "b"]


def test_the_outer_loop_sees_a_mark_alone(signals):
  signals.hold("kept")
  signal.raise_signal(signal.SIGTERM)
  assert signals.received == signal.SIGTERM
  with pytest.raises(errors.Stopped, match="all is saved") as stopped:
    signals.obey_at_once("all is saved")
  assert stopped.value.status == 0


def test_a_signal_before_anything_is_one_line(tmp_path, capsys):
  config = tmp_path / "config.py"
  config.write_text("import signal; signal.raise_signal(signal.SIGINT)")
  before = signal.getsignal(signal.SIGINT)
  argv = ["gmdistill", "distill", f"--config={config}"]
  assert main.main([*argv, f"--workdir={tmp_path / 'run'}"]) == 130
  assert "nothing is left half-written" in capsys.readouterr().err
  assert not (tmp_path / "run").exists()
  assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize("times, grace", [(1, 0.5), (2, 60)])
def test_what_lets_no_handler_run_ends_in_time(tmp_path, times, grace):
  # A program of XLA is as deaf: it returns to Python when it is done.
  config = tmp_path / "config.py"
  config.write_text(
    "import hashlib; print('deaf', flush=True);"
    "hashlib.pbkdf2_hmac('sha256', b'x', b'x', 10**9)"
  )
  code = (
    "from gmdistill import main; from gmdistill.system import interrupts;"
    f"interrupts.GRACE = {grace}; main.entry_point()"
  )
  process = subprocess.Popen(
    [sys.executable, "-c", code, "plan", f"--config={config}"],
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
  )
  with process:
    assert process.stdout.readline() == b"deaf\n"
    begun = time.monotonic()
    for _ in range(times):
      process.send_signal(signal.SIGINT)
      time.sleep(0.2)
    _, said = process.communicate(timeout=30)
  assert process.returncode == 130 and time.monotonic() - begun < 10
  assert b"nothing is left half-written" in said
