"""Many runs of one study, resumable: a config of configs, and one report.

A sweep's config maps names to the configs of runs, as `results` does.
Two names are no runs: the fields of `each` are set in every run, and `only` is
a pattern of names such as `sst2-5-*`; both can be given on the command line.
A run knows the fields that it was started with, so `each` must stay the same.
Several processes may work on one sweep at once: each takes the next run that
is neither finished nor in another's hands.
"""

from typing import Any

from etils import epath

from gmdistill import errors
from gmdistill.reports import comparison, finished, tables
from gmdistill.runs import distill, workdirs
from gmdistill.runs.config import settings, studies
from gmdistill.system import console, folders, logs


def run(configs: Any, workdir: str, command: str = "") -> dict[str, str]:
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
  named = studies.named(configs)
  chosen = studies.chosen(named, configs)
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
  done = [
    folder / name
    for name in named
    if name not in failed and (folder / name / "summary.json").is_file()
  ]
  if done:
    from gmdistill.reports import page  # matplotlib is slow to import

    path = page.write(done, folder / "report.html")
    rows = tables.results_table([finished.load_run(own) for own in done])
    console.show(tables.as_text(comparison.over_seeds(rows)))
    console.show(f"report: {path}")
  return failed


def _finished(folder: epath.Path, config: Any) -> bool:
  """Whether a run of this very config has left its summary."""
  if not (folder / "summary.json").is_file():
    return False
  workdirs.check(str(folder), settings.recipe(config))
  return True
