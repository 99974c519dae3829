import json

import pytest
from etils import epath

from gmdistill import errors
from gmdistill.system import json_files

HOSTILE = {
  "empty": b"",
  "cut off": b'{"a": 1',
  "no JSON": b"a = 1",
  "no Unicode": b'{"a": "\xff"}',
  "deep": b"[" * 100_000,
  "deep and closed": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
  "a number too long": b'{"a": ' + b"9" * 5000 + b"}",
  "a list": b"[1, 2]",
  "null": b"null",
  "zeros": bytes(64),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_json_is_one_line_that_says_what_to_do(tmp_path, kind):
  path = epath.Path(tmp_path) / "facts.json"
  path.write_bytes(HOSTILE[kind])
  with pytest.raises(errors.InputError) as caught:
    json_files.read(path, "make it anew.")
  said = str(caught.value)
  assert said.startswith(f"{path} is damaged (") and "\n" not in said
  assert said.endswith("; make it anew.") and len(said) < 300
  with pytest.raises(ValueError):
    json_files.parse(HOSTILE[kind])


def test_an_absent_file_and_a_folder_are_one_line(tmp_path):
  for path in (epath.Path(tmp_path) / "absent.json", epath.Path(tmp_path)):
    with pytest.raises(errors.InputError, match="cannot be read"):
      json_files.read(path, "make it anew.")


def test_an_object_comes_back_as_it_was_written(tmp_path):
  path = epath.Path(tmp_path) / "facts.json"
  facts = {"a": [1, 2.5, None], "ä": {"b": "✓"}}
  path.write_text(json.dumps(facts, ensure_ascii=False), encoding="utf-8")
  assert json_files.read(path, "") == facts
