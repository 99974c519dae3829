"""Many runs of one study, resumable: a config of configs, and one report.

A sweep's config maps names to the configs of runs, `configs/results.py` say.
Two names are no runs: the fields of `each` are set in every run, and `only` is
a pattern of names such as `sst2-5-*`; both can be given on the command line.
A run knows the fields that it was started with, so `each` must stay the same.
Several processes may work on one sweep at once: each takes the next run that
is neither finished nor in another's hands.
"""

import fnmatch
import pathlib
from typing import Any

import ml_collections
from etils import epath

from gmdistill import errors
from gmdistill.reports import tables
from gmdistill.runs import distill, workdirs
from gmdistill.system import folders, logs


def run(
  configs: ml_collections.ConfigDict, workdir: str, command: str = ""
) -> dict[str, str]:
  """Runs what is not finished; reports on what is.

  Args:
    configs: The config of each run by its name, which names its folder too.
    workdir: Where the runs' folders and the report go.
    command: How to start the same sweep again.

  Returns:
    What became of each run that did not finish: its name and the reason. The
    others go on: one bad run spoils no sweep.

  Raises:
    InputError: no configs of runs, or a workdir that cannot be written.
    Stopped: SIGINT or SIGTERM; everything is saved.
  """
  named = _named(configs)
  chosen = _chosen(named, configs)
  folder = folders.writable(workdir)
  failed: dict[str, str] = {}
  for place, (name, config) in enumerate(chosen.items(), 1):
    own = folder / name
    logs.say(f"run {place} of {len(chosen)}: {name}")
    try:
      # A run takes its own folder when it is ready to start: by this claim, no
      # process prepares what another is at.
      claim = folder / ".claims" / name
      claim.mkdir(parents=True, exist_ok=True)
      with folders.held(claim):
        if not _finished(own, config):
          distill.run(config, str(own), command)
    except errors.Busy:
      logs.say(f"{name}: another process is at it")
    except (errors.InputError, errors.NotFinite) as error:
      failed[name] = " ".join(str(error).split())
      logs.say(f"{name}: {failed[name]}")
  # All that has ever finished, whatever was chosen this time.
  finished = [
    folder / name
    for name in named
    if name not in failed and (folder / name / "summary.json").is_file()
  ]
  if finished:
    from gmdistill.reports import (  # matplotlib is slow to import
      comparison,
      page,
    )

    path = page.write(finished, folder / "report.html")
    rows = tables.results_table([page.load_run(own) for own in finished])
    print(tables.as_text(comparison.over_seeds(rows)))
    print(f"report: {path}")
  return failed


def _named(configs: Any) -> dict[str, ml_collections.ConfigDict]:
  found = dict(configs.items())
  each, _ = found.pop("each", None), found.pop("only", None)
  if not found or not all(
    isinstance(config, ml_collections.ConfigDict) and "num_steps" in config
    for config in found.values()
  ):
    raise errors.InputError(
      "sweep needs a config that maps names to the configs of runs, such as "
      "configs/results.py; for a single run use gmdistill distill."
    )
  for name, config in found.items():
    if pathlib.PurePath(name).name != name or name.startswith("."):
      raise errors.InputError(
        f"the run {name!r} cannot name a folder; use letters, digits and -."
      )
    if each:
      try:
        config.update(each)
      except (KeyError, TypeError) as error:
        raise errors.InputError(
          f"the sweep's each does not fit the run {name}: "
          f"{' '.join(str(error).split())}"
        ) from error
  return found


def _chosen(named, configs):
  only = configs.get("only", "")
  chosen = {
    name: config
    for name, config in named.items()
    if not only or fnmatch.fnmatchcase(name, only)
  }
  if not chosen:
    raise errors.InputError(
      f"only={only!r} fits none of the runs: {', '.join(named)}."
    )
  return chosen


def _finished(folder: epath.Path, config: ml_collections.ConfigDict) -> bool:
  """Whether a run of this very config has left its summary."""
  if not (folder / "summary.json").is_file():
    return False
  workdirs.check(str(folder), config)
  return True
