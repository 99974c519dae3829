"""Runs, sets, banks and data in a bucket (gs://)."""

import json
import shutil
import signal

import bucket
import jax
import numpy as np
import pytest
import tiny_config
import tiny_sets
from conftest import make_synthetic

from gmdistill import errors, main
from gmdistill.data import loading, sources
from gmdistill.objectives import bank, bank_building
from gmdistill.runs import distill, finish
from gmdistill.runs.config import assembly, settings
from gmdistill.sets import set_files, synthetic
from gmdistill.system import checkpoints, folders, interrupts, logs, paths


@pytest.fixture(scope="module")
def root(tmp_path_factory):
  return tmp_path_factory.mktemp("served")


@pytest.fixture(scope="module")
def remote(root):
  with bucket.served_from(root) as address:
    yield address


def small(**fields):
  config = tiny_config.get_config("polish")
  config.update(
    num_steps=4,
    num_students=1,
    steps_per_dispatch=1,
    eval_every=4,
    coreset_pool=4,
    protocols=("replay",),
  )
  config.replay.update(num_students=1, rates=(0.1,), head_scales=(1.0,))
  config.full.num_students = 1
  config.update(fields)
  return config


def only_the_set(job, folder, outcome):
  set_files.save(folder / "set", outcome.best, {})


@pytest.fixture(scope="module")
def both(remote, root):
  """A run in a bucket, stopped and gone on with, and the same one here."""
  stop = lambda self: setattr(self, "received", signal.SIGTERM)  # noqa: E731
  with pytest.MonkeyPatch.context() as patch:
    first = interrupts.Signals.hold
    patch.setattr(
      interrupts.Signals,
      "hold",
      lambda self, said: (first(self, said), stop(self))[0],
    )
    with pytest.raises(errors.Stopped, match="saved at step 1"):
      distill.run(small(), f"{remote}/runs/run")
  folder = paths.path(f"{remote}/runs/run")
  assert not (folder / "summary.json").exists()
  stopped = (folder / "metrics.jsonl").read_text()
  distill.run(small(), f"{remote}/runs/run")
  with pytest.MonkeyPatch.context() as patch:  # measuring takes the longest
    patch.setattr(finish, "finish", only_the_set)
    distill.run(small(), str(root / "here"))
  return folder, paths.path(root / "here"), stopped


def test_a_run_in_a_bucket_goes_on_to_the_bits_of_one_on_a_disk(both):
  there, here, stopped = both
  name = "set/set.safetensors"
  assert (there / name).read_bytes() == (here / name).read_bytes()
  assert {p.name for p in there.iterdir()} >= {"report.html", "space"}
  keys = lambda text: [  # noqa: E731
    {k: v for k, v in json.loads(line).items() if k != "time"}
    for line in text.splitlines()
  ]
  lines = [keys((folder / "metrics.jsonl").read_text()) for folder in both[:2]]
  assert lines[0] == lines[1] and len(lines[0]) == 4
  assert keys(stopped) == lines[0][:1]  # kept when the checkpoint was


def test_the_verbs_read_and_write_a_bucket(both, remote, capsys):
  there, _, _ = both
  flags = [f"--set={there / 'set'}", f"--workdir={remote}/found"]
  assert main.main(["x", "evaluate", *flags]) == 0
  capsys.readouterr()
  found = json.loads(paths.path(f"{remote}/found/evaluation.json").read_text())
  summary = json.loads((there / "summary.json").read_text())
  own = summary["protocols"]["replay"]["distilled"]["mean"]
  assert found["replay"]["mean"] == pytest.approx(own)
  student = f"--workdir={remote}/student"
  assert main.main(["x", "train", flags[0], student]) == 0
  weights = paths.path(f"{remote}/student/model.safetensors")
  assert weights.is_file()
  pages = [str(there), f"--workdir={remote}/pages"]
  assert main.main(["x", "report", *pages]) == 0
  page = paths.path(f"{remote}/pages/report.html").read_text()
  assert page == (there / "report.html").read_text()


def test_another_config_in_the_bucket_is_refused_by_field(both):
  with pytest.raises(errors.InputError, match="seed is 0 there, 1 here"):
    distill.run(small(seed=1), str(both[0]))


