"""The command line: verbs, and one line for every bad input."""

import json
import pathlib
import re
import shlex
import shutil
import subprocess
import sys
import tomllib

import jax
import numpy as np
import pytest
import safetensors.numpy
from conftest import make_problem, make_synthetic
from orbax.checkpoint import v1 as ocp

from gmdistill import errors, main
from gmdistill.data import row_lines
from gmdistill.runs.commands import shared, verbs
from gmdistill.runs.config import flags as flag_values
from gmdistill.runs.config import pipelines, settings
from gmdistill.sets import set_files, synthetic
from gmdistill.system import folders, logs, paths

CONFIG = f"--config={pathlib.Path(__file__).parents[1] / 'tiny_config.py'}"


@pytest.fixture
def finished(finished_run):
  return finished_run[0]


def refused(capsys, *arguments):
  """Runs a command that must be refused; returns its one line."""
  assert main.main(["gmdistill", *map(str, arguments)]) == 2
  said = capsys.readouterr().err.splitlines()
  lines = [line for line in said if line.startswith("gmdistill: ")]
  assert len(lines) == 1 and lines[0] == said[-1]
  return lines[0]


@pytest.mark.parametrize("asked", ["version", "--version"])
def test_the_version_is_the_packages(asked, capsys):
  assert main.main(["gmdistill", asked]) == 0
  about = pathlib.Path(__file__).parents[2] / "pyproject.toml"
  project = tomllib.loads(about.read_text())["project"]
  assert capsys.readouterr().out == f"gmdistill {project['version']}\n"


@pytest.mark.parametrize(
  "asked, told",
  [
    ("'-h'", verbs.VERBS),
    ("'help'", verbs.VERBS),
    ("'evaluate', '--help'", ["--row", "--json", "evaluate: or full"]),
    ("'help', 'plan'", ["gmdistill plan --config=sst2", "--distributed"]),
  ],
)
def test_help_says_verbs_or_one_verbs_flags_without_loading_jax(asked, told):
  code = (
    "import sys; from gmdistill import main;"
    f"status = main.main(['x', {asked}]);"
    "sys.exit(status or ('jax' in sys.modules))"
  )
  done = subprocess.run(
    [sys.executable, "-c", code], capture_output=True, text=True
  )
  assert done.returncode == 0
  assert all(word in done.stdout for word in told)
  assert all(len(line) <= 80 for line in done.stdout.splitlines())


def test_fields_are_told_by_name_and_by_meaning(capsys):
  assert main.main(["x", "fields", "learned", "distance"]) == 0
  said = capsys.readouterr().out.splitlines()
  assert said[0].split()[:2] == ["field", "default"] and len(said) == 2
  assert said[1].startswith("normalised_steps  False")
  assert main.main(["x", "fields", CONFIG, "num_heads", "--json"]) == 0
  (field,) = json.loads(capsys.readouterr().out)
  assert field["field"] == "student.num_heads" and field["value"] == 2
  assert main.main(["x", "fields", "--json"]) == 0
  assert len(json.loads(capsys.readouterr().out)) > 150


def test_a_next_command_has_the_config_and_the_data_of_the_one_before():
  command = (
    "gmdistill teach --config=quickstart:kd --config.student.num_layers=2 "
    "'--config.data.name=my rows.csv' --workdir=teachers/deep"
  )
  found = shared.config_flags(command, "data")
  assert found == "--config=quickstart:kd '--config.data.name=my rows.csv'"


@pytest.mark.parametrize(
  "classes", ["0,1", "very bad,so-so", "it's,Sci/Tech", "007,8", "a"]
)
def test_fields_that_rows_are_read_back_by_are_read_as_they_are_told(classes):
  fields = {"text_keys": "Review Text,2", "label_key": "0", "classes": classes}
  words = shlex.split(row_lines.flags("my rows/*.jsonl", fields))
  values, rest = flag_values.parse(["gmdistill", CONFIG, *words])
  data = settings.recipe(values.config).data
  assert (rest, data.name) == ([], "my rows/*.jsonl")
  assert data.text_keys == ("Review Text", "2") and data.label_key == "0"
  assert data.classes == tuple(classes.split(","))


