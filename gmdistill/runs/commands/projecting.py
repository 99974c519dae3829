"""Text made of a soft set: `evaluate --protocol=projections`."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from etils import epath

from gmdistill import errors
from gmdistill.data import batches, language_tokens
from gmdistill.evaluation import audits, measuring, rankings
from gmdistill.runs import alternating, jobs
from gmdistill.runs.commands import shared
from gmdistill.runs.config import assembly, outputs
from gmdistill.runs.config import recipe as recipes
from gmdistill.sets import readable, synthetic
from gmdistill.students import decoder_names, generation, problems, tasks
from gmdistill.system import logs, units


def projections(config: recipes.Recipe, source: epath.Path) -> dict[str, Any]:
  """Returns the rows of a set and its projections, under one student.

  Raises:
    InputError: the set is text already.
  """
  if shared.is_text_set(source):
    raise errors.InputError(
      f"{source} is text already; --protocol=projections makes text of a "
      "set of embeddings: give its folder."
    )
  setup = assembly.setup(config)
  syn, _ = shared.fitting_set(setup, source, config)
  table = outputs.table(setup, config)
  name = config.protocols[0]
  protocol = assembly.protocol(config, name)
  made = _made(config, setup, syn)
  rows: dict[str, Any] = {}
  for kind, one in made.items():
    found = table.measure(protocol, measuring.stacked(one), f"{name}: {kind}")
    rows[kind] = found.row()
    rows[kind]["texts"] = audits.as_texts(
      synthetic.embedded(one, setup.problem.embed).batch,
      setup.problem.embeddings,
      setup.corpus.tokenizer,
    )
  random = table.baseline(name, protocol, "random")["mean"]
  unit = setup.problem.task.unit
  _add_gains(rows, random, unit)
  told = {"protocol": name, "unit": unit, "random": random, "rows": rows}
  return {**told, "table": _table(told)}


def _add_gains(rows, random, unit) -> None:
  """Adds the share of the soft set's gain over random rows that is left."""
  better = units.sign(unit)
  gain = better * (rows["soft"]["mean"] - random)
  for row in rows.values():
    left = better * (row["mean"] - random)
    row["gain_left"] = left / gain if gain > 0 else None


def _made(config, setup, syn) -> dict[str, synthetic.SyntheticSet]:
  """Returns the set and each text that is made of it, in the same steps."""
  table_VxD = setup.problem.embeddings[: len(setup.corpus.tokenizer.tokens)]
  ids_MxL = readable.nearest(syn, table_VxD)
  made = {"soft": syn, "nearest tokens": _as_text(setup, syn, ids_MxL)}
  if not setup.corpus.label_names:
    made["nearest tokens, learned targets"] = readable.with_ids(syn, ids_MxL)
  if decoder_names.is_one(setup.problem.student):
    reads = reads_tokens(setup.problem, syn.batch.mask.shape[1])
    whole = problems.unembedding(setup.problem)
    ids = readable.likely(syn, table_VxD, reads, unembedding_VxD=whole)
    made["likely tokens"] = _as_text(setup, syn, ids)
  else:
    logs.say("likely tokens: left out, no decoder reads this set's table")
  options = config.projections
  if options.rounds:
    job = jobs.prepare(config)
    ids, _ = alternating.alternate(
      job,
      syn,
      rounds=options.rounds,
      num_steps=options.num_steps,
      penalty=options.penalty,
    )
    made["ADMM"] = _as_text(setup, syn, ids)
  made["nearest real rows"] = _nearest_real(setup, syn, table_VxD)
  return made


def _as_text(setup, syn, ids_MxL) -> synthetic.SyntheticSet:
  """Returns a set of tokens; a language model's says its own next tokens."""
  text = readable.with_ids(syn, ids_MxL)
  if setup.corpus.label_names:
    return text
  return readable.saying_itself(text, problems.unembedding(setup.problem))


def _nearest_real(setup, syn, table_VxD) -> synthetic.SyntheticSet:
  """Returns the real rows most like a set's examples, as they are."""
  length, rows = syn.batch.mask.shape[1], setup.corpus.train
  if not setup.corpus.label_names:
    fit = language_tokens.fitting(rows, length)
    rows = language_tokens.longest(fit, len(syn.batch))
  elif tasks.asks_at_end(setup.problem.task):
    ids_NxL, mask_NxL = batches.last(rows.token_ids, rows.mask, length)
    rows = rows._replace(token_ids=ids_NxL, mask=mask_NxL)
  taken = batches.take(rows, readable.nearest_rows(syn, rows, table_VxD))
  real = readable.with_ids(
    syn, taken.token_ids[:, :length], taken.mask[:, :length]
  )
  if setup.corpus.label_names:
    return real
  tokens = jax.tree.map(jnp.asarray, taken.tokens)
  batch = dataclasses.replace(real.batch, tokens=tokens)
  return dataclasses.replace(real, batch=batch)


def reads_tokens(problem: problems.Problem, length: int) -> readable.Reads:
  """Returns a decoder that reads texts of L tokens one by one.

  Keys and values of the tokens before are kept, so that a token costs one pass
  over itself.
  """
  params = problem.init(jax.random.key(0))
  module = generation.module_of(problem)

  @jax.jit
  def hidden(problem, params, cache, ids_M, place):
    x_Mx1xD = problem.embeddings[ids_M][:, None]
    hidden_Mx1xD, cache = module.apply(
      {**generation.variables_of(problem, params), **cache},
      x_Mx1xD,
      jnp.ones((len(ids_M), length), bool),
      place,
      method="encode",
      mutable=["cache"],
    )
    return hidden_Mx1xD[:, 0].astype(jnp.float32), cache

  return functools.partial(hidden, problem, params)


def _table(found: dict[str, Any]) -> str:
  unit = found["unit"]
  header = "accuracy, %" if unit == "accuracy" else unit
  lines: list[tuple[Any, ...]] = [("made of the set", header, "gain left")]
  for kind, row in found["rows"].items():
    left = row["gain_left"]
    lines.append(
      (
        kind,
        units.plus_minus(row["mean"], row["std"], unit),
        "" if left is None else f"{left:.0%}",
      )
    )
  random = units.plus_minus(found["random"], None, unit)
  lines.append(("random rows", random, "0%"))
  return rankings.as_text(lines)
