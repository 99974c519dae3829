"""What the command line can do: its verbs, the flags they take, their help."""

import textwrap
from typing import NamedTuple


class Verb(NamedTuple):
  """A command."""

  does: str  # in a line
  takes: str  # flags, with spaces between
  example: str
  rest: str = ""  # what stands beside flags


VERBS = {
  "distill": Verb(
    "distil a data set, evaluate the set, write the report",
    "config workdir",
    "gmdistill distill --config=quickstart --workdir=runs/quickstart",
  ),
  "plan": Verb(
    "say what a run needs of a device, and how long it takes",
    "config workdir devices json",
    "gmdistill plan --config=sst2",
  ),
  "sweep": Verb(
    "run a config of several runs; one report over all",
    "config workdir",
    "gmdistill sweep --config=results --workdir=runs/results",
  ),
  "dedup": Verb(
    "drop copies from the training rows; write what is kept",
    "config workdir method",
    "gmdistill dedup --config=quickstart --method=minhash --workdir=rows/kept",
  ),
  "select": Verb(
    "choose real rows by one or several methods; a table of them",
    "config workdir method",
    "gmdistill select --config=quickstart --method=el2n,less "
    "--workdir=rows/chosen",
  ),
  "write": Verb(
    "have a language model write rows of every class; filter them",
    "config workdir",
    "gmdistill write --config=readable/sst2:written --workdir=sets/written",
  ),
  "pipeline": Verb(
    "dedup to audit in one command, a folder for each stage",
    "config workdir ablate",
    "gmdistill pipeline --config=pipeline/quickstart --workdir=runs/pipeline",
  ),
  "append": Verb(
    "distil on from a set for data with more rows or classes",
    "config workdir set compare",
    "gmdistill append --set=runs/two/set --config=four.py --workdir=runs/four",
  ),
  "bank": Verb(
    "compute the real gradients that later runs match, once",
    "config workdir",
    "gmdistill bank --config=sst2:finetune --workdir=banks/sst2",
  ),
  "teach": Verb(
    "train a teacher on the real data; write a Hugging Face directory",
    "config workdir json",
    "gmdistill teach --config=quickstart:kd --workdir=teachers/deep",
  ),
  "train": Verb(
    "train one student on a set; write a Hugging Face directory",
    "config workdir set protocol json",
    "gmdistill train --set=runs/quickstart/set --workdir=runs/student",
  ),
  "relabel": Verb(
    "have teachers label a set, a baseline's rows or texts",
    "config workdir set teacher row",
    "gmdistill relabel --set=runs/quickstart/set --teacher=teachers/deep "
    "--workdir=sets/relabelled",
  ),
  "update": Verb(
    "distil on from a set whose teacher has changed",
    "config workdir set teacher",
    "gmdistill update --set=runs/kd/set --teacher=teachers/newer "
    "--workdir=runs/kd_newer",
  ),
  "evaluate": Verb(
    "measure a set, or a baseline, under a protocol",
    "config workdir set row protocol json",
    "gmdistill evaluate --set=runs/quickstart/set",
  ),
  "audit": Verb(
    "say what a set gives away of its rows, and how varied it is",
    "config workdir set json",
    "gmdistill audit --set=runs/quickstart/set",
  ),
  "report": Verb(
    "write one page over one or several workdirs",
    "workdir format table json",
    "gmdistill report runs/a runs/b --workdir=runs/both",
    "DIR...|FILE.jsonl",
  ),
  "pack": Verb(
    "put a set, its table and a card into one folder or zip",
    "set to",
    "gmdistill pack --set=runs/quickstart/set --to=docstrings.zip",
  ),
  "publish": Verb(
    "put a set on the Hugging Face hub",
    "set repo private",
    "gmdistill publish --set=runs/quickstart/set --repo=me/docstrings",
  ),
  "fields": Verb(
    "list the fields of a config, or those that words are about",
    "config json",
    "gmdistill fields learning rate",
    "[WORD...]",
  ),
}

