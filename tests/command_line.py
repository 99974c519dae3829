"""The command line, as tests start it."""

import pathlib

from gmdistill import main

CONFIG = f"--config={pathlib.Path(__file__).parent / 'tiny_config.py'}"


def command(verb, *rest):
  """Runs a command in this process; returns its exit status."""
  return main.main(["gmdistill", verb, *map(str, rest)])