def test_a_teachers_folder_may_have_spaces():
  given = "--config.teachers.dirs=/home/some body/deep teacher"
  values, _ = flag_values.parse(["gmdistill", CONFIG, given])
  dirs = settings.recipe(values.config).teachers.dirs
  assert dirs == ("/home/some body/deep teacher",)


def test_a_field_of_no_config_is_told():
  flags = ["gmdistill", "--set=runs/x/set", "--config.grid.rates=1e-3"]
  with pytest.raises(errors.InputError, match="none is named; give it too"):
    flag_values.parse(flags)


@pytest.mark.parametrize(
  "given, texts",
  [
    ("protocols=replay, scratch", ("replay", "scratch")),
    ("metrics=nats,macro_f1", ("nats", "macro_f1")),
    ("grid.students=own,transformer:3", ("own", "transformer:3")),
    ("teachers.dirs=/some body/a,/b", ("/some body/a", "/b")),
    ("task.words= yes, no", (" yes", " no")),
    ("log_to=", ()),
  ],
)
def test_several_texts_have_commas_between(given, texts):
  values, _ = flag_values.parse(["gmdistill", CONFIG, f"--config.{given}"])
  found = settings.recipe(values.config).to_dict()
  for name in given.partition("=")[0].split("."):
    found = found[name]
  assert found == texts


def test_the_stages_of_a_pipeline_have_commas_between():
  flags = ["--config=pipeline/quickstart:tiny", "--config.stages=dedup,train"]
  values, _ = flag_values.parse(["gmdistill", *flags])
  assert pipelines.read(values.config).stages == ("dedup", "train")
  flags = [flags[0], "--config.run.protocols=replay,scratch"]
  values, _ = flag_values.parse(["gmdistill", *flags])
  assert pipelines.read(values.config).run.protocols == ("replay", "scratch")


def test_texts_may_be_pythons_too():
  given = "--config.data.classes=('a','b')"
  values, _ = flag_values.parse(["gmdistill", CONFIG, given])
  assert settings.recipe(values.config).data.classes == ("a", "b")


def test_compiled_programs_are_kept_in_the_cache_folder():
  name = "jax_compilation_cache_dir"
  before = jax.config.values[name]
  try:
    main._keep_programs()  # whoever set a folder keeps it
    assert jax.config.values[name] == before
    jax.config.update(name, None)
    main._keep_programs()
    assert jax.config.values[name] == str(paths.cache_folder() / "programs")
  finally:
    jax.config.update(name, before)


def test_the_verbs_work_on_a_finished_run(
  finished, tmp_path, capsys, monkeypatch
):
  given = f"--set={finished / 'set'}"
  student = tmp_path / "student"
  assert main.main(["x", "train", given, f"--workdir={student}"]) == 0
  assert "accuracy" in capsys.readouterr().out
  assert main.main(["x", "train", given, f"--workdir={student}", "--json"]) == 0
  told = json.loads(capsys.readouterr().out)
  assert 0 < told["accuracy"] < 1 and told["folder"] == str(student)
  config = json.loads((student / "config.json").read_text())
  assert config["architectures"] == ["BertForSequenceClassification"]
  weights = safetensors.numpy.load_file(student / "model.safetensors")
  assert weights["classifier.weight"].shape == (len(config["id2label"]), 16)

  line = refused(capsys, "train", given, f"--workdir={finished}")
  assert "holds a run" in line

  evaluated = tmp_path / "evaluated"
  assert main.main(["x", "evaluate", given, f"--workdir={evaluated}"]) == 0
  found = json.loads((evaluated / "evaluation.json").read_text())
  summary = json.loads((finished / "summary.json").read_text())
  for name, rows in summary["protocols"].items():
    assert found[name]["mean"] == pytest.approx(rows["distilled"]["mean"])
  said = capsys.readouterr().out.splitlines()
  assert said[0].split()[:3] == ["protocol", "row", "accuracy,"]
  assert any(line.startswith("ece: how far") for line in said)
  asked = ["--row=random", "--protocol=replay", "--json"]
  assert main.main(["x", "evaluate", CONFIG, *asked]) == 0
  assert json.loads(capsys.readouterr().out)["replay"]["row"] == "random"
  assert main.main(["x", "report", str(finished), "--json"]) == 0
  (told,) = json.loads(capsys.readouterr().out)
  assert {"run", "mean"} <= set(told["results"][0]) and told["cost"]

  pages = f"--workdir={tmp_path / 'pages'}"
  monkeypatch.setenv("HOME", str(finished.parent))
  short = f"~/{finished.name}"  # a shell leaves it in --set=~/...
  assert main.main(["x", "report", short, pages]) == 0
  line = refused(capsys, "train", f"--set={short}/set", f"--workdir={short}")
  assert "holds a run" in line
  assert (tmp_path / "pages" / "report.html").is_file()