# A flag's value, and what it says.
FLAGS = {
  "config": (
    "NAME[:mode]",
    "a config of gmdistill's, or a file of yours; :tiny after any: a small run "
    "for a CPU",
  ),
  "config.FIELD": ("VALUE", "change one field of it"),
  "workdir": (
    "DIR",
    "where everything is left, and a run goes on from; evaluate: "
    "evaluation.json",
  ),
  "set": (
    "DIR",
    "the set/ folder of a run, its workdir, or hf:ORG/NAME; train, evaluate, "
    "relabel: or a file of texts, FILE.jsonl",
  ),
  "teacher": ("DIR", "a teacher; may be given again"),
  "row": (
    "NAME",
    "distilled (the --set), random, herding or k_centers; evaluate: or full",
  ),
  "protocol": (
    "NAME",
    "replay, finetune or scratch; evaluate: or bayes, grid, ranking or "
    "projections",
  ),
  "method": (
    "NAME",
    "dedup: exact, minhash or semantic; select: one, several with commas "
    "between, or all",
  ),
  "ablate": ("", "leave out one stage at a time too; a table of all"),
  "compare": ("", "distil anew too, to compare"),
  "format": ("html|markdown", "a page, or one --table"),
  "table": ("NAME", "results, rows, groups, costs, provenance or published"),
  "to": ("DIR|FILE.zip", "where a packed set goes"),
  "repo": ("ORG/NAME", "a data set of the hub, made where it is absent"),
  "private": ("", "for its owners alone"),
  "devices": ("N", "plan for so many devices, whatever there are"),
  "json": ("", "print JSON, for a program, instead of a table"),
}

DISTRIBUTED = ("distill", "update", "plan")  # that several processes may share

_OF_SEVERAL = """\
  --distributed             one process of several; TPU pods and SLURM say by
                            themselves which, elsewhere these do:
                            --coordinator=HOST:PORT, --num_processes=N,
                            --process_id=I (from 0)
"""

_EXAMPLES = """\
examples:
  gmdistill distill --config=quickstart --workdir=runs/quickstart
  gmdistill train --set=runs/quickstart/set --workdir=runs/student
  gmdistill fields learning rate
"""


def overview() -> str:
  """Returns what `gmdistill --help` prints."""
  width = max(map(len, VERBS))
  verbs = [f"  {name:{width}}  {verb.does}" for name, verb in VERBS.items()]
  lines = [
    "usage: gmdistill VERB [--config=NAME[:mode]] [--workdir=DIR] [...]",
    "",
    *verbs,
    "",
    "  gmdistill VERB --help       its flags, and an example",
    "  gmdistill --version         which version this is",
    "",
    *map(_line, FLAGS),
    _OF_SEVERAL.rstrip(),
    "",
    _EXAMPLES.rstrip(),
  ]
  return "\n".join(lines)


def help_of(name: str) -> str:
  """Returns what `gmdistill VERB --help` prints."""
  verb = VERBS[name]
  takes = verb.takes.split()
  if "config" in takes:
    takes.insert(takes.index("config") + 1, "config.FIELD")
  words = [verb.rest] * bool(verb.rest) + [f"[{_form(x)}]" for x in takes]
  usage = f"usage: gmdistill {name} "
  lines = [
    textwrap.fill(
      " ".join(words),
      80,
      initial_indent=usage,
      subsequent_indent=" " * len(usage),
      break_on_hyphens=False,
    ),
    "",
    f"{verb.does[0].upper()}{verb.does[1:]}.",
    "",
    *map(_line, takes),
  ]
  if name in DISTRIBUTED:
    lines.append(_OF_SEVERAL.rstrip())
  lines += ["", "example:", f"  {verb.example}"]
  if "config" in takes:
    lines += ["", "gmdistill fields WORD says which fields there are."]
  return "\n".join(lines)


def _form(flag):
  value = FLAGS[flag][0]
  return f"--{flag}={value}" if value else f"--{flag}"


def _line(flag):
  """Returns a flag and what it says, in lines of 80 columns."""
  return textwrap.fill(
    FLAGS[flag][1],
    80,
    initial_indent=f"  {_form(flag):24}  ",
    subsequent_indent=" " * 28,
  )
