import concurrent.futures
import json

import numpy as np
import pytest

from gmdistill import errors
from gmdistill.system import cache

ARRAYS = {"ids": np.arange(600).reshape(20, 30), "facts": np.array('{"a": 1}')}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
  monkeypatch.setenv("GMDISTILL_CACHE", str(tmp_path))
  return tmp_path


def test_an_entry_is_named_by_all_that_decides_it(folder):
  first = cache.entry("tables", {"width": 8, "window": 4})
  assert first == cache.entry("tables", {"window": 4, "width": 8})
  assert first != cache.entry("tables", {"width": 8, "window": 5})
  assert first.parent == folder / "tables"
  labelled = cache.entry("tables", {"width": 8, "window": 4}, "docstrings")
  assert labelled.name == f"docstrings-{first.name}"


def test_what_is_kept_comes_back():
  entry = cache.entry("corpora", 1)
  assert cache.read_arrays(entry) is None and cache.read_facts(entry) is None
  cache.write_arrays(entry, ARRAYS)
  arrays = cache.read_arrays(entry)
  assert sorted(arrays) == sorted(ARRAYS)
  for name, array in ARRAYS.items():
    np.testing.assert_array_equal(arrays[name], array)
  cache.write_facts(entry, {"mean": 0.25, "std": None})
  assert cache.read_facts(entry) == {"mean": 0.25, "std": None}


def test_large_arrays_are_mapped_and_a_change_stays_in_memory(monkeypatch):
  monkeypatch.setattr(cache, "LARGE", 1000)
  entry = cache.entry("corpora", 1)
  cache.write_arrays(entry, ARRAYS)
  arrays = cache.read_arrays(entry)
  assert isinstance(arrays["ids"], np.memmap)
  assert not isinstance(arrays["facts"], np.memmap)
  np.testing.assert_array_equal(arrays["ids"], ARRAYS["ids"])
  arrays["ids"][0] = -1
  np.testing.assert_array_equal(cache.read_arrays(entry)["ids"], ARRAYS["ids"])


@pytest.mark.parametrize("large", [1, 10**9])
def test_scratch_is_written_and_read_and_leaves_no_file(large, monkeypatch):
  monkeypatch.setattr(cache, "LARGE", large)
  scratch = cache.scratch((20, 30), np.int64)
  assert isinstance(scratch, np.memmap) == (large == 1)
  scratch[:] = ARRAYS["ids"]
  np.testing.assert_array_equal(scratch, ARRAYS["ids"])
  assert not list(cache.paths.cache_folder().iterdir())


def test_damaged_arrays_count_as_absent_wherever_the_damage_is():
  entry = cache.entry("corpora", 1)
  cache.write_arrays(entry, ARRAYS)
  whole = entry.read_bytes()
  damaged = [b"", b"torn", whole[: len(whole) // 2], whole[:-1]]
  for start in range(0, len(whole) - 40, 97):
    damaged.append(whole[:start] + 40 * b"\x5a" + whole[start + 40 :])
  for content in damaged:
    entry.write_bytes(content)
    arrays = cache.read_arrays(entry)
    # Some bytes of an archive say nothing that is read.
    assert arrays is None or all(
      np.array_equal(arrays[name], array) for name, array in ARRAYS.items()
    )
  entry.write_bytes(whole)
  assert cache.read_arrays(entry) is not None


def test_pickled_objects_are_never_loaded():
  entry = cache.entry("corpora", 1)
  entry.parent.mkdir()
  with entry.open("wb") as file:
    np.savez(file, ids=np.array([{"an": "object"}], dtype=object))
  assert cache.read_arrays(entry) is None


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"[" * 100_000])
def test_damaged_facts_count_as_absent(content):
  entry = cache.entry("baselines", 1)
  entry.parent.mkdir()
  entry.write_bytes(content)
  assert cache.read_facts(entry) is None


def test_a_cache_folder_that_is_a_file_is_one_line(folder, monkeypatch):
  (folder / "file").write_text("")
  monkeypatch.setenv("GMDISTILL_CACHE", str(folder / "file"))
  for write in (cache.write_arrays, cache.write_facts):
    with pytest.raises(errors.InputError, match="GMDISTILL_CACHE"):
      write(cache.entry("corpora", 1), {})


def test_writers_of_one_entry_at_once_leave_a_whole_one(folder):
  entry = cache.entry("baselines", 1)

  def write_often(number):
    for _ in range(50):
      cache.write_facts(entry, {"writer": [number] * 1000})

  with concurrent.futures.ThreadPoolExecutor() as pool:
    writing = [pool.submit(write_often, number) for number in range(4)]
    while not all(writer.done() for writer in writing):
      facts = cache.read_facts(entry)
      assert facts is None or len(set(facts["writer"])) == 1
    for writer in writing:
      writer.result()
  (left,) = (folder / "baselines").iterdir()
  assert len(json.loads(left.read_text())["writer"]) == 1000