@pytest.mark.parametrize(
  "override, words",
  [
    ("--config.data_per_clas=3", ["data_per_clas"]),
    ("--config.num_steps=ten", ["num_steps", "'ten' is no whole number"]),
    ("--config.outer.clip=fast", ["outer.clip", "'fast' is no number"]),
    ("--config.num_steps=0", ["num_steps=0", "from 1 to"]),
    ("--config.data.name=no_such_set", ["no_such_set"]),
    ("--config.data_per_class=9999", ["9999", "at most"]),
    ("--config.sequence_length=17", ["sequence_length=17", "16 positions"]),
    ("--config.data.max_length=64", ["max_length=64", "16 positions"]),
    ("--config.objective=look_around", ["look_around", "look_ahead"]),
    ("--config.labels=fuzzy", ["fuzzy", "unrestricted"]),
    ("--config.rule=forward", ["forward", "mixed"]),
    ("--config.student.kind=mamba", ["mamba", "textcnn"]),
    ("--config.initialise=best", ["best", "k_centers"]),
    ("--config.selection.protocol=zero", ["zero", "replay"]),
    ("--config.gradient_matching.matched=tail", ["tail", "last_K"]),
    ("--config.min_tokens=99", ["min_tokens", "99"]),
    ("--config.selection.min_tokens=99", ["selection.min_tokens", "99"]),
    ("--config.student.pretrained=/no/where", ["/no/where", "directory"]),
    ("--config.student.space=/no/where", ["/no/where"]),
    ("--config.replay_steps=0", ["replay_steps"]),
    ("--config.replay_steps=-1", ["replay_steps=-1", "from 0 to"]),
    ("--config.selection.num_students=0", ["selection.num_students=0"]),
    ("--config.outer.warmup=1.0", ["outer.warmup=1.0", "below 1"]),
    ("--config.full.num_steps=1", ["full.num_steps=1", "from 2 to"]),
    (
      "--config.objective=look_ahead,look_ahead "
      "--config.stage_fractions=(1.5,-0.5)",
      ["stage_fractions=(1.5, -0.5)", "from 0 to 1"],
    ),
    ("--config.replay.head_scales=()", ["head_scales=()", "one or more"]),
    ("--config.outer.clip=-1.0", ["outer.clip=-1.0", "from 0 to"]),
    ("--config.rank=99", ["rank=99", "1 to 16"]),
    ("--config.examples_per_step=3", ["examples_per_step=3", "1 to data_per"]),
    (
      "--config.examples_per_step=1 --config.objective=gradient_matching",
      ["examples_per_step=1 is of the set's own steps", "look_ahead"],
    ),
    ("--config.bank.seed=4294967296", ["bank.seed=4294967296", "to 2**32 - 1"]),
    (
      "--config.finetune_ahead.until=5 --config.finetune.rates=()",
      ["finetune.rates=()"],
    ),
    ("--config.finetune_ahead.window=0", ["window=0", "from 1 to"]),
    ("--config.finetune_ahead.stride=0", ["stride=0", "from 1 to"]),
    ("--config.finetune_ahead.until=201", ["until=201", "200 steps"]),
    ("--config.real_rows=best", ["real_rows=best", "representatives"]),
    ("--config.refresh=0", ["refresh=0", "from 1 to"]),
    ("--config.look_ahead.start=late", ["look_ahead", "fresh, bank"]),
    ("--config.stored_as=int4", ["stored_as=int4", "int8"]),
    ("--config.objective=token_distance", ["look_ahead+0.1*token_distance"]),
    ("--config.initial_step_size=0.0", ["initial_step_size=0.0", "above 0"]),
    ("--config.protocols=()", ["protocols", "scratch"]),
    ("--config.student.num_layers=0", ["num_layers=0", "pretrained"]),
    ("--config.student.remat=True", ["student.remat=True", "elementwise"]),
    ("--config.step_schedule=cosine", ["step_schedule", "cosine", "linear"]),
    ("--config.step_matching.matched=tail", ["step_matching", "last_K"]),
    ("--config.replay.rates=()", ["replay.rates=()", "one or more"]),
    ("--config.replay.rates=('a',)", ["replay.rates=('a',)", "numbers"]),
    ("--config.stage_fractions=('a',)", ["stage_fractions=('a',)", "numbers"]),
    ("--config.seed=-1", ["seed=-1", "from 0 to"]),
    (f"--config.seed={2**32}", [f"seed={2**32}", "to 2**32 - 1"]),
    ("--config.selection.apart=-1", ["selection.apart=-1"]),
    ("--config.table.window=0", ["table.window=0", "from 1 to"]),
    (
      "--config.student.pretrained=a --config.student.space=b",
      ["student.pretrained=a and student.space=b", "one of them"],
    ),
    ("--config.student.width=302", ["student.width=302", "300 tokens"]),
  ],
)
def test_a_bad_field_is_one_line_and_writes_nothing(
  override, words, tmp_path, capsys
):
  extra = []
  if "gradient_matching" in override:
    extra = ["--config.objective=gradient_matching"]
  if "step_matching" in override:
    extra = ["--config.objective=step_matching"]
  if "finetune_ahead" in override:
    extra = ["--config.objective=finetune_ahead"]
  workdir = tmp_path / "run"
  said = refused(
    capsys, "distill", CONFIG, f"--workdir={workdir}", *override.split(), *extra
  )
  for word in words:
    assert word in said
  assert not workdir.exists()


