"""A set of texts for others: the rows, a card, and how to train on them."""

from typing import Any

from etils import epath

from gmdistill import errors
from gmdistill.runs import packed_parts
from gmdistill.sets import snippets, text_sets
from gmdistill.system import paths

_README = """\
---
{head}
---
# {title}

{count} texts of {classes} classes ({named}), with a label and a weight each.
They stand for more data: a model that trains on them in the usual way comes to
what the table says.

{results}
## Use

With `transformers`, in the folder that this page lies in:

```python
{use}```

`datasets.load_dataset("json", data_files="set/set.jsonl")` and
`pandas.read_json("set/set.jsonl", lines=True)` read the rows too. With
gmdistill, whose config names the student and the data that it is measured on:

```
gmdistill evaluate --set={where} --config=NAME --protocol=finetune
```

## Limits

- What a row counts, its `weight`, is part of the set.
- It has the faults of the data that it was made from, whose licence holds for
  what is made of them. A row whose `source` is a number is a row of theirs.

## Files

| file | what |
| --- | --- |
| `set/set.jsonl` | `text` or `texts`, `label`, `weight`, soft `labels` |
| `set/card.json` | the order of the classes, and how the set was made |
"""


def contents(file: epath.Path, where: str = ".") -> dict[str, bytes]:
  """Returns the files of a packed text set, by their names in it.

  Raises:
    InputError: the set is absent or damaged.
  """
  if not file.is_file():
    raise errors.InputError(f"there is no file {file}.")
  card = text_sets.read_card(file)
  names = list(card.get("label_names") or text_sets.label_names(file))
  count = len(text_sets.read(file, names).texts)
  root = paths.absolute(file.parent).parent
  config = packed_parts.config_beside(root) if _is_of_run(file) else None
  task = packed_parts.of_files(card.get("task") or "")
  task = config["data"]["name"] if config else task
  use = snippets.use_of_texts()
  card = packed_parts.of_card(card)
  card = {"format": text_sets.FORMAT, **card, "label_names": names, "use": use}
  card |= {"task": task} if task else {}
  files = {
    "README.md": _readme(card, count, where).encode(),
    "set/set.jsonl": file.read_bytes(),
    "set/card.json": packed_parts.as_json(card),
  }
  if config:
    files["config.json"] = packed_parts.as_json(config)
  return files


def _is_of_run(file):
  return (
    file.name == text_sets.FILE
    and (paths.absolute(file.parent).parent / "config.json").is_file()
  )


def _readme(card: dict[str, Any], count: int, where: str) -> str:
  names = card["label_names"]
  title = f"{card.get('task') or 'A set'} in {count} texts"
  return _README.format(
    head=packed_parts.head(
      title, count, kind="classification", file=f"set/{text_sets.FILE}"
    ),
    title=title,
    count=count,
    classes=len(names),
    named=packed_parts.named(names),
    results=packed_parts.results(card),
    use=card["use"],
    where=where,
  )
