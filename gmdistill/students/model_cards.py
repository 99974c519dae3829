"""The README.md of a directory that a trained student is written to."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

# Read by a test that runs it: a fenced block of Python.
_MEAN = """\
**Not for `pipeline("text-classification")`**: `BertForSequenceClassification`
knows no mean pooling, and would draw a head at random; so that it does not, the
config has a `classifier_dropout` that it refuses. The head is in
`classifier.safetensors`, and reads the mean of the last hidden states:

```python
import transformers, safetensors.torch
tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
bert = transformers.BertModel.from_pretrained(folder, add_pooling_layer=False)
head = safetensors.torch.load_file(f"{folder}/classifier.safetensors")
rows = tokenizer(texts, return_tensors="pt", padding=True, truncation=True)
states, mask = bert(**rows)[0], rows["attention_mask"][..., None]
logits = (states * mask).sum(1) / mask.sum(1) @ head["weight"].T + head["bias"]
```
"""

_LAST = """\
**Not for `pipeline("text-classification")`**: `transformers` has no place for
the bias of this head, and would draw a head at random; so that it does not, the
tensors have a `score.weight` of a shape that it refuses. The head is in
`classifier.safetensors`, and reads the last hidden state of the last token:

```python
import transformers, safetensors.torch
tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
decoder = transformers.AutoModel.from_pretrained(folder)
head = safetensors.torch.load_file(f"{folder}/classifier.safetensors")
rows = tokenizer(texts, return_tensors="pt", padding=True, truncation=True)
states, last = decoder(**rows)[0], rows["attention_mask"].sum(1) - 1
logits = states[range(len(last)), last] @ head["weight"].T + head["bias"]
```
"""

_FIRST = """\
```python
import transformers
classify = transformers.pipeline("text-classification", model=folder)
```
"""

_WORDS = """\
**Not for `pipeline("text-classification")`**, which would draw a head at
random: it says each class by a word, the token that follows a text in its
template.
"""

_SLOTS = """
It reads {slots} [MASK] after [CLS], its slots for rationales, which the rows
above lack.
"""


def text(
  config: Mapping[str, Any], beside: Collection[str], labels: Sequence[str]
) -> str:
  """Returns what the directory is, and how it is read.

  Args:
    config: Its `config.json`.
    beside: The names of files that Hugging Face does not read.
    labels: The names of the classes.
  """
  name = config.get("architectures", ["model"])[0]
  said = f"Classes: {', '.join(labels)}." if labels else "It says tokens."
  parts = [f"A {name} that gmdistill trained. {said}\n\n"]
  if "classifier.safetensors" in beside:
    parts.append(_MEAN if name == "BertModel" else _LAST)
  elif name == "BertForSequenceClassification":
    parts.append(_FIRST)
  elif labels:
    parts.append(_WORDS)
  if slots := config.get("rationale_slots"):
    parts.append(_SLOTS.format(slots=slots))
  return "".join(parts)