@pytest.mark.parametrize(
  "arguments, word",
  [
    (["disitll"], "the verb 'disitll' is none of distill, plan"),
    (["disitll"], "did you mean distill?"),
    (["fields", "windw"], "did you mean finetune_ahead.window?"),
    (["distill"], "--config"),
    (["distill", CONFIG], "--workdir"),
    (["distill", "--config=none.py", "--workdir=x"], "none.py"),
    (["distill", CONFIG, "--workdir=x", "--wrokdir=y"], "wrokdir"),
    (["distill", CONFIG, "--workdir=x", "extra"], "extra"),
    (["distill", "--config", "a.py", "--workdir=x"], "--config="),
    (["distill", f"{CONFIG}:tny", "--workdir=x"], "'polish'"),
    (["train"], "--set"),
    (["train", "--set=nowhere", "--workdir=x"], "set.safetensors"),
    (["evaluate", CONFIG, "--row=best"], "k_centers"),
    (["report"], "workdirs"),
    (["report", "nowhere"], "nowhere"),
    (["report", "one", "two"], "needs --workdir"),
    (["plan", CONFIG, "--teacher=x"], "plan takes no --teacher; it takes"),
    (["train", "--set=x", "--row=random"], "train takes no --row"),
    (["evaluate", "--row=random"], "needs --config=NAME, or the"),
    (
      ["distill", "--config=results", "--workdir=x"],
      "use gmdistill sweep",
    ),
    (["sweep", CONFIG, "--workdir=x", "--distributed"], "the same --workdir"),
    (["bank", CONFIG, "--workdir=x", "--distributed"], "and bank is no work"),
    (
      ["plan", CONFIG, "--coordinator=localhost:1234", "--num_processes=2"],
      "give --distributed too",
    ),
    (
      ["plan", CONFIG, "--distributed", "--coordinator=localhost:99999"]
      + ["--num_processes=2", "--process_id=0"],
      "a port from 1 to 65535",
    ),
    (
      ["plan", CONFIG, "--distributed", "--coordinator=localhost:1234"]
      + ["--num_processes=2", "--process_id=2"],
      "--process_id=0 to N-1",
    ),
    (
      ["evaluate", CONFIG, "--row=random", "--config.data_per_class=0"],
      "from 1 to",
    ),
    (
      ["evaluate", CONFIG, "--row=random", "--config.scratch.num_steps=1"],
      "from 2 to",
    ),
    (
      [
        "evaluate",
        CONFIG,
        "--row=random",
        "--config.student.kind=textcnn",
        "--config.kd.shallow_weight=0.5",
      ],
      "kd.shallow_weight=0.5 is about layers",
    ),
    (
      [
        "plan",
        CONFIG,
        "--config.objective=step_matching",
        "--config.step_matching.matched=last_1",
        "--config.student.kind=textcnn",
      ],
      "no layers",
    ),
    (
      [
        "plan",
        CONFIG,
        "--config.examples_per_step=1",
        "--config.replay_steps=1",
      ],
      "take at least 2 a step",
    ),
  ],
)
def test_a_bad_command_is_one_line(arguments, word, capsys):
  assert word in refused(capsys, *arguments)