def test_a_bank_in_a_bucket_is_finished_where_a_mark_is_missing(remote, root):
  config = small()
  options = bank.Options(
    num_trajectories=1, ages=(0, 1), rows_per_class=4, batch_rows_per_class=4
  )
  setup = assembly.setup(settings.recipe(config))
  folder = bank_building.build(f"{remote}/bank", setup, options)
  before = bank.Bank(folder, setup).expert(0, 1, ("params", "targets"))
  entry = bank.entry_path(folder / "entries", 0, 1)
  (entry / "commit_success.txt").unlink()
  assert entry.is_dir() and not checkpoints.is_whole(entry)
  with pytest.raises(errors.InputError, match="lacks 1 of its 2 states"):
    bank.Bank(folder, setup)
  bank_building.build(str(folder), setup, options)
  again = bank.Bank(folder, setup).expert(0, 1, ("params", "targets"))
  jax.tree.map(np.testing.assert_array_equal, before, again)


def test_a_private_bank_is_kept_off_a_bucket(remote):
  options = bank.Options(clip=1.0, noise=1.0, rows_per_class=4)
  with pytest.raises(errors.InputError, match="key of its noise"):
    bank_building.build(
      f"{remote}/private", assembly.setup(settings.recipe(small())), options
    )


def test_a_data_set_in_a_bucket_is_read_as_one_on_a_disk(
  remote, root, tmp_path, monkeypatch
):
  monkeypatch.setenv("GMDISTILL_CACHE", str(tmp_path / "cache"))
  rows = {
    split: tiny_sets.rows_of([0, 1, 2] * 30, start)
    for split, start in (("train", 0), ("test", 100))
  }
  tiny_sets.build(tmp_path / "tfds", rows, tiny_sets.names(3))
  shutil.copytree(tmp_path / "tfds", root / "bucket" / "tfds")
  load = lambda folder: loading.load(  # noqa: E731
    loading.Options(name="tiny", dir=folder, max_length=8, vocab_size=64)
  )
  here, there = load(str(tmp_path / "tfds")), load(f"{remote}/tfds")
  assert there.fingerprint == here.fingerprint
  np.testing.assert_array_equal(there.train.token_ids, here.train.token_ids)
  with pytest.raises(errors.InputError, match="prepared on this machine"):
    sources.open_source(
      "docstrings", data_dir=f"{remote}/tfds", embedded_dir=tmp_path
    )


@pytest.mark.parametrize("precision", set_files.PRECISIONS)
def test_a_set_of_any_precision_is_the_same_file_in_a_bucket(
  remote, tmp_path, precision
):
  syn = synthetic.SyntheticSet(make_synthetic())
  for folder in (tmp_path, f"{remote}/sets/{precision}"):
    set_files.save(folder, syn, {"embedding_space": "x"}, precision)
  found, card = set_files.load(f"{remote}/sets/{precision}", "x")
  stored = set_files.as_stored(syn, precision)
  jax.tree.map(np.testing.assert_array_equal, found, stored)
  there = paths.path(f"{remote}/sets/{precision}/set.safetensors")
  here = tmp_path / "set.safetensors"
  assert there.read_bytes() == here.read_bytes()
  assert card["bytes"] == set_files.num_bytes(syn, precision)


def test_lines_of_a_bucket_wait_for_the_next_checkpoint(remote, tmp_path):
  there = paths.path(f"{remote}/lines/metrics.jsonl")
  here = paths.path(tmp_path / "metrics.jsonl")
  for place, at_once in ((there, 0), (here, 1)):
    writer = logs.Writer(place, 0)
    writer.write(1, {"a/b": 1.0})
    assert len(place.read_text().splitlines()) == at_once
    writer.keep()
    assert len(place.read_text().splitlines()) == 1
    writer.write(2, {"a/b": 1.0})
    writer.close()
    assert len(place.read_text().splitlines()) == 2
    logs.Writer(place, 1).close()  # what a killed run wrote after its state
    assert len(place.read_text().splitlines()) == 1


@pytest.mark.parametrize(
  "address, words",
  [
    ("ftp://host/folder", ["ftp:// is none of gs, s3"]),
    ("s3://bucket/folder", ["s3fs", "install it, or give a folder"]),
  ],
)
def test_an_address_that_cannot_be_read_is_one_line(address, words):
  for word in words:
    with pytest.raises(errors.InputError, match=word):
      set_files.load(address)


def test_a_bucket_that_does_not_answer_is_one_line(remote, monkeypatch):
  def silent(self, path):
    raise RuntimeError("401 anonymous")

  monkeypatch.setattr(bucket.Bucket, "info", silent)
  with pytest.raises(errors.InputError, match="cannot be reached .*anonymous"):
    folders.writable(f"{remote}/run")


def test_runs_are_kept_here_or_at_gs(monkeypatch):
  monkeypatch.setattr(paths, "path", lambda text: bucket.epath.Path(text))
  with pytest.raises(errors.InputError, match="gs://BUCKET/FOLDER"):
    folders.writable("s3://bucket/run")
