"""The rows of a prepared TFDS split, read without TensorFlow."""

import itertools
import struct
from collections.abc import Iterator
from typing import Any

import tensorflow_datasets as tfds
from etils import epath

from gmdistill import errors
from gmdistill.system import waits

CHUNK = 4096  # Rows per read; many at once are four times faster a row.

_FORMATS = tfds.core.FileFormat

READABLE = (_FORMATS.ARRAY_RECORD, _FORMATS.PARQUET, _FORMATS.TFRECORD)


def rows(builder: Any, split: str) -> Iterator[dict[str, Any]]:
  """Yields the rows of a split, in the order in which they are stored."""
  total = builder.info.splits[split].num_examples
  label = f"reading {builder.name}: {split}"
  yield from waits.over(_rows(builder, split), label, total, "rows")


def _rows(builder, split):
  if builder.info.file_format == _FORMATS.TFRECORD:
    features = builder.info.features
    files = [epath.Path(x) for x in builder.info.splits[split].filepaths]
    for record in itertools.chain.from_iterable(map(_tf_records, files)):
      yield features.deserialize_example_np(record)
    return
  records = builder.as_data_source(split=split)
  for start in range(0, len(records), CHUNK):
    chunk = range(start, min(start + CHUNK, len(records)))
    yield from records.__getitems__(list(chunk))


def _tf_records(path: epath.Path) -> Iterator[bytes]:
  """Yields what a TFRecord file holds.

  A record is its length in 8 bytes, their checksum in 4, the bytes, and their
  checksum in 4.

  Raises:
    InputError: the file ends within a record.
  """
  with path.open("rb") as file:
    while head := file.read(12):
      length = struct.unpack("<Q", head[:8])[0] if len(head) == 12 else 0
      # A damaged length would ask for all memory that there is.
      left = path.stat().length - file.tell()
      whole = file.read(length + 4) if length + 4 <= left else b""
      if len(head) < 12 or len(whole) < length + 4:
        raise errors.InputError(
          f"{path} ends within a record; copy it again, or prepare the set anew"
        )
      yield whole[:length]
