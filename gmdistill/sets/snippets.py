"""A script of PyTorch that trains a student on a set, as its card shows it.

It needs nothing of gmdistill. What a set brings decides what stands in it; of
one whose steps ask for more, the card's `reader` has the words.
"""

from collections.abc import Collection, Mapping
from typing import Any

_BEGIN = """\
import json, safetensors.torch, torch, transformers
card = json.load(open("set/card.json"))
data = safetensors.torch.load_file("set/set.safetensors")
inputs = data["embeddings"].float()
"""

_FRESH = """\
space = safetensors.torch.load_file("space/embeddings.safetensors")
table = space["embeddings"]
bert = transformers.BertModel(transformers.BertConfig(
  **card["reader"]["bert"], vocab_size=len(table), hidden_dropout_prob=0.0,
  attention_probs_dropout_prob=0.0))
bert.embeddings.word_embeddings.weight.data = table
"""

_PRETRAINED = """\
bert = transformers.BertModel.from_pretrained(
  {encoder!r}, num_hidden_layers=card["reader"]["layers"]).eval()
"""

_HEAD = """\
head = torch.nn.Linear(bert.config.hidden_size, len(card["label_names"]))
torch.nn.init.normal_(head.weight, std=card["reader"]["head"]["weight_std"])
torch.nn.init.zeros_(head.bias)
body = [p for n, p in bert.named_parameters()
        if "word_embeddings" not in n{and_no_pooler}]
params = [*body, *head.parameters()]


def logits_of(mask, **rows):
  {features}
  return head(features)


"""

_MEAN = """\
states = bert(attention_mask=mask, **rows).last_hidden_state
  features = (states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)"""

_FIRST = """\
features = bert(attention_mask=mask, **rows).pooler_output"""

_STEP = """\
  logits = logits_of(data["mask"][rows].long(), inputs_embeds=inputs[rows])
  loss = -(data["labels"][rows] * logits.log_softmax(-1)).sum(-1).mean()
"""

_OWN_STEPS = """\
for t, rate in enumerate(data["learning_rates"]):
  rows = {rows}
{step}  rates = [rate] * len(body) + [{head_rate}] * 2
  grads = torch.autograd.grad(loss, params)
  with torch.no_grad():
    for param, grad, size in zip(params, grads, rates):
      param -= size * grad
"""

_ADAM = """\
rows = slice(None)
optimizer = torch.optim.AdamW(params, lr=1e-4)
for _ in range(200):
{step}  optimizer.zero_grad()
  loss.backward()
  optimizer.step()
"""


def use(card: Mapping[str, Any], tensors: Collection[str]) -> str:
  """Returns the script; empty: the set asks for more than it could say.

  Args:
    card: What is said of the set.
    tensors: The names of what its file has.
  """
  sizes = (card.get("reader") or {}).get("bert")
  more = {"tensor_shares", "attention", "rationale", "labels"} & set(tensors)
  if not sizes or more != {"labels"}:
    return ""
  text = _BEGIN
  if "embeddings_scale" in tensors:
    text += 'inputs = inputs * data["embeddings_scale"][..., None]\n'
  if "basis" in tensors:
    text += 'inputs = inputs @ data["basis"]\n'
  encoder = card.get("encoder")
  text += _PRETRAINED.format(encoder=encoder) if encoder else _FRESH
  mean = card["pooling"] == "mean"
  text += _HEAD.format(
    features=_MEAN if mean else _FIRST,
    and_no_pooler=' and "pooler" not in n' if mean else "",
  )
  if "learning_rates" not in tensors:
    return text + _ADAM.format(step=_STEP)
  own_head = "head_learning_rates" in tensors
  return text + _OWN_STEPS.format(
    rows='data["order"][t].long()' if "order" in tensors else "slice(None)",
    step=_STEP,
    head_rate='data["head_learning_rates"][t]' if own_head else "rate",
  )


_TEXTS = """\
import json, torch, transformers
card = json.load(open("set/card.json"))
names = card["label_names"]
rows = [json.loads(x) for x in open("set/set.jsonl", encoding="utf-8")]
name = "distilbert-base-uncased"  # any encoder, by any tokenizer
tokenizer = transformers.AutoTokenizer.from_pretrained(name)
model = transformers.AutoModelForSequenceClassification.from_pretrained(
  name, num_labels=len(names))
texts = [x.get("text") or x["texts"] for x in rows]
inputs = tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
labels = torch.tensor([
  x.get("labels") or [float(x["label"] in (i, n)) for i, n in enumerate(names)]
  for x in rows])
weights = torch.tensor([x.get("weight", 1.0) for x in rows])
weights = weights / weights.mean()
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
for _ in range(200):
  logits = model(**inputs).logits
  loss = (weights * -(labels * logits.log_softmax(-1)).sum(-1)).mean()
  optimizer.zero_grad()
  loss.backward()
  optimizer.step()
"""


def use_of_texts() -> str:
  """Returns a script that trains an encoder of transformers on `set.jsonl`."""
  return _TEXTS
