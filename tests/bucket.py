"""A bucket without a network: `gs://` on a folder of this machine.

As in an object store, there are only files: a folder exists as long as one lies
below it, nothing is appended to, and a directory needs no making.
"""

import contextlib
import os
import pathlib
import shutil
from unittest import mock

import fsspec
from etils import epath
from orbax.checkpoint._src.path import gcs_utils


class Bucket(fsspec.AbstractFileSystem):
  """The file system that `epath` finds for gs://; `root` holds the buckets."""

  protocol = ("gs", "gcs")
  cachable = False
  root = pathlib.Path()

  def _real(self, path):
    return self.root / self._strip_protocol(os.fspath(path))

  def _there(self, path):
    real = self._real(path)
    if real.is_dir() and not any(x.is_file() for x in real.rglob("*")):
      return False
    return real.exists()

  def info(self, path, **kwargs):
    if not self._there(path):
      raise FileNotFoundError(path)
    real = self._real(path)
    return {
      "name": str(real.relative_to(self.root)),
      "size": real.stat().st_size,
      "type": "directory" if real.is_dir() else "file",
    }

  def ls(self, path, detail=True, **kwargs):
    if not self._there(path):
      raise FileNotFoundError(path)
    real = self._real(path)
    found = real.iterdir() if real.is_dir() else [real]
    names = [str(x.relative_to(self.root)) for x in sorted(found)]
    infos = [self.info(name) for name in names if self._there(name)]
    return infos if detail else [x["name"] for x in infos]

  def mkdir(self, path, create_parents=True, **kwargs):
    pass

  def makedirs(self, path, exist_ok=False):
    pass

  def open(self, path, mode="rb", **kwargs):
    if "a" in mode or "+" in mode:
      raise NotImplementedError("nothing is appended to in a bucket")
    real = self._real(path)
    if "w" in mode:
      real.parent.mkdir(parents=True, exist_ok=True)
    return real.open(mode)

  def rm(self, path, recursive=False, maxdepth=None):
    real = self._real(path)
    if not self._there(path):
      raise FileNotFoundError(path)
    shutil.rmtree(real) if recursive and real.is_dir() else real.unlink()

  def mv(self, path1, path2, **kwargs):
    raise NotImplementedError("nothing is renamed in a bucket")

  rename = mv


@contextlib.contextmanager
def served_from(root):
  """Serves gs:// from `root`; orbax's own writer finds its files there too."""

  def kvstore(path):
    bucket, inside = gcs_utils.parse_gcs_path(path, add_trailing_slash=False)
    return {"driver": "file", "path": str(root / bucket / inside)}

  backend = epath.backend.fsspec_backend
  backend._get_filesystem.cache_clear()
  with (
    mock.patch.object(Bucket, "root", root),
    mock.patch.object(gcs_utils, "get_kvstore_for_gcs", kvstore),
    mock.patch.object(
      gcs_utils, "is_hierarchical_namespace_enabled", lambda path: False
    ),
  ):
    for name in Bucket.protocol:
      fsspec.register_implementation(name, Bucket, clobber=True)
    yield "gs://bucket"
  backend._get_filesystem.cache_clear()
