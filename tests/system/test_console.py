"""Nothing that is printed ends a run."""

import ast
import io
import os
import pathlib
import subprocess
import sys

import pytest

import gmdistill
from gmdistill import main
from gmdistill.system import console, logs

PACKAGE = pathlib.Path(gmdistill.__file__).parent


@pytest.mark.parametrize(
  "text, encoding, shown",
  [
    ("89.0 ± 1.2", "ascii", "89.0 +- 1.2"),
    ("89.0 ± 1.2", "utf-8", "89.0 ± 1.2"),
    ("中文 → x", "latin-1", "\\u4e2d\\u6587 -> x"),
    ("caf\udce9/set", "utf-8", "caf\\udce9/set"),
    ("±", None, "±"),
  ],
)
def test_what_an_encoding_lacks_is_written_otherwise(text, encoding, shown):
  assert console.encodable(text, encoding) == shown


def closed_pipe():
  reader, writer = os.pipe()
  os.close(reader)
  return os.fdopen(writer, "w")


def full():
  return open("/dev/full", "w")


def closed():
  stream = io.StringIO()
  stream.close()
  return stream


@pytest.mark.parametrize("make", [closed_pipe, full, closed, lambda: None])
@pytest.mark.parametrize("name", ["stdout", "stderr"])
def test_a_stream_that_takes_nothing_ends_nothing(make, name, monkeypatch):
  stream = make()
  monkeypatch.setattr(sys, name, stream)
  for _ in range(2):
    console.show("a result")
    console.complain("a line")
    logs.say("a line")
    progress = logs.Progress(4, 0, 2)
    progress.update(2, 0.5, 0.9)
    progress.close()
  monkeypatch.undo()
  if stream is not None:
    stream.close()  # nor does its last flush


def test_slow_steps_are_said_between_those_that_are_always(monkeypatch, capsys):
  now = [0.0]
  monkeypatch.setattr(logs.time, "monotonic", lambda: now[0])
  progress = logs.Progress(100, 0, 10)
  for step in range(1, 21):
    now[0] += 13.0
    progress.update(step, 0.5, None)
  progress.close()
  said = [x.split()[1] for x in capsys.readouterr().err.splitlines()]
  # After 30 s without a word, and later after a quarter of the time so far.
  assert said == [f"{x}/100" for x in (3, 6, 9, 10, 14, 19, 20)]


def test_other_libraries_print_within_a_command_what_they_like(monkeypatch):
  raw = io.BytesIO()
  monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, "ascii"))
  with console.tolerant():
    print("50 % ▌ done")
  sys.stdout.flush()
  assert raw.getvalue() == b"50 % \\u258c done\n"


def test_a_terminal_of_ascii_alone_is_shown_everything_to_the_end():
  code = """
from gmdistill.system import console, logs
progress = logs.Progress(4, 0, 2)
progress.update(2, 0.5, 0.9)
logs.say("café: 89.0 ± 1.2")
progress.close()
console.show("accuracy ± std")
"""
  done = subprocess.run(
    [sys.executable, "-c", code],
    env=os.environ | {"PYTHONIOENCODING": "ascii", "LC_ALL": "C"},
    capture_output=True,
  )
  assert done.returncode == 0, done.stderr
  assert done.stdout == b"accuracy +- std\n"
  assert b"caf\\xe9: 89.0 +- 1.2" in done.stderr


def test_help_into_a_closed_pipe_ends_well():
  command = (
    f"{sys.executable} -m gmdistill help | true; exit ${{PIPESTATUS[0]}}"
  )
  done = subprocess.run(["bash", "-c", command], capture_output=True)
  assert (done.returncode, done.stderr) == (0, b"")


def test_a_refusal_of_any_text_is_one_line(capsys):
  assert main.main(["gmdistill", "train", "--set=caf\udce9"]) == 2
  assert len(capsys.readouterr().err.splitlines()) == 1


def test_all_that_is_printed_goes_through_the_console():
  alone = {"data/corpora/prose.py"}  # a program of its own, of JSON
  for path in PACKAGE.rglob("*.py"):
    for node in ast.walk(ast.parse(path.read_text())):
      if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        said = node.func.id == "print"
        assert not said or str(path.relative_to(PACKAGE)) in alone, path
