"""Rows in files as people bring them: read, counted, or refused in a line."""

import json
import pathlib
import sys

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as arrow_parquet
import pytest

import gmdistill as gd
from gmdistill import errors
from gmdistill.data import loading, parts, sources, table_csv, tables

CASES = pathlib.Path(__file__).resolve().parents[3] / "shared/cases"

ROWS = [(f"a good film number {n}", "pos") for n in range(6)]
ROWS += [(f"a bad film, number {n}", "neg") for n in range(6)]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
  monkeypatch.setenv("GMDISTILL_CACHE", str(tmp_path / "cache"))


def opened(name, **fields):
  return sources.with_classes(
    sources.open_source(str(name), data_dir="", embedded_dir="", **fields)
  )


def train(name, **fields):
  """Returns the training rows as (text, name of the class)."""
  source = opened(name, **fields)
  rows = sources.read(source, "train")
  names = [source.label_names[x] for x in rows.labels]
  return list(zip(rows.texts, names, strict=True))


def csv_of(rows, names="text,label", newline="\n"):
  lines = [f'"{text}",{label}' for text, label in rows]
  return newline.join([names, *lines, ""]).encode()


def json_of(rows):
  lines = [json.dumps({"text": t, "label": y}) for t, y in rows]
  return "\n".join(lines).encode()


def write(folder, name, content):
  path = folder / name
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_bytes(content)
  return path


def parquet(folder, name, table):
  arrow_parquet.write_table(table, folder / name)
  return folder / name


def notes(path, **fields):
  return parts.read(opened(path, **fields))[2]


# The ways in.


@pytest.mark.parametrize(
  "name", ["rows.csv", "rows.tsv", "rows.jsonl", "rows.parquet", "Räume 1.CSV"]
)
def test_every_kind_of_file_gives_the_same_rows(tmp_path, name):
  if name.endswith("parquet"):
    text, label = zip(*ROWS, strict=True)
    path = parquet(tmp_path, name, pa.table({"text": text, "label": label}))
  else:
    content = json_of(ROWS) if "json" in name else csv_of(ROWS)
    if "tsv" in name:
      content = content.replace(b'",', b'"\t').replace(b"text,", b"text\t")
    path = write(tmp_path, name, content)
  assert train(path) == ROWS


@pytest.mark.parametrize("delimiter", [";", "\t", "|"])
def test_the_delimiter_is_told_by_the_line_of_names(tmp_path, delimiter):
  content = csv_of(ROWS).replace(b'",', b'"' + delimiter.encode())
  content = content.replace(b"text,", b"text" + delimiter.encode())
  assert train(write(tmp_path, "rows.csv", content)) == ROWS


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
def test_marks_and_line_ends_of_windows_are_read(tmp_path, newline, bom):
  path = write(tmp_path, "rows.csv", bom + csv_of(ROWS, newline=newline))
  assert train(path) == ROWS


def test_quotes_hold_newlines_quotes_and_nothing(tmp_path):
  content = b'text,label\n"a ""b""\n\nc",x\n"",y\nNULL,x\n\n"d, e",y\n'
  assert train(write(tmp_path, "rows.csv", content)) == [
    ('a "b"\n\nc', "x"),
    ("", "y"),
    ("NULL", "x"),
    ("d, e", "y"),
  ]


def test_quotes_in_tab_separated_rows_may_be_letters(tmp_path):
  content = b'sentence\tlabel\n"open\t1\nplain\t0\n" ) b\t1\n'
  rows = train(write(tmp_path, "rows.tsv", content))
  assert rows == [('"open', "1"), ("plain", "0"), ('" ) b', "1")]


def test_a_folder_and_a_glob_have_the_splits_of_their_names(tmp_path):
  named = {"train": ROWS, "dev": ROWS[:4], "test": ROWS[3:9]}
  for split, rows in named.items():
    write(tmp_path, f"mine/{split}-0.csv", csv_of(rows))
  for name in (tmp_path / "mine", f"{tmp_path}/m*/*.csv"):
    source = opened(name)
    counts = {
      split: len(sources.read(source, split).labels)
      for split in ("train", "validation", "test")
    }
    assert counts == {"train": 12, "validation": 4, "test": 6}
    assert sources.reported_candidates(source)[0] == "test"