@pytest.mark.parametrize("verb", [x for x in verbs.VERBS if x != "fields"])
def test_a_verb_asks_for_flags_that_it_takes(verb, capsys):
  said = refused(capsys, verb)
  asked = set(re.findall(r"--([a-z]+)", said))
  assert asked or "report DIR" in said
  assert asked <= set(verbs.VERBS[verb].takes.split())


def test_an_unwritable_workdir_is_one_line(tmp_path, capsys):
  file = tmp_path / "file"
  file.write_text("in the way")
  assert str(file) in refused(capsys, "distill", CONFIG, f"--workdir={file}")
  inside = f"--workdir={file / 'run'}"
  assert "another --workdir" in refused(capsys, "distill", CONFIG, inside)


def test_a_second_run_in_the_same_workdir_is_one_line(tmp_path, capsys):
  folder = tmp_path / "run"
  folder.mkdir()
  with folders.held(folder):
    said = refused(capsys, "distill", CONFIG, f"--workdir={folder}")
  assert "another run is working in" in said
  assert [p.name for p in folder.iterdir()] == [".lock"]


def test_another_student_leaves_out_what_only_the_sets_own_can_use(capfd):
  own = make_problem()
  params = own.init(jax.random.key(0))
  batch = make_synthetic()
  batch = batch.replace(attention=own.apply(params, batch).attention)
  shares = own.roles.even_shares(params)[None]
  syn = synthetic.SyntheticSet(
    batch, np.ones(1), head_learning_rates=np.ones(1), tensor_shares=shares
  )
  assert set_files.for_student(own, syn) is syn
  assert not capfd.readouterr().err
  for other in (make_problem(num_layers=1), make_problem("bilstm")):
    left = set_files.for_student(other, syn)
    assert left.batch.attention is None and left.learning_rates is None
    said = capfd.readouterr().err
    assert "attention labels are left out" in said
    assert "the set's steps are left out" in said


@pytest.mark.parametrize(
  "owner, name",
  [
    (folders, "write_json"),
    (logs.Writer, "write"),
    (ocp.training.Checkpointer, "save"),
    (set_files, "save"),
  ],
)
def test_a_full_disk_is_one_line(owner, name, tmp_path, capsys, monkeypatch):
  def full(*_, **__):
    if name == "save" and owner is not set_files:
      # tensorstore's way to say it
      raise ValueError("RESOURCE_EXHAUSTED: No space left on device")
    raise OSError(28, "No space left on device", "the file")

  monkeypatch.setattr(owner, name, full)
  said = refused(
    capsys, "distill", f"{CONFIG}:polish", f"--workdir={tmp_path / 'run'}"
  )
  assert "space left" in said


def test_a_misspelt_field_of_a_config_file_is_one_line(tmp_path, capsys):
  file = tmp_path / "mine.py"
  file.write_text(
    "from gmdistill.runs.config import settings\n"
    "def get_config(mode=''):\n"
    "  config = settings.defaults()\n"
    "  config.num_stpes = 5\n"
    "  return config\n"
  )
  said = refused(
    capsys, "distill", f"--config={file}", f"--workdir={tmp_path / 'run'}"
  )
  assert "num_stpes" in said and '"num_steps"' in said and len(said) < 300


def test_a_set_of_other_classes_is_refused(finished, tmp_path, capsys):
  folder = tmp_path / "set"
  shutil.copytree(finished / "set", folder)
  shutil.copytree(finished / "space", tmp_path / "space")
  card = json.loads((folder / "card.json").read_text())
  card["label_names"][0] = "something else"
  (folder / "card.json").write_text(json.dumps(card))
  said = refused(capsys, "evaluate", CONFIG, f"--set={folder}")
  assert "something else" in said and "the data" in said


