"""What a page says of a run before all else: a few numbers, in words."""

from collections.abc import Sequence

from gmdistill.reports import finished, tables

_SCORES = {
  "accuracy": "Accuracy",
  "nats": "Nats a token, the less the better,",
}


def told_as(run: finished.Run) -> dict[str, str]:
  """What the numbers of a run are, in words."""
  protocol = finished.main_protocol(run)
  unit, of = finished.unit_of(run, protocol), "the accuracy on the full data"
  if finished.rows_of(run, protocol).get("zero_shot"):
    of = "what the full data gain over zero-shot"
  return {
    "unit": unit,
    "score": _SCORES[unit],
    "recovery": f"the share of {of}",
  }


def told_together(runs: Sequence[finished.Run]) -> dict[str, str]:
  """The same of several runs, whose table says no unit."""
  told = [told_as(run) for run in runs]
  scores, recoveries = (
    list(dict.fromkeys(x[key] for x in told)) for key in ("score", "recovery")
  )
  scores = ["Accuracy in %" if x == "Accuracy" else x for x in scores]
  units = {x["unit"] for x in told}
  kinds = ["points"] * ("accuracy" in units) + ["nats"] * ("nats" in units)
  return {
    "kind": "Accuracy" if "accuracy" in units else "Nats",
    "score": " or ".join([scores[0], *(x.lower() for x in scores[1:])]),
    "recovery": " or ".join(recoveries),
    "difference": " or ".join(kinds),
  }


def headline(run: finished.Run, rows: Sequence[tables.Row]) -> dict[str, str]:
  """The few numbers that a reader wants first."""
  protocol = finished.main_protocol(run)
  by_row = {
    row["row"]: row
    for row in rows
    if row["protocol"] == protocol and row["mean"] is not None
  }
  facts = {}
  if distilled := by_row.get("distilled"):
    unit = distilled["unit"]
    facts[f"{unit}, {protocol}"] = tables.with_unit(distilled)
    if distilled["recovery"]:
      shown = tables.percent(distilled["recovery"], 1)
      whole = "gain" if "zero-shot" in by_row else "accuracy"
      facts[f"of the full data's {whole}"] = f"{shown} %"
    others = [
      row
      for name, row in by_row.items()
      if name not in ("zero-shot", "distilled", "full")
    ]
    if others and unit == "accuracy":
      best = max(others, key=lambda row: row["mean"])
      gain = 100 * (distilled["mean"] - best["mean"])
      facts[f"points over {best['row']}"] = f"{gain:+.1f}"
    elif others:
      best = min(others, key=lambda row: row["mean"])
      gain = best["mean"] - distilled["mean"]
      facts[f"{unit} below {best['row']}"] = f"{gain:.3f}"
  costs = tables.ledger(run)
  for label, key in (
    ("size of the set", "Set"),
    ("to distill", "Distillation"),
  ):
    if costs[key] != tables.NOT_MEASURED:
      facts[label] = costs[key]
  return facts


def set_facts(run: finished.Run) -> dict[str, str]:
  """What a set holds: shapes, ranges, and what its card says."""
  facts = {}
  tensors = run.tensors
  if "targets" in tensors:
    counted = int((tensors["target_weights"] > 0).sum())
    kind = "tokens" if tensors["targets"].ndim == 2 else "learned distributions"
    facts["targets"] = f"{counted} {kind}"
  if "embeddings" in tensors:
    count, length, width = tensors["embeddings"].shape
    facts["embeddings"] = f"{count} examples x {length} tokens x {width}"
    if "basis" in tensors:  # codes, so far
      rank, width = tensors["basis"].shape
      facts["embeddings"] = (
        f"{count} examples x {length} tokens x {width}, of rank {rank}"
      )
  if "labels" in tensors:
    low, high = tensors["labels"].min(), tensors["labels"].max()
    facts["labels"] = f"from {low:.2f} to {high:.2f}"
  for key, said in (
    ("learning_rates", "step sizes"),
    ("head_learning_rates", "the head's step sizes"),
  ):
    if key in tensors:
      rates = tensors[key]
      ends = f"{rates.min():.2g} to {rates.max():.2g}"
      facts[said] = f"{rates.size} steps, {ends}"
  if "attention" in tensors:
    _, layers, heads, _ = tensors["attention"].shape
    facts["attention labels"] = f"{layers} layers x {heads} heads"
  for key in ("task", "pooling", "embedding_space", "format"):
    if key in run.card:
      facts[key.replace("_", " ")] = str(run.card[key])
  return facts