def test_files_that_name_no_split_are_rows_to_train_on(tmp_path):
  write(tmp_path, "mine/one.csv", csv_of(ROWS[:5]))
  write(tmp_path, "mine/two.jsonl", json_of(ROWS[5:]))
  assert train(tmp_path / "mine") == ROWS


def test_a_column_may_say_the_split(tmp_path):
  rows = [
    (text, f"{label},{'train' if n % 3 else 'test'}")
    for n, (text, label) in enumerate(ROWS)
  ]
  path = write(tmp_path, "rows.csv", csv_of(rows, "text,label,split"))
  made, dropped, _ = parts.read(opened(path))
  assert len(made["reported"].labels) == 4 and dropped == 0
  assert len(made["train"].labels) + len(made["selection"].labels) == 8


def test_a_file_alone_is_cut_always_the_same(tmp_path):
  path = write(tmp_path, "rows.csv", csv_of(ROWS))
  first, again = (parts.read(opened(path)) for _ in range(2))
  assert list(first[0]["reported"].texts) == list(again[0]["reported"].texts)
  assert len(first[0]["reported"].labels) == 2
  assert any("cut as the reported split (seed" in x for x in first[2])


@pytest.mark.parametrize(
  "names, fields, keys",
  [
    ("id,Review,Sentiment", {}, (("Review",), "Sentiment")),
    ("stars,body", {}, (("body",), "stars")),
    ("what it says,label", {}, (("what it says",), "label")),
    ("content,kind", {}, (("content",), "kind")),
    ("premise,hypothesis,label", {}, (("premise", "hypothesis"), "label")),
    ("label,title,description", {}, (("title", "description"), "label")),
    ("a,b,c", {"text_keys": ("b",), "label_key": "a"}, (("b",), "a")),
    ("text,title2,label", {"text_keys": ("title2", "text")}, None),
  ],
)
def test_columns_are_told_by_names_then_by_kind(tmp_path, names, fields, keys):
  short = {"stars", "sentiment", "label", "kind", "a", "id"}
  values = [
    "{n}" if x.lower() in short else f"words of {x} {{n}}"
    for x in names.split(",")
  ]
  lines = [",".join(values).format(n=n % 2) for n in range(4)]
  path = write(tmp_path, "rows.csv", "\n".join([names, *lines]).encode())
  source = opened(path, **fields)
  keys = keys or (fields["text_keys"], "label")
  assert (source.text_keys, source.label_key) == keys
  said = notes(path, **fields)[0]
  assert all(repr(key) in said for key in (*keys[0], keys[1]))


@pytest.mark.parametrize(
  "labels, names",
  [
    (["b", "a", "b"], ("a", "b")),
    ([10, 9, 2], ("2", "9", "10")),
    ([-1, 1, 1], ("-1", "1")),
    ([True, False, True], ("False", "True")),
    ([1.0, 0.0, 2.0], ("0", "1", "2")),
    (["1", 1.0, 2], ("1", "2")),
    (["10", "9.0", "x"], ("10", "9.0", "x")),
    ([["a"], "b", []], ("a", "b")),
  ],
)
def test_labels_of_all_kinds_become_classes(tmp_path, labels, names):
  rows = [(f"text {n}", label) for n, label in enumerate(labels)]
  path = write(tmp_path, "rows.jsonl", json_of(rows))
  assert opened(path).label_names == names
  if not any(isinstance(x, list) for x in labels):
    content = csv_of(rows)
    assert opened(write(tmp_path, "rows.csv", content)).label_names == names


def test_parquet_keeps_the_names_that_datasets_gives_classes(tmp_path):
  feature = {"names": ["sad", "glad"], "_type": "ClassLabel"}
  said = json.dumps({"info": {"features": {"label": feature}}})
  table = pa.table({"text": ["a", "b", "c", "d"], "label": [1, 0, -1, 1]})
  table = table.replace_schema_metadata({"huggingface": said})
  path = parquet(tmp_path, "rows.parquet", table)
  rows = [("a", "glad"), ("b", "sad"), ("d", "glad")]
  assert train(path) == rows
  # In another order, too.
  assert opened(path, classes=("glad", "sad")).label_names == ("glad", "sad")
  assert train(path, classes=("glad", "sad")) == rows