def test_a_damaged_set_spoils_no_report_silently(finished, tmp_path, capsys):
  run = tmp_path / "run"
  shutil.copytree(finished, run, ignore=shutil.ignore_patterns("checkpoints"))
  whole = (run / "set" / "set.safetensors").read_bytes()
  (run / "set" / "set.safetensors").write_bytes(whole[: len(whole) // 2])
  assert "set.safetensors is damaged" in refused(capsys, "report", run)


def test_a_set_of_another_space_is_refused_with_both_ids(
  finished, tmp_path, capsys
):
  # Away from its run, whose space/ folder would otherwise be read.
  folder = tmp_path / "set"
  shutil.copytree(finished / "set", folder)
  card = json.loads((folder / "card.json").read_text())
  said = refused(
    capsys,
    "evaluate",
    CONFIG,
    f"--set={folder}",
    "--config.data.vocab_size=200",
  )
  assert card["embedding_space"] in said and "this student in" in said


def test_a_damaged_set_is_one_line(finished, tmp_path, capsys):
  folder = tmp_path / "set"
  folder.mkdir()
  for name in ("set.safetensors", "card.json"):
    whole = (finished / "set" / name).read_bytes()
    (folder / name).write_bytes(whole[: len(whole) // 2])
  said = refused(capsys, "train", f"--set={folder}", "--workdir=x")
  assert "damaged" in said and str(folder) in said


def test_a_student_that_bert_cannot_hold_is_refused(finished, tmp_path, capsys):
  said = refused(
    capsys,
    "train",
    CONFIG,
    f"--set={finished / 'set'}",
    f"--workdir={tmp_path / 'student'}",
    "--config.student.kind=textcnn",
  )
  assert "kind=transformer" in said
  assert not (tmp_path / "student").exists()


def test_a_trained_student_depends_on_the_set_alone(finished, tmp_path):
  weights = []
  for name in ("a", "b"):
    given = f"--set={finished / 'set'}"
    main.main(["x", "train", given, f"--workdir={tmp_path / name}"])
    path = tmp_path / name / "model.safetensors"
    weights.append(safetensors.numpy.load_file(path))
  for name, value in weights[0].items():
    np.testing.assert_array_equal(value, weights[1][name])


@pytest.mark.parametrize(
  "text, said",
  [
    ("def get_config(:", "SyntaxError in the config file"),
    ("import no_such_package", "No module named 'no_such_package'"),
    ("def get_config(): return 1 / 0", "division by zero"),
    ("def get_config(): return {}[3]", "KeyError in the config file: 3"),
    ("def get_config(): return 3", "settings.defaults()"),
  ],
)
def test_a_config_file_that_fails_is_one_line(text, said, tmp_path, capsys):
  file = tmp_path / "mine.py"
  file.write_text(text)
  assert said in refused(capsys, "plan", f"--config={file}")


@pytest.mark.parametrize("text", ['{"num_st', '{"no_such_field": 3}', "[]"])
def test_a_damaged_config_of_a_set_is_one_line(
  text, finished, tmp_path, capsys
):
  shutil.copytree(finished / "set", tmp_path / "set")
  (tmp_path / "config.json").write_text(text)
  said = refused(capsys, "evaluate", f"--set={tmp_path / 'set'}")
  assert f"{tmp_path / 'config.json'} is damaged" in said


@pytest.mark.parametrize("name", ["config.json", "sources.json"])
@pytest.mark.parametrize("text", ['{"num_st', "[]"])
def test_a_damaged_file_of_a_run_is_one_line(
  name, text, finished, tmp_path, capsys
):
  for kept in ("config.json", "sources.json"):
    shutil.copy(finished / kept, tmp_path)
  (tmp_path / name).write_text(text)
  said = refused(capsys, "distill", CONFIG, f"--workdir={tmp_path}")
  assert f"{tmp_path / name} is damaged" in said


def test_a_student_does_not_replace_a_set(finished, tmp_path, capsys):
  shutil.copytree(finished / "set", tmp_path / "set")
  given = f"--set={finished / 'set'}"
  said = refused(capsys, "train", given, f"--workdir={tmp_path}")
  assert "holds a set" in said and not (tmp_path / "config.json").exists()
