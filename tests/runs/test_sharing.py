"""A set goes out, and comes back to whoever asks for it by name."""

import importlib.util
import json
import re
import shutil
import zipfile

import hub_server
import huggingface_hub
import numpy as np
import pytest
import safetensors.numpy

import gmdistill as gd
from gmdistill import errors, main
from gmdistill.runs import packed_parts, packing
from gmdistill.sets import snippets

FILES = {
  "README.md",
  "config.json",
  "examples.jsonl",
  "set/card.json",
  "set/set.safetensors",
  "space/embeddings.safetensors",
  "space/tokenizer.json",
}


@pytest.fixture(scope="module")
def packed(finished_run, tmp_path_factory):
  folder = tmp_path_factory.mktemp("packed") / "pack"
  workdir, _ = finished_run
  assert (
    main.main(["x", "pack", f"--set={workdir / 'set'}", f"--to={folder}"]) == 0
  )
  return folder


@pytest.fixture
def hub(monkeypatch, tmp_path):
  constants = huggingface_hub.constants
  with hub_server.running() as hub:
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE
    template = template.replace(constants.ENDPOINT, hub.address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "ENDPOINT", hub.address)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_TOKEN", hub.token)
    yield hub


def refused(capsys, *arguments):
  assert main.main(["x", *map(str, arguments)]) == 2
  (line,) = capsys.readouterr().err.splitlines()[-1:]
  return line


def test_a_pack_has_all_that_its_reader_needs(packed):
  files = {str(x.relative_to(packed)) for x in packed.rglob("*") if x.is_file()}
  assert files == FILES
  lines = (packed / "examples.jsonl").read_text().splitlines()
  rows = [json.loads(line) for line in lines]
  examples = gd.load_set(packed)
  assert len(rows) == len(examples)
  assert {row["class"] for row in rows} == set(examples.label_names)
  most = np.argmax(np.asarray(examples.examples.batch.labels), axis=1)
  assert [row["class"] for row in rows] == [
    examples.label_names[x] for x in most
  ]
  assert all(len(row["nearest_tokens"].split()) == 6 for row in rows)


def test_a_packed_set_is_measured_as_the_run_did(packed, finished_run, capsys):
  found = []
  for folder in (packed, finished_run[0]):
    asked = [f"--set={folder}", "--protocol=replay", "--json"]
    assert main.main(["x", "evaluate", *asked]) == 0
    found.append(json.loads(capsys.readouterr().out))
  assert found[0] == found[1]


def test_a_card_names_no_command_that_would_be_refused(packed):
  card = json.loads((packed / "set" / "card.json").read_text())
  config = json.loads((packed / "config.json").read_text())
  assert "gmdistill train --set=" in packing.readme(card, config, [{}])
  config["student"]["kind"] = "textcnn"
  told = packing.readme(card, config, [{}])
  assert "gmdistill train" not in told and "gmdistill evaluate" in told


def test_the_hubs_own_parser_reads_the_card(packed):
  card = huggingface_hub.DatasetCard.load(packed / "README.md")
  assert card.data.task_categories == ["text-classification"]
  assert card.data.configs[0]["data_files"] == "examples.jsonl"
  assert "| replay | distilled | " in card.text and "--set=." in card.text
  assert "None" not in card.text.replace("slice(None)", "")