@pytest.mark.parametrize("value", ["1.5", "Infinity", "null"])
def test_a_group_is_a_whole_number_or_a_word(tmp_path, value):
  lines = [f'{{"text": "a b", "label": {n % 2}, "part": 2}}' for n in range(8)]
  path = write(tmp_path, "rows.jsonl", "\n".join(lines).encode())
  source = opened(path, group_key="part")
  assert sources.read(source, "train").groups.tolist() == [2] * 8
  lines[3] = lines[3].replace("2}", f"{value}}}")
  path = write(tmp_path, "rows.jsonl", "\n".join(lines).encode())
  with pytest.raises(errors.InputError, match="line 4: 'part' is"):
    opened(path, group_key="part")


def test_a_group_of_half_a_character_can_be_printed(tmp_path):
  lines = [
    f'{{"text": "a", "label": {n % 2}, "part": "\\ud83d"}}' for n in range(8)
  ]
  path = write(tmp_path, "rows.jsonl", "\n".join(lines).encode())
  rows = sources.read(opened(path, group_key="part"), "train")
  assert rows.group_names == ("?",)


# What is handled, and said.


@pytest.mark.parametrize(
  "added, said",
  [
    ('{"text": "no label"}', "1 rows have no label and are left out"),
    ('{"text": "so", "label": null}', "rows.jsonl, line 13"),
    ('{"text": "so", "label": " "}', "1 rows have no label"),
    ('{"text": "half \\ud83d", "label": "pos"}', "lone surrogate"),
    ('{"text": "a\\u0000b", "label": "pos"}', "1 texts hold a zero byte"),
    ('{"text": "one", "label": "rare"}', "1 classes have one training row"),
    (
      '{"text": "a good film number 1", "label": "pos"}',
      "1 training rows repeat the text of another",
    ),
    (
      '{"text": "a good film number 1", "label": "neg"}',
      "repeat the text of another, 1 of them with another label",
    ),
  ],
)
def test_what_is_unusual_of_a_row_is_counted(tmp_path, added, said):
  content = json_of(ROWS) + b"\n" + added.encode()
  assert said in "\n".join(notes(write(tmp_path, "rows.jsonl", content)))


def test_an_ordinary_file_is_said_in_its_columns_and_its_cut(tmp_path):
  assert len(notes(write(tmp_path, "rows.csv", csv_of(ROWS)))) == 2


def test_rows_of_two_splits_are_told(tmp_path):
  write(tmp_path, "mine/train.csv", csv_of(ROWS))
  write(tmp_path, "mine/test.csv", csv_of([*ROWS[:3], ("new", "other")]))
  said = "\n".join(notes(tmp_path / "mine"))
  assert "3 rows of test have the text of a training row" in said
  assert "1 rows of the reported split have labels that no training row" in said


# What is refused.

