"""Who waits is told how far it is, and what time is left."""

import io
import re
import sys
import time

import pytest

from gmdistill.system import logs, waits


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
  monkeypatch.setattr(waits.Count, "AFTER", 0.0)
  monkeypatch.setattr(waits.Count, "EVERY", 0.0)


def until(capsys, pattern):
  """Waits for a line, which another thread prints; returns it."""
  said, deadline = "", time.monotonic() + 5
  while not re.search(pattern, said):
    assert time.monotonic() < deadline, said
    time.sleep(0.005)
    said += capsys.readouterr().err
  return said


def test_a_count_says_how_many_are_done_and_what_is_left(capsys):
  count = waits.Count("replay: distilled", 4, "students")
  with count.working(2):
    until(capsys, r"distilled: 0 of 4 students, [\d.e-]+ s so far")
    with count.preparing("compiling"):
      until(capsys, r"0 of 4 students, compiling, .* so far")
    count.reckon(90.0)
    until(capsys, r"0 of 4 students, about (3 min 00 s|2 min 5\d s) left")
  with count.working(2):
    until(capsys, r"2 of 4 students, [\d.e-]+ s left")
  capsys.readouterr()
  time.sleep(0.02)
  assert not capsys.readouterr().err  # it has ended


def test_a_function_says_how_long_it_has_worked(capsys):
  @waits.during("learning the vocabulary")
  def learn(size):
    until(capsys, r"^learning the vocabulary, [\d.e-]+ s so far\n")
    return size

  assert learn(3) == 3 and learn(4) == 4  # every time from the start


def test_a_time_that_was_reckoned_and_has_passed_is_not_said_again(capsys):
  count = waits.Count("replay: distilled", 4, "students")
  with count.working(2):
    count.reckon(0.02)
    time.sleep(0.03)
    assert re.search(r"0 of 4 students, [\d.]+ s so far", count.said())


def test_what_a_loop_goes_over_is_counted_and_comes_out_as_it_was(capsys):
  found = []
  for item in waits.over("abc", "reading", 9, "rows", 3):
    found.append(item)
    if item == "b":
      until(capsys, r"reading: 3 of 9 rows, .* left")
  assert found == ["a", "b", "c"]


def test_short_works_and_those_of_nothing_are_silent(capsys, monkeypatch):
  with waits.Count("nothing", 0, "students").working(1):
    time.sleep(0.02)
  monkeypatch.setattr(waits.Count, "AFTER", 60.0)
  with waits.Count("short", 1, "students").working(1):
    time.sleep(0.02)
  assert not capsys.readouterr().err


def test_an_error_in_the_work_comes_through_and_ends_the_count(capsys):
  with pytest.raises(ZeroDivisionError):
    with waits.Count("training", 2, "students").working(1):
      raise ZeroDivisionError
  capsys.readouterr()
  time.sleep(0.02)
  assert not capsys.readouterr().err and not logs.is_taken()


def test_a_terminal_has_a_line_that_lives_below_what_is_said(monkeypatch):
  class Terminal(io.StringIO):
    def isatty(self):
      return True

  screen = Terminal()
  monkeypatch.setattr(sys, "stderr", screen)
  monkeypatch.setenv("TERM", "xterm")
  deadline = time.monotonic() + 5
  with waits.Count("training", 2, "students").working(2):
    while "0 of 2 students" not in screen.getvalue():
      assert time.monotonic() < deadline
      time.sleep(0.005)
    assert logs.is_taken()
    logs.say("a line")
  assert "a line\n" in screen.getvalue() and not logs.is_taken()