def test_a_pack_names_no_folder_of_its_maker(tmp_path, finished_run):
  workdir, _ = finished_run
  run = tmp_path / "somebody" / "run"
  for name in ("set", "space"):
    (run / name).mkdir(parents=True)
    for file in (workdir / name).iterdir():
      (run / name / file.name).write_bytes(file.read_bytes())
  rows = tmp_path / "somebody" / "rows.csv"
  rows.write_text("text,label\n")
  config = json.loads((workdir / "config.json").read_text())
  config["data"] |= {"name": str(rows), "dir": ""}
  config["teachers"]["dirs"] = [str(tmp_path / "teacher")]
  config["student"]["space"] = str(run / "space")
  config["choice"]["written"] = str(tmp_path / "somebody" / "more.jsonl")
  (run / "config.json").write_text(json.dumps(config))
  card = json.loads((run / "set" / "card.json").read_text())
  card["provenance"]["command"] = (
    f"gmdistill distill --config=sst2 --workdir={run} "
    f"'--config.data.name={rows}' --config.start=hf:org/set"
  )
  (run / "set" / "card.json").write_text(json.dumps(card))
  files = packing.contents(run)
  assert set(files) == FILES
  for name in ("README.md", "config.json", "set/card.json"):
    assert b"somebody" not in files[name], name
  command = json.loads(files["set/card.json"])["provenance"]["command"]
  assert command == (
    "gmdistill distill --config=sst2 --workdir=run "
    "'--config.data.name=rows.csv' --config.start=hf:org/set"
  )
  assert json.loads(files["config.json"])["data"]["name"] == "rows.csv"
  assert json.loads(files["set/card.json"])["task"] == "rows.csv"
  # Files that lie nowhere any more, and globs.
  for name, told in (
    (f"{tmp_path}/somebody/gone.csv", "gone.csv"),
    (f"{tmp_path}/somebody/kept/*.jsonl", "kept/*.jsonl"),
    ("glue/sst2", "glue/sst2"),
    ("hf:org/name", "hf:org/name"),
  ):
    config["data"]["name"] = name
    (run / "config.json").write_text(json.dumps(config))
    assert json.loads(packing.contents(run)["set/card.json"])["task"] == told


def test_a_zip_has_the_same_files_and_is_the_same_each_time(
  packed, tmp_path, capsys
):
  zips = [tmp_path / "a.zip", tmp_path / "b.zip"]
  for place in zips:
    assert main.main(["x", "pack", f"--set={packed}", f"--to={place}"]) == 0
  assert zips[0].read_bytes() == zips[1].read_bytes()
  with zipfile.ZipFile(zips[0]) as archive:
    for name in FILES:
      assert archive.read(name) == (packed / name).read_bytes(), name
  line = refused(capsys, "pack", f"--set={packed}", f"--to={packed}")
  assert "is not empty" in line
  (tmp_path / "set").mkdir()
  for file in (packed / "set").iterdir():
    (tmp_path / "set" / file.name).write_bytes(file.read_bytes())
  line = refused(capsys, "pack", f"--set={tmp_path / 'set'}", "--to=x")
  assert "with its config.json beside it" in line


def test_a_published_set_is_the_packed_one_by_its_name(hub, packed, capsys):
  asked = [f"--set={packed}", "--repo=me/docs", "--private"]
  assert main.main(["x", "publish", *asked]) == 0
  assert "gmdistill train --set=hf:me/docs" in capsys.readouterr().out
  files = hub.files["me/docs"]
  assert set(files) == FILES and hub.private["me/docs"]
  for name in FILES - {"README.md"}:  # which names where it is
    assert files[name] == (packed / name).read_bytes(), name
  assert b"--set=hf:me/docs" in files["README.md"]
  theirs, ours = gd.load_set("hf:me/docs"), gd.load_set(packed)
  assert theirs.card == ours.card and theirs.config.student.space
  hub.files.clear()  # what was fetched stays
  assert main.main(["x", "train", "--set=hf:me/docs"]) == 2
  assert "train needs --workdir" in capsys.readouterr().err


def test_publish_names_no_command_that_would_be_refused(
  hub, packed, texts, tmp_path, capsys
):
  other = tmp_path / "other"
  shutil.copytree(packed, other)
  config = json.loads((other / "config.json").read_text())
  config["student"]["kind"] = "textcnn"
  (other / "config.json").write_text(json.dumps(config))
  for source, told in (
    (other, "evaluate --set=hf:me/set"),
    (texts, "evaluate --set=hf:me/set --config=NAME --protocol=finetune"),
  ):
    assert main.main(["x", "publish", f"--set={source}", "--repo=me/set"]) == 0
    said = capsys.readouterr().out
    assert said.endswith(f"next, anywhere: gmdistill {told}\n")


