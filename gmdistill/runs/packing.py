"""A set for others: one folder with all that its reader needs, and a card."""

import io
import json
import os
import tempfile
import zipfile
from typing import Any

import numpy as np
from etils import epath

from gmdistill import errors
from gmdistill.data import tokenizing
from gmdistill.reports import words
from gmdistill.runs import packed_parts, packing_texts
from gmdistill.sets import hub, nearest_text, set_files, spaces, text_sets
from gmdistill.system import folders, paths, units


def pack(source: epath.PathLike, target: str, where: str = ".") -> epath.Path:
  """Writes a set with its space, its config and a card; returns where.

  Folders of this machine that the config names are left out of it.

  Args:
    source: The set: its folder, its run's, hf:ORG/NAME, or a FILE.jsonl.
    target: A folder, or a file that ends in .zip.
    where: As what its readers give it to --set.

  Raises:
    InputError: the set is damaged or alone, or the target holds something.
  """
  files = contents(source, where)
  if target.endswith(".zip"):
    folders.writable(os.path.dirname(target) or ".")
    place = paths.absolute(target)
    place.parent.mkdir(parents=True, exist_ok=True)
    paths.write_bytes(place, _zipped(files))
    return place
  folder = folders.writable(target)
  if folder.exists() and any(folder.iterdir()):
    raise errors.InputError(f"{folder} is not empty; give another --to.")
  if not paths.is_local(folder):
    _write(folder, files)
    return folder
  folder.mkdir(parents=True, exist_ok=True)
  # All aside first: a full disk leaves no part of a pack.
  with tempfile.TemporaryDirectory(dir=folder) as aside:
    _write(epath.Path(aside), files)
    for place in epath.Path(aside).iterdir():
      place.rename(folder / place.name)
  return folder


def _write(folder, files):
  by_folder: dict[str, dict[str, bytes]] = {}
  for name, content in files.items():
    place, _, leaf = name.rpartition("/")
    by_folder.setdefault(place, {})[leaf] = content
  for place, inside in by_folder.items():
    paths.write_files(folder / place if place else folder, inside)


def contents(source: epath.PathLike, where: str = ".") -> dict[str, bytes]:
  """Returns the files of a packed set, by their names in it.

  Raises:
    InputError: the set is damaged, or one of embeddings lacks its config or its
      table.
  """
  file = hub.text_file(source)
  if file is not None:
    return packing_texts.contents(file, where)
  folder = hub.set_folder(source)
  syn, card = set_files.load(folder)
  root = paths.absolute(folder).parent
  config = packed_parts.config_beside(root)
  card = {**packed_parts.of_card(card), "task": config["data"]["name"]}
  space = {
    f"space/{name}": (root / "space" / name).read_bytes()
    for name in ("tokenizer.json", "embeddings.safetensors")
    if (root / "space" / name).is_file()
  }
  if len(space) < 2 and not config["student"]["pretrained"]:
    raise errors.InputError(
      f"{root} has no space/ with the table and the tokenizer of the set; "
      "restore it from a copy."
    )
  rows = _examples(syn, card, root / "space" if space else None)
  texts = folder / text_sets.FILE
  return {
    "README.md": readme(card, config, rows, where).encode(),
    "config.json": packed_parts.as_json(config),
    "examples.jsonl": "".join(f"{json.dumps(x)}\n" for x in rows).encode(),
    "set/set.safetensors": (folder / "set.safetensors").read_bytes(),
    "set/card.json": packed_parts.as_json(card),
    **({"set/set.jsonl": texts.read_bytes()} if texts.is_file() else {}),
    **space,
  }


def _examples(syn, card, space) -> list[dict[str, Any]]:
  """Returns an entry for each example: its labels, and its nearest tokens."""
  names = card.get("label_names", [])
  labels = syn.batch.labels
  rows: list[dict[str, Any]] = [{"example": i} for i in range(len(syn.batch))]
  if labels is not None:
    for row, label_C in zip(rows, np.asarray(labels), strict=True):
      told = {
        n: round(float(x), 4) for n, x in zip(names, label_C, strict=True)
      }
      row |= {"class": names[int(label_C.argmax())], "labels": told}
  if space is not None:
    known = tokenizing.Tokenizer.from_file(space / "tokenizer.json").tokens
    table = spaces.read_table(space)
    ids_MxLx1, _ = nearest_text.nearest_tokens(syn.batch.inputs, table, k=1)
    for row, ids_Lx1, mask_L in zip(
      rows, ids_MxLx1, syn.batch.mask, strict=True
    ):
      near = [known[i] for i in ids_Lx1[np.asarray(mask_L), 0]]
      row["nearest_tokens"] = " ".join(near)
  return rows


_README = """\
---
{head}
---
# {title}

{shape}

These examples stand for the {task} data set: a new model that trains on them
comes to what the table says of *distilled*. An example is no text: it is
{length} embeddings, to be read in the place of word embeddings, and what is
learned from them. `examples.jsonl` names the token that is nearest to each.

{results}
## Use

With gmdistill, which measures students on the data that `config.json` names:

```
{train}gmdistill evaluate --set={where}
```

{alone}## Limits

- The set fits the student and the steps that it was learned for: {student}.
  Other architectures and optimisers get less from it, and some nothing.
- It has the faults of the data that it was learned from, whose licence holds
  for what is made of them.
- Rows may be recognised in it: it was learned without a guarantee of privacy,
  unless `card.json` says otherwise.

## Files

| file | what |
| --- | --- |
| `set/set.safetensors` | embeddings, masks, labels, steps: {size} |
| `set/card.json` | what they mean, and how they were made |
| `space/` | the token table and the tokenizer that they live in{or_encoder} |
| `config.json` | every field of the run |
| `examples.jsonl` | labels and nearest tokens, to look at |
"""

_ALONE = """\
Without it, in the folder that this page lies in:

```python
{use}```

"""


def readme(
  card: dict[str, Any],
  config: dict[str, Any],
  rows: list[dict[str, Any]],
  where: str = ".",
) -> str:
  """Returns the README.md of a packed set, whose head the hub reads."""
  task, count = card["task"], len(rows)
  kind = "classification" if card.get("label_names") else "generation"
  title = f"{task}, distilled to {count} examples"
  head = packed_parts.head(title, count, kind=kind, file="examples.jsonl")
  classes = card.get("label_names", [])
  student = card.get("encoder") or f"a fresh {config['student']['kind']}"
  ways = ", ".join(config["protocols"])
  use = card.get("use")
  train = f"gmdistill train --set={where} --workdir=student\n"
  if config["student"].get("kind") in words.UNSAVED:
    train = ""
  shape = f"{count} learned sequences."
  if classes:
    named = packed_parts.named(classes)
    shape = f"{count} learned examples of {len(classes)} classes ({named})."
  return _README.format(
    head=head,
    title=title,
    shape=shape,
    task=task,
    length=card.get("sequence_length"),
    results=packed_parts.results(card),
    where=where,
    train=train,
    alone=_ALONE.format(use=use) if use else "",
    student=f"{student}, trained by `{ways}`",
    size=units.size(card["bytes"]),
    or_encoder="" if not card.get("encoder") else "; here those of the encoder",
  )


def _zipped(files: dict[str, bytes]) -> bytes:
  made = io.BytesIO()
  with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
    for name, content in files.items():
      # Of no time: the same set is the same file.
      archive.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)
  return made.getvalue()
