r"""Trains a student on a set in plain PyTorch, by the steps that it brings.

    python examples/replay_in_torch.py --set=runs/sst2/set \
        --model=sentence-transformers/all-MiniLM-L6-v2 --data=rows.jsonl

Reads the set's two files, and nothing of gmdistill: `card.json` says what they
mean. `--model` is the encoder whose space the set lives in, `--data` lines of
JSON with the card's text and label, on which the student is measured. Needs
torch, transformers and safetensors.
"""

import argparse
import json

import torch
import transformers
from safetensors.torch import load_file


def main(args: argparse.Namespace) -> None:
  """Trains one student, and prints its accuracy."""
  torch.manual_seed(args.seed)  # of the head's fresh weights
  with open(f"{args.set}/card.json") as file:
    card = json.load(file)
  read, rows = card["reader"], load_file(f"{args.set}/set.safetensors")
  inputs = rows["embeddings"].float()
  if "embeddings_scale" in rows:  # int8
    inputs = inputs * rows["embeddings_scale"][..., None]
  if "basis" in rows:  # codes
    inputs = inputs @ rows["basis"]
  encoder = transformers.AutoModel.from_pretrained(args.model).eval()
  encoder.encoder.layer = encoder.encoder.layer[: read["layers"]]
  classes = len(card["label_names"])
  head = torch.nn.Linear(encoder.config.hidden_size, classes)
  torch.nn.init.normal_(head.weight, std=read["head"]["weight_std"])
  torch.nn.init.zeros_(head.bias)

  def logits(mask: torch.Tensor, **words: torch.Tensor) -> torch.Tensor:
    out = encoder(attention_mask=mask.long(), **words)
    if card["pooling"] == "first":
      return head(out.pooler_output)
    weight = mask[..., None] / mask.sum(1)[:, None, None]
    return head((out.last_hidden_state * weight).sum(1))

  body = {
    name: x
    for name, x in encoder.named_parameters()
    if name not in read["steps"]["frozen"]
  }
  tensors = [*body.values(), *head.parameters()]
  moved = read["steps"]["moved"]
  for t, rate in enumerate(rows["learning_rates"]):
    own = rows["order"][t] if "order" in rows else slice(None)
    said = torch.log_softmax(
      logits(rows["mask"][own], inputs_embeds=inputs[own]), -1
    )
    loss = -(rows["labels"][own] * said).sum(-1).mean()
    grads = torch.autograd.grad(loss, tensors, allow_unused=True)
    of_head = rows.get("head_learning_rates", rows["learning_rates"])[t]
    with torch.no_grad():
      for name, x, grad in zip([*body, "", ""], tensors, grads, strict=True):
        if grad is None:  # a pooler that nothing reads
          continue
        if not name:
          x -= of_head * grad
        elif "tensor_shares" not in rows:
          x -= rate * grad
        elif name in moved and grad.norm() > 0:
          share = rows["tensor_shares"][t, moved.index(name)]
          x -= rate * share * grad / grad.norm()

  tokenizer = transformers.AutoTokenizer.from_pretrained(args.model)
  names, right, count = card["label_names"], 0, 0
  with open(args.data) as file, torch.no_grad():
    for line in file:
      row = json.loads(line)
      texts = [row[key] for key in card["text_keys"]]
      told = tokenizer(*texts, truncation=True, return_tensors="pt")
      guess = logits(told["attention_mask"], input_ids=told["input_ids"])
      label = row[card["label_key"]]
      label = names.index(label) if isinstance(label, str) else label
      right += int(guess.argmax()) == label
      count += 1
  print(f"accuracy {100 * right / count:.1f} % of {count} rows")


if __name__ == "__main__":
  parser = argparse.ArgumentParser(description=__doc__)
  for name in ("set", "model", "data"):
    parser.add_argument(f"--{name}", required=True)
  parser.add_argument("--seed", type=int, default=0)
  main(parser.parse_args())