def test_what_the_hub_refuses_is_a_line(hub, packed, capsys, monkeypatch):
  line = refused(capsys, "evaluate", "--set=hf:me/nothing")
  assert "hf:me/nothing could not be fetched" in line
  line = refused(capsys, "publish", f"--set={packed}", "--repo=a b/docs")
  assert "Repo id must use" in line
  monkeypatch.setenv("HF_TOKEN", "another")
  line = refused(capsys, "publish", f"--set={packed}", "--repo=me/docs")
  assert "hf auth login" in line and "me/docs" not in hub.files


def test_a_repo_without_a_set_is_refused(hub):
  hub.files["me/empty"] = {"README.md": b"---\n---\n"}
  with pytest.raises(errors.InputError, match=r"has no set\.safetensors"):
    gd.load_set("hf:me/empty")


READER = {
  "layers": 1,
  "head": {"weight_std": 0.02},
  "bert": {"hidden_size": 8},
}


@pytest.mark.parametrize("pooling", ["mean", "first"])
@pytest.mark.parametrize("encoder", ["", "org/name"])
@pytest.mark.parametrize(
  "more, words",
  [
    ([], ["AdamW"]),
    (["learning_rates", "order"], ['data["order"][t]']),
    (["learning_rates", "head_learning_rates"], ["head_learning_rates"]),
    (["embeddings_scale", "basis"], ["embeddings_scale", '@ data["basis"]']),
  ],
)
def test_a_card_has_a_script_of_what_the_set_brings(
  more, words, encoder, pooling
):
  card = {"reader": READER, "pooling": pooling, "encoder": encoder}
  text = snippets.use(card, ["embeddings", "mask", "labels", *more])
  compile(text, "use", "exec")
  assert all(word in text for word in words)
  assert ("from_pretrained" in text) == bool(encoder)


def test_a_set_that_asks_for_more_has_words_alone():
  card = {"reader": READER, "pooling": "mean"}
  for name in ("tensor_shares", "attention"):
    assert not snippets.use(card, ["embeddings", "mask", "labels", name])
  assert not snippets.use({"pooling": "mean"}, ["labels"])


def test_the_script_of_a_card_trains_a_student(packed, monkeypatch):
  if not all(map(importlib.util.find_spec, ("torch", "transformers"))):
    pytest.skip("needs torch and transformers")
  card = huggingface_hub.DatasetCard.load(packed / "README.md")
  (code,) = re.findall(r"```python\n(.*?)```", card.text, re.DOTALL)
  monkeypatch.chdir(packed)
  names: dict = {}
  exec(code, names)  # noqa: S102
  data = safetensors.numpy.load_file(packed / "set" / "set.safetensors")
  logits = names["logits"].detach().numpy()
  assert logits.shape == data["labels"].shape
  before = np.log(len(names["card"]["label_names"]))
  assert 0 < float(names["loss"]) < before + 0.1


TEXTS = [
  {"text": "a fine film", "label": "good", "weight": 2},
  {"text": "dull <and> slow", "label": "bad", "labels": [0.75, 0.25]},
]


@pytest.fixture
def texts(tmp_path):
  file = tmp_path / "texts.jsonl"
  file.write_text("".join(f"{json.dumps(x)}\n" for x in TEXTS))
  return file


def test_a_pack_that_could_not_be_written_leaves_nothing(
  texts, tmp_path, monkeypatch, capsys
):
  folder = tmp_path / "pack"
  folder.mkdir()
  write = packing.paths.write_files

  def full(place, files):
    if place.name == "set":
      raise OSError(28, "No space left on device")
    write(place, files)

  monkeypatch.setattr(packing.paths, "write_files", full)
  asked = ("pack", f"--set={texts}", f"--to={folder}")
  assert "No space left" in refused(capsys, *asked)
  assert not list(folder.iterdir())
  monkeypatch.undo()
  assert main.main(["x", *asked]) == 0
  assert {x.name for x in folder.iterdir()} == {"README.md", "set"}


