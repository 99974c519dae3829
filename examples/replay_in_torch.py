r"""Trains a student on a set in plain PyTorch, by the steps that it brings.

    python examples/replay_in_torch.py --set=runs/sst2/set \
        --model=sentence-transformers/all-MiniLM-L6-v2 --data=rows.jsonl

Reads the set's two files, and nothing of gmdistill: `card.json` says what they
mean, of encoders (BERT) and of decoders (Llama, Qwen) alike. `--model` is the
model whose space the set lives in, `--data` lines of JSON with the card's texts
(a text, or a prompt and its completion) and label, on which the student is
measured. Needs torch, transformers and safetensors.
"""

import argparse
import json
import string

import torch
import transformers as hf
from safetensors.torch import load_file
from torch.nn import functional

PEFT = "base_model.model."


def main(args: argparse.Namespace) -> None:
  """Trains one student, and prints its accuracy, or its nats a token."""
  torch.manual_seed(args.seed)  # of what a student draws: a head, or LoRA's A
  with open(f"{args.set}/card.json") as file:
    card = json.load(file)
  rows, read = load_file(f"{args.set}/set.safetensors"), card["reader"]
  keys, steps, adapter = card["text_keys"], read["steps"], read.get("adapter")
  inputs = rows["embeddings"].float()
  if "embeddings_scale" in rows:  # int8
    inputs = inputs * rows["embeddings_scale"][..., None]
  if "basis" in rows:  # codes
    inputs = inputs @ rows["basis"]
  besides = ("teacher", "attention", "rationale")
  if more := [name for name in rows if name.startswith(besides)]:
    raise SystemExit(f"Students lose to {', '.join(more)}; this reads no such.")
  if any("#" in name for name in steps["moved"]):
    raise SystemExit("GPT-2 holds three matrices in one; this reads no such.")
  is_decoder = card["pooling"] == "last"
  kind = hf.AutoModelForCausalLM if is_decoder else hf.AutoModel
  model = kind.from_pretrained(args.model, num_hidden_layers=read["layers"])
  model.float().eval().requires_grad_(False)
  base = dict(model.named_parameters(remove_duplicate=False))

  still = set(steps["frozen_in_normalised_steps"]) - set(steps["frozen"])
  own = {}  # what the student is
  for name in [*steps["moved"], *sorted(still)]:
    if name.endswith("lora_A.weight"):
      out, into = base[name.removeprefix(PEFT).replace("lora_A.", "")].shape
      own[name] = (2 * torch.rand(adapter["rank"], into) - 1) / into**0.5
      own[name.replace("lora_A", "lora_B")] = torch.zeros(out, adapter["rank"])
    elif not adapter:
      own[name] = base[name]
  if card["label_names"] and not is_decoder:
    head = torch.empty(len(card["label_names"]), model.config.hidden_size)
    own["head.weight"] = head.normal_(std=read["head"]["weight_std"])
    own["head.bias"] = torch.zeros(len(head))

  def logits(own, mask, **words):
    tensors = base | {name: x for name, x in own.items() if name in base}
    for name in own if adapter else ():
      if name.endswith("lora_A.weight"):
        change = own[name.replace("lora_A", "lora_B")] @ own[name]
        name = name.removeprefix(PEFT).replace("lora_A.", "")
        tensors[name] = tensors[name] + adapter["scale"] * change
    out = torch.func.functional_call(
      model,
      tensors,
      (),
      {"attention_mask": mask.long(), **words},
      tie_weights=False,  # a head is trained apart from the table
    )
    if not is_decoder:
      weight = mask[..., None] / mask.sum(1)[:, None, None]
      features = (out.last_hidden_state * weight).sum(1)
      if card["pooling"] == "first":
        features = out.pooler_output
      return functional.linear(features, own["head.weight"], own["head.bias"])
    if "targets" in rows:
      return out.logits
    last = out.logits[torch.arange(len(mask)), mask.sum(1) - 1]
    return last[:, read["head"]["words"]]

  def loss(own, at):
    said = logits(own, rows["mask"][at], inputs_embeds=inputs[at])
    said = said.log_softmax(-1)
    if "targets" not in rows:
      return -(rows["labels"][at] * said).sum(-1).mean()
    targets, weights = rows["targets"][at], rows["target_weights"][at]
    if targets.is_floating_point():  # queries
      table = own.get("lm_head.weight", model.get_output_embeddings().weight)
      each = ((targets @ table.T).softmax(-1) * said).sum(-1)
    else:
      each = said.gather(-1, targets.long()[..., None])[..., 0]
    return -((each * weights).sum(1) / weights.sum(1)).mean()

  for t, rate in enumerate(rows["learning_rates"]):
    own = {name: x.detach().requires_grad_() for name, x in own.items()}
    at = rows["order"][t].long() if "order" in rows else slice(None)
    grads = torch.autograd.grad(
      loss(own, at), list(own.values()), materialize_grads=True
    )
    for (name, x), grad in zip(own.items(), grads, strict=True):
      far = rate
      if name.startswith("head."):
        far = rows.get("head_learning_rates", rows["learning_rates"])[t]
      elif "tensor_shares" in rows:
        moves = name in steps["moved"] and grad.norm() > 0
        place = steps["moved"].index(name) if moves else 0
        far = rate * rows["tensor_shares"][t, place] if moves else 0.0
        far = far / grad.norm() if moves else far
      own[name] = (x - far * grad).detach()

  tokenizer = hf.AutoTokenizer.from_pretrained(args.model)
  total, count, names = 0.0, 0, card["label_names"]
  # Tokens of a row; earlier sets say none.
  most = read.get("max_length", min(tokenizer.model_max_length, 10**6))
  with open(args.data) as file, torch.no_grad():
    for line in file:
      row = json.loads(line)
      texts = [row[key] for key in keys]
      if "targets" not in rows:
        if template := read["head"].get("template"):
          ids = torch.tensor([in_template(tokenizer, template, row, most)])
        else:
          cut = {"truncation": True, "max_length": most}
          ids = tokenizer(*texts[:2], return_tensors="pt", **cut).input_ids
        guess = logits(own, torch.ones_like(ids), input_ids=ids)
        label = row[card["label_key"]]
        label = names.index(label) if isinstance(label, str) else label
        total, count = total + float(guess.argmax() == label), count + 1
        continue
      ids, first = tokenizer(texts[0]).input_ids, 1
      parts = [ids[at : at + most + 1] for at in range(0, len(ids) - 1, most)]
      if len(texts) > 1:  # a prompt, and what is said to it
        joined = texts[0][-1:].isspace() or texts[1][:1].isspace()
        first, gap = max(len(ids), 1), " " * bool(texts[0] and not joined)
        more = tokenizer(gap + texts[1], add_special_tokens=False).input_ids
        parts = [[*ids, *more, tokenizer.eos_token_id][: most + 1]]
      for part in parts:
        ids = torch.tensor([part])
        said = logits(own, torch.ones_like(ids), input_ids=ids).log_softmax(-1)
        each = said[0, :-1].gather(-1, ids[0, 1:, None])[first - 1 :]
        total, count = total - float(each.sum()), count + len(each)
  if "targets" in rows:
    print(f"{total / count:.4f} nats a token, of {count} tokens")
  else:
    print(f"accuracy {100 * total / count:.1f} % of {count} rows")


def in_template(
  tokenizer: hf.PreTrainedTokenizerBase, template: str, row: dict, most: int
) -> list[int]:
  """Returns the tokens of a row, whose longest text loses its end."""
  whole, spans = "", []
  for around, key, *_ in string.Formatter().parse(template):
    whole += around
    if key:
      spans.append((len(whole), len(whole) + len(row[key])))
      whole += row[key]
  read = tokenizer(whole, return_offsets_mapping=True)
  ids = list(zip(read.input_ids, read.offset_mapping, strict=True))
  while len(ids) > most:
    inside = [
      [i for i, (_, (a, b)) in enumerate(ids) if first <= a < b <= last]
      for first, last in spans
    ]
    del ids[max(inside, key=len)[-1]]
  return [token for token, _ in ids]


if __name__ == "__main__":
  parser = argparse.ArgumentParser(description=__doc__)
  for name in ("set", "model", "data"):
    parser.add_argument(f"--{name}", required=True)
  parser.add_argument("--seed", type=int, default=0)
  main(parser.parse_args())
