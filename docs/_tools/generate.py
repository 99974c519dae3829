"""Writes the pages that come from the code: API, commands, fields, notebooks.

Sphinx calls it before it looks for pages. A page that has not changed is not
written again, so that Sphinx builds nothing twice.
"""

import pathlib
import tomllib

from gmdistill import fields as field_table
from gmdistill.runs.commands import verbs
from gmdistill.runs.config import recipe

ROOT = pathlib.Path(__file__).parents[2]
PACKAGE = ROOT / "gmdistill"
GROUPS = ROOT / "docs" / "reference" / "groups.toml"
MADE = """\
% Made from the code by docs/_tools/generate.py: changes here are lost.
"""
TINY_NOTE = """\
# %% [markdown]
# :::{note}
# This page is the notebook `notebooks/NAME`, executed with the smallest
# settings, so that the site builds in a minute. Read the steps here, and take
# numbers from a run of your own.
# :::

"""
# They need no run, so that what this site shows of them is the whole.
COMPLETE = ("walkthrough.py",)


def write_all(docs: pathlib.Path) -> None:
  """Writes every such page below `docs`."""
  pages = {
    docs / "reference" / "commands.md": commands(),
    docs / "reference" / "fields.md": fields(),
  }
  for room, text in api().items():
    pages[docs / "reference" / "api" / f"{room}.md"] = text
  for path in sorted((ROOT / "notebooks").glob("*.py")):
    pages[docs / "tutorials" / path.name] = notebook(path)
  for path, text in pages.items():
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.is_file() or path.read_text() != text:
      path.write_text(text)
  for folder, pattern in (("reference/api", "*.md"), ("tutorials", "*.py")):
    for path in (docs / folder).glob(pattern):
      if path not in pages:
        path.unlink()  # of a room or notebook that is gone


def modules() -> dict[str, list[str]]:
  """Returns the modules of each room, by their names in the package tree."""
  rooms: dict[str, list[str]] = {}
  for path in sorted(PACKAGE.rglob("*.py")):
    parts = ("gmdistill", *path.relative_to(PACKAGE).with_suffix("").parts)
    if parts[-1] == "__init__":
      parts = parts[:-1]
    if parts[-1] == "__main__":
      continue
    folder = path.relative_to(PACKAGE).parts[:-1]
    rooms.setdefault(folder[0] if folder else "gmdistill", []).append(
      ".".join(parts)
    )
  return rooms


def api() -> dict[str, str]:
  """Returns a page of each room: what its modules say of themselves."""
  pages = {}
  for room, names in modules().items():
    lines = [MADE, f"# {room}", ""]
    for name in names:
      if name not in (f"gmdistill.{room}", "gmdistill"):
        lines += [f"## {name.removeprefix(f'gmdistill.{room}.')}", ""]
      lines += ["```{eval-rst}", f".. automodule:: {name}"]
      if not name.count(".") or name == f"gmdistill.{room}":
        lines.append("  :no-members:")  # they are told where they are defined
      lines += ["```", ""]
    pages[room] = "\n".join(lines)
  return pages


def commands() -> str:
  """Returns the page of the command line."""
  lines = [
    MADE,
    "# Commands",
    "",
    "`gmdistill VERB --flag=value ...`: a flag and its value, joined by `=`.",
    "The exit status is 0; 1 for a number that is not finite; 2 for something",
    "that you can mend, told in one line; 130 after Ctrl-C.",
    "",
    "| verb | what it does | flags |",
    "| --- | --- | --- |",
  ]
  for name, verb in verbs.VERBS.items():
    flags = " ".join(f"`--{flag}`" for flag in verb.takes.split())
    lines.append(f"| `{name}` | {verb.does} | {flags} |")
  told = {"--help": verbs.overview()}
  told |= {f"{name} --help": verbs.help_of(name) for name in verbs.VERBS}
  for asked, text in told.items():
    lines += ["", f"## `gmdistill {asked}`", "", "```text", text, "```"]
  return "\n".join(lines) + "\n"


def fields() -> str:
  """Returns the page of all fields: everything in it comes from the code."""
  grouped: dict[str, list[str]] = {}
  for path, default, range_, meaning in field_table.table(recipe.Recipe):
    group = path.rpartition(".")[0]
    entry = f"`{path}` = `{default!r}`\n: {meaning} {range_.capitalize()}.\n"
    grouped.setdefault(group, []).append(entry)
  about = tomllib.loads(GROUPS.read_text())["groups"]
  lines = [
    MADE,
    "# Fields",
    "",
    "Every field of a config, with its default. A config file sets some, and",
    "the command line changes any: `--config.outer.learning_rate=0.02`. A",
    'tuple is written in quotes: `"--config.bank.ages=(0,7,14)"`.',
    "`gmdistill` refuses a name that is not here, and suggests the nearest.",
    "",
    "## The run and the set",
    "",
    *grouped.pop(""),
  ]
  for group, entries in grouped.items():
    lines += [f"## {group}", "", about.get(group, ""), "", *entries]
  return "\n".join(lines)


def notebook(path: pathlib.Path) -> str:
  """Returns a notebook as a page, with a note where its run is a tiny one."""
  text = path.read_text()
  if path.name in COMPLETE:
    return text
  head, first, rest = text.partition("# %% [markdown]\n")
  title, cell, after = rest.partition("\n\n# %%")
  note = TINY_NOTE.replace("NAME", path.name)
  return f"{head}{first}{title}\n\n{note}# %%{after}"