@pytest.mark.parametrize(
  "count, told", [(999, "n<1K"), (1000, "1K<n<10K"), (20_000, "10K<n<100K")]
)
def test_a_card_says_how_many_rows_there_are(count, told):
  head = packed_parts.head("t", count, kind="classification", file="set/x")
  assert told in head


def test_a_text_set_is_packed_without_a_table(texts, tmp_path):
  pack = tmp_path / "pack"
  assert main.main(["x", "pack", f"--set={texts}", f"--to={pack}"]) == 0
  files = {str(x.relative_to(pack)) for x in pack.rglob("*") if x.is_file()}
  assert files == {"README.md", "set/set.jsonl", "set/card.json"}
  assert (pack / "set" / "set.jsonl").read_bytes() == texts.read_bytes()
  card = huggingface_hub.DatasetCard.load(pack / "README.md")
  assert card.data.configs[0]["data_files"] == "set/set.jsonl"
  # What a pack of a pack says is the same, but where it is.
  assert packing.contents(pack) == packing.contents(pack / "set")
  again = gd.load_set(pack)
  assert again.label_names == ("bad", "good")
  np.testing.assert_allclose(again.texts.weights, [4 / 3, 2 / 3], rtol=1e-6)


def test_the_script_of_a_packed_text_set_trains(texts, tmp_path, monkeypatch):
  script = snippets.use_of_texts()
  compile(script, "use", "exec")
  if not all(map(importlib.util.find_spec, ("torch", "transformers"))):
    pytest.skip("needs torch and transformers")
  import torch
  import transformers

  for name, content in packing.contents(texts).items():
    (tmp_path / "pack" / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / "pack" / name).write_bytes(content)
  config = transformers.BertConfig(
    vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=2,
    intermediate_size=8, num_labels=2,
  )  # fmt: skip
  model = transformers.BertForSequenceClassification(config)
  tokens = {"input_ids": torch.tensor([[1, 2], [3, 4]])}
  for name, value in (
    ("AutoTokenizer", lambda *_, **__: tokens),
    ("AutoModelForSequenceClassification", model),
  ):
    monkeypatch.setattr(
      getattr(transformers, name),
      "from_pretrained",
      lambda *_, x=value, **__: x,
    )
  monkeypatch.chdir(tmp_path / "pack")
  names: dict = {}
  exec(script.replace("range(200)", "range(20)"), names)  # noqa: S102
  assert float(names["loss"]) < np.log(2)


def test_a_report_of_a_text_set_shows_its_rows_and_what_was_measured(
  texts, tmp_path, capsys
):
  line = refused(capsys, "report", texts)
  assert "needs --workdir" in line
  folder = tmp_path / "page"
  folder.mkdir()
  row = {"mean": 0.625, "std": 0.01, "n": 3, "row": "texts", "unit": "accuracy"}
  (folder / "evaluation.json").write_text(json.dumps({"scratch": row}))
  assert main.main(["x", "report", str(texts), f"--workdir={folder}"]) == 0
  page = (folder / "report.html").read_text()
  assert "dull &lt;and&gt; slow" in page and "62.5" in page
  assert "Labelled good: 1" in page and f"--set={texts}" in page
  capsys.readouterr()
  assert main.main(["x", "report", str(texts), "--json"]) == 0
  told = json.loads(capsys.readouterr().out)
  assert told[0]["workdir"] == str(texts)


def test_what_names_no_class_is_refused(tmp_path, capsys):
  file = tmp_path / "texts.jsonl"
  file.write_text('{"text": "a", "label": 0}\n')
  line = refused(capsys, "pack", f"--set={file}", "--to=x")
  assert "line 1" in line and "must name its classes" in line
  line = refused(capsys, "pack", f"--set={tmp_path / 'no.jsonl'}", "--to=x")
  assert "there is no file" in line
