"""Text made of a soft set: `evaluate --protocol=projections`."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from etils import epath

from gmdistill import errors
from gmdistill.data import batches
from gmdistill.evaluation import audits, measuring, rankings
from gmdistill.runs import alternating, jobs
from gmdistill.runs.commands import shared
from gmdistill.runs.config import assembly, outputs
from gmdistill.runs.config import recipe as recipes
from gmdistill.sets import readable, synthetic
from gmdistill.students import decoder_names, generation, problems, tasks
from gmdistill.system import logs


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
  gain = rows["soft"]["mean"] - random
  for row in rows.values():
    row["gain_left"] = (row["mean"] - random) / gain if gain > 0 else None
  told = {"protocol": name, "random": random, "rows": rows}
  return {**told, "table": _table(told)}


def _made(config, setup, syn) -> dict[str, synthetic.SyntheticSet]:
  """Returns the set and each text that is made of it, in the same steps."""
  table_VxD = setup.problem.embeddings[: len(setup.corpus.tokenizer.tokens)]
  made = {
    "soft": syn,
    "nearest tokens": readable.with_ids(syn, readable.nearest(syn, table_VxD)),
  }
  length, train = syn.batch.mask.shape[1], setup.corpus.train
  if decoder_names.is_one(setup.problem.student):
    reads = reads_tokens(setup.problem, length)
    whole = problems.unembedding(setup.problem)
    ids = readable.likely(syn, table_VxD, reads, unembedding_VxD=whole)
    made["likely tokens"] = readable.with_ids(syn, ids)
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
    made["ADMM"] = readable.with_ids(syn, ids)
  if tasks.asks_at_end(setup.problem.task):
    ids_NxL, mask_NxL = batches.last(train.token_ids, train.mask, length)
    train = train._replace(token_ids=ids_NxL, mask=mask_NxL)
  rows = readable.nearest_rows(syn, train, table_VxD)
  taken = batches.take(train, rows)
  made["nearest real rows"] = readable.with_ids(
    syn, taken.token_ids[:, :length], taken.mask[:, :length]
  )
  return made


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
  lines: list[tuple[Any, ...]] = [
    ("made of the set", "accuracy, %", "gain left")
  ]
  for kind, row in found["rows"].items():
    spread = "" if row["std"] is None else f" ± {100 * row['std']:.1f}"
    left = row["gain_left"]
    lines.append(
      (
        kind,
        f"{100 * row['mean']:.1f}{spread}",
        "" if left is None else f"{left:.0%}",
      )
    )
  lines.append(("random rows", f"{100 * found['random']:.1f}", "0%"))
  return rankings.as_text(lines)