GOOD = csv_of(ROWS)
JSON = json_of(ROWS) + b"\n"
DAMAGED = {
  "empty": ("r.csv", b"", "is empty", "text,label"),
  "names alone": ("r.csv", b"text,label\n", "no row", "add rows"),
  "no names": ("r.csv", b"fine film,pos\nbad,neg\n", "none", "line of names"),
  "cp1252": (
    "r.csv",
    GOOD + "café,pos\n".encode("cp1252"),
    "r.csv, line 14: the byte 0xe9",
    "iconv -f cp1252",
  ),
  "cp1252, and ragged": (
    "r.csv",
    GOOD + "café, bar,pos\n".encode("cp1252"),
    "r.csv, line 14: the byte 0xe9",
    "iconv -f cp1252",
  ),
  "a sheet": ("r.csv", b"PK\x03\x04\0\0", "line 1: the file is packed", "CSV"),
  "packed": (
    "r.jsonl",
    b"\x1f\x8b\x08",
    "line 1: the file is packed",
    "unpack",
  ),
  "cp1252 json": (
    "r.jsonl",
    JSON + '{"text": "café"}'.encode("cp1252"),
    "r.jsonl, line 13: the byte 0xe9",
    "iconv -f cp1252",
  ),
  "utf-16": ("r.csv", GOOD.decode().encode("utf-16"), "UTF-16", "iconv"),
  "utf-16 without mark": (
    "r.tsv",
    b"text\tlabel\na\tb\n".decode().encode("utf-16-le"),
    "r.tsv, line 1: the file is UTF-16",
    "iconv",
  ),
  "ragged, short": ("r.csv", GOOD + b"\nlone\n", "line 15: 1 values", "quotes"),
  "ragged, long": (
    "r.csv",
    b'text,label\n"a\nb",x\na, b,pos\n',
    "r.csv, line 4: 3 values, where the line of names has 2",
    "in double quotes",
  ),
  "open quote": (
    "r.csv",
    GOOD + b'"never closed,pos\nmore,neg\n',
    "r.csv, line 14: a quote opens",
    "close it",
  ),
  "two names": ("r.csv", b"text,text,label\na,b,c\n", "line 1: two", "rename"),
  "two texts": (
    "r.csv",
    b"text,review,label\na,b,c\n",
    "'text' and 'review' could be the text",
    "config.data.text_keys",
  ),
  "two long columns": (
    "r.csv",
    b"p,q,label\na b c,d e f,x\n",
    "'p' and 'q' could be the text",
    "config.data.text_keys",
  ),
  "no label": ("r.csv", b"text,a,b\nx,y,z\n", "label", "config.data.label_key"),
  "one class": (
    "r.csv",
    b"text,label\na,x\nb,x\n",
    "every training row has the label 'x'",
    "add rows of another",
  ),
  "no labels": ("r.csv", b"text,label\na,\nb,\n", "0 different", "label"),
  "fractions": (
    "r.csv",
    b"text,label\na,1\nb,0.37\nc,2\n",
    "r.csv, line 3: the label 0.37",
    "label_key",
  ),
  "number as text": (
    "r.jsonl",
    JSON + b'{"text": 5, "label": "pos"}',
    "r.jsonl, line 13: 'text' is a number (5)",
    "in quotes",
  ),
  "object as text": (
    "r.jsonl",
    b'\n{"text": {"en": "x"}, "label": "pos"}\n',
    "line 2: 'text' is an object",
    "text_keys",
  ),
  "text missing": (
    "r.jsonl",
    JSON + b'\n{"label": "pos"}',
    "r.jsonl, line 14: 'text' is missing",
    "text_keys",
  ),
  "two labels": (
    "r.jsonl",
    JSON + b'{"text": "a", "label": ["x", "y"]}',
    "line 13: the label is a list",
    "one class",
  ),
  "no json": (
    "r.jsonl",
    JSON + b'{"text": "a", "label": }\n',
    "r.jsonl, line 13: no JSON",
    "one object a line",
  ),
  "cut json": ("r.jsonl", JSON[:-9], "r.jsonl, line 12: no JSON", "one object"),
  "json list": ("r.json", b'[{"text": "a"}]', "line 1: a list", "jq -c"),
  "json scalar": ("r.jsonl", b'"text"\n', "line 1: no JSON object", "one obj"),
  "deep json": ("r.jsonl", b'{"a":' * 200_000, "line 1: nested", "one object"),
  "no parquet": ("r.parquet", GOOD, "r.parquet cannot be read", "write it"),
  "other kind": ("./r.xlsx", b"PK", "not read from .xlsx", ".csv"),
  "bad split": (
    "r.csv",
    b"text,label,split\na,x,train\nb,y,train\nc,y,7th\n",
    "r.csv, line 4: 'split' is '7th'",
    "write train, validation or test",
  ),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_a_damaged_file_is_refused_in_a_line_that_mends_it(tmp_path, case):
  name, content, wrong, mend = DAMAGED[case]
  path = write(tmp_path, name, content)
  with pytest.raises(errors.InputError) as caught:
    parts.read(opened(path))
  said = str(caught.value)
  assert "\n" not in said and path.name in said
  assert wrong in said and mend in said


@pytest.mark.parametrize("name", ["no.csv", "none/*.csv", "~/no such/x.jsonl"])
def test_a_file_that_is_not_there_is_named(name):
  with pytest.raises(errors.InputError, match="no .*file.*glob of them"):
    opened(name)


@pytest.mark.parametrize("name", ["hf org/name", "my reviews", "a/b/c"])
def test_an_unknown_name_says_that_files_are_read(name):
  with pytest.raises(errors.InputError, match=r"FILE\.csv"):
    opened(name)


def test_a_folder_without_rows_to_train_on_is_refused(tmp_path):
  write(tmp_path, "mine/test.csv", GOOD)
  write(tmp_path, "mine/val.csv", GOOD)
  with pytest.raises(errors.InputError, match="only those of validation, test"):
    opened(tmp_path / "mine")


def test_parquet_of_another_encoding_is_refused_at_its_row(tmp_path):
  texts = pa.array([b"so", b"caf\xe9"], pa.binary()).view(pa.string())
  path = parquet(
    tmp_path, "r.parquet", pa.table({"text": texts, "label": [0, 1]})
  )
  with pytest.raises(
    errors.InputError, match="row 2: the byte 0xe9.*write the"
  ):
    opened(path)


def test_a_row_longer_than_a_block_is_refused(tmp_path, monkeypatch):
  monkeypatch.setattr(table_csv, "_BLOCK", 1 << 10)
  path = write(tmp_path, "r.csv", GOOD + b'"' + b"long " * 999 + b'",pos\n')
  with pytest.raises(errors.InputError, match="close the quote"):
    parts.read(opened(path))


# Loading.


def loaded(path, **fields):
  return gd.load_data(str(path), vocab_size=100, max_length=12, **fields)


def test_a_file_becomes_the_three_parts_and_is_kept(tmp_path, monkeypatch):
  path = write(tmp_path, "rows.csv", csv_of(ROWS))
  corpus = loaded(path)
  assert corpus.label_names == ("neg", "pos") and corpus.text_keys == ("text",)
  assert [len(x.labels) for x in (corpus.train, corpus.reported)] == [9, 2]
  monkeypatch.setattr(loading, "_build", None)
  assert loaded(path).fingerprint == corpus.fingerprint


def test_other_rows_under_the_same_name_are_read(tmp_path):
  path = write(tmp_path, "rows.csv", csv_of(ROWS))
  first = loaded(path)
  path.write_bytes(csv_of(ROWS).replace(b"number 3", b"number 7"))
  assert loaded(path).fingerprint != first.fingerprint


def test_rows_read_in_blocks_are_those_read_at_once(tmp_path, monkeypatch):
  rows = [(f"row {n}\nof {n % 7}", n % 3) for n in range(10_000)]
  path = write(tmp_path, "rows.csv", csv_of(rows))
  monkeypatch.setattr(table_csv, "_BLOCK", 1 << 12)
  texts = [text for text, _ in train(path)]
  assert texts == [text for text, _ in rows]
  picked = sources.read(opened(path), "train").texts.take(np.array([9999, 5]))
  assert list(picked) == [rows[9999][0], rows[5][0]] and picked[1] == rows[5][0]


def test_a_wide_error_is_found_at_its_line_across_blocks(tmp_path, monkeypatch):
  monkeypatch.setattr(table_csv, "_BLOCK", 1 << 12)
  rows = [(f"row\n{n}", n % 3) for n in range(2000)]
  path = write(tmp_path, "rows.csv", csv_of(rows) + b"a,b,c\n")
  with pytest.raises(errors.InputError, match="line 4002: 3 values"):
    train(path)


@pytest.mark.parametrize("of", ["list", "arrow", "pandas"])
def test_rows_of_python_are_data_too(of):
  data = [{"text": text, "label": label} for text, label in ROWS]
  if of == "arrow":
    data = pa.Table.from_pylist(data)
  if of == "pandas":
    data = pytest.importorskip("pandas").DataFrame(data)
  corpus = gd.load_data(data, vocab_size=100, max_length=12)
  assert len(corpus.train.labels) == 9


FEATURES = {"text": ["a b", "c d", "e f"] * 4, "label": [0, 1, -1] * 4}


def saved_to_disk(folder):
  """What `datasets` saves of two splits and classes with names."""
  features = datasets.Features(
    text=datasets.Value("string"),
    label=datasets.ClassLabel(names=["no", "yes"]),
  )
  rows = datasets.Dataset.from_dict(FEATURES, features)
  both = datasets.DatasetDict(train=rows, test=rows.select(range(4)))
  both.save_to_disk(folder)
  return both


def test_a_folder_of_datasets_is_read_with_its_classes_and_splits(tmp_path):
  saved_to_disk(tmp_path / "saved")
  (tmp_path / "saved" / "train" / "cache-1.arrow").write_bytes(b"of a map")
  source = opened(tmp_path / "saved")
  assert source.label_names == ("no", "yes")
  rows = sources.read(source, "train")
  assert list(rows.texts)[:3] == ["a b", "c d", "a b"] and rows.dropped == 4
  np.testing.assert_array_equal(rows.labels, [0, 1] * 4)
  assert len(sources.read(source, "test").labels) == 3
  alone = opened(tmp_path / "saved" / "train")
  assert len(sources.read(alone, "train").labels) == 8


def test_arrow_files_are_read_as_files_and_as_streams(tmp_path):
  table = pa.table({"text": ["a b"] * 5 + ["c"] * 5, "label": [0, 1] * 5})
  for name, new in (
    ("f.arrow", pa.ipc.new_file),
    ("s.arrow", pa.ipc.new_stream),
  ):
    with new(tmp_path / name, table.schema) as writer:
      writer.write_table(table, max_chunksize=3)
    rows = zip(table["text"].to_pylist(), ["0", "1"] * 5, strict=True)
    assert train(tmp_path / name) == list(rows)
  (tmp_path / "bad.arrow").write_bytes(b"no arrow at all")
  with pytest.raises(errors.InputError, match="cannot be read as arrow"):
    opened(tmp_path / "bad.arrow")


def test_a_data_set_of_the_hub_is_read_where_datasets_keeps_it(
  tmp_path, monkeypatch
):
  monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "c"))
  folder = tmp_path / "reviews"
  folder.mkdir()
  for split, rows in (("train", 8), ("test", 4)):
    write(folder, f"{split}.csv", csv_of([("a b", "x"), ("c d", "y")] * rows))
  source = opened(f"hf:{folder}")
  assert source.label_names == ("x", "y")
  assert len(sources.read(source, "train").labels) == 16
  assert len(sources.read(source, "test").labels) == 8
  with pytest.raises(errors.InputError, match="hf:ORG/NAME:CONFIG as the hub"):
    opened(f"hf:{tmp_path / 'nothing'}")
  monkeypatch.setitem(sys.modules, "datasets", None)
  with pytest.raises(errors.InputError, match=r"gmdistill\[hub-data\]"):
    opened("hf:org/name")


def test_a_dict_may_lack_what_others_have():
  rows = [{"text": "a b"}, *({"text": "c", "label": x} for x in "xyxy")]
  assert train(tables.kept(rows)) == [("c", x) for x in "xyxy"]


def test_what_is_no_table_is_refused():
  with pytest.raises(errors.InputError, match="list of dicts"):
    gd.load_data([1, 2])


@pytest.mark.skipif(not CASES.is_dir(), reason="the cases are not here")
def test_the_awkward_cases_are_read():
  assert train(CASES / "bom.jsonl") == [("good", "a"), ("bad", "b")]
  assert ("NULL", "neg") in train(CASES / "awkward.csv")
  assert len(opened(CASES / "long_tail.jsonl").label_names) == 31
  with pytest.raises(errors.InputError, match="no class has a row"):
    parts.read(opened(CASES / "one_shot.jsonl"))
